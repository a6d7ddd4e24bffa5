from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maml_en_llm.prompts.batches import Batch, MixtureSampler, SameTaskSampler
from maml_en_llm.prompts.layout import EncodedPrompt, PromptFormat
from maml_en_llm.tasks.collection import Example

FORM = PromptFormat(max_tokens=4096, max_tokens_per_example=256)


def make_tasks(sizes: list[int]) -> dict[str, list[Example]]:
    """Tasks whose examples carry their task and index in the text, so that prompts can be read back."""
    return {f"t{t}": [Example(f"t{t}e{i}x", "y", ("y",)) for i in range(size)] for t, size in enumerate(sizes)}


def read_back(tokenizer: Any, batch: Batch) -> list[tuple[list[str], str]]:
    """(demonstrations, target) of each prompt, as the texts that make_tasks wrote."""
    prompts = []
    for ids, mask in zip(batch.token_ids, batch.answer_mask, strict=True):
        text = tokenizer.decode(ids[: int(mask.nonzero().max()) + 1])
        *shown, target = [piece.split("\n")[0] for piece in text.split("\n\n\n")]
        prompts.append((shown, target))
    return prompts


def read_epoch(tokenizer: Any, sampler: MixtureSampler, epoch: int, size: int) -> list[tuple[list[str], str]]:
    batches = [sampler.batch(number) for number in range(epoch * size, (epoch + 1) * size)]
    return [prompt for batch in batches for prompt in read_back(tokenizer, batch)]


SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=3)


@given(SIZES, st.integers(0, 4), st.integers(0, 2**31))
def test_an_epoch_of_the_mixture_has_every_example_once_as_target(
    tokenizer: Any, sizes: list[int], demonstrations: int, seed: int
) -> None:
    tasks = make_tasks(sizes)
    sampler = MixtureSampler(tasks, FORM, tokenizer, demonstrations, seed=seed)
    everything = sorted(e.input for examples in tasks.values() for e in examples)
    for epoch in (0, 1):
        prompts = read_epoch(tokenizer, sampler, epoch, sum(sizes))
        assert sorted(target for _, target in prompts) == everything
        for shown, target in prompts:
            task = target.split("e")[0]
            assert target not in shown
            assert len(shown) == len(set(shown)) == min(demonstrations, len(tasks[task]) - 1)
            assert {name.split("e")[0] for name in shown} <= {task}


def test_each_epoch_of_the_mixture_has_an_order_of_its_own(tokenizer: Any) -> None:
    sampler = MixtureSampler(make_tasks([20, 20]), FORM, tokenizer, 0)
    first, second = ([target for _, target in read_epoch(tokenizer, sampler, epoch, 40)] for epoch in (0, 1))
    assert first != second


def test_tasks_are_drawn_in_proportion_to_their_sizes(tokenizer: Any) -> None:
    sampler = SameTaskSampler(make_tasks([10, 30]), FORM, tokenizer, 0)
    counts = Counter(sampler.batch(2 * group).task_names[0] for group in range(400))
    assert 60 < counts["t0"] < 140  # 100 expected, standard deviation 8.7


def samplers(tokenizer: Any, **changes: Any) -> list[MixtureSampler]:
    data: dict[str, Any] = {"tasks": make_tasks([12, 15]), "format": FORM, "tokenizer": tokenizer, "demonstrations": 3}
    data |= changes
    return [MixtureSampler(**data), SameTaskSampler(**data), SameTaskSampler(**data, inner_steps=2)]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_same_number_gives_the_same_batch_in_any_order(tokenizer: Any, which: int) -> None:
    forward = {n: samplers(tokenizer, prompts_per_batch=2)[which].batch(n) for n in range(20)}
    other = samplers(tokenizer, prompts_per_batch=2)[which]
    for number in reversed(range(20)):
        batch = other.batch(number)
        assert torch.equal(batch.token_ids, forward[number].token_ids)
        assert torch.equal(batch.answer_mask, forward[number].answer_mask)
        assert batch.task_names == forward[number].task_names


