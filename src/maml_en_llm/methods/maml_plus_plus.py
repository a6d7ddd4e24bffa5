"""MAML++ (Antoniou et al., ICLR 2019): a query loss after every inner step, whose weights move to the last, and learned
rates for each tensor and step (docs/methods/maml-plus-plus.md).

    k times: phi_ij <- phi_ij-1 - rate_j * grad L(phi_ij-1; support of one task)
    theta, rate <- outer_step((theta, rate), mean_i sum_j w_j d L(phi_ij; query of that task) / d (theta, rate))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..bilevel.exploration import Order
from ..models.trainable import TrainableModel
from ..prompts.batches import Sampler
from ..prompts.style import PromptStyle
from .meta_sgd import MetaSGD, MetaSGDLearner
from .method import Learner

FLOOR = 0.03  # over k: the least that the weight of an early step falls to


@dataclass(frozen=True, kw_only=True)
class MAMLPlusPlus(MetaSGD):
    """Meta-SGD with a rate for each step, too, and with query losses after every step at first."""

    LATER: ClassVar[Mapping[str, Any]] = {"first_order_updates": 0}

    annealing: int = 500
    """Updates over which the weights of the query losses move from equal ones to the last step (0: from the start)."""
    first_order_updates: int = 0
    """Updates at the start that are of first order: gradients of inner steps count as constants, and rates learn."""

    def title(self, style: PromptStyle) -> str:
        return "MAML++"

    def learner(self, model: TrainableModel, sampler: Sampler) -> Learner:
        return MAMLPlusPlusLearner(self, model, sampler)

    def unread(self) -> dict[str, str]:
        return super().unread() | ({"annealing": "inner_steps=1"} if self.inner_steps == 1 else {})

    def check(self) -> None:
        super().check()
        self.at_least(0, "annealing", "first_order_updates")


def query_weights(update: int, steps: int, annealing: int) -> list[float]:
    """Of the query loss after each of `steps` inner steps, summing to 1: equal in update 0, then the early ones fall
    by equal amounts down to FLOOR / steps, and the last has the rest."""
    share = min(update / annealing, 1.0) if annealing else 1.0
    early = max((1 - share) / steps, FLOOR / steps)
    return [early] * (steps - 1) + [1 - early * (steps - 1)]


class MAMLPlusPlusLearner(MetaSGDLearner):
    method: MAMLPlusPlus

    def __init__(self, method: MAMLPlusPlus, model: TrainableModel, sampler: Sampler) -> None:
        super().__init__(method, model, sampler)
        self.rates = {n: p.new_full((method.inner_steps,), method.inner_lr) for n, p in self.parameters.items()}
        self.rates_moments = self.rates_optimizer.init(self.rates)

    def query_weights(self) -> Sequence[float]:
        return query_weights(self.moments.step, self.method.inner_steps, self.method.annealing)

    def order(self) -> Order:
        return "first" if self.moments.step < self.method.first_order_updates else "second"
