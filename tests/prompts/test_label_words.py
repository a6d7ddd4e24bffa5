from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maml_en_llm.models import word_tokenizer
from maml_en_llm.prompts.batches import Batch, MixtureSampler, SameTaskSampler
from maml_en_llm.prompts.label_words import LETTERS, LabelRedraw, rename, vocabulary_words
from maml_en_llm.prompts.layout import PromptFormat
from maml_en_llm.prompts.token_cache import TokenCache
from maml_en_llm.tasks.collection import Example, Examples

FORM = PromptFormat(max_tokens=4096)
OPTIONS = ("red", "blue", "not red")


def make_tasks(sizes: list[int]) -> dict[str, list[Example]]:
    """Inputs name their task, their number and, in words that are labels too, their own label's place."""
    return {
        f"t{t}": [Example(f"t{t}e{i} red {i % 3}", OPTIONS[i % 3], OPTIONS) for i in range(size)]
        for t, size in enumerate(sizes)
    }


def read_back(tokenizer: Any, batch: Batch) -> list[list[tuple[str, str]]]:
    """(input, output) of the examples of each prompt in the direct direction."""
    prompts = []
    for ids, mask in zip(batch.token_ids, batch.answer_mask, strict=True):
        text = tokenizer.decode(ids[: int(mask.nonzero().max()) + 1])
        prompts.append([tuple(piece.split("\n")) for piece in text.split("\n\n\n")])
    return prompts


@given(
    st.lists(st.integers(6, 20), min_size=1, max_size=3), st.integers(1, 6), st.integers(0, 2**31), st.integers(0, 99)
)
def test_a_prompt_keeps_its_inputs_and_renames_its_labels_alike(
    tokenizer: Any, sizes: list[int], demonstrations: int, seed: int, number: int
) -> None:
    data: dict[str, Any] = {"tasks": make_tasks(sizes), "format": FORM, "tokenizer": tokenizer, "seed": seed}
    data |= {"demonstrations": demonstrations, "prompts_per_batch": 3}
    own, ours = (MixtureSampler(**data, label_words=words).batch(number) for words in ("task", "redrawn"))
    assert own.task_names == ours.task_names
    for known, redrawn in zip(read_back(tokenizer, own), read_back(tokenizer, ours), strict=True):
        assert [text for text, _ in redrawn] == [text for text, _ in known]
        pairs = {(before, after) for (_, before), (_, after) in zip(known, redrawn, strict=True)}
        assert len(pairs) == len({before for before, _ in pairs}) == len({after for _, after in pairs})


@pytest.mark.parametrize("sampler", [MixtureSampler, SameTaskSampler])
def test_the_same_number_gives_the_same_labels_in_any_order(tokenizer: Any, sampler: type[MixtureSampler]) -> None:
    data: dict[str, Any] = {"tasks": make_tasks([20, 30]), "format": FORM, "tokenizer": tokenizer, "demonstrations": 5}
    data |= {"label_words": "redrawn", "prompts_per_batch": 2}
    one, other = sampler(**data), sampler(**data)
    forward = [one.batch(number) for number in range(12)]
    for number in reversed(range(12)):
        assert torch.equal(other.batch(number).token_ids, forward[number].token_ids)
    labels = [frozenset(label for _, label in prompt) for batch in forward for prompt in read_back(tokenizer, batch)]
    assert len(set(labels)) > 20  # of 24: every prompt has labels of its own


@pytest.mark.parametrize("head", ["", "Say red, blue or not red."])
@pytest.mark.parametrize("direction", ["direct", "channel"])
@pytest.mark.parametrize("layout", ["newlines", "metaicl", "spaces"])
def test_redrawn_batches_are_the_same_with_a_cache(
    tokenizer: Any, tmp_path: Path, direction: Any, layout: Any, head: str
) -> None:
    path = tmp_path / "t" / "train.jsonl"
    path.parent.mkdir()
    examples = make_tasks([30])["t0"]
    records = [{"task": "t", "input": e.input * 4, "output": e.output, "options": list(e.options)} for e in examples]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    form = PromptFormat(direction, layout, max_tokens=200, max_tokens_per_example=24)
    data: dict[str, Any] = {"tasks": {"t": Examples(path, "t")}, "format": form, "tokenizer": tokenizer}
    data |= {"demonstrations": 4, "label_words": "redrawn", "instructions": {"t": head}, "predicted": "answers"}
    anew = MixtureSampler(**data)
    cached = MixtureSampler(**data, token_cache=TokenCache(tokenizer, form, tmp_path / "cache"))
    for number in range(20):
        a, b = anew.batch(number), cached.batch(number)
        assert torch.equal(a.token_ids, b.token_ids)
        assert torch.equal(a.answer_mask, b.answer_mask)
    assert (tmp_path / "cache").exists()


