"""Long trajectories, learned optimizers, maps of gradients and query losses on the way, against autograd."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from maml_en_llm import SGD, AdamW, Moments, meta_gradient
from maml_en_llm.bilevel import exploration, explore, update_all_, value_and_gradient
from maml_en_llm.bilevel.steps import Tensors
from unrolled import State, after_step, relative_error, zero_state

STEPS = {"sgd": SGD(lr=0.1), "momentum": SGD(lr=0.1, momentum=0.9, weight_decay=0.05), "adamw": AdamW(lr=0.01)}
TRAJECTORIES = ["keep", "recompute", "replay"]


def problem(k: int, n: int = 1, seed: int = 0) -> tuple[Tensors, Any, Any]:
    """Parameters, the first of which is held in some tests, and n copies of k support and two query batches."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def batch() -> tuple[Tensor, Tensor]:
        return randn(6, 4), torch.randint(3, (6,), generator=generator)

    parameters = {"gates": randn(5) * 0.5, "w1": randn(4, 5) * 0.5, "w2": randn(5, 3) * 0.5}
    return parameters, [[batch() for _ in range(k)] for _ in range(n)], [[batch(), batch()] for _ in range(n)]


def loss(p: Tensors, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return torch.nn.functional.cross_entropy((torch.tanh(x @ p["w1"]) * p["gates"].exp()) @ p["w2"], y)


def with_numbers(step: Any, numbers: Tensors) -> Any:
    """The step with tensors for its numbers, past the check that a dataclass makes of their types."""
    changed = type(step)(**vars(step))
    betas = tuple(numbers.get(f"beta{i + 1}", beta) for i, beta in enumerate(getattr(step, "betas", ())))
    for field, value in (numbers | ({"betas": betas} if betas else {})).items():
        object.__setattr__(changed, field, value)
    return changed


def by_autograd(
    parameters: Tensors,
    support: Any,
    query: Any,
    step: Any,
    held: tuple[str, ...] = (),
    state: Moments | None = None,
    numbers: dict[str, Tensors] | None = None,
    weights: tuple[float, ...] = (),
    mapping: Callable[[Tensors, str, Tensor], Tensor] | None = None,
) -> tuple[Tensors, dict[str, Tensors]]:
    """Derivatives by the parameters and by `numbers` of the optimizer, through the whole update."""
    theta = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    learned = {name: {o: t.clone().requires_grad_() for o, t in own.items()} for name, own in (numbers or {}).items()}
    inner = [name for name in theta if name not in held]
    zeros = zero_state({name: theta[name] for name in inner})
    shared = None
    if state is not None:
        shared = State(zeros.first | state.first, zeros.second | (state.second or {}), state.step)
    total = torch.zeros((), dtype=torch.float64)
    for batches, queries in zip(support, query, strict=True):
        phi = dict(theta)
        first, second, t = (shared.first, shared.second, shared.step) if shared else (zeros.first, zeros.second, 0)
        first = dict(first) | {n: own["first"] for n, own in learned.items() if "first" in own}
        second = dict(second) | {n: own["second"] for n, own in learned.items() if "second" in own}
        for number, batch in enumerate(batches):
            gradients = torch.autograd.grad(loss(phi, batch), [phi[n] for n in inner], create_graph=True)
            for n, g in zip(inner, gradients, strict=True):
                own = {
                    o: v if v.dim() == 0 else v[number]
                    for o, v in learned.get(n, {}).items()
                    if o not in ("first", "second")
                }
                used = g if mapping is None else mapping({name: theta[name] for name in held}, n, g)
                before = State({n: first[n]}, {n: second[n]}, t)
                moved, after = after_step(with_numbers(step, own), {n: phi[n]}, {n: used}, before)
                phi[n], first[n], second[n] = moved[n], after.first[n], after.second[n]
            t += 1
            weight = (weights or [0.0] * (len(batches) - 1) + [1.0])[number]
            if weight:
                total = total + weight * sum(loss(phi, q) for q in queries) / len(queries) / len(support)
        if shared:
            shared = State(first, second, t).detached()
    leaves = [*theta.values(), *(t for own in learned.values() for t in own.values())]
    values = iter(torch.autograd.grad(total, leaves, materialize_grads=True))
    return {n: next(values) for n in theta}, {n: {o: next(values) for o in own} for n, own in learned.items()}


def warm(step: Any, parameters: Tensors) -> Moments:
    generator = torch.Generator().manual_seed(9)
    moments, moved = step.init(parameters), {name: p.clone() for name, p in parameters.items()}
    for _ in range(3):
        noise = {n: 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in parameters.items()}
        update_all_(step, moved, noise, moments)
    return moments


# ---- the contract: every trajectory, curvature and optimizer, one copy or several


@pytest.mark.parametrize("trajectory", TRAJECTORIES)
@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 4), (3, 1), (3, 4)])
@pytest.mark.parametrize("name", STEPS)
def test_contract(name: str, k: int, n: int, trajectory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploration, "LEAF", 1)
    step, (parameters, support, query) = STEPS[name], problem(k, n)
    state = None if n == 1 else warm(step, {name: p for name, p in parameters.items() if name != "gates"})
    expected, _ = by_autograd(parameters, support, query, step, ("gates",), state)
    for curvature, limit in (("exact", 1e-8), ("difference", 2e-5), ("central", 2e-5)):
        arguments: Any = (loss, parameters, support, query, step, state, "second", curvature)
        if name == "sgd" and trajectory == "recompute" and k > 1:
            with pytest.raises(ValueError, match='use trajectory="keep" or "replay"'):
                meta_gradient(*arguments, held=["gates"], trajectory=trajectory)
            continue
        found = meta_gradient(*arguments, held=["gates"], trajectory=trajectory)
        for parameter, gradient in found.gradients.items():
            assert relative_error({"": gradient}, {"": expected[parameter]}) < limit
        assert [note[:12] for note in found.notes] == (["a first Adam"] if name == "adamw" and not state else [])


