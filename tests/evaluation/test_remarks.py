from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from builders import a_prediction, evaluate_config, write_lines, write_setting
from maml_en_llm.evaluation import remarks
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.prediction.predictor import LabelledTask
from maml_en_llm.results import Prediction
from maml_en_llm.tasks.collection import Example

OPTIONS = ("no", "yes")


def scored(outputs: list[str], predicted: list[str], options: tuple[str, ...] = OPTIONS) -> dict[str, Any]:
    """One task with these outputs and predictions."""
    examples = [Example(f"text {number}", output, options) for number, output in enumerate(outputs)]
    rows: list[Prediction] = [
        a_prediction(task="t", index=index, output=output, predicted=label, seed=100)
        for index, (output, label) in enumerate(zip(outputs, predicted, strict=True))
    ]
    return {"t": (examples, rows)}


@pytest.mark.parametrize(
    ("yes", "predicted_yes", "examples", "said"),
    [(50, 100, 100, True), (50, 96, 100, True), (50, 90, 100, False), (90, 100, 100, False), (20, 40, 40, False)],
)
def test_one_label_for_nearly_all(yes: int, predicted_yes: int, examples: int, said: bool) -> None:
    outputs = ["yes"] * yes + ["no"] * (examples - yes)
    found = remarks.one_label(scored(outputs, ["yes"] * predicted_yes + ["no"] * (examples - predicted_yes)))
    assert (found is not None) == said
    assert not said or "in 1 of 1 tasks: t ('yes')" in str(found)


def test_the_level_of_guessing() -> None:
    assert "26.0, is no better than guessing among the options (25.0)" in str(remarks.at_guessing(0.26, 0.25))
    assert remarks.at_guessing(0.28, 0.25) is None


def test_a_preference_for_long_options() -> None:
    options = ("no", "certainly yes indeed")
    tasks = scored(["no"] * 60 + [options[1]] * 40, [options[1]] * 90 + ["no"] * 10, options)
    found = remarks.length_bias(tasks, lambda option: len(option.split()))
    assert "the longest option is predicted for 90 % of the examples but right for 40 %" in str(found)
    assert remarks.length_bias(tasks, lambda option: 1) is None
    assert remarks.length_bias(scored(["no"] * 60, ["no"] * 60, options), len) is None


def test_words_alone_doing_better() -> None:
    bank = [
        Example(f"{word} {number}", label, OPTIONS)
        for number in range(8)
        for word, label in (("bad", "no"), ("good", "yes"))
    ]
    examples = [Example(f"{word} thing", label, OPTIONS) for word, label in (("bad", "no"), ("good", "yes"))] * 4
    task = {"t": LabelledTask("t", bank)}
    rows = [a_prediction(task="t", index=i, output=e.output, predicted="no", seed=7) for i, e in enumerate(examples)]
    found = remarks.cheap_baseline(task, {"t": (examples, rows)}, {"t": "accuracy"}, 16, 7)
    assert "words alone scores 100.0 with the same 16 labels, the model 50.0 (seed 7)" in str(found)
    right = [
        a_prediction(task="t", index=i, output=e.output, predicted=e.output, seed=7) for i, e in enumerate(examples)
    ]
    assert remarks.cheap_baseline(task, {"t": (examples, right)}, {"t": "accuracy"}, 16, 7) is None


def test_evaluate_prints_them(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, count in (("train", 20), ("test", 60)):
        rows = [
            {"task": "mood", "input": f"{word} {n}", "output": label, "options": ["glad", "sad"]}
            for n in range(count // 2)
            for word, label in (("big", "glad"), ("small", "sad"))
        ]
        write_lines(tmp_path / "data" / "mood" / f"{split}.jsonl", rows)
    write_setting(tmp_path, "small", [], ["mood"], [])
    evaluate(evaluate_config(tmp_path, model_folder, tmp_path / "r.json", seeds=(100,)))
    assert re.search(
        "note: logistic regression on words alone scores .* with the same 4 labels", capsys.readouterr().err
    )
