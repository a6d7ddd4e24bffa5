"""The plan of a run: measured in a few of its updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders import train_config
from maml_en_llm.cli import main
from maml_en_llm.training.plan import plan


def lines(collection: Path, model: Path, output: Path, **changes: Any) -> Any:
    return plan(train_config(collection, model, output, **changes))


def test_the_plan_of_a_run(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    plain = lines(collection_folder, model_folder, tmp_path / "run", method="metaicl", batches=100)
    double = lines(collection_folder, model_folder, tmp_path / "run", method="metaicl", batches=200)
    lora = lines(collection_folder, model_folder, tmp_path / "run", method="metaicl", trainable="lora")
    assert not (tmp_path / "run").exists()
    assert "parameters learn" in str(plain)
    assert plain.memory > 0
    assert plain.seconds > 0
    assert "100 updates" in str(plain)
    assert "200 updates" in str(double)
    assert lora.disk < plain.disk


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "metaicl", "optimizer": "sgd"},
        {"curvature": "exact", "inner_steps": 2, "copies": 2},
        {"curvature": "difference"},
        {"curvature": "central", "trainable": "last_blocks"},
        {"order": "first", "precision": "bfloat16", "trainable": "bias"},
    ],
    ids=["sgd", "k-n", "difference", "central", "first-bfloat16"],
)
def test_every_kind_of_run_has_a_plan(
    changes: dict[str, Any], collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    found = lines(collection_folder, model_folder, tmp_path / "run", **changes)
    assert found.memory > 0
    assert found.seconds > 0


def test_plan_on_the_command_line_prints_and_runs_nothing(
    collection_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--collection", str(collection_folder), "--setting", "small", "--model", str(model_folder)]
    flags = "--max-tokens 96 --max-tokens-per-example 24 --batches 10 --device cpu --plan".split()
    assert main([*words, "--output", str(tmp_path / "run"), *flags]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == "model prompts memory time disk".split()
    assert not (tmp_path / "run").exists()
