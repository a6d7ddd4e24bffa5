"""The plan of a run: counted work and memory against what is known of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from builders import train_config
from maml_en_llm.cli import main
from maml_en_llm.training.plan import Meter, Speed, Work, plan


def metered(function: Any) -> Meter:
    with FakeTensorMode(), Meter() as meter:
        function()
    return meter


def test_a_meter_counts_products_bytes_and_the_peak_of_memory() -> None:
    def function() -> None:
        a, b = torch.empty(1000, 500), torch.empty(500, 200)  # 2 MB, 0.4 MB
        c = a @ b  # 0.8 MB
        del a
        c.add_(1)
        torch.empty(100_000)  # 0.4 MB: fits in what `a` left
        assert float(c.sum()) == 2.0  # there are no numbers

    meter = metered(function)
    assert meter.work.products == 2 * 1000 * 500 * 200
    assert meter.peak == 4 * (1000 * 500 + 500 * 200 + 1000 * 200)
    assert meter.held == 0
    assert meter.work.allocated == 0
    assert metered(lambda: torch.empty(16 << 20)).work.allocated == 64 << 20


def test_views_cost_nothing() -> None:
    meter = metered(lambda: torch.empty(10, 10).t().view(2, 5, 10)[:, 1])
    assert meter.peak == 400
    assert meter.work.products == 0


def test_time_is_work_over_speed() -> None:
    assert Speed(10, 20, 40, 80).seconds(Work(10, 10, 10, 10)) == 1 + 1 / 2 + 1 / 4 + 1 / 8


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
    assert "100 updates" in str(plain)  # two plans time the machine anew, so their seconds cannot be compared
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
    assert [line.split()[0] for line in printed.splitlines()] == "model prompts machine memory time disk".split()
    assert not (tmp_path / "run").exists()
