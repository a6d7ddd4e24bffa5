"""A training by several processes computes what one computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import maml_en_llm
from builders import train_config
from interruptions import weights
from maml_en_llm.config import to_yaml
from maml_en_llm.models import Processes
from maml_en_llm.training.checkpoint import read_metrics
from maml_en_llm.training.loop import train
from ranks import CASES, trained
from unrolled import relative_error

pytestmark = pytest.mark.slow
# A large eps: from zero moments AdamW's first step is a sign, which rounding may turn.
SMALL: dict[str, Any] = {"batch_size": 3, "batches": 8, "adam_eps": 1e-3}


@pytest.fixture(scope="module")
def two(collection_folder: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made: RANK.pt, the run `whole`, and the run `cut`, stopped in its second update."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("whole", "cut"):
        config = train_config(collection_folder, model_folder, folder / name, **SMALL)
        (folder / f"{name}.yaml").write_text(to_yaml(config), encoding="utf-8")
    here = [str(Path(maml_en_llm.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(here), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += [str(Path(__file__).parents[1] / "ranks.py"), str(folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "is finished already" in done.stderr
    return folder


@pytest.fixture(scope="module")
def one(collection_folder: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("one")
    train(train_config(collection_folder, model_folder, folder, **SMALL))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_processes_learn_what_one_process_learns(name: str, two: Path) -> None:
    case = CASES[name]
    expected = {key: tensor.double() for key, tensor in trained(case, Processes()).items()}
    # A finite difference divides what rounding leaves by its step, 1e-6.
    limit = 1e-12 if case.get("curvature", "exact") == "exact" and case["method"] != "meta-sgd" else 1e-8
    for rank in range(2):
        found = torch.load(two / f"{rank}.pt", weights_only=True)[name]
        assert relative_error({key: tensor.double() for key, tensor in found.items()}, expected) < limit


def test_a_run_of_two_processes_is_a_run(two: Path, one: Path) -> None:
    assert relative_error(weights(two / "whole/model"), weights(one / "model")) < 1e-6
    losses = [[line["loss"] for line in read_metrics(run)] for run in (two / "whole", one)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert json.loads((two / "whole/run.json").read_text())["hardware"].startswith("2 processes, each ")


def test_a_stopped_run_goes_on_with_another_number_of_processes(
    two: Path, one: Path, collection_folder: Path, model_folder: Path
) -> None:
    assert read_metrics(two / "cut")[-1]["batches"] == 4
    model = train(train_config(collection_folder, model_folder, two / "cut", **SMALL), resume=True)
    assert relative_error(weights(model), weights(one / "model")) < 1e-6
