from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import maml_en_llm
from builders import random_batch, tiny_language_model
from maml_en_llm import SGD, AdamW, Moments, meta_gradient
from maml_en_llm.bilevel import update_all_, value_and_gradient
from maml_en_llm.bilevel.steps import Tensors
from maml_en_llm.models import PromptLoss, trainable_parameters
from unrolled import State, detached, relative_error
from unrolled import meta_gradient as unrolled_meta_gradient

STEPS = [
    SGD(lr=0.1),
    SGD(lr=0.1, momentum=0.9),
    SGD(lr=0.1, momentum=0.9, weight_decay=0.1),
    AdamW(lr=0.01),
    AdamW(lr=0.01, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6),
]


def name_of(step: Any) -> str:
    return f"{type(step).__name__}-momentum{getattr(step, 'momentum', 0)}-decay{step.weight_decay}"


def network_loss(p: Tensors, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return torch.nn.functional.cross_entropy(torch.tanh(x @ p["w1"] + p["b1"]) @ p["w2"], y)


def network(generator: torch.Generator) -> Tensors:
    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {"w1": randn(5, 7) * 0.5, "b1": randn(7) * 0.1, "w2": randn(7, 3) * 0.5}


def network_batches(generator: torch.Generator, n: int, k: int) -> list[list[tuple[Tensor, Tensor]]]:
    def batch() -> tuple[Tensor, Tensor]:
        x = torch.randn(6, 5, generator=generator, dtype=torch.float64)
        return x, torch.randint(3, (6,), generator=generator)

    return [[batch() for _ in range(k)] for _ in range(n)]


def warm_moments(step: SGD | AdamW, parameters: Tensors, generator: torch.Generator) -> Moments:
    """Moments as after three steps on random gradients."""
    moments, moved = step.init(parameters), detached(parameters)
    for _ in range(3):
        gradients = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.1 for n, p in parameters.items()}
        update_all_(step, moved, gradients, moments)
    return moments


def as_state(moments: Moments | None, parameters: Tensors) -> State | None:
    if moments is None:
        return None
    zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
    return State(detached(moments.first) or zeros, detached(moments.second or {}) or zeros, moments.step)


@pytest.mark.parametrize("step", STEPS, ids=name_of)
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_second_order_equals_autograd_through_the_whole_update(step: Any, k: int, n: int, shared: bool) -> None:
    generator = torch.Generator().manual_seed(k + 10 * n)
    parameters = network(generator)
    support, query = network_batches(generator, n, k), network_batches(generator, n, k)
    state = warm_moments(step, parameters, generator) if shared else None
    expected, loss, after = unrolled_meta_gradient(
        network_loss, parameters, support, query, step, as_state(state, parameters)
    )

    found = meta_gradient(network_loss, parameters, support, query, step=step, state=state)

    assert relative_error(found.gradients, expected) < 1e-10
    assert found.query_loss == pytest.approx(float(loss), rel=1e-12)
    assert (found.state is None) == (after is None)
    if found.state is not None and after is not None:
        assert found.state.step == after.step
        if found.state.first:
            assert relative_error(found.state.first, after.first) < 1e-12
        if found.state.second:
            assert relative_error(found.state.second, after.second) < 1e-12


