"""What every process of test_processes.py computes; torchrun starts it with a folder, whose configurations it runs."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch

from builders import random_batch, tiny_language_model, train_config
from interruptions import ctrl_c, in_update
from maml_en_llm.models import Processes, TrainableModel, join
from maml_en_llm.prompts.batches import Batch
from maml_en_llm.training.checkpoint import read_training_config
from maml_en_llm.training.loop import train

MAML: dict[str, Any] = {"method": "maml-en-llm", "adam_eps": 1e-3}
CASES: dict[str, dict[str, Any]] = {
    "metaicl": {"method": "metaicl", "accumulate": 2},
    "exact": MAML | {"curvature": "exact"},
    "difference": MAML | {"curvature": "difference", "copies": 2},
    "separate": MAML | {"curvature": "exact", "shared_moments": False, "inner_steps": 2},
    "recompute": MAML | {"curvature": "central", "inner_steps": 2, "trajectory": "recompute"},
    "meta-sgd": {"method": "meta-sgd"},
}


class Batches:
    """Prompts of unlike answers, by number: five or, which two processes cannot share, one."""

    def batch(self, number: int) -> Batch:
        batch = random_batch(torch.Generator().manual_seed(number), prompts=5 if number % 2 else 1)
        batch.answer_mask[0, 2:] = True
        return batch


def trained(case: dict[str, Any], processes: Processes) -> dict[str, torch.Tensor]:
    """What is learned, in float64, by two updates."""
    config = train_config(Path("c"), Path("m"), Path("o"), **case)
    model = TrainableModel(tiny_language_model("gpt2").double(), None, processes=processes)
    learner = config.learner(model, Batches())
    for update in range(2):
        learner.update(learner.batches(update), 1.0, measure=True)
    return {name: tensor.clone() for name, tensor in learner.state_dict().items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    processes, _ = join(torch.device("cpu"))
    folder = Path(sys.argv[1])
    found = {name: trained(case, processes) for name, case in CASES.items()}
    torch.save(found, folder / f"{processes.rank}.pt")
    train(read_training_config(folder / "whole.yaml"), resume=True)
    train(read_training_config(folder / "whole.yaml"), resume=True)  # all know that nothing is left to do
    stopped = in_update(2, ctrl_c) if processes.rank == 0 else contextlib.nullcontext()
    with stopped, contextlib.suppress(KeyboardInterrupt):
        train(read_training_config(folder / "cut.yaml"), resume=True)
        raise AssertionError("not stopped")
