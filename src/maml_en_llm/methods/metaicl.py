"""MetaICL (Min et al., NAACL 2022): gradient descent on prompts with demonstrations from the mixture of all tasks.

theta <- theta - AdamW(grad L(theta; batch))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..bilevel import clip_by_global_norm_, update_all_, value_and_gradient
from ..models.trainable import TrainableModel
from ..prompts.batches import Batch, Sampler
from ..prompts.style import PromptStyle
from .method import GradientLearner, GradientMethod, Learner


@dataclass(frozen=True, kw_only=True)
class MetaICL(GradientMethod):
    """Gradient descent on prompts with demonstrations."""

    def title(self, style: PromptStyle) -> str:
        return "MetaICL"

    def learner(self, model: TrainableModel, sampler: Sampler) -> Learner:
        return MetaICLLearner(self, model, sampler)


class MetaICLLearner(GradientLearner):
    def update(self, batches: Sequence[Batch], lr_scale: float, measure: bool) -> dict[str, float]:
        (batch,) = batches
        value, gradients = value_and_gradient(self.loss, self.parameters, batch)
        norm = clip_by_global_norm_(gradients, self.method.gradient_clip)
        step = replace(self.optimizer, lr=self.optimizer.lr * lr_scale)
        update_all_(step, self.parameters, gradients, self.moments)
        return {"loss": float(value), "gradient_norm": norm, "lr": step.lr}