@pytest.mark.parametrize("step", STEPS, ids=name_of)
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_difference_is_close_to_exact(step: Any, shared: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    parameters = network(generator)
    support, query = network_batches(generator, 2, 2), network_batches(generator, 2, 2)
    state = warm_moments(step, parameters, generator) if shared else None
    exact, close = (
        meta_gradient(network_loss, parameters, support, query, step=step, state=state, curvature=curvature)
        for curvature in ("exact", "difference")
    )
    assert relative_error(close.gradients, exact.gradients) < 1e-5
    assert relative_error(close.gradients, exact.gradients) > 0  # they are two computations


FAMILIES = [("gpt2", True), ("gpt2", False), ("llama", True), ("llama", False)]


@pytest.mark.parametrize("step", [SGD(lr=0.1, momentum=0.9), AdamW(lr=0.01, weight_decay=0.1)], ids=name_of)
@pytest.mark.parametrize(("family", "tied"), FAMILIES)
def test_language_models(family: str, tied: bool, step: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    model = tiny_language_model(family, tie_word_embeddings=tied).double()
    loss, parameters = PromptLoss(model), trainable_parameters(model)
    assert len(parameters) == len({p.data_ptr() for p in parameters.values()})
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    before = detached(parameters)
    n, k = 2, 2
    support, query = ([[random_batch(generator, prompts=2) for _ in range(k)] for _ in range(n)] for _ in range(2))
    state = warm_moments(step, parameters, generator)
    expected, _, _ = unrolled_meta_gradient(loss, parameters, support, query, step, as_state(state, parameters))

    found = meta_gradient(loss, parameters, support, query, step=step, state=state)

    assert relative_error(found.gradients, expected) < 1e-8
    own = trainable_parameters(model)
    assert all(own[name] is parameter for name, parameter in parameters.items())
    assert all(torch.equal(own[name], before[name]) for name in before)
    assert all(parameter.grad is None for parameter in own.values())


@pytest.mark.parametrize(("family", "tied"), FAMILIES)
def test_difference_is_close_to_exact_in_float32(family: str, tied: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    model = tiny_language_model(family, tie_word_embeddings=tied)
    loss, parameters, step = PromptLoss(model), trainable_parameters(model), SGD(lr=0.1)
    support, query = [[random_batch(generator)]], [[random_batch(generator)]]
    exact, close, first = (
        meta_gradient(loss, parameters, support, query, step=step, **how).gradients
        for how in ({"curvature": "exact"}, {"curvature": "difference"}, {"order": "first"})
    )
    second_order_part = {name: exact[name] - first[name] for name in exact}
    found = {name: close[name] - first[name] for name in close}
    assert relative_error(found, second_order_part) < 0.02


def test_the_model_gets_its_parameters_back_after_an_error() -> None:
    model = tiny_language_model("gpt2")
    loss, parameters = PromptLoss(model), trainable_parameters(model)
    bad = random_batch(torch.Generator().manual_seed(0), vocabulary=41)
    bad.token_ids[0, 0] = 1000
    with pytest.raises(IndexError):
        meta_gradient(loss, parameters, [[bad]], [[bad]])
    assert all(trainable_parameters(model)[name] is p for name, p in parameters.items())


# ---- the facts of method.md section 5


@pytest.mark.parametrize("k", [1, 2, 5])
def test_fact_1_closed_form_of_a_quadratic_loss(k: int) -> None:
    generator = torch.Generator().manual_seed(3)
    root, b, start = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((4, 4), (4,), (4,)))
    a, lr = root @ root.T, 0.05

    def quadratic(p: Tensors, batch: None) -> Tensor:
        return p["x"] @ a @ p["x"] / 2 - b @ p["x"]

    contraction = torch.eye(4, dtype=torch.float64) - lr * a
    adapted = start
    for _ in range(k):
        adapted = adapted - lr * (a @ adapted - b)
    expected = torch.linalg.matrix_power(contraction, k) @ (a @ adapted - b)
    found = meta_gradient(quadratic, {"x": start}, [[None] * k], [[None] * k], step=SGD(lr=lr))
    assert torch.allclose(found.gradients["x"], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("step", STEPS, ids=name_of)
def test_fact_2_the_mean_of_the_meta_gradients_of_single_copies(step: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    parameters = network(generator)
    support, query = network_batches(generator, 3, 2), network_batches(generator, 3, 2)
    together = meta_gradient(network_loss, parameters, support, query, step=step)
    singles = [
        meta_gradient(network_loss, parameters, [s], [q], step=step) for s, q in zip(support, query, strict=True)
    ]
    mean = {name: torch.stack([single.gradients[name] for single in singles]).mean(dim=0) for name in parameters}
    assert relative_error(together.gradients, mean) < 1e-14
    for kind in ("query_loss", "support_loss"):
        assert float(getattr(together, kind)) == pytest.approx(
            sum(float(getattr(single, kind)) for single in singles) / 3, rel=1e-14
        )


def test_shared_moments_flow_from_copy_to_copy() -> None:
    generator = torch.Generator().manual_seed(5)
    parameters, step = network(generator), AdamW(lr=0.01)
    support, query = network_batches(generator, 2, 2), network_batches(generator, 2, 2)
    state = warm_moments(step, parameters, generator)
    together = meta_gradient(network_loss, parameters, support, query, step=step, state=state)
    first = meta_gradient(network_loss, parameters, support[:1], query[:1], step=step, state=state)
    second = meta_gradient(network_loss, parameters, support[1:], query[1:], step=step, state=first.state)
    mean = {name: (first.gradients[name] + second.gradients[name]) / 2 for name in parameters}
    assert relative_error(together.gradients, mean) < 1e-14
    assert together.state is not None
    assert together.state.step == 3 + 4


@pytest.mark.parametrize("step", [SGD(lr=0.0), SGD(lr=0.0, momentum=0.9, weight_decay=0.1), AdamW(lr=0.0)], ids=name_of)
def test_fact_3_without_adaptation_it_is_the_gradient_of_the_query_loss(step: Any) -> None:
    generator = torch.Generator().manual_seed(6)
    parameters = network(generator)
    support, query = network_batches(generator, 1, 2), network_batches(generator, 1, 2)
    plain = [value_and_gradient(network_loss, parameters, batch)[1] for batch in query[0]]
    mean = {name: (plain[0][name] + plain[1][name]) / 2 for name in parameters}
    found = meta_gradient(network_loss, parameters, support, query, step=step, state=step.init(parameters))
    assert relative_error(found.gradients, mean) < 1e-15


@pytest.mark.parametrize("step", STEPS, ids=name_of)
def test_fact_3_first_order_is_the_gradient_at_the_adapted_parameters(step: Any) -> None:
    generator = torch.Generator().manual_seed(7)
    parameters = network(generator)
    support, query = network_batches(generator, 1, 2), network_batches(generator, 1, 2)
    adapted, moments = detached(parameters), step.init(parameters)
    for batch in support[0]:
        update_all_(step, adapted, value_and_gradient(network_loss, adapted, batch)[1], moments)
    plain = [value_and_gradient(network_loss, adapted, batch)[1] for batch in query[0]]
    mean = {name: (plain[0][name] + plain[1][name]) / 2 for name in parameters}
    found = meta_gradient(network_loss, parameters, support, query, step=step, order="first")
    assert relative_error(found.gradients, mean) < 1e-15
    exact = meta_gradient(network_loss, parameters, support, query, step=step)
    assert relative_error(found.gradients, exact.gradients) > 1e-6


def test_fact_4_without_shared_moments_the_second_order_part_nearly_vanishes() -> None:
    generator = torch.Generator().manual_seed(8)
    parameters, step = network(generator), AdamW(lr=1e-3)
    support, query = network_batches(generator, 1, 1), network_batches(generator, 1, 1)
    state = warm_moments(step, parameters, generator)
    own = meta_gradient(network_loss, parameters, support, query, step=step, measure_share=True)
    shared = meta_gradient(network_loss, parameters, support, query, step=step, state=state, measure_share=True)
    assert own.second_order_share is not None
    assert shared.second_order_share is not None
    assert own.second_order_share < 1e-4 < 20 * own.second_order_share + 1e-3 < shared.second_order_share


def test_fact_4_a_fresh_adamw_step_moves_every_weight_by_about_the_learning_rate() -> None:
    step, gradients = AdamW(lr=0.01), {"x": torch.tensor([3.0, -0.2, 1e-3], dtype=torch.float64)}
    moved = {"x": torch.zeros(3, dtype=torch.float64)}
    update_all_(step, moved, gradients, step.init(moved))
    assert torch.allclose(moved["x"], -0.01 * gradients["x"].sign(), rtol=1e-4)


@pytest.mark.parametrize("step", STEPS, ids=name_of)
def test_the_measured_share_is_what_second_order_changes(step: Any) -> None:
    generator = torch.Generator().manual_seed(9)
    parameters = network(generator)
    support, query = network_batches(generator, 1, 2), network_batches(generator, 1, 2)
    exact = meta_gradient(network_loss, parameters, support, query, step=step, measure_share=True)
    first = meta_gradient(network_loss, parameters, support, query, step=step, order="first")
    assert exact.second_order_share == pytest.approx(relative_error(exact.gradients, first.gradients), rel=1e-9)
    assert meta_gradient(network_loss, parameters, support, query, step=step).second_order_share is None


# ---- what it leaves alone, and what it refuses


@pytest.mark.parametrize("step", STEPS, ids=name_of)
@pytest.mark.parametrize("donate", [False, True])
def test_the_state_is_changed_only_if_donated(step: Any, donate: bool) -> None:
    generator = torch.Generator().manual_seed(10)
    parameters = network(generator)
    before, state = detached(parameters), warm_moments(step, parameters, generator)
    copy = state.clone()
    result = meta_gradient(
        network_loss,
        parameters,
        network_batches(generator, 2, 2),
        network_batches(generator, 2, 2),
        step=step,
        state=state,
        donate_state=donate,
    )
    assert all(torch.equal(parameters[name], before[name]) for name in before)
    assert (result.state is state) == donate
    assert result.state is not None
    assert result.state.step == copy.step + 4
    if not donate:
        assert state.step == copy.step
        assert all(torch.equal(state.first[name], m) for name, m in copy.first.items())
        assert all(torch.equal((state.second or {})[name], v) for name, v in (copy.second or {}).items())


def test_a_loss_without_curvature() -> None:
    def linear(p: Tensors, batch: Tensor) -> Tensor:
        return (p["x"] * batch).sum()

    start = {"x": torch.tensor([1.0, 2.0])}
    for curvature in ("exact", "difference"):
        found = meta_gradient(
            linear, start, [[torch.ones(2)]], [[torch.tensor([3.0, 4.0])]], step=SGD(lr=0.1), curvature=curvature
        )
        assert torch.allclose(found.gradients["x"], torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize("curvature", ["exact", "difference"])
@pytest.mark.parametrize("step", STEPS, ids=name_of)
def test_parameters_that_the_loss_does_not_read(step: Any, curvature: Any) -> None:
    generator = torch.Generator().manual_seed(11)
    parameters = network(generator)
    support, query = network_batches(generator, 1, 2), network_batches(generator, 1, 2)
    alone = meta_gradient(network_loss, parameters, support, query, step=step)
    unread = parameters | {"unread": torch.ones(3, dtype=torch.float64)}
    found = meta_gradient(network_loss, unread, support, query, step=step, curvature=curvature)
    assert torch.equal(found.gradients.pop("unread"), torch.zeros(3, dtype=torch.float64))
    assert relative_error(found.gradients, alone.gradients) < 1e-5


@pytest.mark.parametrize("kind", ["support", "query"])
def test_a_loss_that_is_not_finite_is_an_error(kind: str) -> None:
    def loss(p: Tensors, batch: float) -> Tensor:
        return (p["x"] ** 2).sum() * batch

    batches = {"support": [[1.0]], "query": [[1.0]]} | {kind: [[float("nan")]]}
    with pytest.raises(ValueError, match=f"the {kind} loss is nan; lower the learning rates"):
        meta_gradient(loss, {"x": torch.ones(2)}, **batches)


@pytest.mark.parametrize(
    ("support", "query"),
    [([], []), ([[]], [[]]), ([[1]], [[1], [1]]), ([[1, 1], []], [[1], [1]]), ([[1]], [[]])],
)
def test_batches_that_do_not_fit_are_refused(support: Any, query: Any) -> None:
    with pytest.raises(ValueError, match="batches"):
        meta_gradient(lambda p, b: p["x"].sum(), {"x": torch.ones(2)}, support, query)


def test_the_example_of_the_docstring() -> None:
    def quadratic(p: Tensors, batch: None) -> Tensor:
        return (p["w"] ** 2).sum()

    found = meta_gradient(quadratic, {"w": torch.tensor([1.0])}, [[None]], [[None]], step=SGD(lr=0.1))
    assert found.gradients["w"].tolist() == pytest.approx([1.28])


# ---- what differences need of the numbers they are made of


class InBfloat16:
    """A loss that computes in bfloat16; `says_so` is the attribute by which the engine may change that."""

    def __init__(self, says_so: bool) -> None:
        if says_so:
            self.autocast = torch.bfloat16

    def __call__(self, p: Tensors, batch: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=getattr(self, "autocast", torch.bfloat16) is not None):
            return network_loss(p, batch)


def float32_case(k: int = 1) -> tuple[Tensors, Any, Any]:
    generator = torch.Generator().manual_seed(12)
    parameters = {name: p.float() for name, p in network(generator).items()}
    support, query = (
        [[(x.float(), y) for x, y in batches] for batches in network_batches(generator, 2, k)] for _ in range(2)
    )
    return parameters, support, query


@pytest.mark.parametrize("curvature", ["exact", "difference", "central"])
def test_in_bfloat16_products_are_those_of_float32(curvature: Any) -> None:
    parameters, support, query = float32_case(k=2)
    step = SGD(lr=0.5)
    loss = InBfloat16(says_so=True)
    second, first, second_32, first_32 = (
        meta_gradient(used, parameters, support, query, step, order=order, curvature=curvature)
        for used, order in ((loss, "second"), (loss, "first"), (network_loss, "second"), (network_loss, "first"))
    )
    share = relative_error(second_32.gradients, first_32.gradients)
    found = {n: second.gradients[n] - first.gradients[n] for n in parameters}
    expected = {n: second_32.gradients[n] - first_32.gradients[n] for n in parameters}
    assert share > 0.1
    assert relative_error(found, expected) < 0.05
    assert bool(second.notes) == (curvature != "exact")
    assert loss.autocast == torch.bfloat16


@pytest.mark.parametrize("curvature", ["difference", "central"])
def test_without_a_way_to_float32_there_is_no_curvature_and_a_note(curvature: Any) -> None:
    parameters, support, query = float32_case()
    half = {name: p.bfloat16() for name, p in parameters.items()}
    half_batches = [[[(x.bfloat16(), y) for x, y in copy] for copy in batches] for batches in (support, query)]
    for loss, start, batches in (
        (InBfloat16(says_so=False), parameters, (support, query)),
        (network_loss, half, half_batches),
    ):
        found = meta_gradient(loss, start, *batches, SGD(lr=0.5), curvature=curvature)
        first = meta_gradient(loss, start, *batches, SGD(lr=0.5), order="first")
        assert relative_error(found.gradients, first.gradients) == 0
        assert "bfloat16 is too coarse" in found.notes[0]


@pytest.mark.parametrize(("curvature", "limit"), [("difference", 0.02), ("central", 0.005)])
def test_a_float64_loss_that_computes_in_float32_inside_gets_the_step_of_float32(curvature: Any, limit: float) -> None:
    def loss(p: Tensors, batch: Any) -> Tensor:
        return network_loss({name: tensor.float() for name, tensor in p.items()}, (batch[0].float(), batch[1])).double()

    parameters, support, query = float32_case()
    parameters = {name: p.double() for name, p in parameters.items()}
    found, exact, first = (
        meta_gradient(loss, parameters, support, query, SGD(lr=0.5), **how).gradients
        for how in ({"curvature": curvature}, {}, {"order": "first"})
    )
    assert relative_error(found, exact) < limit * relative_error(exact, first)


@pytest.mark.parametrize("curvature", ["exact", "difference", "central"])
def test_parameters_of_several_types(curvature: Any) -> None:
    parameters, support, query = float32_case(k=2)
    mixed = parameters | {"w2": parameters["w2"].double()}

    def loss(p: Tensors, batch: Any) -> Tensor:
        return network_loss(p | {"w2": p["w2"].float()}, batch)

    found = meta_gradient(loss, mixed, support, query, SGD(lr=0.5), curvature=curvature)
    expected = meta_gradient(network_loss, parameters, support, query, SGD(lr=0.5))
    assert found.gradients["w2"].dtype == torch.float64
    assert relative_error(found.gradients, expected.gradients) < 0.01


# ---- AdamW from zero moments


def low_rank_loss(p: Tensors, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A frozen matrix and a low-rank one added to it, whose b is zero at first, so that a has no gradient."""
    x, y = batch
    return torch.nn.functional.cross_entropy(x @ (torch.ones(5, 3) / 5 + p["a"] @ p["b"]), y)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("k", [1, 3])
def test_the_first_update_of_a_low_rank_adapter(k: int, shared: bool) -> None:
    """Where AdamW is lr / eps steep, exact products are huge and differences wrong: such slopes are left out."""
    _, support, query = float32_case(k)
    parameters = {"a": torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), "b": torch.zeros(2, 3)}
    step = AdamW(lr=1e-4)
    state = step.init(parameters) if shared else None
    exact, close, undone = (
        meta_gradient(low_rank_loss, parameters, support, query, step, state, measure_share=True, **how)
        for how in ({}, {"curvature": "difference"}, {"trajectory": "recompute"})
    )
    assert exact.second_order_share is not None
    assert exact.second_order_share < 0.2
    assert exact.steep > 0.1
    assert relative_error(close.gradients, exact.gradients) < 0.01
    assert relative_error(undone.gradients, exact.gradients) < 0.01


# ---- arguments of the wrong kind

WRONG = """
import torch
from maml_en_llm import AdamW, Moments, meta_gradient

w, good = torch.ones(2), dict(support=[[0]], query=[[0]])
loss = lambda p, batch: sum((t.float() ** 2).sum() for t in p.values())
cases = {
    "parameters must be a dict": dict(parameters=[w]),
    "parameter w is no tensor of floats": dict(parameters={"w": torch.ones(2, dtype=torch.long)}),
    "parameters a and b are one tensor": dict(parameters={"a": w, "b": w}),
    "lists of copies": dict(support=[0]),
    "loss, query_loss and mapping must be functions": dict(loss=3),
    "step is 0.1; it must be an optimizer": dict(step=0.1),
    "curvature is 'exakt'": dict(curvature="exakt"),
    "state must be Moments": dict(state={}),
    "needs a moment of shape": dict(state=AdamW().init({"w": torch.ones(3)})),
    "held is the string": dict(held="w"),
    "held has 'v'": dict(held=["v"]),
    "all parameters are held": dict(held=["w"]),
    "the loss gave 1.0": dict(loss=lambda p, batch: 1.0),
    "shape [2]; it must give a scalar": dict(loss=lambda p, batch: p["w"]),
    "rates has 'v'": dict(rates={"v": w}),
    "no tensor of floats": dict(rates={"w": 0.1}),
    "must be a number, or have 1 steps": dict(rates={"w": torch.ones(3, 4)}),
}
for sentence, wrong in cases.items():
    try:
        meta_gradient(**(dict(loss=loss, parameters={"w": w}) | good | wrong))
    except ValueError as error:
        assert sentence in str(error), (sentence, error)
        assert "\\n" not in str(error)
    else:
        raise AssertionError(sentence)
"""


def test_arguments_of_the_wrong_kind_are_refused_with_a_sentence() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(maml_en_llm.__file__).parents[1])}
    words = [sys.executable, "-c", WRONG]  # in a process of its own, where types are not checked at every call
    done = subprocess.run(words, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
