from __future__ import annotations

import itertools
import math
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import random_batch, tiny_language_model, train_config
from maml_en_llm import SGD, AdamW
from maml_en_llm.bilevel.steps import Tensors
from maml_en_llm.config import MethodName, TrainConfig
from maml_en_llm.methods import method_class
from maml_en_llm.models import PromptLoss, trainable_parameters
from maml_en_llm.prompts.batches import Batch
from maml_en_llm.prompts.layout import PromptFormat
from maml_en_llm.tasks.collection import Example
from unrolled import after_step, detached, maml_update, relative_error, zero_state

METHODS = typing.get_args(MethodName)
NOWHERE = Path("nowhere")


def config_of(method: str, **changes: Any) -> TrainConfig:
    return train_config(NOWHERE, NOWHERE, NOWHERE, method=method, **({"batches": 1000} | changes))


# ---- the contract: a new method joins by its name in config.MethodName


class Bench:
    """A method on a tiny model, with its own copy of everything."""

    def __init__(self, method: str) -> None:
        self.config = config_of(method)
        self.loss = PromptLoss(tiny_language_model("gpt2"))
        self.parameters = {name: p.detach() for name, p in trainable_parameters(self.loss.model).items()}
        self.method = method_class(method)(self.config, self.parameters)

    def update(self, number: int, lr_scale: float = 1.0) -> dict[str, float]:
        group = self.config.batches_per_update
        batches = [random_batch(torch.Generator().manual_seed(n)) for n in range(number * group, (number + 1) * group)]
        return self.method.update(self.loss, self.parameters, batches, lr_scale, measure=True)


@pytest.mark.parametrize("name", METHODS)
class TestContract:
    def test_an_update_changes_the_parameters_of_the_model_in_place(self, name: str) -> None:
        bench = Bench(name)
        before = detached(bench.parameters)
        places = {n: p.data_ptr() for n, p in bench.parameters.items()}
        bench.update(0)
        own = trainable_parameters(bench.loss.model)
        assert {n: p.data_ptr() for n, p in own.items()} == places
        assert all(torch.equal(own[n], p) for n, p in bench.parameters.items())
        assert any(not torch.equal(p, before[n]) for n, p in bench.parameters.items())
        assert all(bool(torch.isfinite(p).all()) for p in own.values())

    def test_it_reports_finite_figures_with_the_loss(self, name: str) -> None:
        figures = Bench(name).update(0)
        assert {"loss", "gradient_norm"} <= figures.keys()
        assert all(isinstance(value, float) and math.isfinite(value) for value in figures.values())

    def test_it_lowers_the_loss_of_a_batch_that_it_sees_again(self, name: str) -> None:
        bench = Bench(name)
        losses = [bench.update(0)["loss"] for _ in range(15)]
        assert losses[-1] < losses[0]

    def test_it_is_deterministic(self, name: str) -> None:
        ours, theirs = Bench(name), Bench(name)
        for number in range(2):
            assert ours.update(number) == theirs.update(number)
        assert all(torch.equal(ours.parameters[n], p) for n, p in theirs.parameters.items())

    def test_parameters_and_moments_are_all_its_state(self, name: str) -> None:
        ours, theirs = Bench(name), Bench(name)
        ours.update(0)
        for n, parameter in theirs.parameters.items():
            parameter.copy_(ours.parameters[n])
        for into, out_of in (
            (theirs.method.moments.first, ours.method.moments.first),
            (theirs.method.moments.second or {}, ours.method.moments.second or {}),
        ):
            for n, tensor in into.items():
                tensor.copy_(out_of[n])
        theirs.method.moments.step = ours.method.moments.step
        assert ours.update(1) == theirs.update(1)
        assert all(torch.equal(ours.parameters[n], p) for n, p in theirs.parameters.items())

    def test_a_learning_rate_scaled_to_zero_moves_nothing(self, name: str) -> None:
        bench = Bench(name)
        before = detached(bench.parameters)
        bench.update(0, lr_scale=0.0)
        assert all(torch.equal(p, before[n]) for n, p in bench.parameters.items())

    def test_its_sampler_gives_batches_of_the_tasks(self, name: str, tokenizer: Any) -> None:
        bench = Bench(name)
        tasks = {"t": [Example(f"cat {i}", "red", ("red", "blue")) for i in range(9)]}
        data = {"tasks": tasks, "format": PromptFormat(), "tokenizer": tokenizer, "demonstrations": 3}
        batch = bench.method.sampler(**data, prompts_per_batch=2, seed=1).batch(4)
        assert batch.token_ids.shape[0] == 2
        assert batch.task_names == ("t", "t")
        assert bool(batch.answer_mask.any(dim=1).all())


# ---- whole updates against an independent statement of them, in float64


def network_loss(p: Tensors, batch: Batch) -> Tensor:
    """A small network on one-hot tokens; float64 throughout."""
    hidden = torch.tanh(p["w1"][batch.token_ids].sum(dim=1) + p["b1"])
    return torch.nn.functional.cross_entropy(hidden @ p["w2"], batch.token_ids[:, 0] % 3)


