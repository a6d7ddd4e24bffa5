"""Prompts of a batch are computed in groups; losses and derivatives are those of its prompts one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from families import FAMILIES, VOCABULARY, tiny_model
from maml_en_llm import AdamW, meta_gradient
from maml_en_llm.bilevel.curvature import value_and_gradient
from maml_en_llm.bilevel.steps import Tensors
from maml_en_llm.models import PromptLoss, prompt_loss, trainable_parameters
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
