"""An independent statement of the method: optimizers as formulas, and autograd through the whole update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from maml_en_llm import SGD, AdamW

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class State:
    """Moments that autograd may look through."""

    first: Tensors
    second: Tensors
    step: int

    def detached(self) -> State:
        return State(detached(self.first), detached(self.second), self.step)


def detached(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def zero_state(parameters: Tensors) -> State:
    zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
    return State(zeros, zeros, 0)


def after_step(
    step: SGD | AdamW, parameters: Tensors, gradients: Tensors, state: State
) -> tuple[dict[str, Tensor], State]:
    """Parameters and state after one step, as the papers write it."""
    t, decay = state.step + 1, 1 - step.lr * step.weight_decay
    if isinstance(step, SGD):
        first = {n: step.momentum * state.first[n] + g for n, g in gradients.items()}
        return {n: decay * p - step.lr * first[n] for n, p in parameters.items()}, State(first, state.second, t)
    b1, b2 = step.betas
    first = {n: b1 * state.first[n] + (1 - b1) * g for n, g in gradients.items()}
    second = {n: b2 * state.second[n] + (1 - b2) * g**2 for n, g in gradients.items()}
    moved = {
        n: decay * p - step.lr * (first[n] / (1 - b1**t)) / ((second[n] / (1 - b2**t)).sqrt() + step.eps)
        for n, p in parameters.items()
    }
    return moved, State(first, second, t)


def meta_gradient(
    loss: Callable[[Tensors, Any], Tensor],
    parameters: Tensors,
    support: Sequence[Sequence[Any]],
    query: Sequence[Sequence[Any]],
    step: SGD | AdamW,
    state: State | None,
) -> tuple[dict[str, Tensor], Tensor, State | None]:
    """(gradient of the mean query loss, that loss, state after all inner steps) by autograd through every step."""
    theta = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    query_losses = []
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        for support_batches, query_batches in zip(support, query, strict=True):
            phi: Tensors = theta
            moments = zero_state(theta) if state is None else state
            for batch in support_batches:
                gradients = torch.autograd.grad(loss(phi, batch), list(phi.values()), create_graph=True)
                phi, moments = after_step(step, phi, dict(zip(phi, gradients, strict=True)), moments)
            query_losses.append(sum(loss(phi, batch) for batch in query_batches) / len(query_batches))
            if state is not None:
                state = moments.detached()
        total = torch.stack([torch.as_tensor(value) for value in query_losses]).mean()
        gradients = torch.autograd.grad(total, list(theta.values()))
    return dict(zip(theta, gradients, strict=True)), total.detach(), state


def maml_update(
    loss: Callable[[Tensors, Any], Tensor],
    parameters: Tensors,
    support: Sequence[Sequence[Any]],
    query: Sequence[Sequence[Any]],
    inner: SGD | AdamW,
    outer: SGD | AdamW,
    state: State,
    shared: bool,
    clip: float | None,
    lr_scale: float,
) -> tuple[dict[str, Tensor], State, Tensor]:
    """(parameters, outer state, query loss) after one whole meta-update."""
    gradients, value, after = meta_gradient(loss, parameters, support, query, inner, state if shared else None)
    norm = torch.cat([g.flatten() for g in gradients.values()]).norm()
    if clip is not None and norm > clip:
        gradients = {name: g * clip / norm for name, g in gradients.items()}
    moved, state = after_step(replace(outer, lr=outer.lr * lr_scale), parameters, gradients, after if after else state)
    return moved, state, value


def relative_error(found: Tensors, expected: Tensors) -> float:
    """|found - expected| / |expected|, over all tensors together."""
    assert found.keys() == expected.keys()
    distance = torch.cat([(found[n] - expected[n]).flatten() for n in expected]).norm()
    return float(distance / torch.cat([e.flatten() for e in expected.values()]).norm())
