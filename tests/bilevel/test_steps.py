from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from maml_en_llm import SGD, AdamW
from maml_en_llm.bilevel import Groups, Moments, Step, clip_by_global_norm_, update_all_
from maml_en_llm.bilevel.steps import Used, blocks
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
def test_without_derivatives_by_moments_it_is_the_same(step: Any) -> None:
    adjoint, gradients, moments = random_tensors(0), random_tensors(2), step.init(random_tensors(0))
    update_all_(step, random_tensors(0), random_tensors(1), moments)
    update_all_(step, random_tensors(0), gradients, moments)
    long = pulled_back(step, adjoint, gradients, moments, step.init(adjoint))
    assert relative_error(pulled_back(step, adjoint, gradients, moments, None), long) < 1e-12


@pytest.mark.parametrize("step", STEPS)
def test_closed_forms_equal_autograd_through_the_formula(step: Any) -> None:
    """That both equal an independent statement of the optimizer is tested above."""
    parameters, gradients, adjoint = random_tensors(0), random_tensors(2), random_tensors(3)
    moments, moved = step.init(parameters), detached(parameters)
    update_all_(step, detached(parameters), random_tensors(1), moments)
    before, earlier, by_formula = moments.clone(), step.init(adjoint), step.init(adjoint)
    for name, m in earlier.first.items():
        m.copy_(random_tensors(4)[name])
        by_formula.first[name].copy_(m)
    update_all_(step, moved, gradients, moments)
    for name, p in parameters.items():
        new = step.formula(p, gradients[name], *before.of(name), moments.step)
        assert torch.allclose(new[0], moved[name], rtol=1e-13)
        closed, other = adjoint[name].clone(), adjoint[name].clone()
        u, u_other = torch.empty_like(p), torch.empty_like(p)
        step.pull_back(name, closed, Used(p, gradients[name], moments), earlier, u)
        Step.pull_back(step, name, other, Used(p, gradients[name], before), by_formula, u_other)
        assert torch.allclose(closed, other, rtol=1e-12)
        assert torch.allclose(u, u_other, rtol=1e-10)
    for kind in ("first", "second"):
        if getattr(earlier, kind):
            assert relative_error(getattr(earlier, kind), getattr(by_formula, kind)) < 1e-10


def pulled_back(
    step: Any, adjoint: Any, gradients: Any, moments: Moments, earlier: Moments | None
) -> dict[str, Tensor]:
    """u; the derivative by the parameters is checked on the way."""
    found = {name: torch.empty_like(a) for name, a in adjoint.items()}
    for name, a in adjoint.items():
        before = a.clone()
        step.pull_back(name, before, Used(torch.zeros_like(a), gradients[name], moments), earlier, out=found[name])
        assert torch.allclose(before, (1 - step.lr * step.weight_decay) * a)
    return found


@pytest.mark.parametrize("several", [False, True], ids=["alone", "one-of-several"])
def test_a_first_gradient_of_next_to_nothing_has_no_derivative(several: bool) -> None:
    """AdamW from zero moments moves by lr * g / (|g| + eps): lr / eps steep at 0, and flat but for there."""
    step, gradients = AdamW(lr=0.01), {"x": torch.tensor([0.0, 1e-9, 1e-3, 0.0]).double()}
    moments = step.init(gradients)
    moments.first["x"][3], moments.second["x"][3] = 0.1, 0.1  # type: ignore[index]  # this one has a history
    earlier = step.init(gradients) if several else None
    zeros = torch.zeros(4).double()
    update_all_(step, {"x": zeros.clone()}, gradients, moments)
    u, adjoint = zeros.clone(), zeros + 1
    left_out = step.pull_back("x", adjoint, Used(zeros, gradients["x"], moments), earlier, out=u)
    assert u[:2].tolist() == [0, 0]
    assert u[2:].abs().min() > 0
    assert left_out == 2


@pytest.mark.parametrize("by_formula", [False, True])
@pytest.mark.parametrize("several", [False, True], ids=["alone", "one-of-several"])
def test_with_a_large_eps_next_to_nothing_has_its_derivative(several: bool, by_formula: bool) -> None:
    """lr / eps is no cliff then, and leaving it out would be an error of the size of these coordinates' part."""
    step, parameters = AdamW(lr=0.01, eps=1e-3), {"x": torch.ones(4).double()}
    gradients = {"x": torch.tensor([0.0, 1e-9, -3e-7, 1e-3]).double()}
    zeros = {"x": torch.zeros(4).double()}
    leaf = {"x": gradients["x"].clone().requires_grad_()}
    moved, state = after_step(step, parameters, leaf, State(zeros, zeros, 0))
    adjoint, of_m, of_v = (torch.tensor([1.0, 2.0, 3.0, 4.0]).double() * scale for scale in (1.0, several * 0.1, 0.0))
    scalar = (adjoint * moved["x"] + of_m * state.first["x"] + of_v * state.second["x"])[
        1:
    ].sum()  # |g| has a kink at 0
    (expected,) = torch.autograd.grad(scalar, leaf["x"])
    expected[0] = -adjoint[0] * step.lr / step.eps + of_m[0] * (1 - step.betas[0])

    before = step.init(parameters)
    after = before.clone()
    update_all_(step, detached(parameters), gradients, after)
    earlier = Moments({"x": of_m.clone()}, {"x": of_v.clone()}) if several else None
    u, kind = torch.empty(4).double(), Step if by_formula else AdamW
    used = Used(parameters["x"], gradients["x"], before if by_formula else after)
    left_out = kind.pull_back(step, "x", adjoint.clone(), used, earlier, u)
    assert torch.allclose(u, expected, rtol=1e-9)
    assert not left_out


def test_a_subclass_gets_the_derivative_of_its_own_formula() -> None:
    class Ascent(SGD):
        def formula(self, parameter: Any, gradient: Any, first: Any, second: Any, t: int) -> Any:
            return parameter + self.lr * gradient, first, second

    moved, u = {"x": torch.zeros(2)}, torch.empty(2)
    update_all_(Ascent(lr=0.5), moved, {"x": torch.ones(2)}, Moments({}, None))
    used = Used(torch.zeros(2), torch.ones(2), Moments({}, None))
    Ascent(lr=0.5).pull_back("x", torch.ones(2), used, None, out=u)
    assert moved["x"].tolist() == u.tolist() == [0.5, 0.5]
    with pytest.raises(TypeError, match="update without a derivative"):
        type("Wrong", (AdamW,), {"update": lambda self: None})


def test_groups_give_each_parameter_its_optimizer() -> None:
    step = Groups({"vector": None, "mat*": SGD(lr=0.1), "*": AdamW(lr=0.1)})
    parameters, gradients = random_tensors(0), random_tensors(1)
    before, moments = detached(parameters), step.init(parameters)
    update_all_(step, parameters, gradients, moments)
    assert torch.equal(parameters["vector"], before["vector"])
    assert torch.allclose(parameters["matrix"], before["matrix"] - 0.1 * gradients["matrix"])
    assert torch.allclose(parameters["scalar"], before["scalar"] - 0.1 * gradients["scalar"].sign())
    assert list(moments.first) == ["scalar"]
    with pytest.raises(ValueError, match="add one that is named"):
        Groups({"a": SGD()}).of("b")


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
