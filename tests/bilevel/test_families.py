"""The engine on tiny random models of every family that it is meant for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from builders import random_batch, tiny_language_model
from maml_en_llm import SGD, AdamW, Moments, meta_gradient
from maml_en_llm.bilevel import update_all_, value_and_gradient
from maml_en_llm.bilevel.steps import Tensors
from maml_en_llm.models import PromptLoss, trainable_parameters
from unrolled import State, detached, relative_error
from unrolled import meta_gradient as unrolled_meta_gradient

FAMILIES = ["gpt2", "llama", "qwen3", "gemma", "gemma3", "gpt_neox", "opt"]
STEPS = [SGD(lr=0.1), AdamW(lr=1e-3)]


def name_of(step: Any) -> str:
    return type(step).__name__


def setup(family: str, step: SGD | AdamW, dtype: torch.dtype) -> tuple[PromptLoss, Tensors, Any, Any, Moments]:
    """Loss, parameters, support and query batches, and moments as after five steps of training."""
    generator = torch.Generator().manual_seed(3)
    model = tiny_language_model(family).to(dtype)
    loss, parameters = PromptLoss(model), trainable_parameters(model)
    support, query = ([[random_batch(generator, prompts=2)]] for _ in range(2))
    for ((batch,),) in (support, query):
        # Token 0 pads: Embedding leaves it out of its gradient. With tied embeddings the rest is no gradient of
        # any function, and has no symmetric Jacobian: reverse mode takes the transpose of what a difference takes.
        batch.token_ids[batch.token_ids == 0] = 1
    moments, moved = step.init(parameters), detached(parameters)
    for _ in range(5):
        # Every token appears: a second moment of zero would make that token's derivative 1 / eps times larger.
        batch = random_batch(generator, prompts=16, tokens=20)
        update_all_(step, moved, value_and_gradient(loss, moved, batch)[1], moments)
    return loss, parameters, support, query, moments


@pytest.mark.parametrize("step", STEPS, ids=name_of)
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_equals_autograd_through_the_whole_update(family: str, step: Any) -> None:
    loss, parameters, support, query, moments = setup(family, step, torch.float64)
    zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
    state = State(moments.first or zeros, moments.second or zeros, moments.step)
    expected, _, _ = unrolled_meta_gradient(loss, parameters, support, query, step, state)
    found = meta_gradient(loss, parameters, support, query, step, moments).gradients
    # Some families compute their norms in float32 whatever the model's type; both sides then do so alike.
    assert relative_error(found, expected) < 1e-8


@pytest.mark.parametrize("curvature", ["difference", "central"])
@pytest.mark.parametrize("step", STEPS, ids=name_of)
@pytest.mark.parametrize("family", FAMILIES)
def test_difference_is_close_to_exact(family: str, step: Any, curvature: Any) -> None:
    loss, parameters, support, query, moments = setup(family, step, torch.float32)
    exact, close, first = (
        meta_gradient(loss, parameters, support, query, step, moments, **how).gradients
        for how in ({"curvature": "exact"}, {"curvature": curvature}, {"order": "first"})
    )
    # The step is 1e-5 of the parameters, so gradients, known to some 1e-7, change in their fifth digit: the product is
    # good to about 1e-2, and the meta-gradient as much better as the second-order part is smaller than the whole.
    share = relative_error(exact, first)
    assert relative_error(close, exact) < 0.03 * share + 1e-5