@pytest.mark.parametrize("which", [0, 1, 2])
def test_another_seed_gives_other_batches(tokenizer: Any, which: int) -> None:
    ours, theirs = (
        [t for n in range(12) for _, t in read_back(tokenizer, samplers(tokenizer, seed=seed)[which].batch(n))]
        for seed in (1, 2)
    )
    assert ours != theirs


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    inner_steps=st.integers(1, 3),
    prompts=st.integers(1, 2),
    demonstrations=st.integers(0, 4),
    group=st.integers(0, 50),
)
def test_a_copy_of_same_task_stays_in_one_task_and_keeps_support_and_query_apart(
    tokenizer: Any, sizes: list[int], inner_steps: int, prompts: int, demonstrations: int, group: int
) -> None:
    sampler = SameTaskSampler(
        make_tasks(sizes), FORM, tokenizer, demonstrations, prompts_per_batch=prompts, inner_steps=inner_steps
    )
    needed = 2 * inner_steps * prompts
    if max(sizes) < needed + 2:
        with pytest.raises(ValueError, match="same_task"):
            sampler.batch(0)
        return
    batches = [sampler.batch(group * 2 * inner_steps + place) for place in range(2 * inner_steps)]
    support = [p for batch in batches[:inner_steps] for p in read_back(tokenizer, batch)]
    query = [p for batch in batches[inner_steps:] for p in read_back(tokenizer, batch)]

    targets = [target for _, target in support + query]
    assert len(set(targets)) == len(targets) == needed
    names = targets + [name for shown, _ in support + query for name in shown]
    assert {name.split("e")[0] for name in names} == {batches[0].task_names[0]}
    shown_in_support = {name for shown, _ in support for name in shown}
    shown_in_query = {name for shown, _ in query for name in shown}
    assert not shown_in_support & shown_in_query
    assert not (shown_in_support | shown_in_query) & set(targets)


def test_whole_text_predicts_every_token(tokenizer: Any) -> None:
    sampler = MixtureSampler(make_tasks([9]), FORM, tokenizer, 2, predicted="text")
    batch = sampler.batch(0)
    assert bool(batch.answer_mask.all())
    answers_only = MixtureSampler(make_tasks([9]), FORM, tokenizer, 2).batch(0)
    assert torch.equal(batch.token_ids, answers_only.token_ids)
    assert 0 < int(answers_only.answer_mask.sum()) < answers_only.token_ids.numel()


def test_predicting_answers_marks_those_of_demonstrations_too(tokenizer: Any) -> None:
    tasks = make_tasks([9])
    batch = MixtureSampler(tasks, FORM, tokenizer, 3, predicted="answers").batch(0)
    marked = tokenizer.decode(batch.token_ids[0][batch.answer_mask[0]]).split("\n")
    last = MixtureSampler(tasks, FORM, tokenizer, 3).batch(0)
    assert len([text for text in marked if text]) == 4
    assert int(batch.answer_mask.sum()) > int(last.answer_mask.sum())
    assert bool((batch.answer_mask | ~last.answer_mask).all())
    assert not batch.answer_mask[0, 0]


def test_a_batch_is_padded_on_the_right_and_predicts_nothing_there() -> None:
    batch = Batch.from_prompts([EncodedPrompt([5, 6, 7], [False, True, True]), EncodedPrompt([8], [True])], ["a", "b"])
    assert batch.token_ids[1, 0] == 8
    assert batch.answer_mask.tolist() == [[False, True, True], [True, False, False]]
    assert batch.task_names == ("a", "b")


@pytest.mark.parametrize("sizes", [[], [0]])
def test_nothing_to_draw_from_is_an_error(tokenizer: Any, sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="no training example"):
        MixtureSampler(make_tasks(sizes), FORM, tokenizer)


def test_instructions_stand_at_the_head_of_the_prompts_of_their_tasks(tokenizer: Any) -> None:
    tasks = make_tasks([6, 6])
    plain = MixtureSampler(tasks, FORM, tokenizer, 2)
    instructed = MixtureSampler(tasks, FORM, tokenizer, 2, instructions={"t1": "Do this."})
    heads = set()
    for number in range(12):
        batch = instructed.batch(number)
        ((shown, target),) = read_back(tokenizer, batch)
        ((expected, expected_target),) = read_back(tokenizer, plain.batch(number))
        head = ["Do this."] if target.startswith("t1") else []
        assert (shown, target) == (head + expected, expected_target)
        heads.add(bool(head))
    assert heads == {True, False}
