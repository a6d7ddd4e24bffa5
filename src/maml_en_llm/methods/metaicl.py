"""MetaICL (Min et al., NAACL 2022): gradient descent on prompts with demonstrations from the mixture of all tasks.

theta <- theta - AdamW(grad L(theta; batch)), or the mean over several batches
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..bilevel import value_and_gradient
from ..bilevel.steps import figure
from ..models.trainable import TrainableModel
from ..prompts.batches import Batch, Sampler
from ..prompts.style import PromptStyle
from .method import Figures, GradientLearner, GradientMethod, Learner


@dataclass(frozen=True, kw_only=True)
class MetaICL(GradientMethod):
    """Gradient descent on prompts with demonstrations."""

    shards: ClassVar[bool] = True

    accumulate: int = 1
    """Batches whose gradients are averaged into one update: 2kn gives as many updates as MAML-en-LLM makes."""

    def title(self, style: PromptStyle) -> str:
        return "MetaICL" if self.accumulate == 1 else f"MetaICL, {self.accumulate} batches an update"

    @property
    def batches_per_update(self) -> int:
        return self.accumulate

    def check(self) -> None:
        self.at_least(1, "accumulate")
        super().check()

    def learner(self, model: TrainableModel, sampler: Sampler) -> Learner:
        return MetaICLLearner(self, model, sampler)


class MetaICLLearner(GradientLearner):
    fused = True

    def update(self, batches: Sequence[Batch], lr_scale: float, measure: bool) -> Figures:
        value, gradients = value_and_gradient(self.loss, self.parameters, batches[0])
        for batch in batches[1:]:
            more, further = value_and_gradient(self.loss, self.parameters, batch)
            value = value + more
            for name, gradient in gradients.items():
                gradient.add_(further[name])
        for gradient in gradients.values() if len(batches) > 1 else ():
            gradient.div_(len(batches))
        return {"loss": figure(value / len(batches))} | self.outer_step(gradients, lr_scale)
