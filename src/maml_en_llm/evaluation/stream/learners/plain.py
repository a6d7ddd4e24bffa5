"""A step on the next-token loss, every token alike."""

from __future__ import annotations

from dataclasses import dataclass

from ....bilevel import SGD, AdamW, Step
from ....config import Optimizer
from ....models.trainable import TrainableModel
from .learner import Learner


@dataclass(frozen=True, kw_only=True)
class Plain(Learner):
    """phi <- phi - lr * gradient of the mean over tokens of their NLL, or the same by AdamW."""

    lr: float = 0.1
    optimizer: Optimizer = "sgd"

    def step(self, model: TrainableModel) -> Step:
        return SGD(self.lr) if self.optimizer == "sgd" else AdamW(self.lr)

    @property
    def label(self) -> str:
        return super().label + (f", {self.optimizer}" if self.optimizer != "sgd" else "")
