"""What every process of test_processes.py computes; torchrun starts it with a folder, whose configurations it runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from builders import random_batch, tiny_language_model, train_config
from interruptions import ctrl_c, in_update
from maml_en_llm.classifier import InContextClassifier, predict_to_file
from maml_en_llm.config import EvaluateConfig, read_yaml
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.models import Processes, ShardedModel, TrainableModel, join
from maml_en_llm.prediction import files
from maml_en_llm.prompts.batches import Batch
from maml_en_llm.training.checkpoint import read_training_config
from maml_en_llm.training.loop import train

CPU = torch.device("cpu")
MAML: dict[str, Any] = {"method": "maml-en-llm", "adam_eps": 1e-3}
COPIES: dict[str, Any] = MAML | {"copies": 2, "parallel": "copies"}
SHARD: dict[str, Any] = MAML | {"shard": True}
CASES: dict[str, dict[str, Any]] = {
    "metaicl": {"method": "metaicl", "accumulate": 2},
    "exact": MAML | {"curvature": "exact"},
    "difference": MAML | {"curvature": "difference", "copies": 2},
    "separate": MAML | {"curvature": "exact", "shared_moments": False, "inner_steps": 2},
    "recompute": MAML | {"curvature": "central", "inner_steps": 2, "trajectory": "recompute"},
    "meta-sgd": {"method": "meta-sgd"},
    "copies": COPIES | {"curvature": "exact", "inner_steps": 2},
    "copies-separate": COPIES | {"curvature": "exact", "shared_moments": False},
    "shard-metaicl": {"method": "metaicl", "accumulate": 2, "shard": True},
    "shard-difference": SHARD | {"curvature": "difference", "copies": 2},
    "shard-recompute": SHARD | {"curvature": "central", "inner_steps": 2, "trajectory": "recompute"},
    "shard-bfloat16": SHARD | {"precision": "bfloat16", "copies": 2},
    "shard-first": SHARD | {"order": "first", "inner_steps": 2, "inner_optimizer": "sgd"},
}
LABELLED = [("a red robin", "bird"), ("a blue fish", "fish"), ("a big bird", "bird"), ("a small trout", "fish")]


class Batches:
    """Prompts of unlike answers and lengths, by number: five or, which two processes cannot share, one."""

    def batch(self, number: int) -> Batch:
        batch = random_batch(torch.Generator().manual_seed(number), prompts=5 if number % 2 else 1)
        batch.answer_mask[0, 2:] = True
        batch.answer_mask[1:2, 5:] = False
        batch.answer_mask[1:2, 4] = True
        return batch


def trained(case: dict[str, Any], processes: Processes) -> Mapping[str, torch.Tensor]:
    """What is learned by two updates, in float64 or else as `precision` says; of a sharded model in the first process
    alone."""
    config = train_config(Path("c"), Path("m"), Path("o"), **case)
    network = tiny_language_model("gpt2").to(torch.float32 if "precision" in case else torch.float64)
    autocast = torch.bfloat16 if config.precision == "bfloat16" else None
    if config.shard and processes.count > 1:
        model: TrainableModel = ShardedModel(network, None, autocast, processes, CPU, "")
    else:
        model = TrainableModel(network, None, autocast, processes=processes)
    model.loss.tokens_per_forward = 12  # several passes for a batch, of which processes need unlike numbers
    learner = config.learner(model, Batches())
    for update in range(2):
        figures = learner.update(learner.batches(update), 1.0, measure=True)
    learned = {name: tensor.clone() for name, tensor in model.gathered(learner.state_dict()).items()}
    of_all = {name: torch.tensor(figures[name], dtype=torch.float64) for name in ("loss", "gradient_norm")}
    return learned | of_all if learned else {}


def predict_rows(model: str, source: Path, output: Path) -> None:
    """Predicts the rows of a file, three at once."""
    files.ROWS_AT_ONCE = 3
    texts, labels = zip(*LABELLED, strict=True)
    predict_to_file(InContextClassifier(model, choose="given", device="cpu").fit(texts, labels), source, output, "text")


if __name__ == "__main__":
    torch.set_num_threads(1)
    processes = join(CPU)
    folder = Path(sys.argv[1])
    found = {name: trained(case, processes) for name, case in CASES.items()}
    torch.save(found, folder / f"{processes.rank}.pt")
    scored = EvaluateConfig(**read_yaml(folder / "scored.yaml", EvaluateConfig))
    evaluate(scored)
    predict_rows(scored.model, folder / "rows.csv", folder / "predicted.csv")
    train(read_training_config(folder / "whole.yaml"), resume=True)
    train(read_training_config(folder / "whole.yaml"), resume=True)  # all know that nothing is left to do
    for name in ("sharded", "cut"):
        stopped = in_update(2, ctrl_c) if processes.rank == 0 else contextlib.nullcontext()
        with stopped, contextlib.suppress(KeyboardInterrupt):
            train(read_training_config(folder / f"{name}.yaml"), resume=True)
            raise AssertionError("not stopped")
        if name == "sharded":
            train(read_training_config(folder / f"{name}.yaml"), resume=True)
