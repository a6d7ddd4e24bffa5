"""Every file in configs/ is what it says: it loads, and together with the defaults it has the paper's values."""

from __future__ import annotations

from pathlib import Path

import pytest

from maml_en_llm.config import TrainConfig, read_yaml
from maml_en_llm.training.model_card import method_label

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
PAPER = {
    "model": "openai-community/gpt2-medium",
    "batches": 50_000,
    "batch_size": 1,
    "max_tokens": 1024,
    "max_tokens_per_example": 256,
    "optimizer": "adamw",
    "lr": 1e-5,
    "inner_optimizer": "adamw",
    "inner_lr": 1e-5,
    "inner_steps": 1,
    "shares_moments": True,
    "precision": "float32",
    "seed": 100,
}


def resolved(path: Path) -> TrainConfig:
    flags = {"collection": Path("collection"), "setting": "hr_to_lr", "output": Path("runs/one")}
    return TrainConfig(**(read_yaml(path, TrainConfig) | flags))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_has_the_papers_values(path: Path) -> None:
    config = resolved(path)
    assert {key: getattr(config, key) for key in PAPER} == PAPER
    assert config.shown == (0 if config.method == "multitask-zero-shot" else 16)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_file_name_is_the_row_it_trains(path: Path) -> None:
    config = resolved(path)
    label = method_label(config.method, config.direction, config.shown, vars(config))
    assert path.stem.replace("multitask", "multi-task") == label.lower().replace(" ", "-")


def test_every_row_is_there_in_both_directions() -> None:
    names = {path.stem for path in CONFIGS}
    assert {"metaicl", "multitask-zero-shot", "maml-2-1", "maml-2-4", "fomaml-2-1"} <= names
    direct = {name for name in names if not name.startswith("channel-")}
    assert {f"channel-{name}" for name in direct} == names - direct
