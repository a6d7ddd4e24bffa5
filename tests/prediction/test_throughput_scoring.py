"""Packed scores equal plain ones, for every model family and shape of example, at any size of a pack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, BloomConfig, PreTrainedTokenizerFast

from maml_en_llm import Example, PromptFormat
from maml_en_llm.models import train_tokenizer
from maml_en_llm.prediction.in_context import score_targets
from maml_en_llm.prediction.scoring import PrefixTree, Scorer, tokens_that_fit
from maml_en_llm.prompts.layout import EncodedTarget

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
LLAMA = SIZES | {"intermediate_size": 48, "num_key_value_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "llama": LLAMA,
    "mistral": LLAMA | {"sliding_window": 20},
    "qwen2": LLAMA,
    "qwen3": LLAMA | {"head_dim": 8},
    "gemma": LLAMA | {"head_dim": 8},
    "gemma2": LLAMA | {"head_dim": 8, "sliding_window": 20},
    "gemma3_text": LLAMA | {"head_dim": 8, "sliding_window": 20},
    "gpt_neox": SIZES | {"intermediate_size": 48},
    "opt": SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32},
}


def tiny_model(family: str) -> Any:
    config = CONFIG_MAPPING[family](**FAMILIES[family])
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def random_targets(generator: torch.Generator, options: int, shared_context: bool = True) -> list[EncodedTarget]:
    def draw(low: int, high: int) -> list[int]:
        count = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(0, 300, (count,), generator=generator).tolist()

    context = draw(1, 12)
    return [EncodedTarget(context if shared_context else draw(1, 12), draw(1, 5)) for _ in range(options)]


def plain_scores(scorer: Scorer, prefix: list[int], examples: list[list[EncodedTarget]]) -> list[list[float]]:
    form = PromptFormat(max_tokens=256, overflow="left")
    return [[scorer.score_plain(form.join(prefix, target)) for target in targets] for targets in examples]


def close(a: list[list[float]], b: list[list[float]]) -> bool:
    return all(x == pytest.approx(y, abs=1e-4) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_scores_are_the_plain_ones(family):
    generator = torch.Generator().manual_seed(1)
    scorer = Scorer(tiny_model(family), tokens_per_forward=60)
    for prefix_length in (40, 1, 0):
        prefix = torch.randint(0, 300, (prefix_length,), generator=generator).tolist()
        examples = [random_targets(generator, n, n % 2 == 0) for n in (1, 2, 3, 4, 40)]
        assert close(scorer.score(prefix, examples), plain_scores(scorer, prefix, examples))
        assert scorer.packing


@pytest.mark.parametrize("options", [1, 2, 14, 100])
@pytest.mark.parametrize("tokens_per_forward", [1, 30, None])
def test_any_number_of_options_in_packs_of_any_size(options, tokens_per_forward):
    generator = torch.Generator().manual_seed(options)
    scorer = Scorer(tiny_model("gpt2"), tokens_per_forward)
    examples = [random_targets(generator, options) for _ in range(2)]
    prefix = torch.randint(0, 300, (30,), generator=generator).tolist()
    assert close(scorer.score(prefix, examples), plain_scores(scorer, prefix, examples))


def test_memory_is_flat_in_the_number_of_options(monkeypatch):
    scorer = Scorer(tiny_model("gpt2"), tokens_per_forward=64)
    passes = []
    forward = scorer.model.forward
    monkeypatch.setattr(scorer.model, "forward", lambda **k: passes.append(k["input_ids"].shape[1]) or forward(**k))
    generator = torch.Generator().manual_seed(0)
    scorer.score([1, 2, 3], [random_targets(generator, 400)])
    assert len(passes) > 10
    assert max(passes) <= 64 + 1  # and the last token of the demonstrations


def test_models_that_cannot_be_packed_are_scored_plainly():
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4)
    scorer = Scorer(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval())
    generator = torch.Generator().manual_seed(3)
    examples, prefix = [random_targets(generator, 3) for _ in range(3)], [5, 6, 7, 8, 9]
    assert close(scorer.score(prefix, examples), plain_scores(scorer, prefix, examples))
    assert not scorer.packing


def test_empty_answers_and_empty_prompts():
    scorer = Scorer(tiny_model("gpt2"))
    examples = [[EncodedTarget([1, 2], []), EncodedTarget([], [4])], [EncodedTarget([], [])], []]
    assert scorer.score([], examples) == [[0.0, 0.0], [0.0], []]
    assert scorer.score([], []) == []


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    """One that merges across the letters of a word, and one of single bytes that never merges."""
    texts = ["the cat sat on the mat", "an option of the task is yes or no", "\n\n\n"] * 20
    return {"merging": train_tokenizer(texts, 300), "bytes": train_tokenizer([], 257)}


@pytest.mark.parametrize("name", ["merging", "bytes"])
@pytest.mark.parametrize("direction", ["direct", "channel"])
@pytest.mark.parametrize("overflow", ["fit", "left"])
@pytest.mark.parametrize("max_tokens", [64, 256])
def test_whole_prompts_with_and_without_overflow(tokenizers, name, direction, overflow, max_tokens):
    form = PromptFormat(direction, max_tokens=max_tokens, max_tokens_per_example=32, overflow=overflow)
    tokenizer, scorer = tokenizers[name], Scorer(tiny_model("gpt2"))
    options = ("yes", "no", "the cat", "not the cat")
    shown = [Example(f"the cat {i}", options[i % 4], options) for i in range(8)]
    examples = [Example("sat on " + "the mat " * i, options[0], options) for i in range(5)]
    targets = form.encode_all_targets(tokenizer, examples, first=False)
    assert targets == [form.encode_targets(tokenizer, example, first=False) for example in examples]
    prefix = form.encode_demonstrations(tokenizer, shown)
    scores = score_targets(form, scorer, prefix, targets)
    longest = max(len(target) for options in targets for target in options)
    plain = [
        [scorer.score_plain(prompt) for prompt in form.encode_options(tokenizer, shown, example, longest)]
        for example in examples
    ]
    assert close(scores, plain)
    assert [min(s, key=s.__getitem__) for s in map(dict, map(enumerate, scores))] == [
        min(s, key=s.__getitem__) for s in map(dict, map(enumerate, plain))
    ]
    cut = {i for i, ts in enumerate(targets) if max(map(len, ts)) + len(prefix) > max_tokens}
    assert bool(cut) == (max_tokens == 64)


def test_common_beginnings_stand_once():
    tree = PrefixTree([[1, 2, 3, 9], [1, 2, 4, 9], [1, 2, 3, 5, 9], [7, 9], [], [1]])
    assert tree.token_ids == [1, 2, 3, 5, 4, 7]
    assert tree.depths == [0, 1, 2, 3, 2, 0]
    assert tree.ends == [5, 5, 4, 4, 5, 6]
    assert tree.paths == [[0, 1, 2], [0, 1, 4], [0, 1, 2, 3], [5], [], []]


def test_the_budget_is_bounded():
    assert 64 <= tokens_that_fit(tiny_model("llama")) <= 4096
