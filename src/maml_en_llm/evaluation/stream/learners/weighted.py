"""A step on the next-token loss with a weight for each token (CaMeLS, Hu et al., EMNLP 2023)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ....bilevel.curvature import Loss
from ....files import content
from ....models.loss import Group, PromptLoss
from ....models.trainable import TrainableModel
from ....prompts.batches import Batch
from .learner import file_in
from .plain import Plain


@dataclass(frozen=True, kw_only=True)
class Weighted(Plain):
    """phi <- phi - lr * gradient of the mean over tokens of weight[token] * NLL."""

    learned: Path
    """Folder of a model that the method token-weights trained, or a JSON file with a number for each entry of the
    vocabulary."""

    def files(self) -> list[Path]:
        return [file_in(self.learned, "token_weights.json", "token-weights")]

    def loss(self, model: TrainableModel) -> Loss:
        (path,) = self.files()
        rows = model.network.get_input_embeddings().weight.shape[0]
        try:
            weights = torch.tensor(json.loads(content(path)), dtype=torch.float32, device=model.device)
            good = weights.shape == (rows,) and bool((weights.isfinite() & (weights >= 0)).all())
        except (ValueError, TypeError, RuntimeError):
            good = False
        if not good:
            raise ValueError(f"{path}: must be a JSON list of {rows} numbers of at least 0, one a vocabulary entry")
        return TokenWeightedLoss(model.network, weights)


class TokenWeightedLoss(PromptLoss):
    """The cross entropy of each predicted token times the weight of its vocabulary entry."""

    def __init__(self, network: torch.nn.Module, weights: Float[Tensor, " vocabulary"]) -> None:
        super().__init__(network)
        self.weights = weights

    def __call__(self, parameters: Mapping[str, Tensor], batch: Batch | Group) -> Float[Tensor, ""]:
        if isinstance(batch, Batch):
            return torch.stack([self(parameters, group) for group in self.parts(batch)]).sum()
        return super().__call__(parameters, replace(batch, weights=batch.weights * self.weights[batch.answers]))
