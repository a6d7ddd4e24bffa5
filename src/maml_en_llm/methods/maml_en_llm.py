"""MAML-en-LLM (Sinha et al., KDD 2024): n copies adapt on support batches, and the start moves so that the adapted
copies do well on query batches (Algorithm 1; docs/methods/maml-en-llm.md).

    for i in 1..n:  phi_0 = theta;  k times: phi <- inner_step(phi, grad L(phi; support));  q_i = L(phi; query)
    theta <- outer_step(theta, mean_i d q_i / d theta),  inner and outer steps sharing one AdamW state (section 3.3)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from torch import Tensor

from ..bilevel import MetaGradient, meta_gradient, relative_error
from ..bilevel.curvature import Curvature
from ..bilevel.exploration import Order, Trajectory, Workspace
from ..bilevel.steps import Moments, Step, figure
from ..config import Optimizer
from ..models.processes import Processes
from ..models.trainable import TrainableModel
from ..progress import console
from ..prompts.batches import Batch, MixtureSampler, SameTaskSampler, Sampler
from ..prompts.style import PromptStyle
from .method import Figures, GradientLearner, Learner, TwoLevelMethod


@dataclass(frozen=True, kw_only=True)
class MAMLenLLM(TwoLevelMethod):
    """Second-order meta-training with shared AdamW moments; an update sees 2kn batches."""

    LATER: ClassVar[Mapping[str, Any]] = {"parallel": "prompts"}
    shards: ClassVar[bool] = True

    inner_optimizer: Optimizer = "adamw"
    """Optimizer of the inner steps."""
    inner_lr: float = 1e-5
    """alpha, learning rate of the inner steps."""
    order: Order = "second"
    """second is the exact meta-gradient, first ignores how adaptation depends on the start."""
    curvature: Curvature | None = None
    """Hessian-vector products by one more gradient (difference), two (central), or exact; by default difference in
    float32, and central, which computes in float32, in bfloat16."""
    trajectory: Trajectory = "keep"
    """With inner_steps > 1, keep every step or recompute it on the way back, which saves memory."""
    verify_curvature: int = 0
    """Every N updates compare with exact curvature and log the error (0: never)."""
    shared_moments: bool | None = None
    """Inner and outer steps update one optimizer state; by default if they use the same optimizer."""
    sampling: Literal["mixture", "same_task"] = "mixture"
    """Support and query are draws from the mixture of all tasks, or come from one task a copy."""
    parallel: Literal["prompts", "copies"] = "prompts"
    """What is shared out over several processes: the prompts of each batch; or the copies, which then all start from
    the same moments, and the mean of what they leave goes on (docs/several-processes.md)."""

    def title(self, style: PromptStyle) -> str:
        return f"{'MAML' if self.order == 'second' else 'FOMAML'}-{2 * self.inner_steps}-{self.copies}"

    @property
    def optimizers(self) -> set[str]:
        return {self.optimizer, self.inner_optimizer}

    @property
    def shares_moments(self) -> bool:
        """shared_moments with its default filled in."""
        return self.optimizer == self.inner_optimizer if self.shared_moments is None else self.shared_moments

    @property
    def chosen_curvature(self) -> Curvature:
        """curvature with its default filled in."""
        return self.curvature or ("difference" if self.precision == "float32" else "central")

    def sampler(self, **data: Any) -> Sampler:
        if self.sampling == "same_task":
            return SameTaskSampler(**data, inner_steps=self.inner_steps)
        return MixtureSampler(**data)

    def learner(self, model: TrainableModel, sampler: Sampler) -> Learner:
        return MAMLLearner(self, model, sampler)

    @property
    def whole(self) -> dict[str, Any]:
        exact = {"curvature": "exact"} if self.order == "second" else {}
        return {**super().whole, **exact, "verify_curvature": ..., "parallel": "copies"}

    def unread(self) -> dict[str, str]:
        unread = super().unread()
        if self.sampling == "same_task":
            unread["choose"] = "sampling=same_task"
        if self.copies == 1:
            unread["parallel"] = "copies=1"
        if self.inner_steps == 1:
            unread["trajectory"] = "inner_steps=1"
        if self.order == "first":
            unread |= dict.fromkeys(("curvature", "trajectory", "verify_curvature"), "order=first")
        return unread

    def check(self) -> None:
        super().check()
        self.not_negative("inner_lr")
        self.at_least(0, "verify_curvature")
        if self.shared_moments and self.optimizer != self.inner_optimizer:
            raise ValueError(
                f"shared_moments needs one optimizer for both steps, but inner_optimizer is {self.inner_optimizer} and "
                f"optimizer is {self.optimizer}; make them equal or leave shared_moments out"
            )


class MAMLLearner(GradientLearner):
    method: MAMLenLLM
    fused = True

    def __init__(self, method: MAMLenLLM, model: TrainableModel, sampler: Sampler) -> None:
        super().__init__(method, model, sampler)
        self.inner: Step = method.step(method.inner_optimizer, method.inner_lr)
        self.workspace: Workspace = {}
        self.said: set[str] = set()  # notes of the engine that were printed
        self.processes: Processes = getattr(model.loss, "processes", Processes())
        if method.parallel == "copies" and self.processes.count > 1:
            self.loss = model.loss.alone()
            if method.copies % self.processes.count:
                raise ValueError(
                    f"copies is {method.copies} but parallel=copies shares them over {self.processes.count} processes; "
                    "make it a multiple of that, or leave parallel out"
                )

    def update(self, batches: Sequence[Batch], lr_scale: float, measure: bool) -> Figures:
        method = self.method
        support, query = method.support_and_query(batches)
        job: dict[str, Any] = {
            "support": support,
            "query": query,
            "step": self.inner,
            "state": self.moments if method.shares_moments else None,
            "order": method.order,
        }
        one_by_one = partial(meta_gradient, self.loss, self.parameters)
        explore = self.explore_at_once if method.parallel == "copies" else one_by_one
        exact = explore(**job).gradients if self.verification_is_due() else None
        result = explore(
            **job,
            curvature=method.chosen_curvature,
            trajectory=method.trajectory,
            donate_state=True,
            measure_share=measure and method.order == "second",
            workspace=self.workspace,
        )
        curvature_error = None if exact is None else relative_error(result.gradients, exact)
        figures: Figures = {"loss": figure(result.query_loss), "support_loss": figure(result.support_loss)}
        figures |= self.outer_step(result.gradients, lr_scale)
        if result.second_order_share is not None:
            figures["second_order_share"] = result.second_order_share
        if curvature_error is not None:
            figures["curvature_error"] = curvature_error
        if measure and result.steep:
            figures["steep"] = result.steep
        for note in set(result.notes) - self.said:
            console.print(note, markup=False)
        self.said |= set(result.notes)
        return figures

    def explore_at_once(
        self,
        support: Sequence[Sequence[Batch]],
        query: Sequence[Sequence[Batch]],
        state: Moments | None,
        donate_state: bool = False,
        measure_share: bool = False,
        **job: Any,
    ) -> MetaGradient:
        """As `meta_gradient`, of copies that all start from `state`, of which each process takes some.

        The moments are the mean of those that the copies leave. The share of the second order is not measured.
        """
        own = range(self.processes.rank, len(support), self.processes.count)
        found = None
        for copy in own:
            result = meta_gradient(self.loss, self.parameters, [support[copy]], [query[copy]], state=state, **job)
            if found is None:
                found = result
                continue
            for total, part in zip(_tensors(found), _tensors(result), strict=True):
                total.add_(part)
        assert found is not None
        for total in _tensors(found):
            total.div_(len(own))
            self.processes.mean_(total)
        if donate_state and found.state is not None:
            self.moments = found.state
        return found

    def verification_is_due(self) -> bool:
        """Whether this update, counted by the steps that the moments have seen, is one that verify_curvature names."""
        every, method = self.method.verify_curvature, self.method
        one_by_one = 1 if method.parallel == "copies" else method.copies
        steps_per_update = 1 + (method.inner_steps * one_by_one if method.shares_moments else 0)
        return every > 0 and self.moments.step // steps_per_update % every == 0


def _tensors(result: MetaGradient) -> list[Tensor]:
    """What of the copies is averaged."""
    moments = result.state or Moments({}, None)
    some = (result.gradients, moments.first, moments.second or {})
    return [result.query_loss, result.support_loss, *(tensor for tensors in some for tensor in tensors.values())]
