"""MAML-en-LLM (Sinha et al., KDD 2024): n copies adapt on support batches, and the start moves so that the adapted
copies do well on query batches (Algorithm 1; docs/methods/maml-en-llm.md).

    for i in 1..n:  phi_0 = theta;  k times: phi <- inner_step(phi, grad L(phi; support));  q_i = L(phi; query)
    theta <- outer_step(theta, mean_i d q_i / d theta),  inner and outer steps sharing one AdamW state (section 3.3)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..bilevel import clip_by_global_norm_, meta_gradient, relative_error, update_all_
from ..bilevel.curvature import Loss
from ..bilevel.meta_gradient import Workspace
from ..bilevel.steps import Tensors
from ..config import TrainConfig
from ..prompts.batches import Batch, MixtureSampler, SameTaskSampler, Sampler
from . import make_step


class MAMLenLLM:
    def __init__(self, config: TrainConfig, parameters: Tensors) -> None:
        self.config = config
        self.inner = make_step(config, config.inner_optimizer, config.inner_lr)
        self.outer = make_step(config, config.optimizer, config.lr)
        self.moments = self.outer.init(parameters)
        self.workspace: Workspace = {}

    def sampler(self, **data: Any) -> Sampler:
        if self.config.sampling == "same_task":
            return SameTaskSampler(**data, inner_steps=self.config.inner_steps)
        return MixtureSampler(**data)

    def update(
        self, loss: Loss, parameters: Tensors, batches: Sequence[Batch], lr_scale: float, measure: bool
    ) -> dict[str, float]:
        k = self.config.inner_steps
        copies = [batches[i : i + 2 * k] for i in range(0, len(batches), 2 * k)]
        job: dict[str, Any] = {
            "support": [copy[:k] for copy in copies],
            "query": [copy[k:] for copy in copies],
            "step": self.inner,
            "state": self.moments if self.config.shares_moments else None,
            "order": self.config.order,
        }
        exact = meta_gradient(loss, parameters, **job).gradients if self.verification_is_due() else None
        result = meta_gradient(
            loss,
            parameters,
            **job,
            curvature=self.config.chosen_curvature,
            trajectory=self.config.trajectory,
            donate_state=True,
            measure_share=measure and self.config.order == "second",
            workspace=self.workspace,
        )
        curvature_error = None if exact is None else relative_error(result.gradients, exact)
        norm = clip_by_global_norm_(result.gradients, self.config.gradient_clip)
        update_all_(replace(self.outer, lr=self.outer.lr * lr_scale), parameters, result.gradients, self.moments)
        figures = {"loss": float(result.query_loss), "support_loss": float(result.support_loss), "gradient_norm": norm}
        if result.second_order_share is not None:
            figures["second_order_share"] = result.second_order_share
        if curvature_error is not None:
            figures["curvature_error"] = curvature_error
        return figures

    def verification_is_due(self) -> bool:
        """Whether this update, counted by the steps that the moments have seen, is one that verify_curvature names."""
        every = self.config.verify_curvature
        steps_per_update = 1 + (self.config.batches_per_update // 2 if self.config.shares_moments else 0)
        return every > 0 and self.moments.step // steps_per_update % every == 0
