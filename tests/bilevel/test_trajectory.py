"""Every row of the table of optimizers, on every way to keep the trajectory and to compute curvature."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from builders import random_batch, tiny_language_model
from maml_en_llm import SGD, AdamW, meta_gradient
from maml_en_llm.bilevel import update_all_
from maml_en_llm.bilevel.steps import Tensors
from maml_en_llm.models import PromptLoss, trainable_parameters
from unrolled import State, detached, relative_error
from unrolled import meta_gradient as unrolled_meta_gradient

STEPS = {
    "sgd": SGD(lr=0.1),
    "sgd-momentum": SGD(lr=0.1, momentum=0.9),
    "adamw": AdamW(lr=0.01),
    "adamw-decay": AdamW(lr=0.01, weight_decay=0.1),
}
ROWS = [
    (name, trajectory)
    for name in STEPS
    for trajectory in ("keep", "recompute")
    if (name, trajectory) != ("sgd", "recompute")  # plain SGD cannot be undone
]


def network_loss(p: Tensors, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return torch.nn.functional.cross_entropy(torch.tanh(x @ p["w1"] + p["b1"]) @ p["w2"], y)


def dropout_loss(p: Tensors, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    hidden = torch.nn.functional.dropout(torch.tanh(x @ p["w1"] + p["b1"]), p=0.5)
    return torch.nn.functional.cross_entropy(hidden @ p["w2"], y)


def setup(k: int, n: int = 2) -> tuple[Tensors, Any, Any, torch.Generator]:
    generator = torch.Generator().manual_seed(k)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    parameters = {"w1": randn(5, 7) * 0.5, "b1": randn(7) * 0.1, "w2": randn(7, 3) * 0.5}
    support, query = (
        [[(randn(6, 5), torch.randint(3, (6,), generator=generator)) for _ in range(k)] for _ in range(n)]
        for _ in range(2)
    )
    return parameters, support, query, generator


@pytest.mark.parametrize("curvature", ["exact", "difference", "central"])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize(("optimizer", "trajectory"), ROWS)
def test_a_row_of_the_table(optimizer: str, trajectory: Any, shared: bool, k: int, curvature: Any) -> None:
    step: Any = STEPS[optimizer]
    parameters, support, query, generator = setup(k)
    moments, state = None, None
    if shared:
        moments, moved = step.init(parameters), detached(parameters)
        for _ in range(3):
            noise = {name: 0.1 * torch.randn(p.shape, generator=generator).double() for name, p in parameters.items()}
            update_all_(step, moved, noise, moments)
        zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
        state = State(detached(moments.first) or zeros, detached(moments.second or {}) or zeros, moments.step)
    expected, _, after = unrolled_meta_gradient(network_loss, parameters, support, query, step, state)

    found = meta_gradient(
        network_loss, parameters, support, query, step, moments, curvature=curvature, trajectory=trajectory
    )

    # Differences of gradients lose half the digits of float64. Undoing AdamW from zero moments loses some too: they
    # are what is left of larger ones, and derivatives divide by them.
    limit = 1e-5 if curvature != "exact" else 1e-10 if trajectory == "keep" or shared else 1e-8
    assert relative_error(found.gradients, expected) < limit
    if found.state is not None and after is not None and found.state.first:
        assert relative_error(found.state.first, after.first) < 1e-12


def test_plain_sgd_cannot_recompute() -> None:
    parameters, support, query, _ = setup(k=3)
    with pytest.raises(ValueError, match='trajectory="keep"'):
        meta_gradient(network_loss, parameters, support, query, SGD(lr=0.1), trajectory="recompute")


@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_recomputing_from_zero_moments_where_a_first_gradient_comes_late(scale: float) -> None:
    """A parameter's first gradient at the second step: rounding must not leave moments of it at the first."""

    def loss(p: Tensors, batch: Tensor) -> Tensor:
        return ((p["table"][batch] @ p["w"]).sin() ** 2).mean() * scale

    generator = torch.Generator().manual_seed(0)
    parameters = {"table": torch.randn(40, 8, generator=generator), "w": torch.randn(8, 3, generator=generator)}
    support, query = ([[torch.randint(40, (6,), generator=generator) for _ in range(4)]] for _ in range(2))
    step = AdamW(lr=1e-4)
    kept, recomputed = (
        meta_gradient(loss, parameters, support, query, step, trajectory=trajectory).gradients
        for trajectory in ("keep", "recompute")
    )
    assert relative_error(recomputed, kept) < 1e-3


def test_recomputing_from_zero_moments_in_a_language_model() -> None:
    """The moments after the first step are made again: what undoing leaves of them gave 1,000 times the gradient."""
    generator = torch.Generator().manual_seed(1)
    model = tiny_language_model("llama")
    loss, parameters = PromptLoss(model), trainable_parameters(model)
    support, query = ([[random_batch(generator, prompts=2) for _ in range(4)]] for _ in range(2))
    kept, undone, first = (
        meta_gradient(loss, parameters, support, query, AdamW(lr=1e-3), **how).gradients
        for how in ({}, {"trajectory": "recompute"}, {"order": "first"})
    )
    assert relative_error(undone, kept) < 0.01 * relative_error(first, kept)


@pytest.mark.parametrize("curvature", ["difference", "central"])
@pytest.mark.parametrize(("optimizer", "trajectory"), ROWS)
def test_dropout_draws_the_same_again(optimizer: str, trajectory: Any, curvature: Any) -> None:
    parameters, support, query, _ = setup(k=3)

    def gradients(curvature: Any, trajectory: Any, seed: int) -> Tensors:
        torch.manual_seed(seed)
        return meta_gradient(
            dropout_loss, parameters, support, query, STEPS[optimizer], curvature=curvature, trajectory=trajectory
        ).gradients

    exact = gradients("exact", "keep", seed=0)
    assert relative_error(gradients(curvature, trajectory, seed=0), exact) < 1e-5
    assert relative_error(gradients("exact", "keep", seed=1), exact) > 1e-2  # it does draw


@pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning")  # the name that every release of 5 knows
@pytest.mark.parametrize("trajectory", ["keep", "recompute"])
@pytest.mark.parametrize("curvature", ["difference", "central"])
def test_gradient_checkpointing_changes_nothing(curvature: Any, trajectory: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    support, query = ([[random_batch(generator, prompts=2) for _ in range(2)]] for _ in range(2))
    found = []
    for checkpointing in (False, True):
        model = tiny_language_model("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).double().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing == checkpointing
        loss, parameters, step = PromptLoss(model), trainable_parameters(model), SGD(lr=0.1, momentum=0.9)
        result = meta_gradient(loss, parameters, support, query, step, curvature=curvature, trajectory=trajectory)
        found.append(result.gradients)
    assert relative_error(found[1], found[0]) < 1e-6
