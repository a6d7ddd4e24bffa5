from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from builders import evaluate_config
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.reporting.reading import Row, read_rows
from maml_en_llm.reporting.report import report
from maml_en_llm.reporting.tables import SETTINGS, Table, exploration, latex_text, markdown, rich_tables, wins


@pytest.mark.parametrize(
    ("table", "direct", "channel"),
    [
        ("table2a_unseen_complete", 5, 4),
        ("table2b_unseen_limited", 4, 4),
        ("table3a_all_complete", 3, 5),
        ("table3b_all_limited", 6, 6),
    ],
)
def test_wins_recomputed_from_the_tables_of_the_paper(
    table: str, direct: int, channel: int, shared: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = read_rows(shared(f"paper/{table}.csv"))
    assert wins(rows, "test", channel=False) == (direct, 7)
    assert wins(rows, "test", channel=True) == (channel, 7)
    report([shared(f"paper/{table}.csv")], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert f"direct: MAML-en-LLM wins {direct} of 7 settings against MetaICL" in text
    assert f"channel: MAML-en-LLM wins {channel} of 7 settings" in text


def row(method: str, average: float, worst: float | None, setting: str = "s", subset: str = "test") -> Row:
    return Row(method, setting, subset, average, worst)


@pytest.mark.parametrize(
    ("rivals", "won"),
    [
        ([row("MAML-2-1", 51, 41)], 1),
        ([row("MAML-2-1", 51, 40)], 0),  # the worst is not higher
        ([row("MAML-2-1", 50, 41)], 0),  # the average is not higher
        ([row("MAML-2-1", 51, 39), row("MAML-2-4", 49, 41)], 0),  # each wins one half, none wins both
        ([row("MAML-2-1", 10, 10), row("MAML-2-4", 51, 41)], 1),  # either may win
        ([row("MAML-2-1", 51, None)], 0),
        ([row("Channel MAML-2-1", 99, 99), row("MAML-2-1", 10, 10)], 0),  # of the other direction
        ([row("MAML-2-1", 99, 99, subset="unseen_domain_test"), row("MAML-2-1", 10, 10)], 0),  # of the other tasks
    ],
)
def test_a_setting_is_won_when_average_and_worst_are_both_higher(rivals: list[Row], won: int) -> None:
    assert wins([row("MetaICL", 50, 40), *rivals], "test", channel=False) == (won, 1)


def test_only_settings_with_both_sides_are_compared() -> None:
    rows = [row("MetaICL", 1, 1, "a"), row("MAML-2-1", 2, 2, "b"), row("FOMAML-2-1", 2, 2, "a")]
    assert wins(rows, "test", channel=False) == (0, 0)


def test_markdown_has_methods_by_settings_in_the_order_of_the_paper() -> None:
    rows = [
        Row("MAML-2-1", "qa_to_qa", "test", 41.239, 33.1, 12, 22, 600),
        Row("MetaICL", "qa_to_qa", "test", 40.0, 32.0),
        Row("No ICL", "qa_to_qa", "test", 20.0, None),
        Row("Channel MetaICL", "hr_to_lr", "test", 39.0, 31.0, 21, 26, 900),
        Row("mine", "elsewhere", "test", 1.0, 0.5),
        Row("MetaICL", "hr_to_lr", "unseen_domain_test", 30.0, 20.0),
    ]
    parts = markdown(rows).split("\n## ")
    assert [part.splitlines()[0] for part in parts] == [
        "# Results",
        "Target tasks in unseen domains",
        "All target tasks",
    ]
    assert parts[2].splitlines()[2:] == [
        "| method | hr_to_lr | qa_to_qa | elsewhere |",
        "|---|---:|---:|---:|",
        "| No ICL |  | 20.00 |  |",
        "| MetaICL |  | 40.00 / 32.00 |  |",
        "| MAML-2-1 |  | 41.24 / 33.10 |  |",
        "| mine |  |  | 1.00 / 0.50 |",
        "| Channel MetaICL | 39.00 / 31.00 |  |  |",
        "| data | 21 of 26 tasks, 900 examples | 12 of 22 tasks, 600 examples |  |",
        "",
        "direct: MAML-en-LLM wins 1 of 1 settings against MetaICL (a setting is won when average and worst are both "
        "higher).",
    ]


def test_results_of_an_evaluation_become_a_table(
    collection_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "raw.json"))
    evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "none.json", demonstrations=0))
    path = report([tmp_path / "raw.json", tmp_path / "none.json"], tmp_path / "report")
    assert path == tmp_path / "report" / "report.html"
    test = results["summary"]["test"]
    text = path.with_suffix(".md").read_text()
    assert f"| Raw LM | {100 * test['average']:.2f} / {100 * test['worst']:.2f} |" in text
    no_icl = json.loads((tmp_path / "none.json").read_text())["summary"]["test"]
    assert f"| No ICL | {100 * no_icl['average']:.2f} |" in text  # one seed has no worst
    assert "| data | 2 of 2 tasks, 16 examples |" in text
    assert "## Target tasks in unseen domains" in text
    assert "Raw LM" in capsys.readouterr().err


