"""The verb `compare`: the best row is chosen on held-out train examples, and its command predicts a file."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
from sklearn.metrics import f1_score

from builders import make_task, write_lines, write_setting
from maml_en_llm.cli import main
from maml_en_llm.experiments.compare import model_names
from maml_en_llm.results import read_results

ROWS = 16
COMPARE = "compare --collection c --setting s --device cpu --output out"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a collection `c` whose setting `s` has two targets that single words decide."""
    monkeypatch.chdir(tmp_path)
    make_task(tmp_path / "c", "trained", ("x", "y"))
    for task, words in (("fur", ("cat dog", "eel owl")), ("size", ("big", "small"))):
        for split, count in (("train", 40), ("test", 12)):
            lines = [
                {
                    "task": task,
                    "input": f"{words[n % 2]} {n * 7919 % 997}",
                    "output": "ab"[n % 2],
                    "options": ["a", "b"],
                }
                for n in range(count)
            ]
            write_lines(tmp_path / "c/data" / task / f"{split}.jsonl", lines)
    write_setting(tmp_path / "c", "s", ["trained"], ["fur", "size"], [])
    return tmp_path


@pytest.mark.slow
def test_the_command_of_the_best_row_predicts_what_was_scored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMPARE.split()) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert all(len(text) <= 80 for text in lines[: ROWS + 3])
    scores = {path.stem: read_results(path) for path in (folder / "out/validation").glob("*.json")}
    assert len(scores) == ROWS
    best = max(scores.values(), key=lambda found: found.summary["test"].average or 0)
    assert best.row.split == "validation"
    assert best.summary["test"].average == 1.0
    (sentence,) = (text for text in lines if text.startswith("Best: "))
    name = re.findall(r"Best: (.*), [0-9.]+ macro-F1 on held", sentence)[0]
    (tested,) = (folder / "out/test").glob("*.json")
    on_test = read_results(tested)
    assert on_test.row.label == name
    assert f"and {100 * (on_test.summary['test'].average or 0):.1f} on the test examples" in sentence

    (command,) = (text for text in lines if text.startswith("maml-en-llm predict"))
    assert main([*shlex.split(command)[1:], "--device", "cpu"]) == 0
    with (folder / "out/fur.csv").open(newline="") as file:
        predicted = list(csv.DictReader(file))
    score = f1_score([row["output"] for row in predicted], [row["prediction"] for row in predicted], average="macro")
    assert score == pytest.approx(on_test.tasks["fur"].average)

    # again: nothing is computed twice, and a row that is gone is done again
    made = {path: path.stat().st_mtime_ns for path in (folder / "out/validation").glob("*.json")}
    gone = next(path for path in made if "majority" in path.name)
    gone.unlink()
    capsys.readouterr()
    assert main(COMPARE.split()) == 0
    again = capsys.readouterr()
    assert again.err.count("row ") == 1
    assert {path for path, time in made.items() if path.stat().st_mtime_ns != time} == {gone}
    assert [text for text in again.out.splitlines() if text.startswith("Best: ")] == [sentence]


def test_every_command_runs(folder: Path) -> None:
    """Each row's words for `predict` are flags that it takes."""
    from maml_en_llm.experiments.compare import Comparison

    rows = Comparison(Path("c"), "s", Path("out"), device="cpu")
    assert len(rows.rows) == ROWS
    lines = (folder / "c/data/fur/test.jsonl").read_text().splitlines()[:4]
    (folder / "c/data/fur/test.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n")
    for number, row in enumerate(rows.rows):
        words = shlex.split(rows.command(row))[1:]
        words[words.index("--output") + 1] = f"{number}.csv"
        assert main([*words, "--device", "cpu"]) == 0, words
        assert len((folder / f"{number}.csv").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--demonstrations 0", "demonstrations is 0; it must be at least 1"),
        ("--max-examples 0", "max_examples is 0; it must be at least 1"),
        ("--setting nothing", "there is no setting 'nothing'; known settings: s"),
        ("--model runs/a/model", "cannot load a model from runs/a/model: there is no such folder"),
        ("--output c/data/fur/test.jsonl", "--output c/data/fur/test.jsonl is a file"),
    ],
)
def test_what_cannot_be_meant(flags: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMPARE.split(), *flags.split()]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not (folder / "out").exists()


def test_a_model_is_not_compared_on_what_it_was_trained_on(
    folder: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = f"train --collection c --setting s --model {model_folder} --output run --batches 2 --method metaicl"
    assert main([*train.split(), "--max-tokens", "256", "--device", "cpu"]) == 0
    assert main(f"{COMPARE} --setting trained --model run/model".split()) == 2
    assert "run/model was trained on trained, a target of trained" in capsys.readouterr().err


def test_the_name_of_a_task_is_a_setting(folder: Path) -> None:
    flags = "evaluate --collection c --setting fur --model starter --learner majority --device cpu --output e.json"
    assert main(flags.split()) == 0
    assert list(json.loads((folder / "e.json").read_text())["tasks"]) == ["fur"]


def test_names_of_models_differ() -> None:
    assert model_names(["starter", "runs/mine/model"]) == ["starter", "mine"]
    assert model_names(["runs/a/model", "other/a/model"]) == ["runs/a", "other/a"]
