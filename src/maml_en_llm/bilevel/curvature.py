"""Gradients and Hessian-vector products of a loss, each parameter's part handed over as soon as it is known.

A loss is any function `loss(parameters: dict[str, Tensor], batch) -> scalar`.  It may also have a context manager
`substituted(parameters)`: then it stays entered until the gradient is computed, which activation checkpointing needs;
an attribute `autocast`: the type it computes in, or None for the type of the parameters, which the engine sets on a
copy of it where the loss's own precision is too low; `parts(batch)`, batches whose losses sum to that of `batch`:
then a gradient is accumulated part by part, in the memory of the largest; `sum_(tensor)`, where it is the share of
one of several processes: the loss, its gradients and products are then summed over them, in place; and, where the
tensors in `parameters` are parts of those that others have the rest of, `stream_gradient`, which does what the function
of that name here does, and `norms(*parts)`, the norms of whole tensors from those of this process's parts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .steps import Norms, Tensors, blocks, global_norm, waits_for_numbers

Curvature = Literal["exact", "difference", "central"]
Loss = Callable[[Tensors, Any], Tensor]
Consume = Callable[[str, Tensor], None]
Add = Callable[[str, Tensor, Tensor | None, float | Tensor], None]

# ||eps * u|| / ||phi|| of a finite difference, where its truncation and rounding errors balance; measured on trained
# models by benchmarks/curvature.py, see docs/performance.md.
RELATIVE_STEP = {torch.float64: 1e-6, torch.float32: 1e-4}
HALF = (torch.bfloat16, torch.float16)

SMALLEST_SCALE = 1e-2  # of a parameter, root mean square: biases may be all zero


@dataclass
class Point:
    """Where a gradient was taken: what a Hessian-vector product there needs.

    parameters: by name. gradient: at `parameters`, if it is at hand. random_state: of the generators before the loss
    was computed, so that dropout draws the same again. graph: leaves and differentiable gradients, kept for `exact`.
    precision: the lowest that the loss computed with, once it was computed.
    """

    parameters: Mapping[str, Tensor]
    batch: Any
    gradient: Tensors = field(default_factory=dict)
    random_state: Sequence[Tensor] = ()
    graph: tuple[Tensors, Tensors] | None = None
    precision: torch.dtype | None = None


def stream_gradient(
    loss: Loss,
    parameters: Mapping[str, Tensor],
    batch: Any,
    consume: Consume,
    by: Collection[str] | None = None,
    watch: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """The loss, a detached scalar; `consume(name, gradient)` gets each parameter's gradient when it is complete.

    By then nothing in the backward pass reads that parameter any more, so `consume` may overwrite it. by: the names
    to differentiate by, all if None. watch: gets the loss (of the last part) with its graph.
    """
    if own := getattr(loss, "stream_gradient", None):
        value: Tensor = own(parameters, batch, consume, by, watch)
        return value
    values = {name: parameter.detach() for name, parameter in parameters.items()}
    leaves = {name: value.requires_grad_() for name, value in values.items() if by is None or name in by}
    left = dict.fromkeys(leaves)
    sum_ = getattr(loss, "sum_", None) or _as_it_is

    def hand_over(name: str, leaf: Tensor) -> None:
        gradient, leaf.grad = leaf.grad, None
        assert gradient is not None
        del left[name]
        with torch.no_grad():
            sum_(gradient)
            consume(name, gradient)

    split = getattr(loss, "parts", None)
    parts = [batch] if split is None else split(batch)
    losses = []
    with _substituted(loss, values):
        for number, part in enumerate(parts, start=1):
            if number == len(parts):
                for name, leaf in leaves.items():
                    leaf.register_post_accumulate_grad_hook(partial(hand_over, name))
            value = _scalar(loss(values, part))
            if watch is not None and number == len(parts):
                watch(value)
            if value.requires_grad:
                value.backward(inputs=list(leaves.values()))
            losses.append(value.detach())
            del value
    for name in list(left):  # the (last part's) loss does not depend on these
        gradient = leaves[name].grad
        gradient = torch.zeros_like(parameters[name]) if gradient is None else gradient
        sum_(gradient)
        consume(name, gradient)
    total = torch.stack(losses).sum()
    sum_(total)
    return total


def value_and_gradient(loss: Loss, parameters: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, Tensors]:
    """The loss, a detached scalar, and its gradient: a new dict with the names and shapes of `parameters`."""
    gradient: Tensors = {}
    value = stream_gradient(loss, parameters, batch, gradient.__setitem__)
    return value, {name: gradient[name] for name in parameters}


def attach_gradient(loss: Loss, point: Point, by: Collection[str]) -> Tensor:
    """The loss at `point`, with its gradient by some names kept such that `exact` can differentiate it once more.

    Fused attention kernels have no second derivative, so this pass uses the plain one.
    """
    leaves = {name: parameter.detach().requires_grad_() for name, parameter in point.parameters.items()}
    with sdpa_kernel(SDPBackend.MATH), _substituted(loss, leaves):
        value = _scalar(loss(leaves, point.batch))
        tensors = [leaves[name] for name in by]
        attached = (
            torch.autograd.grad(value, tensors, create_graph=True, materialize_grads=True)
            if value.requires_grad
            else [torch.zeros_like(tensor) for tensor in tensors]
        )
    point.graph = (leaves, dict(zip(by, attached, strict=True)))
    point.gradient = {name: gradient.detach() for name, gradient in point.graph[1].items()}
    total = value.detach()
    if sum_ := getattr(loss, "sum_", None):
        point.gradient = {name: gradient.clone() for name, gradient in point.gradient.items()}
        for tensor in (*point.gradient.values(), total := total.clone()):
            sum_(tensor)
    return total


def _as_it_is(tensor: Tensor) -> None:
    """The sum over the one process that there is."""


def recompute_gradient(loss: Loss, point: Point, by: Collection[str], attach: bool) -> None:
    """Fills `point.gradient` again with what it was; with `attach`, such that `exact` can differentiate it."""
    with replayed(point.random_state):
        if attach:
            attach_gradient(loss, point, by)
        else:
            stream_gradient(loss, point.parameters, point.batch, point.gradient.__setitem__, by)


def lowest_precision(value: Tensor) -> torch.dtype:
    """The type with the fewest digits that `value` went through on its way from the leaves of its graph."""
    found, seen, nodes = {value.dtype}, set(), [value.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found |= {metadata.dtype for metadata in node._input_metadata}
            nodes += [following for following, _ in node.next_functions]
    return max((dtype for dtype in found if dtype.is_floating_point), key=lambda dtype: torch.finfo(dtype).eps)


def in_full_precision(loss: Loss) -> Loss:
    """The loss, computed in the type of its parameters if it says that it is not."""
    if getattr(loss, "autocast", None) is None:
        return loss
    precise = copy(loss)
    precise.autocast = None  # type: ignore[attr-defined]
    return precise


def exact(loss: Loss, point: Point, direction: Tensors, add: Add) -> None:
    """Each parameter's part of H(point) @ direction, by reverse over reverse: exact up to rounding.

    H has a row for every parameter and a column for every name in `direction`. `add(name, tensor, minus, scale)` gets a
    part as scale * (tensor - minus), and may overwrite `tensor`.
    """
    if point.graph is None:
        recompute_gradient(loss, point, list(direction), attach=True)
    assert point.graph is not None
    (leaves, attached), point.graph = point.graph, None
    pairs = [(attached[name], u) for name, u in direction.items() if attached[name].requires_grad]
    with sdpa_kernel(SDPBackend.MATH), _substituted(loss, leaves):
        products = torch.autograd.grad(
            [gradient for gradient, _ in pairs],
            list(leaves.values()),
            grad_outputs=[u.to(gradient.dtype) for gradient, u in pairs],
            materialize_grads=True,
        )
    del attached, pairs
    parts = dict(zip(leaves, products, strict=True))
    del products
    sum_ = getattr(loss, "sum_", None) or _as_it_is
    for name in list(parts):
        product = parts.pop(name)
        sum_(product)
        add(name, product, None, 1.0)


def difference(loss: Loss, point: Point, direction: Tensors, add: Add) -> None:
    """The same by a forward difference, (grad(phi + eps u) - grad(phi)) / eps: one gradient, any attention kernel.

    `direction` becomes phi + eps u, and `point.gradient` is used up. Its error shrinks with eps down to the rounding
    of the gradients: RELATIVE_STEP balances the two.
    """
    epsilon = move_along_(point, direction, getattr(loss, "norms", None))
    if epsilon is None:  # the product is zero
        return

    def subtract(name: str, gradient: Tensor) -> None:
        add(name, gradient, point.gradient.pop(name), 1 / epsilon)

    with replayed(point.random_state):
        stream_gradient(loss, {**point.parameters, **direction}, point.batch, subtract)


def central(loss: Loss, point: Point, direction: Tensors, add: Add) -> None:
    """The same by a central difference, (grad(phi + eps u) - grad(phi - eps u)) / (2 eps): two gradients.

    Its truncation error is of second order in eps, so the step can be larger and rounding matters less: for low
    precision.
    """
    epsilon = move_along_(point, direction, getattr(loss, "norms", None))
    if epsilon is None:
        return
    point.gradient.clear()
    with replayed(point.random_state):
        _, forward = value_and_gradient(loss, {**point.parameters, **direction}, point.batch)
    for name, moved in direction.items():  # phi + eps u -> phi - eps u
        moved.neg_().add_(point.parameters[name].detach(), alpha=2)

    def subtract(name: str, gradient: Tensor) -> None:
        add(name, gradient, forward.pop(name), -0.5 / epsilon)

    with replayed(point.random_state):
        stream_gradient(loss, {**point.parameters, **direction}, point.batch, subtract)


def move_along_(point: Point, direction: Tensors, norms: Norms | None = None) -> float | Tensor | None:
    """Turns `direction` into point.parameters + eps * direction, in place; returns eps.

    Where nobody waits for numbers it is a tensor; elsewhere None when the direction is all zero.

    eps makes the move RELATIVE_STEP of the parameters' norm (at least SMALLEST_SCALE each). Coordinates without a
    gradient (embeddings of absent tokens, dead ReLU units) need care: AdamW's derivative is up to 1 / eps(AdamW)
    there, so they neither count for the length nor move more than others do, lest they leave no precision for the
    rest or wake up a dead unit.
    """
    lengths, sizes, seen, total = [], [], 0, 0
    for name, u in direction.items():
        total += u.numel()
        for i, (part, gradient, phi) in enumerate(blocks(u, point.gradient[name], point.parameters[name].detach())):
            if i % 8 == 0:  # a part of each tensor tells its size well enough
                lengths.append(torch.linalg.vector_norm(gradient.sign().mul_(part)))
                sizes.append(torch.linalg.vector_norm(phi))
                seen += part.numel()
    found, scale = [torch.linalg.vector_norm(torch.stack(n)) for n in (lengths, sizes)], (total / seen) ** 0.5
    ones = total**0.5  # the norm of as many ones
    length: Any
    size: Any
    if norms is None and waits_for_numbers(found[0].device):
        length, size = (norm * scale for norm in found)
        length = torch.where(length > 0, length, global_norm(direction))
        length = torch.where(length > 0, length, 1.0)  # a direction that is all zero moves nothing
        size = size.clamp(min=SMALLEST_SCALE * ones)
    else:
        length, size = (float(norm) * scale for norm in found)
        if norms is not None:
            length, size, ones = norms(length, size, ones)
        length = length or float(global_norm(direction, norms))
        if not length > 0:
            return None
        size = max(size, SMALLEST_SCALE * ones)
    assert point.precision is not None
    epsilon: float | Tensor = RELATIVE_STEP[point.precision] * size / length
    limit = length / ones
    for name, u in direction.items():
        for part, gradient, phi in blocks(u, point.gradient[name], point.parameters[name].detach()):
            has_gradient = gradient.sign().abs_()  # 0 or 1, in less time than `where` takes
            moved = part.clamp(-limit, limit).lerp_(part, has_gradient)
            if isinstance(epsilon, Tensor):
                torch.addcmul(phi, moved, epsilon, out=part)
            else:
                torch.add(phi, moved, alpha=epsilon, out=part)
    return epsilon


PRODUCTS: dict[str, Callable[[Loss, Point, Tensors, Add], None]] = {
    "exact": exact,
    "difference": difference,
    "central": central,
}


def random_state() -> list[Tensor]:
    """The state of the CPU's generator, and of the GPU's if there is one."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return states


@contextlib.contextmanager
def replayed(states: Sequence[Tensor]) -> Iterator[None]:
    """Within this context random numbers are drawn as they were from `states` on; nothing happens if it is empty."""
    if not states:
        yield
        return
    before = random_state()
    try:
        _set_random_state(states)
        yield
    finally:
        _set_random_state(before)


def _set_random_state(states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])


def _scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        found = f"a tensor of {value.dtype}, shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"the loss gave {found}; it must give a scalar float tensor")
    return value


def _substituted(loss: Loss, parameters: Tensors) -> contextlib.AbstractContextManager[Any]:
    enter = getattr(loss, "substituted", None)
    return contextlib.nullcontext() if enter is None else enter(parameters)
