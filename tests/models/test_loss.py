"""Prompts of a batch are computed in groups; losses and derivatives are those of its prompts one by one."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from families import FAMILIES, VOCABULARY, tiny_model
from maml_en_llm import AdamW, meta_gradient
from maml_en_llm.bilevel.curvature import value_and_gradient
from maml_en_llm.bilevel.steps import Tensors
from maml_en_llm.models import (
    PromptLoss,
    choose_trainable,
    prompt_loss,
    recompute_activations,
    trainable_parameters,
)
from maml_en_llm.prompts.batches import Batch
from maml_en_llm.prompts.layout import EncodedPrompt
from unrolled import relative_error

SHAPES = ((7, 2), (30, 1), (4, 0), (12, 12), (40, 3), (33, 2))  # tokens of a prompt, those of its answer
# Somewhere these compute in float32 whatever the model's type, or cannot be run in float64 at all.
FLOAT64 = ["gpt2", "llama", "opt", "gpt_neox", "biogpt", "qwen3", "phi", "stablelm", "granite", "falcon", "rwkv"]


def batch_of(shapes: Any = SHAPES, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch.from_prompts(
        [
            EncodedPrompt(
                torch.randint(1, VOCABULARY, (n,), generator=generator).tolist(), [i >= n - a for i in range(n)]
            )
            for n, a in shapes
        ]
    )


def one_by_one(model: Any, parameters: Tensors, batch: Batch) -> tuple[float, Tensors]:
    """Loss and gradient from all logits of each prompt, cut to its own length."""
    losses = []
    for ids, mask in zip(batch.token_ids, batch.answer_mask, strict=True):
        answered = [i for i in range(1, len(ids)) if mask[i]]
        if not answered:
            losses.append(torch.zeros((), dtype=next(iter(parameters.values())).dtype))
            continue
        logits = model(input_ids=ids[None, : answered[-1] + 1], use_cache=False).logits[0]
        nll = -logits.log_softmax(-1)[[i - 1 for i in answered], ids[answered]]
        losses.append(nll.mean())
    loss = torch.stack(losses).mean()
    gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return float(loss.detach()), dict(zip(parameters, gradients, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_group_computes_what_its_prompts_do_alone(family: str) -> None:
    model, batch = tiny_model(family), batch_of()
    loss, parameters = PromptLoss(model), trainable_parameters(model)
    assert len(loss.parts(batch)) == 1
    expected_value, expected = one_by_one(model, parameters, batch)
    value, gradient = value_and_gradient(loss, parameters, batch)
    assert float(value) == pytest.approx(expected_value, rel=1e-6)
    assert relative_error(gradient, expected) < (5e-6 if family == "falcon_mamba" else 1e-6)


@pytest.mark.parametrize("family", FLOAT64)
def test_in_float64_to_twelve_digits(family: str) -> None:
    model, batch = tiny_model(family).double(), batch_of()
    parameters = trainable_parameters(model)
    expected_value, expected = one_by_one(model, parameters, batch)
    for tokens_per_forward in (None, 1, 70):
        loss = PromptLoss(model, tokens_per_forward=tokens_per_forward)
        value, gradient = value_and_gradient(loss, parameters, batch)
        assert float(value) == pytest.approx(expected_value, rel=1e-12)
        assert relative_error(gradient, expected) < 1e-12


@pytest.mark.parametrize("curvature", ["exact", "difference"])
def test_second_order_does_not_depend_on_the_groups(curvature: Any) -> None:
    model = tiny_model("llama").double()
    parameters, step = trainable_parameters(model), AdamW(lr=1e-3, eps=1e-3)
    found = [
        meta_gradient(
            PromptLoss(model, tokens_per_forward=tokens),
            parameters,
            [[batch_of(seed=1)]],
            [[batch_of(seed=2)]],
            step=step,
            curvature=curvature,
        ).gradients
        for tokens in (None, 1, 70)
    ]
    # A difference divides what rounding leaves by its step of 1e-6.
    for other in found[1:]:
        assert relative_error(other, found[0]) < (1e-12 if curvature == "exact" else 1e-8)


@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(0, 5)), min_size=1, max_size=12),
    st.one_of(st.none(), st.integers(1, 400)),
)
def test_groups_hold_every_answer_once_within_the_budget(
    shapes: list[tuple[int, int]], tokens_per_forward: int | None
) -> None:
    batch = batch_of([(n, min(a, n)) for n, a in shapes])
    groups = PromptLoss(GPT2, tokens_per_forward=tokens_per_forward).parts(batch)
    predicting = batch.answer_mask[:, 1:]
    assert sum(g.places.numel() for g in groups) == int(predicting.sum())
    assert float(sum(g.weights.sum() for g in groups)) == pytest.approx(
        float(predicting.any(1).float().mean()), abs=1e-6
    )
    rows = [row for g in groups for row in g.token_ids]
    assert len(rows) == int(predicting.any(1).sum())
    for g in groups:
        assert len(g.token_ids) <= 1 or g.token_ids.numel() <= (tokens_per_forward or 512)


GPT2 = tiny_model("gpt2")


def test_prompts_of_unlike_lengths_are_not_padded_to_each_other() -> None:
    groups = PromptLoss(GPT2).parts(batch_of([(200, 2), (20, 2), (190, 2), (30, 2), (40, 2)]))
    assert [tuple(g.token_ids.shape) for g in groups] == [(2, 199), (3, 39)]
    alone = PromptLoss(GPT2, tokens_per_forward=1).parts(batch_of([(200, 2), (20, 2)]))
    assert [tuple(g.token_ids.shape) for g in alone] == [(1, 199), (1, 19)]  # the last token predicts nothing


def test_only_answers_get_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    head = GPT2.get_output_embeddings()
    forward = head.forward
    monkeypatch.setattr(head, "forward", lambda hidden: computed.append(hidden.shape[:-1].numel()) or forward(hidden))
    prompt_loss(GPT2, batch_of())
    assert computed == [2 + 1 + 11 + 3 + 2]  # the first token of a prompt is not predicted


def test_positions_that_depend_on_the_longest_row_allow_no_padding() -> None:
    """Longrope: other frequencies for rows beyond the original context; the dynamic kind scales with the length."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    batch = batch_of([(30, 2), (12, 2), (30, 1), (10, 2)])
    dynamic = tiny_model("llama", rope_parameters=rope, max_position_embeddings=16)
    assert [len(g.token_ids) for g in PromptLoss(dynamic).parts(batch)] == [2, 1, 1]
    rope |= {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    rope |= {"original_max_position_embeddings": 16}
    model = tiny_model("llama", rope_parameters=rope, max_position_embeddings=64)
    loss, parameters = PromptLoss(model), trainable_parameters(model)
    assert [len(g.token_ids) for g in loss.parts(batch)] == [2, 1, 1]
    value, gradient = value_and_gradient(loss, parameters, batch)
    expected_value, expected = one_by_one(model, parameters, batch)
    assert float(value) == pytest.approx(expected_value, rel=1e-6)
    assert relative_error(gradient, expected) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_activations_change_no_gradient(family: str) -> None:
    model = tiny_model(family)
    model = model.double() if family in FLOAT64 else model
    loss, parameters = PromptLoss(model), trainable_parameters(model)
    value, gradient = value_and_gradient(loss, parameters, batch_of())
    recompute_activations(model)
    again, same = value_and_gradient(loss, parameters, batch_of())
    assert float(again) == pytest.approx(float(value), rel=1e-6 if family not in FLOAT64 else 1e-12)
    assert relative_error(same, gradient) < (1e-6 if family not in FLOAT64 else 1e-12)


@pytest.mark.parametrize("trainable", ["full", "lora"])
@pytest.mark.parametrize(
    ("curvature", "order", "limit"),
    [
        ("exact", "second", 1e-12),
        ("difference", "second", 1e-8),
        ("central", "second", 1e-8),
        ("exact", "first", 1e-12),
    ],
)
def test_nor_a_meta_gradient(curvature: Any, order: Any, limit: float, trainable: Any) -> None:
    found = []
    for recompute in (False, True):
        model = tiny_model("llama").double()
        if recompute:
            recompute_activations(model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = choose_trainable(model, trainable)
        loss, parameters = PromptLoss(model, tokens_per_forward=50), trainable_parameters(model)
        support, query = ([[batch_of(seed=seed), batch_of(seed=seed + 1)]] for seed in (1, 3))
        step = AdamW(1e-3, eps=1e-3)
        result = meta_gradient(loss, parameters, support, query, step, order=order, curvature=curvature)
        found.append(result.gradients)
    assert relative_error(found[1], found[0]) < limit


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that were made within it and live: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in self.seen:
                storage = tensor.untyped_storage()
                self.seen.add(id(storage))
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _gone(self, number: int, size: int) -> None:
        self.seen.discard(number)
        self.now -= size


@pytest.mark.parametrize("curvature", ["first", "difference"])
def test_recomputed_activations_take_less_memory(curvature: str) -> None:
    def peak(recompute: bool, tokens_per_forward: int) -> int:
        model = tiny_model("gpt2", n_layer=12)
        if recompute:
            recompute_activations(model)
        loss, parameters = PromptLoss(model, tokens_per_forward=tokens_per_forward), trainable_parameters(model)
        batches = [[batch_of([(200, 2)] * 4, seed=seed)] for seed in (0, 1)]
        order: Any = {"order": "first"} if curvature == "first" else {"curvature": curvature}
        gc.collect()
        with Live() as live:
            meta_gradient(loss, parameters, batches[:1], batches[1:], **order)
        return live.peak

    whole = peak(False, 1000)
    assert peak(True, 1000) < 0.5 * whole
    assert peak(False, 1) < 0.5 * whole
