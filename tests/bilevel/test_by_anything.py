"""Derivatives by held parameters, learned rates and own optimizers, against autograd through the whole update."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import maml_en_llm
from maml_en_llm import SGD, AdamW, meta_gradient
from maml_en_llm.bilevel import Groups, Moments, Step, update_all_
from maml_en_llm.bilevel.steps import Tensors
from unrolled import State, after_step, detached, relative_error, zero_state

STEPS = {
    "sgd": SGD(lr=0.1, weight_decay=0.05),
    "momentum": SGD(lr=0.1, momentum=0.9, weight_decay=0.05),
    "adamw": AdamW(lr=0.01, weight_decay=0.05),
}
KS = [(1, 1), (2, 3, 1)]  # inner steps of each copy


@dataclass(frozen=True)
class Case:
    """A network with a held layer and held weights of the examples in the inner loss."""

    parameters: Tensors
    support: list[list[Any]]
    query: list[list[Any]]

    held = ("w1", "weights")


def make_case(ks: tuple[int, ...], seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed + sum(ks))

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def batch() -> tuple[Tensor, Tensor]:
        return randn(6, 5), torch.randint(3, (6,), generator=generator)

    parameters = {"w1": randn(5, 7) * 0.5, "b1": randn(7) * 0.1, "w2": randn(7, 3) * 0.5, "weights": randn(6) * 0.5}
    support = [[batch() for _ in range(k)] for k in ks]
    return Case(parameters, support, [[batch() for _ in range(3 - i)] for i in range(len(ks))])


def inner_loss(p: Tensors, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    losses = torch.nn.functional.cross_entropy(torch.tanh(x @ p["w1"] + p["b1"]) @ p["w2"], y, reduction="none")
    return (losses * torch.nn.functional.softplus(p["weights"])).mean()


def outer_loss(p: Tensors, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return torch.nn.functional.multi_margin_loss(torch.tanh(x @ p["w1"] + p["b1"]) @ p["w2"], y, p=2)


def warm(step: Step, parameters: Tensors) -> Moments:
    """Moments as after three steps on random gradients."""
    generator = torch.Generator().manual_seed(9)
    moments, moved = step.init(parameters), detached(parameters)
    for _ in range(3):
        noise = {n: 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in parameters.items()}
        update_all_(step, moved, noise, moments)
    return moments


def unrolled(
    case: Case, optimizers: dict[str, Any], moments: Moments | None, rates: Tensors, second: bool = True
) -> tuple[Tensors, Tensors, Tensor]:
    """(by parameters, by rates, query loss); optimizers: those of the inner parameters. second: whether the gradients
    of inner steps are differentiated."""
    theta = {name: p.clone().requires_grad_() for name, p in case.parameters.items()}
    learned = {name: rate.clone().requires_grad_() for name, rate in rates.items()}
    inner = {name: theta[name] for name in optimizers}
    state = zero_state(inner)
    if moments is not None:
        state = State(state.first | detached(moments.first), state.second | detached(moments.second or {}), 3)
    total = torch.zeros((), dtype=torch.float64)
    for support, query in zip(case.support, case.query, strict=True):
        phi = dict(theta)
        current = zero_state(inner) if moments is None else state
        for number, batch in enumerate(support):
            gradients = torch.autograd.grad(inner_loss(phi, batch), [phi[n] for n in inner], create_graph=second)
            for name, gradient in zip(inner, gradients, strict=True):
                step = optimizers[name]
                if name in learned:
                    rate = learned[name]
                    object.__setattr__(
                        step := type(step)(**vars(step)), "lr", rate if rate.dim() == 0 else rate[number]
                    )
                moved, after = after_step(
                    step,
                    {name: phi[name]},
                    {name: gradient},
                    State({name: current.first[name]}, {name: current.second[name]}, current.step),
                )
                phi |= moved
                current = State(current.first | after.first, current.second | after.second, current.step)
            current = State(current.first, current.second, current.step + 1)
        state = current.detached()
        total = total + sum(outer_loss(phi, batch) for batch in query) / len(query) / len(case.support)
    derivatives = torch.autograd.grad(total, [*theta.values(), *learned.values()], materialize_grads=True)
    values = list(derivatives)
    by_parameters = dict(zip(theta, values, strict=False))
    return by_parameters, dict(zip(learned, values[len(theta) :], strict=True)), total.detach()


def limit_of(curvature: str) -> float:
    return 1e-8 if curvature == "exact" else 2e-5  # differences of gradients lose half the digits of float64


@pytest.mark.parametrize("curvature", ["exact", "difference", "central"])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("ks", KS, ids=str)
@pytest.mark.parametrize("name", STEPS)
def test_held_parameters(name: str, ks: tuple[int, ...], shared: bool, curvature: Any) -> None:
    case, step = make_case(ks), STEPS[name]
    inner = {n: p for n, p in case.parameters.items() if n not in case.held}
    moments = warm(step, inner) if shared else None
    expected, _, query_loss = unrolled(case, dict.fromkeys(inner, step), moments, {})
    found = meta_gradient(
        inner_loss, case.parameters, case.support, case.query, step, moments, curvature=curvature, held=case.held,
        query_loss=outer_loss,
    )  # fmt: skip
    for n, gradient in found.gradients.items():
        assert relative_error({n: gradient}, {n: expected[n]}) < limit_of(curvature)
    assert float(found.query_loss) == pytest.approx(float(query_loss), rel=1e-12)
    if found.state is not None:
        assert set(found.state.first) <= set(inner)


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_held_parameters_when_steps_are_undone(name: str) -> None:
    case, step = make_case((3, 2)), STEPS[name]
    moments = warm(step, {n: p for n, p in case.parameters.items() if n not in case.held})
    kept, undone = (
        meta_gradient(
            inner_loss, case.parameters, case.support, case.query, step, moments, held=case.held, trajectory=trajectory
        )
        for trajectory in ("keep", "recompute")
    )
    assert relative_error(undone.gradients, kept.gradients) < 1e-9


def test_in_first_order_held_parameters_have_the_gradient_of_the_query_loss() -> None:
    case = make_case((2,))
    found = meta_gradient(
        inner_loss, case.parameters, case.support, case.query, SGD(lr=0.0), held=case.held, order="first"
    )
    full = meta_gradient(inner_loss, case.parameters, case.support, case.query, SGD(lr=0.0))
    assert relative_error(found.gradients, full.gradients) < 1e-14


RATES = {
    "number": lambda k, shape: (),
    "steps": lambda k, shape: (k,),
    "coordinates": lambda k, shape: (1, *shape),
    "steps-coordinates": lambda k, shape: (k, *shape),
    "columns": lambda k, shape: (k, shape[-1]),
}


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("kind", RATES)
@pytest.mark.parametrize("name", STEPS)
def test_learned_rates(name: str, kind: str, shared: bool) -> None:
    curvature: Any = "difference" if kind == "number" else "exact"
    case, step = make_case((2, 3)), STEPS[name]
    inner = {n: p for n, p in case.parameters.items() if n not in case.held}
    moments = warm(step, inner) if shared else None
    rates = {"w2": 0.05 * torch.rand(RATES[kind](3, (7, 3)), dtype=torch.float64) + 0.01}
    whole = {n: rate.expand(3, *rate.shape[1:]) if rate.dim() else rate for n, rate in rates.items()}
    expected, by_rate, _ = unrolled(case, dict.fromkeys(inner, step), moments, whole)
    found = meta_gradient(
        inner_loss, case.parameters, case.support, case.query, step, moments, curvature=curvature, held=case.held,
        query_loss=outer_loss, rates=rates,
    )  # fmt: skip
    assert found.rates is not None
    assert found.rates["w2"].shape == rates["w2"].shape
    summed = by_rate["w2"].sum(0, keepdim=True) if kind == "coordinates" else by_rate["w2"]
    assert relative_error(found.rates, {"w2": summed}) < limit_of(curvature)
    assert relative_error(found.gradients, expected) < limit_of(curvature)


@pytest.mark.parametrize("trajectory", ["keep", "replay"])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("name", STEPS)
def test_learned_rates_in_first_order(name: str, shared: bool, trajectory: Any) -> None:
    """Inner gradients are constants, and the loss is not differentiated twice: the product would fail."""
    case, step = make_case((2, 10)), STEPS[name]
    inner = {n: p for n, p in case.parameters.items() if n not in case.held}
    moments = warm(step, inner) if shared else None
    rates = {n: 0.05 * torch.rand(10, dtype=torch.float64) + 0.01 for n in inner}
    expected, by_rate, _ = unrolled(case, dict.fromkeys(inner, step), moments, rates, second=False)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("maml_en_llm.bilevel.exploration.PRODUCTS", {})
        found = meta_gradient(
            inner_loss, case.parameters, case.support, case.query, step, moments, "first", held=case.held,
            query_loss=outer_loss, rates=rates, trajectory=trajectory,
        )  # fmt: skip
    assert found.rates is not None
    assert relative_error(found.rates, by_rate) < 1e-8
    assert relative_error(found.gradients, expected) < 1e-8


@pytest.mark.parametrize("curvature", ["exact", "difference"])
def test_parameter_groups(curvature: Any) -> None:
    case = make_case((1, 3))
    groups = Groups({"w*1": None, "weights": None, "b*": STEPS["momentum"], "*": STEPS["adamw"]})
    expected, _, _ = unrolled(case, {"b1": STEPS["momentum"], "w2": STEPS["adamw"]}, None, {})
    found = meta_gradient(
        inner_loss, case.parameters, case.support, case.query, groups, curvature=curvature, query_loss=outer_loss
    )
    assert relative_error(found.gradients, expected) < limit_of(curvature)


@dataclass(frozen=True)
class Coupled(Step):
    """RMSprop with momentum on g + decay * p: weight decay that is not decoupled, written as its formula alone."""

    lr: float = 0.01
    decay: float = 0.3

    def init(self, parameters: Any) -> Moments:
        first, second = ({n: torch.zeros_like(p) for n, p in parameters.items()} for _ in range(2))
        return Moments(first, second)

    def formula(self, parameter: Any, gradient: Any, first: Any, second: Any, t: int) -> Any:
        g = gradient + self.decay * parameter
        v = 0.9 * second + 0.1 * g**2
        m = 0.5 * first + g / (v.sqrt() + 1e-3)
        return parameter - self.lr * m, m, v


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("k", [1, 3])
def test_an_optimizer_of_ones_own(k: int, shared: bool) -> None:
    case, step = make_case((k,)), Coupled()
    theta = {n: p.clone().requires_grad_() for n, p in case.parameters.items()}
    inner = [n for n in theta if n not in case.held]
    moments = warm(step, {n: theta[n].detach() for n in inner}) if shared else None
    state = {n: (moments or step.init({n: theta[n].detach()})).clone().of(n) for n in inner}
    phi = dict(theta)
    for number, batch in enumerate(case.support[0]):
        gradients = torch.autograd.grad(inner_loss(phi, batch), [phi[n] for n in inner], create_graph=True)
        for n, g in zip(inner, gradients, strict=True):
            phi[n], *state[n] = step.formula(phi[n], g, *state[n], number + 1)  # type: ignore[assignment]
    total = sum(outer_loss(phi, batch) for batch in case.query[0]) / len(case.query[0])
    expected = dict(zip(theta, torch.autograd.grad(total, list(theta.values()), materialize_grads=True), strict=True))
    found = meta_gradient(
        inner_loss, case.parameters, case.support, case.query, step, moments, held=case.held, query_loss=outer_loss
    )
    assert relative_error(found.gradients, expected) < 1e-9
    if found.state is not None:
        assert relative_error(found.state.first, {n: state[n][0].detach() for n in inner}) < 1e-12


def test_held_parameters_are_neither_copied_nor_counted_in_the_length_of_a_difference() -> None:
    """A held parameter as large as one likes must not make the step of a difference longer."""
    case = make_case((1,))
    large = case.parameters | {"unread": torch.full((1000,), 1e6, dtype=torch.float64)}
    plain, other = (
        meta_gradient(
            inner_loss, parameters, case.support, case.query, SGD(lr=0.1), curvature="difference", held=held
        ).gradients
        for parameters, held in ((case.parameters, case.held), (large, (*case.held, "unread")))
    )
    assert torch.equal(other.pop("unread"), torch.zeros(1000, dtype=torch.float64))
    assert relative_error(other, plain) == 0


# ---- docs/bilevel.md

PAGE = (Path(__file__).parents[2] / "docs" / "bilevel.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_every_block_runs() -> None:
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, names)
    assert set(names) > {"reference", "SignDescent"}
    found = meta_gradient(
        lambda p, batch: (p["w"] ** 2).sum(), {"w": torch.ones(1)}, [[0]], [[0]], names["SignDescent"](0.1, 0.5)
    )  # d/dw (w - 0.1 tanh(2.5 w))^2
    inner = 1 - 0.1 * torch.tensor(2.5).tanh()
    assert float(found.gradients["w"]) == pytest.approx(float(2 * inner * (1 - 0.25 / torch.tensor(2.5).cosh() ** 2)))


def test_the_reference_is_the_engine() -> None:
    (block,) = [block for block in BLOCKS if "def reference" in block]
    assert len(block.strip().splitlines()) <= 40
    names: dict[str, Any] = {}
    exec(block, names)
    case = make_case((2, 3))
    rates = {name: torch.tensor([0.01, 0.02, 0.03], dtype=torch.float64) for name in ("b1", "w2")}
    by_parameters, by_rates = names["reference"](
        inner_loss, outer_loss, case.parameters, case.support, case.query, rates, case.held
    )
    moments = AdamW().init({name: case.parameters[name] for name in rates})
    found = meta_gradient(
        inner_loss, case.parameters, case.support, case.query, AdamW(), moments, held=case.held, rates=rates,
        query_loss=outer_loss,
    )  # fmt: skip
    assert found.rates is not None
    assert relative_error(found.gradients, by_parameters) < 1e-10
    assert relative_error(found.rates, by_rates) < 1e-10


# ---- docs/by-anything.md


def test_the_examples_of_the_page_do_what_it_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "by-anything.md").read_text(encoding="utf-8")
    code = "".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    environment = os.environ | {"PYTHONPATH": str(Path(maml_en_llm.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code]  # in a process of its own, where types are not checked at every call
    printed = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", printed)]
    differing, rest, _, right, wrong, at_first, learned, _ = numbers
    assert differing > 3 * abs(rest)
    assert right > 0.8 > 0.2 > wrong
    assert learned < 0.5 * at_first
