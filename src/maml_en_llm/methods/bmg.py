"""Bootstrapped meta-gradients (BMG; Flennerhag et al., ICLR 2022): the start moves so that adapted copies come close to
where more steps would have taken them, and nothing is differentiated by these (docs/methods/bmg.md).

    k times: phi_i <- phi_i - inner_lr grad L(phi_i; support of one task)
    target_i = phi_i after more such steps: on support batches again, then on the query batches;  a constant
    theta <- outer_step(theta, mean_i d |phi_i - target_i|^2 / (2 inner_lr) / d theta)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from ..bilevel import SGD, explore
from ..bilevel.curvature import Curvature
from ..bilevel.steps import figure
from ..models.trainable import TrainableModel
from ..prompts.batches import Batch, Sampler
from ..prompts.style import PromptStyle
from .method import Figures, GradientLearner, Learner, SameTaskMethod


@dataclass(frozen=True, kw_only=True)
class BMG(SameTaskMethod):
    """MAML whose copies are drawn towards where they would have got with more steps."""

    inner_lr: float = 0.01
    """Learning rate of the inner steps, which are plain SGD, and of those to the target."""
    bootstrap_steps: int = 4
    """Steps to the target on the support batches in turn, before its step on each query batch; with 0 and
    inner_steps=1 it is MAML."""
    curvature: Curvature = "difference"
    """Hessian-vector products by one more gradient (difference), two (central, for bfloat16), or exact."""

    def title(self, style: PromptStyle) -> str:
        return "BMG"

    def learner(self, model: TrainableModel, sampler: Sampler) -> Learner:
        return BMGLearner(self, model, sampler)

    def check(self) -> None:
        super().check()
        self.at_least(0, "bootstrap_steps")
        if not 0 < self.inner_lr < float("inf"):
            raise ValueError(f"inner_lr is {self.inner_lr}; it must be above 0, for distances are divided by it")


class BMGLearner(GradientLearner):
    method: BMG

    def update(self, batches: Sequence[Batch], lr_scale: float, measure: bool) -> Figures:
        method = self.method
        gradients = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        losses = []
        for support, query in zip(*method.support_and_query(batches), strict=True):
            found = bootstrapped(
                self.loss, self.parameters, support, query, method.inner_lr, method.bootstrap_steps, method.curvature
            )
            for name, gradient in gradients.items():
                gradient.add_(found.gradients[name], alpha=1 / method.copies)
            losses.append(found.support_loss)
        return {"loss": figure(torch.stack(losses).mean())} | self.outer_step(gradients, lr_scale)


def bootstrapped(
    loss: Any,
    parameters: dict[str, Tensor],
    support: Sequence[Any],
    query: Sequence[Any],
    inner_lr: float,
    bootstrap_steps: int,
    curvature: Curvature = "exact",
) -> Any:
    """One copy's `MetaGradient` of half the squared distance to its target over `inner_lr`."""
    explored = explore(loss, parameters, support, SGD(inner_lr), curvature=curvature)
    target = explored.continue_([*islice(cycle(support), bootstrap_steps), *query])
    return explored.pull_back({name: (p - target[name]) / inner_lr for name, p in explored.adapted.items()})
