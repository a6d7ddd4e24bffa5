"""The meta-gradient of n explored copies with k inner steps each: adapt forward, recurse backward.

An inner optimizer acts element by element, so the derivative of an inner step is diagonal matrices plus one Hessian.
Going back through it costs one Hessian-vector product, whatever the optimizer, and no autograd graph ever spans an
update (docs/bilevel.md).  Gradients are used up as they are computed, so that apart from the parameters and the
optimizer's moments only the support gradient, one set of adapted parameters and the result are in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .curvature import (
    PRODUCTS,
    Curvature,
    Loss,
    Point,
    attach_gradient,
    random_state,
    recompute_gradient,
    stream_gradient,
)
from .steps import AdamW, Moments, Step, Tensors, blocks, relative_error

Order = Literal["second", "first"]
Trajectory = Literal["keep", "recompute"]
Workspace = dict[str, list[Tensor]]


@dataclass(frozen=True)
class MetaGradient:
    """What one meta-update needs and reports.

    gradients: d(mean query loss)/d(parameters), names and shapes of the parameters.
    query_loss: mean over copies and query batches, at the adapted parameters. support_loss: mean over copies and inner
        steps, each before its step. Both detached scalars.
    state: moments after all inner steps, when they were shared; else None.
    second_order_share: |G_second - G_first| / |G_first|, when asked for; else None.
    """

    gradients: Tensors
    query_loss: Tensor
    support_loss: Tensor
    state: Moments | None
    second_order_share: float | None = None


def meta_gradient(
    loss: Loss,
    parameters: Mapping[str, Tensor],
    support: Sequence[Sequence[Any]],
    query: Sequence[Sequence[Any]],
    step: Step = AdamW(lr=1e-5),  # noqa: B008 (frozen)
    state: Moments | None = None,
    order: Order = "second",
    curvature: Curvature = "exact",
    *,
    trajectory: Trajectory = "keep",
    donate_state: bool = False,
    measure_share: bool = False,
    workspace: Workspace | None = None,
) -> MetaGradient:
    """Gradient of the query loss after adaptation by the parameters before it (MAML-en-LLM, sections 3.2 and 3.3).

    loss: `loss(parameters, batch) -> scalar`. parameters: float tensors by name; never changed.
    support, query: n copies of k batches each; a copy takes one inner step per support batch.
    step: the inner optimizer. state: moments shared with the outer optimizer, which flow through all inner steps
        (constants for the first step of a copy); None lets every copy start from zero moments.
    order: `second` is exact; `first` takes the adapted parameters as if they did not depend on the initial ones.
    curvature: how Hessian-vector products are computed: `exact`, or `difference` or `central` differences of gradients,
        which work with any attention kernel and cost one gradient or two.
    trajectory: with k > 1, `keep` every inner step's parameters, gradient and moments, or go back by undoing steps and
        `recompute` each gradient: memory that does not grow with k for one more gradient a step (not for plain SGD).
    donate_state: update `state` in place instead of a copy of it. measure_share: also compute second_order_share.
    workspace: a dict, empty at first, in which memory for one or two sets of parameters is kept from call to call.

    Raises ValueError when support and query do not have the same n >= 1 copies with the same k >= 1 batches, or when
    a loss is not finite.

    >>> theta = {"w": torch.tensor([1.0])}
    >>> quadratic = lambda p, batch: (p["w"] ** 2).sum()
    >>> from maml_en_llm import SGD
    >>> meta_gradient(quadratic, theta, [[None]], [[None]], step=SGD(lr=0.1)).gradients  # (1 - 0.2) * 2 * 0.8
    {'w': tensor([1.2800])}
    """
    copies, inner_steps = len(support), len(support[0]) if support else 0
    if not inner_steps or [len(s) for s in support] != [inner_steps] * copies or len(query) != copies:
        raise ValueError(
            "support and query must hold the same number of copies (>= 1) with the same k >= 1 batches each"
        )
    if any(len(q) != inner_steps for q in query):
        raise ValueError(f"each copy has {inner_steps} support batches, so it needs {inner_steps} query batches")
    for name, value, allowed in (
        ("order", order, ("second", "first")),
        ("curvature", curvature, tuple(PRODUCTS)),
        ("trajectory", trajectory, ("keep", "recompute")),
    ):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
    shared = state if state is None or donate_state else state.clone()
    job = _Job(
        loss=loss,
        parameters={name: parameter.detach() for name, parameter in parameters.items()},
        step=step,
        second=order == "second",
        curvature=curvature,
        recompute=trajectory == "recompute" and order == "second",
        shared=shared is not None,
        weight=1 / copies,
        total={},
        plain={} if measure_share else None,
        workspace={} if workspace is None else workspace,
    )
    losses = [
        _explore(job, step.init(job.parameters) if shared is None else shared, *batches)
        for batches in zip(support, query, strict=True)
    ]
    share = None
    if job.plain is not None:
        share = relative_error(job.total, job.plain)
    return MetaGradient(
        gradients={name: job.total[name] for name in parameters},
        query_loss=torch.stack([q for _, q in losses]).mean(),
        support_loss=torch.stack([s for s, _ in losses]).mean(),
        state=shared,
        second_order_share=share,
    )


@dataclass
class _Job:
    """What is the same for all copies, and where their meta-gradients are summed (`plain`: the first-order ones)."""

    loss: Loss
    parameters: Mapping[str, Tensor]
    step: Step
    second: bool
    curvature: Curvature
    recompute: bool
    shared: bool
    weight: float
    total: Tensors
    plain: Tensors | None
    workspace: Workspace

    def memory_like(self, name: str, tensor: Tensor) -> Tensor:
        """Memory for one parameter, contiguous, with any content."""
        spare = self.workspace.setdefault(name, [])
        return spare.pop() if spare else torch.empty_like(tensor, memory_format=torch.contiguous_format)

    def give_back(self, name: str, memory: Tensor) -> None:
        """Lets the next `memory_like` have that memory."""
        self.workspace[name].append(memory)


def _explore(job: _Job, moments: Moments, support: Sequence[Any], query: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Adds one copy's meta-gradient to `job.total`; returns its support and query losses."""
    k, recompute = len(support), job.recompute and len(support) > 1
    passed: list[_InnerStep] = []
    slope: Tensors | None = {} if job.second and k == 1 else None
    support_losses, query_losses = [], []
    adapted: Mapping[str, Tensor] = job.parameters
    for j, batch in enumerate(support):
        point = Point(adapted, batch, random_state=random_state() if job.second else ())
        overwrite = j > 0 and (recompute or not job.second)
        keep_gradient = job.second and (j == k - 1 or not recompute)
        attach = keep_gradient and job.curvature == "exact" and not recompute
        value, adapted = _adapt(job, point, moments, overwrite, keep_gradient, attach, slope)
        support_losses.append(_finite(value, "support"))
        if job.second:
            passed.append(_InnerStep(point, moments if recompute or j == k - 1 else moments.clone()))

    way_back = _WayBack(job, passed, dict(adapted), slope, query_weight=1 / k, undo=recompute)
    del adapted
    for batch in query[:-1]:
        query_losses.append(_finite(stream_gradient(job.loss, way_back.after, batch, way_back.add), "query"))
    query_losses.append(_finite(stream_gradient(job.loss, way_back.after, query[-1], way_back.add_last), "query"))
    way_back.run()
    return torch.stack(support_losses).mean(), torch.stack(query_losses).mean()


