"""The meta-gradient of n explored copies with k inner steps each: adapt forward, recurse backward.

An inner optimizer acts element by element, so the derivative of an inner step is diagonal matrices plus one Hessian.
Going back through it costs one Hessian-vector product, whatever the optimizer, and no autograd graph ever spans an
update (method.md section 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .curvature import CURVATURES, Curvature, Loss, value_and_gradient
from .steps import AdamW, Adjoint, Moments, Step, Tensors, global_norm

Order = Literal["second", "first"]


@dataclass(frozen=True)
class MetaGradient:
    """What one meta-update needs and reports.

    gradients: d(mean query loss)/d(parameters), names and shapes of the parameters.
    query_loss: mean over copies and query batches, at the adapted parameters. support_loss: mean over copies and inner
        steps, each before its step. Both detached scalars.
    state: moments after all inner steps, when they were shared; else None.
    second_order_share: |G_second - G_first| / |G_first|, mean over copies, when asked for; else None.
    """

    gradients: Tensors
    query_loss: Tensor
    support_loss: Tensor
    state: Moments | None
    second_order_share: float | None = None


@dataclass(frozen=True)
class _InnerStep:
    """What the way back needs of one inner step: where it started, its batch, its gradient, the moments after it."""

    start: Mapping[str, Tensor]
    batch: Any
    gradient: Tensors
    moments: Moments


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
    donate_state: bool = False,
    measure_share: bool = False,
) -> MetaGradient:
    """Gradient of the query loss after adaptation by the parameters before it (MAML-en-LLM, sections 3.2 and 3.3).

    loss: `loss(parameters, batch) -> scalar`. parameters: float tensors by name; never changed.
    support, query: n copies of k batches each; a copy takes one inner step per support batch.
    step: the inner optimizer. state: moments shared with the outer optimizer, which flow through all inner steps
        (constants for the first step of a copy); None lets every copy start from zero moments.
    order: `second` is exact; `first` takes the adapted parameters as if they did not depend on the initial ones.
    curvature: how Hessian-vector products are computed, `exact` or `difference`.
    donate_state: update `state` in place instead of a copy of it. measure_share: also compute second_order_share.

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
            "support and query must hold the same number of copies (>= 1), each with the same k >= 1 batches"
        )
    if any(len(q) != inner_steps for q in query):
        raise ValueError(f"each copy has {inner_steps} support batches, so it needs {inner_steps} query batches")
    if order not in ("second", "first"):
        raise ValueError(f'order is {order!r}; it must be "second" or "first"')
    if curvature not in CURVATURES:
        raise ValueError(f"curvature is {curvature!r}; it must be one of {', '.join(CURVATURES)}")
    product = CURVATURES[curvature]
    parameters = {name: parameter.detach() for name, parameter in parameters.items()}
    shared = state if state is None or donate_state else state.clone()
    total: Tensors = {
        name: torch.zeros_like(p, memory_format=torch.contiguous_format) for name, p in parameters.items()
    }
    support_losses, query_losses, shares = [], [], []

    for support_batches, query_batches in zip(support, query, strict=True):
        moments = step.init(parameters) if shared is None else shared
        adapted: Tensors = {}
        trajectory: list[_InnerStep] = []
        for j, batch in enumerate(support_batches):
            start: Mapping[str, Tensor] = parameters if j == 0 else adapted
            value, gradient = _finite(value_and_gradient(loss, start, batch), "support")
            support_losses.append(value)
            if j == 0 or order == "second":
                adapted = {name: p.clone() for name, p in start.items()}
            step.update_(adapted, gradient, moments)
            if order == "second":
                last = j == inner_steps - 1
                trajectory.append(_InnerStep(start, batch, gradient, moments if last else moments.clone()))
            del gradient

        adjoint = Adjoint({})
        for batch in query_batches:
            value, gradient = _finite(value_and_gradient(loss, adapted, batch), "query")
            query_losses.append(value)
            adjoint.parameters = _sum_in_place(adjoint.parameters, gradient, 1 / inner_steps)
        del adapted, gradient

        plain = {name: a.clone() for name, a in adjoint.parameters.items()} if measure_share else None
        while trajectory:
            inner = trajectory.pop()
            direction = step.adjoint_of_gradient_(adjoint, inner.gradient, inner.moments, keep_moments=bool(trajectory))
            for a in adjoint.parameters.values():
                a.mul_(1 - step.lr * step.weight_decay)
            product(loss, inner.start, inner.batch, inner.gradient, direction, adjoint.parameters, 1.0)
        if plain is not None:
            change = {name: a - plain[name] for name, a in adjoint.parameters.items()}
            shares.append(float(global_norm(change) / global_norm(plain).clamp(min=1e-30)))
        for name, a in adjoint.parameters.items():
            total[name].add_(a, alpha=1 / copies)

    return MetaGradient(
        gradients=total,
        query_loss=torch.stack(query_losses).mean(),
        support_loss=torch.stack(support_losses).mean(),
        state=shared,
        second_order_share=sum(shares) / len(shares) if shares else None,
    )


def _sum_in_place(total: Tensors, gradient: Tensors, weight: float) -> Tensors:
    """total + weight * gradient, in the memory of one of the two."""
    if not total:
        for g in gradient.values():
            g.mul_(weight)
        return {name: g.contiguous() for name, g in gradient.items()}
    for name, g in gradient.items():
        total[name].add_(g, alpha=weight)
    return total


def _finite(result: tuple[Tensor, Tensors], kind: str) -> tuple[Tensor, Tensors]:
    if not bool(torch.isfinite(result[0])):
        raise ValueError(
            f"the {kind} loss is {float(result[0])}; lower the learning rates or look for prompts without an answer"
        )
    return result
