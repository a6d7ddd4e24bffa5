from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from builders import evaluate_config
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.reporting.reading import PAPER_ROWS, Score, read_table
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
    scores = read_table(shared(f"paper/{table}.csv"))
    assert list(wins(scores, "test", "direct")) == [("MAML-en-LLM", "MetaICL", direct, 7)]
    assert list(wins(scores, "test", "channel")) == [("MAML-en-LLM", "MetaICL", channel, 7)]
    report([shared(f"paper/{table}.csv")], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert f"direct: MAML-en-LLM wins {direct} of 7 settings against MetaICL" in text
    assert f"channel: MAML-en-LLM wins {channel} of 7 settings" in text


def score(label: str, average: float, worst: float | None, setting: str = "s", subset: str = "test") -> Score:
    """Of the paper's row of that name."""
    row = replace(PAPER_ROWS[label], label=f"mine: {label[::-1]}")  # what the row is called says nothing
    return Score(label, setting, subset, average, worst, row=row)


@pytest.mark.parametrize(
    ("rivals", "won"),
    [
        ([score("MAML-2-1", 51, 41)], 1),
        ([score("MAML-2-1", 51, 40)], 0),  # the worst is not higher
        ([score("MAML-2-1", 50, 41)], 0),  # the average is not higher
        ([score("MAML-2-1", 51, 39), score("MAML-2-4", 49, 41)], 0),  # each wins one half, none wins both
        ([score("MAML-2-1", 10, 10), score("MAML-2-4", 51, 41)], 1),  # either may win
        ([score("MAML-2-1", 51, None)], 0),
        ([score("Channel MAML-2-1", 99, 99), score("MAML-2-1", 10, 10)], 0),  # of the other direction
        ([score("MAML-2-1", 99, 99, subset="unseen_domain_test"), score("MAML-2-1", 10, 10)], 0),  # of the other tasks
    ],
)
def test_a_setting_is_won_when_average_and_worst_are_both_higher(rivals: list[Score], won: int) -> None:
    assert list(wins([score("MetaICL", 50, 40), *rivals], "test", "direct")) == [("MAML-en-LLM", "MetaICL", won, 1)]


def test_only_settings_with_both_sides_are_compared() -> None:
    scores = [score("MetaICL", 1, 1, "a"), score("MAML-2-1", 2, 2, "b")]
    first_order = score("MAML-2-1", 2, 2, "a")
    assert first_order.row is not None
    assert first_order.row.training is not None
    how = replace(first_order.row.training, order="first")
    scores.append(replace(first_order, row=replace(first_order.row, training=how)))
    assert not list(wins(scores, "test", "direct"))


def known(label: str, *values: Any) -> Score:
    return Score(label, *values, row=PAPER_ROWS.get(label))


def test_markdown_has_methods_by_settings_in_the_order_of_the_paper() -> None:
    scores = [
        known("MAML-2-1", "qa_to_qa", "test", 41.239, 33.1, 12, 22, 600),
        known("MetaICL", "qa_to_qa", "test", 40.0, 32.0),
        known("No ICL", "qa_to_qa", "test", 20.0, None),
        known("Channel MetaICL", "hr_to_lr", "test", 39.0, 31.0, 21, 26, 900),
        known("mine", "elsewhere", "test", 1.0, 0.5),
        known("MetaICL", "hr_to_lr", "unseen_domain_test", 30.0, 20.0),
    ]
    parts = markdown(scores).split("\n## ")
    assert [part.splitlines()[0] for part in parts] == [
        "Macro-F1 or accuracy in percent, average / worst over demonstration seeds, mean over tasks.",
        "Target tasks in unseen domains",
        "All target tasks",
    ]
    assert parts[2].splitlines()[2:] == [
        "| method | hr_to_lr | qa_to_qa | elsewhere |",
        "|---|---:|---:|---:|",
        "| No ICL |  | 20.00 |  |",
        "| MetaICL |  | 40.00 / 32.00 |  |",
        "| MAML-2-1 |  | 41.24 / 33.10 |  |",
        "| Channel MetaICL | 39.00 / 31.00 |  |  |",
        "| mine |  |  | 1.00 / 0.50 |",
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
    test = results.summary["test"]
    assert test.average is not None
    assert test.worst is not None
    text = path.with_suffix(".md").read_text()
    assert f"| Raw LM | {100 * test.average:.2f} / {100 * test.worst:.2f} |" in text
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
        "| a\\|b &amp; c_d | 0.1235 | 3 |",
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
    scores = [score("MAML-2-4", 4, 3), score("MAML-2-1", 2, 1), score("Channel MAML-2-1", 2, 1)]
    scores += [score("MAML-2-4", 9, 9, setting="other"), score("MetaICL", 1, 1)]
    families = exploration(scores).items()
    assert [(key[0].direction, *key[1:], [n for n, _ in members]) for key, members in families] == [
        ("direct", "s", "test", [1, 4])
    ]


def test_a_narrow_terminal_gets_averages_that_are_not_broken() -> None:
    scores = [known("MAML-2-4", setting, "test", 12.34, 5.67, 3, 3, 9) for setting in SETTINGS]

    def shown(width: int) -> str:
        text = io.StringIO()
        console = Console(width=width, file=text)
        for table in rich_tables(scores, width):
            console.print(table)
        return text.getvalue()

    assert shown(200).count("12.34 / 5.67") == shown(80).count(" 12.34 ") == len(SETTINGS)
    assert "average over seeds" in shown(80)
    assert "5.67" not in shown(80)
    assert "paraphrase" in shown(120)