def _adapt(
    job: _Job,
    point: Point,
    moments: Moments,
    overwrite: bool,
    keep_gradient: bool,
    attach: bool,
    slope: Tensors | None,
) -> tuple[Tensor, Tensors]:
    """One inner step from `point`: the support loss, and the parameters after it (in the memory of those before it
    with `overwrite`). With `keep_gradient`, `point.gradient` is filled; with `attach`, `point.graph` too; and `slope`
    unless it is None."""
    after: Tensors = {}
    moments.step += 1

    def learn(name: str, gradient: Tensor) -> None:
        before = point.parameters[name]
        after[name] = before if overwrite else job.memory_like(name, before)
        if slope is not None:
            slope[name] = job.memory_like(name, before)
        job.step.update(name, before, gradient, moments, out=after[name], slope=None if slope is None else slope[name])
        if keep_gradient:
            point.gradient[name] = gradient

    if attach:
        value = attach_gradient(job.loss, point)
        for name in job.parameters:
            learn(name, point.gradient[name])
    else:
        value = stream_gradient(job.loss, point.parameters, point.batch, learn)
    return value, after


@dataclass
class _InnerStep:
    """Where an inner step started, and the moments after it."""

    point: Point
    moments: Moments


class _WayBack:
    """The adjoint recursion of one copy: from the query gradient back to the parameters it started from.

    after: the parameters that the copy ended with. slope: for k = 1, the derivatives of its only step, whose memory u
    takes. As soon as one tensor of the query gradient is complete, the last inner step is pulled back for it, and the
    adjoint before the step, which waits for H u, goes to its sink.  At the first step of a copy the sink is
    `job.total`, so that the copies of k = 1 need no memory of their own.
    """

    def __init__(
        self,
        job: _Job,
        passed: list[_InnerStep],
        after: Tensors,
        slope: Tensors | None,
        query_weight: float,
        undo: bool,
    ) -> None:
        self.job, self.passed, self.after, self.slope = job, passed, after, slope
        self.query_weight, self.undo = query_weight, undo
        self.adjoint: Tensors = {}
        self.direction: Tensors = {}
        self.earlier = job.step.init(job.parameters if len(passed) > 1 else {})
        if undo and job.shared:  # going back along the moments must not change those that come after this copy
            moments = passed[-1].moments.clone()
            for inner in passed:
                inner.moments = moments

    def add(self, name: str, gradient: Tensor) -> None:
        """Part of the query gradient."""
        _accumulate(self.adjoint, name, gradient, self.query_weight)

    def add_last(self, name: str, gradient: Tensor) -> None:
        """The last part of the query gradient."""
        self.add(name, gradient)
        adjoint = self.adjoint.pop(name)
        if self.job.plain is not None:
            _accumulate(self.job.plain, name, adjoint.clone(), self.job.weight)
        if not self.undo:
            self.job.give_back(name, self.after.pop(name))  # nothing reads it any more
        if self.passed:
            self.pull_back(name, adjoint, self.passed[-1])
        else:
            _accumulate(self.job.total, name, adjoint, self.job.weight)

    def pull_back(self, name: str, adjoint: Tensor, inner: _InnerStep) -> None:
        """Turns the adjoint after a step into u, and into (1 - lr * weight_decay) * adjoint in the step's sink."""
        step = self.job.step
        if self.slope is not None:
            u = self.slope.pop(name).mul_(adjoint)
        else:
            u = self.job.memory_like(name, adjoint)
            step.pull_back(name, adjoint, inner.point.gradient[name], inner.moments, self.earlier, out=u)
        self.direction[name] = u
        self.sink(name, adjoint.mul_(1 - step.lr * step.weight_decay) if step.weight_decay else adjoint)

    def sink(self, name: str, part: Tensor, minus: Tensor | None = None, scale: float = 1.0) -> None:
        """Adds scale * (part - minus) to the adjoint before the step in turn."""
        if len(self.passed) == 1:
            _accumulate(self.job.total, name, part, scale * self.job.weight, minus)
        else:
            _accumulate(self.adjoint, name, part, scale, minus)

    def run(self) -> None:
        """The Hessian-vector product of the last step, then the same for every step before it."""
        job = self.job
        while self.passed:
            inner = self.passed[-1]
            undo = self.undo and len(self.passed) > 1  # the first step started from the parameters themselves
            if undo:
                for name, parameter in self.after.items():
                    job.step.undo_parameter_(name, parameter, inner.moments)
            elif self.undo:
                self.after.clear()
            if not self.direction:
                if self.undo:
                    recompute_gradient(job.loss, inner.point, attach=job.curvature == "exact")
                for name in list(self.adjoint):
                    self.pull_back(name, self.adjoint.pop(name), inner)
            if undo:
                for name, gradient in inner.point.gradient.items():
                    job.step.undo_moments_(name, gradient, inner.moments)
                inner.moments.step -= 1
            direction, self.direction = self.direction, {}
            PRODUCTS[job.curvature](job.loss, inner.point, direction, self.sink)
            for name, u in direction.items():
                job.give_back(name, u)
            self.passed.pop()


def _accumulate(total: Tensors, name: str, part: Tensor, weight: float, minus: Tensor | None = None) -> None:
    """total[name] += weight * (part - minus), taking over the memory of the first part and overwriting any part."""
    if name not in total:
        assert minus is None
        total[name] = part.contiguous() if weight == 1 else part.mul_(weight).contiguous()
        return
    for t, p, *less in blocks(total[name], part, *([] if minus is None else [minus])):
        t.add_(p.sub_(less[0]) if less else p, alpha=weight)


def _finite(value: Tensor, kind: str) -> Tensor:
    if not bool(torch.isfinite(value)):
        raise ValueError(
            f"the {kind} loss is {float(value)}; lower the learning rates or look for prompts without an answer"
        )
    return value
