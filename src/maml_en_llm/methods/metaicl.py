"""MetaICL (Min et al., NAACL 2022): gradient descent on prompts with demonstrations from the mixture of all tasks.

theta <- theta - AdamW(grad L(theta; batch))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..bilevel import clip_by_global_norm_, update_all_, value_and_gradient
from ..bilevel.curvature import Loss
from ..bilevel.steps import Tensors
from ..config import TrainConfig
from ..prompts.batches import Batch, MixtureSampler, Sampler
from . import make_step


class MetaICL:
    def __init__(self, config: TrainConfig, parameters: Tensors) -> None:
        self.config = config
        self.step = make_step(config, config.optimizer, config.lr)
        self.moments = self.step.init(parameters)

    def sampler(self, **data: Any) -> Sampler:
        return MixtureSampler(**data)

    def update(
        self, loss: Loss, parameters: Tensors, batches: Sequence[Batch], lr_scale: float, measure: bool
    ) -> dict[str, float]:
        (batch,) = batches
        value, gradients = value_and_gradient(loss, parameters, batch)
        norm = clip_by_global_norm_(gradients, self.config.gradient_clip)
        update_all_(replace(self.step, lr=self.step.lr * lr_scale), parameters, gradients, self.moments)
        return {"loss": float(value), "gradient_norm": norm}
