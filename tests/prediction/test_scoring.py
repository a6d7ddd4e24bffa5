from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders import tiny_language_model
from families import FAMILIES, tiny_model
from maml_en_llm.prediction.scoring import Scorer, check_finite
from maml_en_llm.prompts.layout import EncodedPrompt, EncodedTarget

PACKED = ["gpt2", "llama", "opt", "gpt_neox", "qwen3", "gemma", "gemma3"]
MODELS = {family: tiny_language_model(family) for family in [*PACKED, "bloom"]}


def plain_score(model: Any, prefix: list[int], target: EncodedTarget) -> float:
    """Mean negative log-likelihood of the answer, from all logits of the whole prompt."""
    token_ids = torch.tensor([[*prefix, *target.context, *target.answer]])
    if not token_ids.numel():
        return 0.0
    with torch.no_grad():
        log_probabilities = model(token_ids).logits[0].log_softmax(dim=-1)
    read = len(prefix) + len(target.context)
    places = [i for i in range(read, token_ids.shape[1]) if i > 0]  # nothing predicts the very first token
    if not places:
        return 0.0
    return -sum(float(log_probabilities[i - 1, token_ids[0, i]]) for i in places) / len(places)


def random_examples(
    seed: int, direction: str, examples: int = 5, options: int = 3, longest: int = 6
) -> list[list[EncodedTarget]]:
    """Direct: one context and an answer per option; channel: a context per option and one answer."""
    generator = torch.Generator().manual_seed(seed)

    def tokens() -> list[int]:
        count = int(torch.randint(1, longest + 1, (1,), generator=generator))
        return torch.randint(40, (count,), generator=generator).tolist()

    found = []
    for _ in range(examples):
        same = tokens()
        found.append([EncodedTarget(same, tokens()) for _ in range(options)])
        if direction == "channel":
            found[-1] = [EncodedTarget(target.answer, same) for target in found[-1]]
    return found


