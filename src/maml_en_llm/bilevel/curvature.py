"""Gradients and Hessian-vector products of a loss, exact or by finite differences of gradients.

A loss is any function `loss(parameters: dict[str, Tensor], batch) -> scalar`.  It may also have a context manager
`substituted(parameters)`: then it stays entered until the gradient is computed, which activation checkpointing needs.
And it may have `parts(batch)`, batches whose mean loss is that of `batch`: then derivatives are summed part by part, so
that memory is that of the largest part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .steps import Tensors, global_norm

Curvature = Literal["exact", "difference"]
Loss = Callable[[Tensors, Any], Tensor]

# ||eps * u|| / ||phi|| of the finite difference: where truncation and rounding of float32 gradients balance
# (docs/performance.md says how it was chosen); a wider type allows a smaller step.
RELATIVE_STEP = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 3e-4, torch.float16: 3e-4}


def value_and_gradient(loss: Loss, parameters: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, Tensors]:
    """The loss, a detached scalar, and its gradient: a new dict with the names and shapes of `parameters`."""
    leaves = _leaves(parameters)
    parts = _parts(loss, batch)
    total: list[Tensor] = []
    values = []
    with _substituted(loss, leaves):
        for part in parts:
            value = loss(leaves, part) / len(parts)
            gradients = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
            values.append(value.detach())
            # Not in place: gradients may be views, or one tensor for two parameters.
            total = [t + g for t, g in zip(total, gradients, strict=True)] if total else list(gradients)
            del value, gradients
    return torch.stack(values).sum(), dict(zip(leaves, total, strict=True))


class HessianVectorProduct(Protocol):
    """Adds H(parameters; batch) @ direction to `out`, in place; the content of `direction` is used up."""

    def __call__(
        self,
        loss: Loss,
        parameters: Mapping[str, Tensor],
        batch: Any,
        gradient: Tensors,
        direction: Tensors,
        out: Tensors,
        weight: float,
    ) -> None: ...


def exact(
    loss: Loss,
    parameters: Mapping[str, Tensor],
    batch: Any,
    gradient: Tensors,
    direction: Tensors,
    out: Tensors,
    weight: float = 1.0,
) -> None:
    """`out += weight * H @ direction` by reverse over reverse, exact up to rounding.

    Fused attention kernels have no second derivative, so these passes (and only these) use the plain one.
    """
    leaves = _leaves(parameters)
    parts = _parts(loss, batch)
    with sdpa_kernel(SDPBackend.MATH), _substituted(loss, leaves):
        for part in parts:
            value = loss(leaves, part)
            gradients = torch.autograd.grad(value, list(leaves.values()), create_graph=True, materialize_grads=True)
            pairs = [(g, u) for g, u in zip(gradients, direction.values(), strict=True) if g.requires_grad]
            products = torch.autograd.grad(
                [g for g, _ in pairs],
                list(leaves.values()),
                grad_outputs=[u.to(g.dtype) for g, u in pairs],
                materialize_grads=True,
            )
            del value, gradients, pairs
            for total, product in zip(out.values(), products, strict=True):
                total.add_(product, alpha=weight / len(parts))
            del products


def difference(
    loss: Loss,
    parameters: Mapping[str, Tensor],
    batch: Any,
    gradient: Tensors,
    direction: Tensors,
    out: Tensors,
    weight: float = 1.0,
) -> None:
    """`out += weight * H @ direction` by a forward difference of gradients: one more gradient, any attention kernel.

    gradient: the gradient at `parameters` on the same batch. The step is RELATIVE_STEP times the norm of the
    parameters, in the direction's length over the coordinates that have a gradient.
    """
    length = global_norm({name: torch.where(gradient[name] == 0, 0, u) for name, u in direction.items()})
    if not bool(length > 0):  # nothing to differentiate along, or only where the loss does not depend on it
        length = global_norm(direction)
    if not bool(length > 0):
        return
    dtype = next(iter(parameters.values())).dtype
    epsilon = float(RELATIVE_STEP[dtype] * global_norm(dict(parameters)) / length)
    for name, u in direction.items():
        u.mul_(epsilon).add_(parameters[name].detach())
        out[name].add_(gradient[name], alpha=-weight / epsilon)
    _, moved = value_and_gradient(loss, direction, batch)
    for name, g in moved.items():
        out[name].add_(g, alpha=weight / epsilon)


CURVATURES: dict[str, HessianVectorProduct] = {"exact": exact, "difference": difference}


def _leaves(parameters: Mapping[str, Tensor]) -> Tensors:
    """The same storage as leaves of a new autograd graph."""
    return {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}


def _substituted(loss: Loss, parameters: Tensors) -> contextlib.AbstractContextManager[Any]:
    enter = getattr(loss, "substituted", None)
    return contextlib.nullcontext() if enter is None else enter(parameters)


def _parts(loss: Loss, batch: Any) -> list[Any]:
    split = getattr(loss, "parts", None)
    return [batch] if split is None else split(batch)
