"""Methods on tensors in float64, without a language model and without a collection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from maml_en_llm.models import TrainableModel
from maml_en_llm.prompts.batches import Batch


class OnTensors(TrainableModel):
    """Any loss of any parameters, without a network."""

    device = torch.device("cpu")

    def __init__(self, loss: Callable[..., Tensor], parameters: dict[str, Tensor]) -> None:
        self.loss: Any = loss
        self.parameters = parameters


class NoBatches:
    def batch(self, number: int) -> Batch:
        raise NotImplementedError


def network_loss(p: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """A small network on one-hot tokens."""
    hidden = torch.tanh(p["body"][batch.token_ids].sum(dim=1))
    return torch.nn.functional.cross_entropy(hidden @ p["head"], batch.token_ids[:, 0] % 3)


def start(generator: torch.Generator) -> dict[str, Tensor]:
    shapes = {"body": (40, 6), "head": (6, 3)}
    return {name: torch.randn(s, generator=generator, dtype=torch.float64) * 0.3 for name, s in shapes.items()}