PREFIX = torch.randint(40, (30,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.mark.parametrize("family", [*PACKED, "bloom"])
@pytest.mark.parametrize("direction", ["direct", "channel"])
@pytest.mark.parametrize("prefix", [PREFIX, PREFIX[:1], []], ids=["demonstrations", "one-token", "none"])
def test_scores_equal_plain_encoding(family: str, direction: str, prefix: list[int]) -> None:
    model, examples = MODELS[family], random_examples(1, direction)
    expected = [[plain_score(model, prefix, target) for target in targets] for targets in examples]
    for tokens_per_forward in (1024, 40, 1):
        found = Scorer(model, tokens_per_forward).score(prefix, examples)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)


NOT_PACKED = ["bloom", "mpt", "gpt_neo", "llama4", "rwkv", "mamba", "mamba2", "falcon_mamba", "recurrent_gemma"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_scored_right_and_packed_where_that_is_right(family: str) -> None:
    """Columns that count as positions, local and chunked attention, and states do not allow packing.

    Window and chunk have 12 tokens here; the first prompts and packs are within them.
    """
    scorer = Scorer(tiny_model(family), tokens_per_forward=60)
    for prefix, examples in [([], 1), (PREFIX[:2], 1), (PREFIX[:3], 4), (PREFIX[:8], 2), (PREFIX, 8)]:
        several = random_examples(len(prefix), "direct", examples=examples, options=2 if examples == 1 else 3)
        expected = [[plain_score(scorer.model, prefix, target) for target in targets] for targets in several]
        for ours, theirs in zip(scorer.score(prefix, several), expected, strict=True):
            assert ours == pytest.approx(theirs, rel=2e-6, abs=2e-6)
    assert scorer.packing == (family not in NOT_PACKED)


def test_what_a_rejection_makes_doubtful_is_scored_again(capsys: pytest.CaptureFixture[str]) -> None:
    """The longest examples come first: of later packs one is larger in another way, and finds a wrong one."""
    model = tiny_model("gpt2")
    scorer, examples = Scorer(model, tokens_per_forward=20), random_examples(5, "direct", examples=8)
    score_pack, wrong = scorer._score_pack, 3

    def wrong_from_the_third_on(*arguments: Any) -> list[float]:
        nonlocal wrong
        wrong -= 1
        scorer._checked = [0, 0, 0]
        return [value + (wrong <= 0) for value in score_pack(*arguments)]

    scorer._score_pack = wrong_from_the_third_on  # type: ignore[method-assign]
    found = scorer.score(PREFIX, examples)
    assert found == [[scorer.score_plain(joined(PREFIX, target)) for target in targets] for targets in examples]
    assert not scorer.packing
    assert "scored one by one" in capsys.readouterr().err


def test_scores_that_are_no_numbers_name_their_example() -> None:
    check_finite([[1.0, 2.0], []], "task mood")
    with pytest.raises(ValueError, match=r"task mood, example 1: a score is nan; .* weights that are not finite"):
        check_finite([[1.0, 2.0], [0.5, float("nan")]], "task mood")


def joined(prefix: list[int], target: EncodedTarget) -> EncodedPrompt:
    read = len(prefix) + len(target.context)
    return EncodedPrompt([*prefix, *target.context, *target.answer], [False] * read + [True] * len(target.answer))


TOKENS = st.lists(st.integers(0, 39), max_size=4)
TARGETS = st.lists(st.lists(st.builds(EncodedTarget, TOKENS, TOKENS), min_size=1, max_size=3), min_size=1, max_size=4)


@given(TOKENS, TARGETS, st.integers(1, 30))
def test_any_mixture_of_lengths(
    prefix: list[int], examples: list[list[EncodedTarget]], tokens_per_forward: int
) -> None:
    """Empty prefixes, contexts and answers included."""
    found = Scorer(MODELS["gpt2"], tokens_per_forward).score(prefix, examples)
    expected = [[plain_score(MODELS["gpt2"], prefix, target) for target in targets] for targets in examples]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_scorer_can_be_used_for_task_after_task() -> None:
    scorer = Scorer(MODELS["llama"], tokens_per_forward=50)
    for seed, length in enumerate((5, 30, 12)):
        examples = random_examples(seed, "direct")
        expected = [[plain_score(MODELS["llama"], PREFIX[:length], t) for t in targets] for targets in examples]
        for ours, theirs in zip(scorer.score(PREFIX[:length], examples), expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("window", [8, 20, 32, 48, 64, 90, 100, 110, 120, 200])
def test_sliding_windows_of_any_width(window: int) -> None:
    """A window may be shorter than a pack or a prompt: a pack's mask holds it."""
    model = tiny_language_model("gemma3", sliding_window=window, layer_types=["sliding_attention", "full_attention"])
    scorer = Scorer(model, tokens_per_forward=100)
    for seed in (1, 2):
        examples = random_examples(seed, "direct", examples=8)
        expected = [[plain_score(model, PREFIX, target) for target in targets] for targets in examples]
        for ours, theirs in zip(scorer.score(PREFIX, examples), expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)
    assert scorer.packing


def test_a_whole_prompt_can_be_scored_alone() -> None:
    (target,) = random_examples(3, "direct", examples=1, options=1)[0]
    prompt = EncodedPrompt(
        [*PREFIX, *target.context, *target.answer],
        [False] * (len(PREFIX) + len(target.context)) + [True] * len(target.answer),
    )
    found = Scorer(MODELS["gpt2"]).score_plain(prompt)
    assert found == pytest.approx(plain_score(MODELS["gpt2"], PREFIX, target), abs=1e-6)


def test_nothing_to_score() -> None:
    assert Scorer(MODELS["gpt2"]).score(PREFIX, []) == []


def test_scoring_changes_no_weight_and_keeps_no_gradient() -> None:
    model = tiny_language_model("gpt2")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    Scorer(model).score(PREFIX, random_examples(4, "channel"))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
