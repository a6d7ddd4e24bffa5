"""Meta-SGD (Li et al., 2017): the rate of each tensor in the inner steps is learned, by the gradient of the query loss
through these steps (docs/methods/meta-sgd.md).

    k times: phi_i <- phi_i - rate * grad L(phi_i; support of one task)
    theta <- outer_step(theta, mean_i d L(phi_i; query) / d theta);  rate <- outer_step(rate, ... / d rate)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..bilevel import SGD, clip_by_global_norm_, meta_gradient, update_all_
from ..bilevel.curvature import Curvature
from ..bilevel.exploration import Order
from ..bilevel.steps import figure
from ..models.trainable import TrainableModel
from ..prompts.batches import Batch, Sampler
from ..prompts.style import PromptStyle
from .method import Figures, GradientLearner, Learner, SameTaskMethod


@dataclass(frozen=True, kw_only=True)
class MetaSGD(SameTaskMethod):
    """MAML with plain SGD as inner optimizer, whose learning rate for each tensor is learned."""

    inner_lr: float = 0.01
    """With what all rates begin."""
    rates_lr: float = 1e-3
    """Learning rate of the rates."""
    curvature: Curvature = "difference"
    """Hessian-vector products by one more gradient (difference), two (central, for bfloat16), or exact."""

    def title(self, style: PromptStyle) -> str:
        return "Meta-SGD"

    def learner(self, model: TrainableModel, sampler: Sampler) -> Learner:
        return MetaSGDLearner(self, model, sampler)

    def check(self) -> None:
        super().check()
        self.not_negative("inner_lr", "rates_lr")


class MetaSGDLearner(GradientLearner):
    method: MetaSGD

    def __init__(self, method: MetaSGD, model: TrainableModel, sampler: Sampler) -> None:
        super().__init__(method, model, sampler)
        self.rates = {name: p.new_full((), method.inner_lr) for name, p in self.parameters.items()}
        self.rates_optimizer = replace(self.optimizer, lr=method.rates_lr, weight_decay=0.0)
        self.rates_moments = self.rates_optimizer.init(self.rates)

    def update(self, batches: Sequence[Batch], lr_scale: float, measure: bool) -> Figures:
        result = meta_gradient(
            self.loss,
            self.parameters,
            *self.method.support_and_query(batches),
            SGD(),
            rates=self.rates,
            query_weights=self.query_weights(),
            order=self.order(),
            curvature=self.method.curvature,
        )
        assert result.rates is not None
        outer = self.outer_step(result.gradients, lr_scale)
        rates_step = replace(self.rates_optimizer, lr=self.rates_optimizer.lr * lr_scale)
        clip_by_global_norm_(result.rates, self.method.gradient_clip)
        update_all_(rates_step, self.rates, result.rates, self.rates_moments)
        figures: Figures = {"loss": figure(result.query_loss), "support_loss": figure(result.support_loss)}
        return figures | outer | {"rate": figure(torch.stack(list(self.rates.values())).mean())}

    def query_weights(self) -> Sequence[float]:
        """Of the query loss after each inner step; none: the last alone counts."""
        return ()

    def order(self) -> Order:
        """Of the next update."""
        return "second"

    def state_dict(self) -> dict[str, Tensor]:
        named = {"rates": self.rates, "rates_first_moments": self.rates_moments.first}
        named |= {"rates_second_moments": self.rates_moments.second or {}}
        return super().state_dict() | {f"{group}.{n}": t for group, some in named.items() for n, t in some.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.rates_moments.step = self.moments.step  # every update moves both

    def save(self, folder: Path, files: Mapping[str, str]) -> None:
        """The rates go to `inner_rates.json`: a record, which prediction does not read."""
        rates = {name: rate.tolist() for name, rate in self.rates.items()}
        super().save(folder, {**files, "inner_rates.json": json.dumps(rates, indent=1)})
