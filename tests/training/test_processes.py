"""Several processes compute what one computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import maml_en_llm
from builders import evaluate_config, tiny_language_model, train_config
from interruptions import weights
from maml_en_llm.config import to_yaml
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.models import Processes, TrainableModel
from maml_en_llm.training.checkpoint import read_metrics
from maml_en_llm.training.loop import train
from ranks import CASES, Batches, predict_rows, trained
from unrolled import relative_error

pytestmark = pytest.mark.slow
# A large eps: from zero moments AdamW's first step is a sign, which rounding may turn.
SCORED: dict[str, Any] = {"seeds": (100, 13, 21), "setting": "free", "orders": 2}  # three seeds of one task
ROWS = "text,number\n" + "".join(f"a fish number {i},{i}\n" for i in range(7)) + ",7\n"
SMALL: dict[str, Any] = {"batch_size": 3, "batches": 8, "adam_eps": 1e-3}


def torchrun(script: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What two processes of a script of tests/ say of `folder`."""
    here = [str(Path(maml_en_llm.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(here), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # see docs/several-processes.md
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    words += [str(Path(__file__).parents[1] / script), str(folder)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def two(collection_folder: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made: RANK.pt, scored.json, predicted.csv, the run `whole`, the run `sharded`, stopped and
    continued, and the run `cut`, stopped in its second update."""
    folder = tmp_path_factory.mktemp("two")
    scored = evaluate_config(collection_folder, model_folder, folder / "scored.json", **SCORED)
    (folder / "scored.yaml").write_text(to_yaml(scored), encoding="utf-8")
    (folder / "rows.csv").write_text(ROWS, encoding="utf-8")
    for name in ("whole", "sharded", "cut"):
        sharded = {"shard": True, "recompute_activations": True, "tokens_per_forward": 128} if name == "sharded" else {}
        config = train_config(collection_folder, model_folder, folder / name, **SMALL | sharded)
        (folder / f"{name}.yaml").write_text(to_yaml(config), encoding="utf-8")
    done = torchrun("ranks.py", folder)
    assert done.returncode == 0, done.stderr
    assert "is finished already" in done.stderr
    return folder


@pytest.fixture(scope="module")
def one(collection_folder: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("one")
    train(train_config(collection_folder, model_folder, folder, **SMALL))
    return folder


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "precision" not in case])
def test_processes_learn_what_one_process_learns(name: str, two: Path) -> None:
    case = CASES[name]
    expected = {key: tensor.double() for key, tensor in trained(case, Processes()).items()}
    # A finite difference divides what rounding leaves by its step, 1e-6.
    limit = 1e-12 if case.get("curvature", "exact") == "exact" and case["method"] != "meta-sgd" else 1e-8
    assert expected
    for rank in range(1 if case.get("shard") else 2):
        found = torch.load(two / f"{rank}.pt", weights_only=True)[name]
        assert relative_error({key: tensor.double() for key, tensor in found.items()}, expected) < limit


def test_a_sharded_model_computes_in_bfloat16_as_one_process_does(two: Path) -> None:
    case = CASES["shard-bfloat16"]

    def moments(learned: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in learned.items() if name.startswith("first_moments")}

    found = moments(torch.load(two / "0.pt", weights_only=True)["shard-bfloat16"])
    one, in_float32 = (moments(trained(case | {"precision": p}, Processes())) for p in ("bfloat16", "float32"))
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert relative_error(found, one) < 1e-3
    assert 1e-3 < relative_error(one, in_float32) < 1e-1


def test_evaluation_by_processes_writes_the_same_files(
    two: Path, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    results = evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "scored.json", **SCORED))
    assert len(results.seeds) == 3
    names = ("scored.predictions.jsonl", "scored.json")
    (ours, found), (theirs, expected) = ([(folder / name).read_text() for name in names] for folder in (two, tmp_path))
    assert ours == theirs
    assert not (two / "scored.unfinished.jsonl").exists()
    first, second = json.loads(found), json.loads(expected)
    assert first["run"]["hardware"].startswith("2 processes, each ")
    for record in (first, second):
        del record["run"], record["config"]["output"]
    assert first == second


def test_rows_predicted_by_processes_are_the_same_file(two: Path, model_folder: Path, tmp_path: Path) -> None:
    predict_rows(str(model_folder), two / "rows.csv", tmp_path / "predicted.csv")
    for name in ("predicted.csv", "predicted.csv.bad-rows.jsonl"):
        assert (two / name).read_bytes() == (tmp_path / name).read_bytes()
    assert not (two / "predicted.csv.unfinished.jsonl").exists()


def test_a_sharded_run_that_was_stopped_ends_in_a_plain_model(two: Path, one: Path) -> None:
    assert relative_error(weights(two / "sharded/model"), weights(one / "model")) < 1e-6
    for name in ("config.json", "tokenizer.json"):
        assert (two / "sharded/model" / name).read_bytes() == (one / "model" / name).read_bytes()
    records = [json.loads((run / "model/maml_en_llm.json").read_text()) for run in (two / "sharded", one)]
    assert records[0]["trained_parameters"] == records[1]["trained_parameters"]


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


def test_a_job_goes_on_after_a_killed_process_and_ends_with_the_reason(
    one: Path, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    config = train_config(collection_folder, model_folder, tmp_path / "killed", **SMALL | {"checkpoint_every": 2})
    (tmp_path / "killed.yaml").write_text(to_yaml(config), encoding="utf-8")
    done = torchrun("killed_ranks.py", tmp_path, "--max-restarts", "1")
    assert time.time() - float((tmp_path / "killed-at").read_text()) < 60
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert [(tmp_path / f"checkpoints-{attempt}").read_text() for attempt in (0, 1)] == ["", "000000002 000000004"]
    assert relative_error(weights(tmp_path / "killed/model"), weights(one / "model")) < 1e-6
    assert [line["batches"] for line in read_metrics(tmp_path / "killed")] == [2, 4, 6, 8]


def test_copies_that_processes_cannot_share_are_refused() -> None:
    config = train_config(Path("c"), Path("m"), Path("o"), copies=3, parallel="copies")
    model = TrainableModel(tiny_language_model("gpt2"), None, processes=Processes(0, 2))
    with pytest.raises(ValueError, match="copies is 3 but parallel=copies shares them over 2 processes; make it a mul"):
        config.learner(model, Batches())


def test_one_process_has_nobody_to_share_a_model_with(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="shard is set but there is one process; start several by torchrun"):
        train(train_config(collection_folder, model_folder, tmp_path / "run", shard=True))
