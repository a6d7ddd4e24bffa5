"""What a report says first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import write_results
from maml_en_llm.prediction.metrics import guessing, score
from maml_en_llm.reporting.reading import read_inputs
from maml_en_llm.reporting.report import report
from maml_en_llm.reporting.verdict import collapsed, overview
from maml_en_llm.results import read_results
from maml_en_llm.results import write_results as write

TASKS = {f"task {i}": [0.4 + i / 50, 0.42 + i / 50] for i in range(8)}


def first_sentence(folder: Path, **changes: Any) -> str:
    page = report([folder], folder / "out", **changes)
    said = page.with_name("report.md").read_text().splitlines()[2]
    assert said.replace("&amp;", "&") in page.read_text()
    return said


def moved(by: float) -> dict[str, list[float]]:
    return {name: [value + by + i / 100 for value in values] for i, (name, values) in enumerate(TASKS.items())}


@pytest.mark.parametrize(
    ("gain", "words"),
    [(0.1, "Meta-training helped: "), (-0.2, "Meta-training did harm: "), (-0.035, "Meta-training made no difference")],
)
def test_the_verdict_is_of_the_best_trained_row_against_its_raw_model(gain: float, words: str, tmp_path: Path) -> None:
    write_results(tmp_path / "raw.json", "Raw LM", TASKS)
    write_results(tmp_path / "metaicl.json", "MetaICL", moved(gain), method="metaicl")
    write_results(tmp_path / "maml.json", "MAML-2-1", moved(gain - 0.1), method="maml-en-llm")
    said = first_sentence(tmp_path)
    assert said.startswith(words)
    raw, best = (100 * np.mean(list(tasks.values())) for tasks in (TASKS, moved(gain)))
    assert f"the best meta-trained row, MetaICL, has {best:.1f} % and Raw LM {raw:.1f} %" in said
    assert f"({best - raw:+.1f} points".replace("-", "\N{MINUS SIGN}") in said


def test_a_cheap_row_above_every_language_model_row_comes_first(tmp_path: Path) -> None:
    write_results(tmp_path / "raw.json", "Raw LM", TASKS)
    write_results(tmp_path / "metaicl.json", "MetaICL", moved(0.1), method="metaicl")
    cheap = {"learner": "logistic"}
    path = write_results(tmp_path / "cheap.json", "Logistic regression", moved(0.2), row=cheap)
    said = first_sentence(tmp_path)
    assert said == (
        "Logistic regression, which needs no prompt, has 71.5 %: above every language-model row (61.5 % for the best "
        "of them, MetaICL)."
    )
    path.unlink()
    write_results(path, "Logistic regression", moved(0.05), row=cheap)
    assert first_sentence(tmp_path).startswith("Meta-training helped")


def test_unlike_rows_give_no_verdict_unless_asked(tmp_path: Path) -> None:
    write_results(tmp_path / "raw.json", "Raw LM", TASKS, row={"layout": "spaces"})
    write_results(tmp_path / "metaicl.json", "MetaICL", moved(0.1), method="metaicl")
    assert first_sentence(tmp_path).startswith("There is no verdict: ")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Rows differ in layout: " in text
    assert first_sentence(tmp_path, compare_unlike=True).startswith("Meta-training helped")


def test_rows_are_over_the_settings_that_all_have_and_a_task_counts_once(tmp_path: Path) -> None:
    for setting in ("one", "two"):
        write_results(tmp_path / f"raw-{setting}.json", "Raw LM", TASKS, setting=setting)
        write_results(tmp_path / f"m-{setting}.json", "MetaICL", moved(0.1), method="metaicl", setting=setting)
    write_results(tmp_path / "more.json", "MetaICL", {"far": [0.9, 0.9]}, method="metaicl", setting="three")
    view = overview(read_inputs([tmp_path]).results, "test")
    assert view is not None
    assert (sorted(view.settings), view.tasks) == (["one", "two"], 8)
    assert [row.label for row in view.rows] == ["Raw LM", "MetaICL"]
    for row, tasks in zip(view.rows, (TASKS, moved(0.1)), strict=True):
        assert row.average == pytest.approx(100 * np.mean(list(tasks.values())))
        assert row.low < row.average < row.high


def with_confusion(path: Path, counts: dict[str, dict[str, int]], **changes: Any) -> None:
    write_results(path, path.stem, {"t": [0.3, 0.4]}, **changes)
    whole = read_results(path)
    write(path, replace(whole, tasks={"t": replace(whole.tasks["t"], confusion=counts)}))


def test_a_collapse_is_named_with_what_helps(tmp_path: Path) -> None:
    collapse = {"early": {"late": 48, "early": 2}, "late": {"late": 49, "early": 1}}
    with_confusion(tmp_path / "plain.json", collapse)
    with_confusion(tmp_path / "channel.json", collapse, row={"direction": "channel"})
    with_confusion(tmp_path / "mostly late.json", {"early": {"late": 10}, "late": {"late": 90}})
    with_confusion(tmp_path / "fine.json", {"early": {"early": 40, "late": 10}, "late": {"late": 50}})
    found = sorted(collapsed(read_inputs([tmp_path]).results))
    assert found == [
        "channel, t of small: 97 % of the answers are \u201clate\u201d.",
        "plain, t of small: 97 % of the answers are \u201clate\u201d; try --calibrate or channel.",
    ]


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_guessing_is_the_mean_over_guesses(metric: Any) -> None:
    gold = ["a"] * 300 + ["b"] * 200 + ["c"] * 100
    generator = np.random.default_rng(0)
    drawn = [score(metric, gold, generator.choice(list("abc"), size=600).tolist()) for _ in range(200)]
    assert guessing(metric, gold, [3] * 600) == pytest.approx(np.mean(drawn), abs=0.01)
