from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from maml_en_llm import SGD, AdamW
from maml_en_llm.bilevel import Moments, clip_by_global_norm_, update_all_
from maml_en_llm.bilevel.steps import blocks
from unrolled import State, after_step, detached, relative_error

STEPS = [
    SGD(lr=0.1),
    SGD(lr=0.1, momentum=0.9),
    SGD(lr=0.1, momentum=0.5, weight_decay=0.2),
    AdamW(lr=0.01),
    AdamW(lr=0.01, betas=(0.7, 0.9), eps=1e-4, weight_decay=0.2),
]


def random_tensors(seed: int, rows: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (rows, 4), "vector": (5,), "scalar": ()}
    return {name: torch.randn(s, generator=generator, dtype=torch.float64) for name, s in shapes.items()}


@pytest.mark.parametrize(
    ("step", "peer"),
    [
        (SGD(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
        (SGD(lr=0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        (AdamW(lr=0.01), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0)),
        (
            AdamW(lr=0.01, betas=(0.7, 0.9), eps=1e-4, weight_decay=0.2),
            lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.7, 0.9), eps=1e-4, weight_decay=0.2),
        ),
    ],
)
def test_updates_equal_those_of_torch(step: Any, peer: Any) -> None:
    ours, theirs = random_tensors(0), random_tensors(0)
    moments, optimizer = step.init(ours), peer(list(theirs.values()))
    for seed in range(1, 6):
        gradients = random_tensors(seed)
        update_all_(step, ours, gradients, moments)
        for name, parameter in theirs.items():
            parameter.grad = gradients[name]
        optimizer.step()
    assert moments.step == 5
    assert relative_error(ours, theirs) < 1e-14


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("rows", [3, 50_000], ids=["small", "several-blocks"])
def test_updates_equal_the_formulas(step: Any, rows: int) -> None:
    parameters, moments = random_tensors(0, rows), step.init(random_tensors(0, rows))
    zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
    expected, state = detached(parameters), State(zeros, zeros, 0)
    for seed in (1, 2):
        gradients = random_tensors(seed, rows)
        update_all_(step, parameters, gradients, moments)
        expected, state = after_step(step, expected, gradients, state)
    assert relative_error(parameters, expected) < 1e-14


@pytest.mark.parametrize("step", [s for s in STEPS if getattr(s, "momentum", 1.0)])
def test_reverse_undoes_an_update(step: Any) -> None:
    parameters, moments = random_tensors(0), step.init(random_tensors(0))
    for seed in (1, 2):
        update_all_(step, parameters, random_tensors(seed), moments)
    before, moments_before = detached(parameters), moments.clone()
    gradients = random_tensors(3)
    update_all_(step, parameters, gradients, moments)

    for name, parameter in parameters.items():
        step.undo_parameter_(name, parameter, moments)
        step.undo_moments_(name, gradients[name], moments)

    assert relative_error(parameters, before) < 1e-12
    assert relative_error(moments.first, moments_before.first) < 1e-12
    if moments.second:
        assert relative_error(moments.second, moments_before.second) < 1e-12


def test_plain_sgd_cannot_be_undone() -> None:
    with pytest.raises(ValueError, match="keep"):
        SGD(lr=0.1).undo_parameter_("vector", random_tensors(0)["vector"], SGD().init(random_tensors(0)))


@pytest.mark.parametrize("step", STEPS)
def test_adjoints_equal_autograd_through_one_step(step: Any) -> None:
    parameters, gradients = random_tensors(0), random_tensors(2)
    moments = step.init(parameters)
    update_all_(step, detached(parameters), random_tensors(1), moments)
    m, v = (
        {name: t.clone().requires_grad_() for name, t in (part or random_tensors(9)).items()}
        for part in (moments.first, moments.second)
    )
    leaves = {name: g.clone().requires_grad_() for name, g in gradients.items()}
    moved, state = after_step(step, parameters, leaves, State(m, v, moments.step))
    # weights of parameters, first and second moments in a scalar that stands for everything behind this step
    a, am, av = random_tensors(3), random_tensors(4), random_tensors(5)
    scalar = sum((a[n] * moved[n] + am[n] * state.first[n] + av[n] * state.second[n]).sum() for n in a)
    remembers = isinstance(step, AdamW) or step.momentum > 0
    if not remembers:
        scalar = sum((a[n] * moved[n]).sum() for n in a)
    inputs = [*leaves.values(), *m.values(), *v.values()]
    derivatives = torch.autograd.grad(scalar, inputs, materialize_grads=True)  # type: ignore[arg-type]
    by_gradient, by_first, by_second = (
        dict(zip(a, derivatives[i : i + len(a)], strict=True)) for i in range(0, len(inputs), len(a))
    )

    update_all_(step, detached(parameters), gradients, moments)
    earlier = Moments(detached(am), detached(av))
    found = pulled_back(step, a, gradients, moments, earlier)

    assert relative_error(found, by_gradient) < 1e-12
    if remembers:
        assert relative_error(earlier.first, by_first) < 1e-12
    if isinstance(step, AdamW):
        assert earlier.second is not None
        assert relative_error(earlier.second, by_second) < 1e-12


@pytest.mark.parametrize("step", STEPS)
def test_the_short_way_of_a_single_step_equals_the_long_one(step: Any) -> None:
    adjoint, gradients, moments = random_tensors(0), random_tensors(2), step.init(random_tensors(0))
    update_all_(step, random_tensors(0), random_tensors(1), moments)
    slopes = slopes_of(step, gradients, moments)
    long = pulled_back(step, adjoint, gradients, moments, step.init(adjoint))
    assert relative_error({name: slope * adjoint[name] for name, slope in slopes.items()}, long) < 1e-12


def slopes_of(step: Any, gradients: dict[str, Tensor], moments: Moments) -> dict[str, Tensor]:
    """Takes a step, and returns the derivative of the parameters after it by the gradients."""
    slopes = {name: torch.empty_like(g) for name, g in gradients.items()}
    moments.step += 1
    for name, g in gradients.items():
        step.update(name, torch.ones_like(g), g, moments, out=torch.empty_like(g), slope=slopes[name])
    return slopes


def pulled_back(step: Any, adjoint: Any, gradients: Any, moments: Moments, earlier: Moments) -> dict[str, Tensor]:
    found = {name: torch.empty_like(a) for name, a in adjoint.items()}
    for name, a in adjoint.items():
        step.pull_back(name, a, gradients[name], moments, earlier, out=found[name])
        assert torch.equal(a, adjoint[name])
    return found


def test_where_the_second_moment_is_zero_it_has_no_derivative() -> None:
    step, gradients = AdamW(lr=0.01), {"x": torch.tensor([0.0, 1.0])}
    moments = step.init(gradients)
    slope = slopes_of(step, gradients, moments)["x"]
    assert bool(torch.isfinite(slope).all())
    assert float(slope[0]) == pytest.approx(-0.01 / step.eps, rel=1e-3)  # the derivative of -lr * g / eps
    ones = {"x": torch.ones(2)}
    u = pulled_back(step, ones, gradients, moments, step.init(ones))["x"]
    assert float(u[0]) == pytest.approx(float(slope[0]))


def test_blocks_cover_every_element_once() -> None:
    first, second = torch.arange(25.0).view(5, 5), torch.zeros(5, 5)
    for a, b in blocks(first, second, size=4):
        b.add_(a)
    assert torch.equal(first, second)
    transposed = list(blocks(first.T, second, size=4))  # cannot be cut without a copy
    assert len(transposed) == 1


def test_clipping() -> None:
    gradients = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    assert clip_by_global_norm_(gradients, None) == pytest.approx(5.0)
    assert clip_by_global_norm_(gradients, 10.0) == pytest.approx(5.0)
    assert gradients["a"].item() == 3.0
    assert clip_by_global_norm_(gradients, 1.0) == pytest.approx(5.0)
    assert [g.item() for g in gradients.values()] == pytest.approx([0.6, 0.8])