@pytest.mark.parametrize(("curvature", "limit"), [("difference", 5e-3), ("central", 1e-3)])
@pytest.mark.parametrize("name", STEPS)
def test_differences_in_float32(name: str, curvature: Any, limit: float) -> None:
    step, (parameters, support, query) = STEPS[name], problem(3)
    state = warm(step, parameters)
    expected, _ = by_autograd(parameters, support, query, step, state=state)
    state = Moments(*({n: m.float() for n, m in (kind or {}).items()} for kind in (state.first, state.second)), 3)
    parameters = {n: p.float() for n, p in parameters.items()}
    support, query = ([[(x.float(), y) for x, y in batches] for batches in copies] for copies in (support, query))
    found = meta_gradient(loss, parameters, support, query, step, state, curvature=curvature).gradients
    assert relative_error({n: g.double() for n, g in found.items()}, expected) < limit


def test_replay_of_200_adamw_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact, with few states alive and little more work than going there."""
    steps, step = 200, AdamW(lr=0.01)
    parameters, support, query = problem(1)
    support, calls, alive = [support[0] * steps], 0, 0
    state = warm(step, parameters)
    expected, _ = by_autograd(parameters, support, query, step, state=state)

    made: list[weakref.ref[Moments]] = []
    original = Moments.__init__

    def remembered(self: Moments, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        made.append(weakref.ref(self))

    def counting(p: Tensors, batch: Any) -> Tensor:
        nonlocal calls, alive
        calls += 1
        made[:] = [reference for reference in made if reference() is not None]
        alive = max(alive, len(made))
        return loss(p, batch)

    monkeypatch.setattr(Moments, "__init__", remembered)
    found = meta_gradient(counting, parameters, support, query, step, state, trajectory="replay")
    assert relative_error(found.gradients, expected) < 1e-8
    assert exploration.LEAF < alive <= math.log2(steps) + exploration.LEAF
    assert calls <= 5 * steps


def test_replay_draws_the_same_random_numbers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploration, "LEAF", 2)
    parameters, support, query = problem(9)

    def noisy(p: Tensors, batch: Any) -> Tensor:
        return loss(p | {"w2": torch.nn.functional.dropout(p["w2"], 0.3)}, batch)

    found = []
    for trajectory in ("keep", "replay"):
        torch.manual_seed(0)
        found.append(meta_gradient(noisy, parameters, support, query, AdamW(lr=0.01), trajectory=trajectory).gradients)
    assert relative_error(found[1], found[0]) < 1e-12


# ---- learned optimizers


@pytest.mark.parametrize("trajectory", ["keep", "replay"])
@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_all_numbers_of_an_optimizer(name: str, trajectory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploration, "LEAF", 1)
    step, (parameters, support, query) = STEPS[name], problem(3, n=2)
    ones = torch.ones(3, dtype=torch.float64)
    numbers = {"lr": 0.02 * ones, "weight_decay": 0.1 * ones, "first": 0.1 + torch.zeros_like(parameters["w2"])}
    if name == "adamw":
        numbers |= {"beta1": 0.8 * ones, "beta2": 0.9 * ones, "eps": torch.tensor(1e-3, dtype=torch.float64)}
        numbers |= {"second": 0.01 + torch.zeros_like(parameters["w2"])}
    else:
        numbers |= {"momentum": 0.7 * ones}
    expected, by_numbers = by_autograd(parameters, support, query, step, numbers={"w2": numbers})
    found = meta_gradient(loss, parameters, support, query, step, rates={"w2": numbers}, trajectory=trajectory)
    assert relative_error(found.gradients, expected) < 1e-8
    assert found.rates is not None
    for number in numbers:
        assert relative_error({"": found.rates["w2"][number]}, {"": by_numbers["w2"][number]}) < 1e-8


def test_initial_moments_of_a_single_step() -> None:
    parameters, support, query = problem(1)
    numbers = {"w1": {"first": torch.full((4, 5), 0.1).double(), "second": torch.full((4, 5), 0.01).double()}}
    expected, by_numbers = by_autograd(parameters, support, query, AdamW(lr=0.01), numbers=numbers)
    found = meta_gradient(loss, parameters, support, query, AdamW(lr=0.01), rates=numbers)
    assert found.rates is not None
    assert relative_error(found.gradients, expected) < 1e-8
    assert relative_error(found.rates["w1"], by_numbers["w1"]) < 1e-8


@pytest.mark.parametrize("trajectory", TRAJECTORIES)
@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_a_map_of_the_inner_gradient(name: str, trajectory: Any) -> None:
    def mapping(held: Tensors, name: str, gradient: Tensor) -> Tensor:
        return torch.tanh(gradient * held["gates"][0].exp()) + gradient.mean() if name == "w1" else gradient

    step, (parameters, support, query) = STEPS[name], problem(3, n=2)
    state = warm(step, {n: p for n, p in parameters.items() if n != "gates"})
    expected, _ = by_autograd(parameters, support, query, step, ("gates",), state, mapping=mapping)
    found = meta_gradient(
        loss, parameters, support, query, step, state, held=["gates"], mapping=mapping, trajectory=trajectory
    )
    for parameter, gradient in found.gradients.items():
        assert relative_error({"": gradient}, {"": expected[parameter]}) < 1e-8


# ---- query losses


@pytest.mark.parametrize("trajectory", TRAJECTORIES)
def test_query_losses_after_every_step(trajectory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploration, "LEAF", 1)
    step, (parameters, support, query) = STEPS["adamw"], problem(3, n=2)
    weights = (0.2, 0.0, 0.7)
    state = warm(step, parameters)
    expected, _ = by_autograd(parameters, support, query, step, (), state, weights=weights)
    found = meta_gradient(loss, parameters, support, query, step, state, query_weights=weights, trajectory=trajectory)
    assert relative_error(found.gradients, expected) < 1e-8


def test_query_losses_after_every_step_in_first_order() -> None:
    parameters, support, query = problem(2)
    moved, expected = (
        {n: p.clone() for n, p in parameters.items()},
        {n: torch.zeros_like(p) for n, p in parameters.items()},
    )
    for batch, weight in zip(support[0], (0.3, 0.7), strict=True):
        update_all_(SGD(lr=0.1), moved, value_and_gradient(loss, moved, batch)[1], Moments({}, None))
        for q in query[0]:
            for n, g in value_and_gradient(loss, moved, q)[1].items():
                expected[n] += weight * g / 2
    found = meta_gradient(loss, parameters, support, query, SGD(lr=0.1), order="first", query_weights=(0.3, 0.7))
    assert relative_error(found.gradients, expected) < 1e-13
    with pytest.raises(ValueError, match="query_weights has 1 numbers"):
        meta_gradient(loss, parameters, support, query, query_weights=(1.0,))


@pytest.mark.parametrize("trajectory", TRAJECTORIES)
def test_an_exploration_pulls_any_adjoint_back(trajectory: Any) -> None:
    step, (parameters, support, query) = STEPS["adamw"], problem(3)
    state = warm(step, {n: p for n, p in parameters.items() if n != "gates"})
    expected = meta_gradient(loss, parameters, support, query, step, state, held=["gates"])
    explored = explore(loss, parameters, support[0], step, state, held=["gates"], trajectory=trajectory)
    before = {n: p.clone() for n, p in explored.adapted.items()}
    further = explored.continue_(query[0])
    gradients = [value_and_gradient(loss, explored.adapted, batch)[1] for batch in query[0]]
    found = explored.pull_back({n: (gradients[0][n] + gradients[1][n]) / 2 for n in parameters})
    assert relative_error(found.gradients, expected.gradients) < 1e-9
    assert float(found.support_loss) == pytest.approx(float(expected.support_loss))
    assert found.query_loss.isnan()
    assert found.state is not None
    assert expected.state is not None
    assert relative_error(found.state.first, expected.state.first) < 1e-14
    assert all(torch.equal(explored.adapted[n], p) for n, p in before.items())
    inner = {n: p.clone() for n, p in before.items() if n != "gates"}
    moments = expected.state.clone()
    for batch in query[0]:
        update_all_(step, inner, value_and_gradient(loss, before | inner, batch)[1], moments)
    assert relative_error(further, before | inner) < 1e-13
    with pytest.raises(ValueError, match="explore again"):
        explored.pull_back({})
