"""Reptile (Nichol et al., 2018): the start moves towards where copies get by learning a task each, and no derivative of
that is taken (docs/methods/reptile.md).

    phi_i = theta;  2k times: phi_i <- inner_step(phi_i, grad L(phi_i; a batch of one task))
    theta <- outer_step(theta, mean_i (theta - phi_i) / inner_lr)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..bilevel import update_all_, value_and_gradient
from ..bilevel.steps import figure
from ..config import Optimizer
from ..models.trainable import TrainableModel
from ..prompts.batches import Batch, Sampler
from ..prompts.style import PromptStyle
from .method import Figures, GradientLearner, Learner, SameTaskMethod


@dataclass(frozen=True, kw_only=True)
class Reptile(SameTaskMethod):
    """First-order meta-training by the way that copies went, instead of by gradients behind it."""

    copies: int = 1
    """n, adapted copies whose ways are averaged."""
    inner_steps: int = 1
    """k: a copy takes 2k inner steps, so that an update sees 2kn batches, as MAML-en-LLM's does."""
    inner_optimizer: Optimizer = "sgd"
    """Optimizer of the inner steps, whose moments every copy begins anew."""
    inner_lr: float = 0.01
    """Learning rate of the inner steps."""

    def title(self, style: PromptStyle) -> str:
        return "Reptile"

    @property
    def optimizers(self) -> set[str]:
        return {self.optimizer, self.inner_optimizer}

    def learner(self, model: TrainableModel, sampler: Sampler) -> Learner:
        return ReptileLearner(self, model, sampler)

    def check(self) -> None:
        super().check()
        self.not_negative("inner_lr")
        if not self.inner_lr:
            raise ValueError("inner_lr is 0; it must be above 0, for the way of a copy is divided by it")


class ReptileLearner(GradientLearner):
    method: Reptile
    fused = True

    def update(self, batches: Sequence[Batch], lr_scale: float, measure: bool) -> Figures:
        method, steps = self.method, 2 * self.method.inner_steps
        inner = method.step(method.inner_optimizer, method.inner_lr)
        ways = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        losses: list[Tensor] = []
        for first in range(0, len(batches), steps):
            adapted = {name: p.clone() for name, p in self.parameters.items()}
            moments = inner.init(adapted)
            for batch in batches[first : first + steps]:
                value, gradients = value_and_gradient(self.loss, adapted, batch)
                update_all_(inner, adapted, gradients, moments)
                losses.append(value)
            for name, way in ways.items():
                way.add_(self.parameters[name] - adapted[name], alpha=1 / (method.inner_lr * method.copies))
        return {"loss": figure(torch.stack(losses).mean())} | self.outer_step(ways, lr_scale)