LINES = [("a|b & c_d", 0.123456, 3), ("", None, None)]
TABLE = Table("t", "Title 50%", "A_note", ("method", "p", "n"), LINES, {"p": 4})


def test_a_table_as_markdown_csv_and_latex() -> None:
    assert TABLE.markdown().splitlines()[-4:] == [
        "| method | p | n |",
        "|---|---:|---:|",
        "| a\\|b & c_d | 0.1235 | 3 |",
        "|  |  |  |",
    ]
    assert TABLE.csv() == "method,p,n\na|b & c_d,0.123456,3\n,,\n"
    assert TABLE.latex().splitlines() == [
        "% Title 50%",
        "% A_note",
        r"\begin{tabular}{@{}lrr@{}}",
        r"\toprule",
        r"method & p & n \\",
        r"\midrule",
        r"a|b \& c\_d & 0.1235 & 3 \\",
        r" &  &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    empty = Table("t", "T", "", ("a", "b", "c"), [("x", None, ""), ("", 0.0, "")]).without_empty_columns()
    assert (empty.columns, empty.rows) == (["a", "b"], [["x", None], ["", 0.0]])


def test_latex_has_no_character_left_that_it_would_act_on() -> None:
    assert latex_text("\\ { } $ # % & _ ~ ^ < >") == (
        r"\textbackslash{} \{ \} \$ \# \% \& \_ \textasciitilde{} \textasciicircum{} \textless{} \textgreater{}"
    )


def test_exploration_is_of_families_with_several_numbers_of_copies() -> None:
    rows = [row("MAML-2-4", 4, 3), row("MAML-2-1", 2, 1), row("MAML-4-1", 2, 1), row("Channel MAML-2-1", 2, 1)]
    rows += [row("MAML-2-8", 9, 9, setting="other"), row("MetaICL", 1, 1)]
    found = exploration(rows)
    assert {key: [n for n, _ in members] for key, members in found.items()} == {("MAML-2", "s", "test"): [1, 4]}


def test_a_narrow_terminal_gets_averages_that_are_not_broken() -> None:
    rows = [Row("MAML-2-4", setting, "test", 12.34, 5.67, 3, 3, 9) for setting in SETTINGS]

    def shown(width: int) -> str:
        text = io.StringIO()
        console = Console(width=width, file=text)
        for table in rich_tables(rows, width):
            console.print(table)
        return text.getvalue()

    assert shown(200).count("12.34 / 5.67") == shown(80).count(" 12.34 ") == len(SETTINGS)
    assert "average over seeds" in shown(80)
    assert "5.67" not in shown(80)
    assert "paraphrase" in shown(120)
