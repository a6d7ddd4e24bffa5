"""A batch of several prompts costs and computes what its prompts do one by one."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from maml_en_llm import SGD, meta_gradient
from maml_en_llm.bilevel.curvature import value_and_gradient
from maml_en_llm.models import PromptLoss, prompt_loss, trainable_parameters
from maml_en_llm.prompts.batches import Batch
from maml_en_llm.prompts.layout import EncodedPrompt


@pytest.fixture(scope="module")
def loss() -> PromptLoss:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=40)
    return PromptLoss(GPT2LMHeadModel(config).double().eval())


def prompts() -> list[EncodedPrompt]:
    generator = torch.Generator().manual_seed(0)
    return [
        EncodedPrompt(torch.randint(60, (n,), generator=generator).tolist(), [i >= n - answers for i in range(n)])
        for n, answers in ((7, 2), (30, 1), (4, 0), (12, 12))
    ]


def test_loss_of_a_batch_is_the_mean_over_its_prompts(loss):
    batch = Batch.from_prompts(prompts())
    alone = [prompt_loss(loss.model, Batch.from_prompts([prompt])) for prompt in prompts()]
    assert torch.allclose(prompt_loss(loss.model, batch), torch.stack(alone).mean())
    whole = loss.model(batch.token_ids).logits[:, :-1].log_softmax(-1)
    picked = -whole.gather(2, batch.token_ids[:, 1:, None])[..., 0]
    mask = batch.answer_mask[:, 1:]
    by_hand = ((picked * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()
    assert torch.allclose(prompt_loss(loss.model, batch), by_hand)


def test_nothing_is_computed_for_padding(loss, monkeypatch):
    computed = []
    forward = loss.model.forward
    monkeypatch.setattr(loss.model, "forward", lambda **k: computed.append(k["input_ids"].numel()) or forward(**k))
    prompt_loss(loss.model, Batch.from_prompts(prompts()))
    assert computed == [6, 29, 11]  # without the last tokens, which predict nothing


def test_derivatives_prompt_by_prompt_are_those_of_the_batch(loss):
    batch = Batch.from_prompts(prompts())
    parameters = {name: p.detach() for name, p in trainable_parameters(loss.model).items()}

    def whole(parameters, batch):  # a loss without `parts`
        return loss(parameters, batch)

    value, gradient = value_and_gradient(loss, parameters, batch)
    expected_value, expected = value_and_gradient(whole, parameters, batch)
    assert torch.allclose(value, expected_value)
    assert all(torch.allclose(gradient[name], expected[name]) for name in parameters)
    a, b = (
        meta_gradient(function, parameters, [[batch]], [[batch]], step=SGD(lr=0.1)).gradients
        for function in (loss, whole)
    )
    assert all(torch.allclose(a[name], b[name]) for name in parameters)