@pytest.mark.parametrize("direction", ["direct", "channel"])
@given(st.integers(0, 2**31), st.integers(0, 4), st.booleans())
def test_an_example_that_is_not_cut_reads_as_if_it_had_had_the_new_label(
    tokenizer: Any, direction: Any, seed: int, shown: int, first: bool
) -> None:
    form, examples = PromptFormat(direction), make_tasks([5])["t0"][: shown + 1]
    redraw = LabelRedraw(tokenizer, form)
    drawn = redraw.draw(examples, np.random.default_rng(seed))
    renamed = [Example(e.input, drawn[e.output], tuple(drawn[option] for option in e.options)) for e in examples]
    found = redraw.relabel(form.encode_prompt(tokenizer, examples, first), examples, drawn, first)
    assert found == form.encode_prompt(tokenizer, renamed, first)


def test_a_longer_label_takes_its_room_from_the_input(tokenizer: Any) -> None:
    form = PromptFormat(max_tokens_per_example=12)
    example = Example("QXZW" * 9, "a", ("a", "b"))  # a token for a letter
    (cut,) = form.encode_prompt(tokenizer, [example])
    for word in ("K", "KVJ", "KVJQXZWKVJQXZW"):
        (target,) = LabelRedraw(tokenizer, form).relabel([cut], [example], {"a": word}, first=True)
        assert tokenizer.decode(target.answer) == f"\n{word}"[:10]
        assert tokenizer.decode(target.context) == ("QXZW" * 9)[: max(0, min(8, 9 - len(word)))]


def test_labels_are_of_one_sort_and_each_sort_comes(tokenizer: Any) -> None:
    redraw = LabelRedraw(tokenizer, FORM, ["stone", "river", "cloud"])
    sorts = {"letters": set(LETTERS), "digits": set("0123456789"), "words": {"stone", "river", "cloud"}}
    found = Counter[str]()
    for seed in range(200):
        drawn = set(redraw.draw([Example("x", "red", OPTIONS)], np.random.default_rng(seed)).values())
        (sort,) = [name for name, words in sorts.items() if drawn <= words]
        found[sort] += 1
    assert min(found.values()) > 40
    many = tuple(f"label {n}" for n in range(140))  # more than any sort has
    assert len(set(redraw.draw([Example("x", many[0], many)], np.random.default_rng(0)).values())) == 140


@pytest.mark.parametrize(
    "examples",
    [
        [Example("which ?", "ant", ("ant", "bee")), Example("which ?", "cat", ("cat", "dog"))],
        [Example("say it", "it"), Example("say that", "that")],
        [Example("text", "", ("",))],
    ],
    ids=["multiple choice", "free-form", "no label"],
)
def test_what_has_no_names_of_classes_stays_as_it_is(tokenizer: Any, examples: list[Example]) -> None:
    redraw = LabelRedraw(tokenizer, FORM)
    assert redraw.draw(examples, np.random.default_rng(0)) == {}
    encoded = FORM.encode_prompt(tokenizer, examples)
    assert redraw.relabel(encoded, examples, {}, first=True) == encoded


def test_instructions_name_the_new_labels() -> None:
    drawn = {"foo": "bar", "bar": "wug", "not bar": "zup"}
    text = "Answer foo for food, bar for a bar.x and not bar otherwise."
    assert rename(text, drawn) == "Answer bar for food, wug for a wug.x and zup otherwise."
    assert rename(text, {}) == text


def test_words_of_a_vocabulary(tokenizer: Any) -> None:
    words = vocabulary_words(word_tokenizer(["table", "chair", "Q", "12"], pieces=40))
    assert {"table", "chair"} <= set(words)
    assert words == tuple(sorted(words))
    assert all(word.isalpha() and word.islower() and len(word) >= 3 for word in words)
    assert all(f"Ġ{word}" in tokenizer.get_vocab() for word in vocabulary_words(tokenizer))
    assert vocabulary_words(tokenizer)
