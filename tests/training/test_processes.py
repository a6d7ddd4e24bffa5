"""A training by several processes computes what one computes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import maml_en_llm
from builders import train_config
from maml_en_llm.config import to_yaml
from maml_en_llm.models import Processes
from maml_en_llm.training.checkpoint import read_metrics
from maml_en_llm.training.loop import train
from ranks import CASES, trained
from unrolled import relative_error

pytestmark = pytest.mark.slow
# A large eps: from zero moments AdamW's first step is a sign, which rounding may turn.
SMALL: dict[str, Any] = {"batch_size": 3, "batches": 8, "adam_eps": 1e-3}


def torchrun(count: int, *words: str | Path) -> subprocess.Popen[str]:
    here = [str(Path(maml_en_llm.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(here), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    pipe = subprocess.PIPE
    return subprocess.Popen([*launch, *map(str, words)], env=environment, stdout=pipe, stderr=pipe, text=True)


def test_processes_learn_what_one_process_learns(tmp_path: Path) -> None:
    count = 2
    process = torchrun(count, Path(__file__).parents[1] / "ranks.py", tmp_path)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    for rank in range(count):
        found = torch.load(tmp_path / f"{count}-{rank}.pt", weights_only=True)
        for name, case in CASES.items():
            expected = trained(case, Processes())
            # A finite difference divides what rounding leaves by its step, 1e-6.
            limit = 1e-12 if case.get("curvature", "exact") == "exact" and case["method"] != "meta-sgd" else 1e-8
            numbers = {key: tensor.double() for key, tensor in found[name].items()}
            assert relative_error(numbers, {k: t.double() for k, t in expected.items()}) < limit, (name, rank)


@pytest.fixture
def run(collection_folder: Path, model_folder: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def words(output: str) -> list[str]:
        config = train_config(collection_folder, model_folder, tmp_path / output, **SMALL)
        (tmp_path / f"{output}.yaml").write_text(to_yaml(config), encoding="utf-8")
        return ["-m", "maml_en_llm", "train", "--config", str(tmp_path / f"{output}.yaml"), "--resume"]

    return words


def test_a_run_of_two_processes_is_a_run(
    run: Callable[..., list[str]], collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    words = run("two")
    process = torchrun(2, *words)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert str(tmp_path / "two" / "model") in out
    one = train(train_config(collection_folder, model_folder, tmp_path / "one", **SMALL))
    tensors = [safetensors.torch.load_file(f / "model.safetensors") for f in (tmp_path / "two" / "model", one)]
    assert relative_error(*tensors) < 1e-6
    lines = [[line["loss"] for line in read_metrics(tmp_path / name)] for name in ("two", "one")]
    assert lines[0] == pytest.approx(lines[1], rel=1e-5)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["hardware"].startswith("2 processes, each ")


def test_a_stopped_run_goes_on_with_another_number_of_processes(
    run: Callable[..., list[str]], collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    words = run("cut")
    process = torchrun(2, *words)
    while not (tmp_path / "cut" / "metrics.jsonl").is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # as a scheduler does
    process.communicate(timeout=100)
    whole = train(train_config(collection_folder, model_folder, tmp_path / "one", **SMALL))
    config = train_config(collection_folder, model_folder, tmp_path / "cut", **SMALL)
    found = train(config, resume=True)
    tensors = [safetensors.torch.load_file(folder / "model.safetensors") for folder in (found, whole)]
    assert relative_error(*tensors) < 1e-6
