"""Validation while training: what scores best becomes the model, and an interruption changes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import train_config
from interruptions import Killed, assert_same_run, crash, ctrl_c, in_update, weights
from maml_en_llm.cli import main
from maml_en_llm.config import EvaluateConfig
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.methods import method_names
from maml_en_llm.tasks.collection import load_collection
from maml_en_llm.training import validation
from maml_en_llm.training.checkpoint import read_metrics
from maml_en_llm.training.loop import train
from maml_en_llm.training.remarks import moved_nothing
from maml_en_llm.training.validation import validation_parts

VALIDATED = {"validate_every": 4, "validate_examples": 4, "log_every": 100}


def scores(run: Path) -> dict[int, float]:
    return {line["batches"]: line["validation_score"] for line in read_metrics(run) if "validation_score" in line}


@pytest.mark.parametrize("method", method_names())
def test_every_method_is_validated_and_learns_as_without(
    method: str, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    def config(name: str, **changes: Any) -> Any:
        return train_config(collection_folder, model_folder, tmp_path / name, method=method, **changes)

    states: dict[int, dict[str, torch.Tensor]] = {}
    real = validation.mean_score

    def remember(config: Any, folder: Path, parts: Any) -> float:
        states[4 * (len(states) + 1)] = weights(folder)
        return real(config, folder, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "mean_score", remember)
        train(config("validated", **VALIDATED))
    found = scores(tmp_path / "validated")
    assert list(found) == [4, 8]
    best = max(found, key=lambda batches: found[batches])
    kept = weights(tmp_path / "validated/model")
    assert all(torch.equal(kept[name], tensor) for name, tensor in states[best].items())
    train(config("without"))
    last = weights(tmp_path / "without/model")
    assert all(torch.equal(last[name], tensor) for name, tensor in states[8].items())
    assert not {"best", "validated"} & {path.name for path in (tmp_path / "validated").iterdir()}


@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_an_interruption_changes_nothing(
    trainable: str, collection_folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(name: str) -> Any:
        changes = VALIDATED | {"trainable": trainable, "checkpoint_every": 3, "validate_every": 2, "batches": 12}
        return train_config(collection_folder, model_folder, tmp_path / name, method="metaicl", **changes)

    falling = iter([0.5, 0.9, 0.6, 0.7, 0.8, 0.9])  # the second is best, and was scored before the interruption
    with monkeypatch.context() as patch:
        patch.setattr(validation, "mean_score", lambda *_: next(falling))
        train(config("whole"))
    falling = iter([0.5, 0.9, 0.6, 0.6, 0.7, 0.8, 0.9])
    with monkeypatch.context() as patch:
        patch.setattr(validation, "mean_score", lambda *_: next(falling))
        with in_update(8, crash), pytest.raises(Killed):
            train(config("cut"))  # the checkpoint is of 6 batches, the third score (0.6)
        falling = iter([0.7, 0.8, 0.9])
        train(config("cut"), resume=True)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    assert list(scores(tmp_path / "cut").values()) == [0.5, 0.9, 0.6, 0.7, 0.8, 0.9]


def test_ctrl_c_keeps_the_best(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = VALIDATED | {"method": "maml-en-llm", "batches": 12}
    train(train_config(collection_folder, model_folder, tmp_path / "whole", **keys))
    cut = train_config(collection_folder, model_folder, tmp_path / "cut", **keys)
    with in_update(5, ctrl_c), pytest.raises(KeyboardInterrupt):
        train(cut)
    train(cut, resume=True)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_what_validates_is_not_trained_on_and_no_target(collection_folder: Path, model_folder: Path) -> None:
    collection = load_collection(collection_folder)
    setting = collection.setting("small")
    config = train_config(collection_folder, model_folder, Path("run"), validate_every=1, validate_examples=5)
    parts = validation_parts(config, collection, setting)
    assert {task.name for task, *_ in parts} <= set(setting.train)
    for task, examples, _ in parts:
        assert 0 < len(examples) <= 6
        whole = collection[task.name]
        unseen = [example for split in ("dev", "test") if whole.has(split) for example in whole.split(split)]
        assert all(example in unseen for example in examples)


def test_the_score_is_that_of_evaluate(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"validate_every": 2, "validate_setting": "colour", "validate_examples": 1000}
    changes |= {"method": "metaicl", "batches": 2, "seed": 13}
    model = train(train_config(collection_folder, model_folder, tmp_path / "run", **changes))
    keys: dict[str, Any] = {"setting": "colour", "split": "validation", "seeds": (13,), "device": "cpu"}
    evaluate(EvaluateConfig(model=str(model), collection=collection_folder, output=tmp_path / "e.json", **keys))
    rows = [json.loads(line) for line in (tmp_path / "e.predictions.jsonl").read_text().splitlines()]
    result = json.loads((tmp_path / "e.json").read_text())
    right = sum(row["predicted"] == row["output"] for row in rows) / len(rows)
    average = result["summary"]["test"]["average"]
    assert average != pytest.approx(right)  # macro-F1, not the share of right answers
    assert scores(tmp_path / "run") == {2: pytest.approx(average)}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--validate-every 2 --validate-setting small", "has the target .*, which is a target of small, too"),
        ("--validate-every 2 --validate-setting mood", "has the target mood, which is a target of small, too"),
        ("--validate-setting colour", "validate_setting is set but validate_every=0 does not read it"),
        ("--validate-every -1", "validate_every is -1; it must not be negative"),
        ("--validate-every 2 --validate-examples 0", "validate_examples is 0; it must be at least 1"),
        ("--validate-every 2 --validate-setting nothing", "there is no setting 'nothing'"),
    ],
)
def test_what_cannot_be_meant(
    flags: str,
    message: str,
    collection_folder: Path,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = f"train --collection {collection_folder} --setting small --model {model_folder} --max-tokens 256"
    assert main([*words.split(), *flags.split(), "--output", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_does_not_fall_is_said() -> None:
    noise = [0.1, -0.1, 0.05, -0.05] * 10
    assert moved_nothing([3 + some for some in noise]) is not None
    assert moved_nothing([3 + place / 40 + some for place, some in enumerate(noise)]) is not None
    assert moved_nothing([3 - place / 40 + some for place, some in enumerate(noise)]) is None
    assert moved_nothing([3.0] * 19) is None  # too few to tell


def test_the_remark_ends_a_run_that_learned_nothing(
    collection_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {}
    for lr in (0.0, 0.05):
        train(train_config(collection_folder, model_folder, tmp_path / str(lr), method="metaicl", batches=24, lr=lr))
        said[lr] = capsys.readouterr().err
    assert "note: the loss did not fall beyond its noise" in said[0.0]
    assert "note: " not in said[0.05]


def test_figures_for_tensorboard(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(train_config(collection_folder, model_folder, tmp_path / "run", method="metaicl", tensorboard=True))
    events = event_accumulator.EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    shown = {event.step: event.value for event in events.Scalars("loss")}
    assert shown == pytest.approx({line["batches"]: line["loss"] for line in read_metrics(tmp_path / "run")}, rel=1e-6)