def network(generator: torch.Generator) -> dict[str, Tensor]:
    shapes = {"w1": (40, 6), "b1": (6,), "w2": (6, 3)}
    return {n: torch.randn(s, generator=generator, dtype=torch.float64) * 0.3 for n, s in shapes.items()}


def step_of(config: TrainConfig, optimizer: str, lr: float) -> SGD | AdamW:
    if optimizer == "sgd":
        return SGD(lr, config.momentum, config.weight_decay)
    return AdamW(lr, config.adam_betas, config.adam_eps, config.weight_decay)


PAIRS = [
    (inner, outer, shared)
    for inner, outer, shared in itertools.product(["sgd", "adamw"], ["sgd", "adamw"], [None, True, False])
    if not (shared and inner != outer)
]


@pytest.mark.parametrize(("inner", "outer", "shared"), PAIRS)
@pytest.mark.parametrize("details", ["plain", "decay-momentum-clip-schedule"])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (2, 3)])
def test_maml_en_llm_updates_equal_the_formulas(
    inner: str, outer: str, shared: bool | None, details: str, k: int, n: int
) -> None:
    changes: dict[str, Any] = {"gradient_clip": None}
    if details != "plain":
        changes = {"weight_decay": 0.1, "gradient_clip": 0.05}
        if "sgd" in (inner, outer):
            changes["momentum"] = 0.9
    lrs = {"sgd": 0.1, "adamw": 0.01}
    config = config_of(
        "maml-en-llm",
        inner_optimizer=inner,
        optimizer=outer,
        shared_moments=shared,
        inner_steps=k,
        copies=n,
        lr=lrs[outer],
        inner_lr=lrs[inner],
        curvature="exact",
        **changes,
    )
    generator = torch.Generator().manual_seed(0)
    parameters = network(generator)
    expected, state = detached(parameters), zero_state(parameters)
    method = method_class("maml-en-llm")(config, parameters)
    for lr_scale in (1.0, 0.7, 0.3):
        batches = [random_batch(generator, prompts=4) for _ in range(2 * k * n)]
        copies = [batches[i * 2 * k : (i + 1) * 2 * k] for i in range(n)]
        expected, state, loss = maml_update(
            network_loss,
            expected,
            [copy[:k] for copy in copies],
            [copy[k:] for copy in copies],
            step_of(config, inner, config.inner_lr),
            step_of(config, outer, config.lr),
            state,
            shared if shared is not None else inner == outer,
            config.gradient_clip,
            lr_scale,
        )
        figures = method.update(network_loss, parameters, batches, lr_scale, measure=False)
        assert relative_error(parameters, expected) < 1e-9
        assert figures["loss"] == pytest.approx(float(loss), rel=1e-9)
    assert method.moments.step == state.step == (3 * (n * k + 1) if config.shares_moments else 3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_metaicl_updates_equal_the_formulas(optimizer: str, clip: float | None) -> None:
    config = config_of("metaicl", optimizer=optimizer, gradient_clip=clip, weight_decay=0.1, lr=0.05)
    generator = torch.Generator().manual_seed(0)
    parameters = network(generator)
    expected, state = detached(parameters), zero_state(parameters)
    method = method_class("metaicl")(config, parameters)
    for _ in range(3):
        batch = random_batch(generator, prompts=4)
        leaves = {n: p.clone().requires_grad_() for n, p in expected.items()}
        gradients = dict(
            zip(leaves, torch.autograd.grad(network_loss(leaves, batch), list(leaves.values())), strict=True)
        )
        norm = float(torch.cat([g.flatten() for g in gradients.values()]).norm())
        if clip is not None:
            assert norm > clip
            gradients = {n: g * clip / norm for n, g in gradients.items()}
        expected, state = after_step(step_of(config, optimizer, 0.05), expected, gradients, state)
        figures = method.update(network_loss, parameters, [batch], 1.0, measure=False)
        assert figures["gradient_norm"] == pytest.approx(norm)
        assert relative_error(parameters, expected) < 1e-12


def test_support_and_query_come_in_this_order() -> None:
    """Of the 2k batches of a copy the first k adapt it and the others measure it."""
    seen: list[int] = []

    def loss(p: Tensors, batch: Batch) -> Tensor:
        seen.append(int(batch.token_ids))
        return (p["x"] ** 2).sum()

    config = config_of("maml-en-llm", inner_steps=2, copies=2, order="first")
    parameters = {"x": torch.ones(2)}
    batches = [Batch(torch.tensor([[number]]), torch.tensor([[True]])) for number in range(1, 9)]
    method_class("maml-en-llm")(config, parameters).update(loss, parameters, batches, 1.0, measure=False)
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]


def test_state_that_is_not_shared_starts_anew_in_every_copy() -> None:
    config = config_of("maml-en-llm", shared_moments=False, copies=2)
    generator = torch.Generator().manual_seed(1)
    parameters = network(generator)
    method = method_class("maml-en-llm")(config, parameters)
    method.update(network_loss, parameters, [random_batch(generator) for _ in range(4)], 1.0, measure=False)
    assert method.moments.step == 1
