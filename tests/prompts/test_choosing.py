from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import WORDS
from maml_en_llm.prompts.choosing import k_means, most_similar, needs_vectors, selection
from maml_en_llm.prompts.demonstrations import fixed_demonstrations
from maml_en_llm.tasks.collection import Example
from maml_en_llm.tasks.seeds import random_generator

CHOOSERS = ["balanced", "bm25", "nearest", "diverse"]
texts = st.lists(st.sampled_from(WORDS[:6]), max_size=3).map(" ".join)


def vectors_of(inputs: Sequence[str]) -> np.ndarray:
    """A vector for each text, equal for equal ones."""
    counts = [[text.split().count(word) for word in WORDS] for text in inputs]
    return np.array(counts, dtype=np.float32).reshape(len(inputs), len(WORDS))


def chosen(
    choice: Any,
    inputs: Sequence[str],
    queries: Sequence[str],
    count: int,
    outputs: Sequence[str] | None = None,
    vectors: Any = vectors_of,
    groups: int = 0,
    excluded: Sequence[int] = (),
    seed: int = 100,
) -> list[list[int]]:
    outputs = outputs or ["yes" if len(text) % 2 else "no" for text in inputs]
    bank = [Example(text, output) for text, output in zip(inputs, outputs, strict=True)]
    asked = [Example(text, "") for text in queries]
    generator = random_generator("demonstrations", "task", seed)
    return selection(choice, vectors, groups)(bank, asked, count, generator, excluded)


@given(
    chooser=st.sampled_from(CHOOSERS),
    inputs=st.lists(texts, min_size=1, max_size=12),
    queries=st.lists(texts, max_size=6),
    count=st.integers(0, 6),
    groups=st.integers(0, 3),
)
@settings(max_examples=30)
def test_no_query_meets_itself_or_its_twin(
    chooser: Any, inputs: list[str], queries: list[str], count: int, groups: int
) -> None:
    groups = groups if chooser in ("bm25", "nearest") else 0
    excluded = range(len(inputs) // 3)
    found = chosen(chooser, inputs, queries, count, groups=groups, excluded=excluded)
    assert found == chosen(chooser, inputs, queries, count, groups=groups, excluded=excluded)
    assert len(found) == len(queries)
    for query, indices in zip(queries, found, strict=True):
        sharing = [text for text, others in zip(queries, found, strict=True) if others == indices] if groups else []
        assert not {query, *sharing} & {inputs[index] for index in indices}
        assert len(set(indices)) == len(indices)
        assert not set(indices) & set(excluded)
        left = [text for text in inputs[len(excluded) :] if text not in (queries if groups else [query])]
        assert min(count, len(left)) <= len(indices) <= count


@given(st.lists(texts, min_size=1, max_size=20), st.lists(texts, min_size=1, max_size=5), st.integers(1, 6))
def test_nearest_is_what_comparing_with_every_example_finds(inputs: list[str], queries: list[str], count: int) -> None:
    bank, asked = vectors_of(inputs).astype(float), vectors_of(queries).astype(float)
    for query, indices in enumerate(chosen("nearest", inputs, queries, count)):
        ranked = []
        for index, text in enumerate(inputs):
            lengths = math.sqrt(sum(bank[index] ** 2)) * math.sqrt(sum(asked[query] ** 2))
            cosine = round(sum(bank[index] * asked[query]) / lengths, 5) if lengths else 0.0
            if text != queries[query]:
                ranked.append((-cosine, index))
        assert indices == [index for _, index in sorted(ranked)[:count]][::-1]


def test_bm25_is_its_formula() -> None:
    generator = np.random.default_rng(0)
    inputs = [" ".join(generator.choice(WORDS, size=generator.integers(1, 9))) for _ in range(60)]
    queries = ["Ant, bee; cat!", "dog dog eel", "nothing known"]
    documents = [text.split() for text in inputs]
    mean = sum(map(len, documents)) / len(documents)
    for query, indices in zip(queries, chosen("bm25", inputs, queries, 60), strict=True):
        scores = []
        for document in documents:
            counts, total = Counter(document), 0.0
            for word in re.findall(r"\w+", query.lower()):
                holding = sum(word in other for other in documents)
                idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
                total += idf * counts[word] / (counts[word] + 1.5 * (0.25 + 0.75 * len(document) / mean))
            scores.append(round(total, 5))
        best_first = [scores[index] for index in reversed(indices)]
        assert best_first == sorted(scores, reverse=True)


@pytest.mark.parametrize("seed", [100, 13])
def test_random_is_the_draw_of_the_protocol(seed: int) -> None:
    inputs = [str(number) for number in range(40)]
    drawn = fixed_demonstrations([Example(text, "y") for text in inputs], 16, "task", seed)
    found = chosen("random", inputs, ["a", "b"], 16, seed=seed)
    assert [[inputs[index] for index in indices] for indices in found] == [[e.input for e in drawn]] * 2


def test_balanced_shows_each_label_equally_often() -> None:
    outputs = ["yes"] * 30 + ["no"] * 5 + ["maybe"] * 2
    inputs = [str(number) for number in range(37)]
    (found,) = chosen("balanced", inputs, ["a"], 9, outputs=outputs)
    shown = Counter(outputs[index] for index in found)
    assert shown["maybe"] == 2
    assert {shown["yes"], shown["no"]} == {3, 4}
    (found,) = chosen("balanced", inputs, ["a"], 6, outputs=outputs)
    assert Counter(outputs[index] for index in found) == {"yes": 2, "no": 2, "maybe": 2}


def test_diverse_shows_one_example_of_each_cluster() -> None:
    generator = np.random.default_rng(3)
    vectors = np.concatenate([10 * np.eye(4)[i] + generator.normal(size=(9, 4)) / 10 for i in range(4)])
    inputs = [str(number) for number in range(36)]
    found = chosen("diverse", inputs, ["a"] * 3, 4, vectors=lambda texts: vectors[[int(text) for text in texts]])
    assert sorted(index // 9 for index in found[0]) == [0, 1, 2, 3]
    assert found == [found[0]] * 3


@pytest.mark.parametrize("chooser", ["bm25", "nearest"])
def test_a_group_shares_what_suits_it_best_on_average(chooser: Any) -> None:
    inputs = [f"{a} {b}" for a in WORDS[:4] for b in WORDS[4:8]]
    queries = [f"{WORDS[0]} {WORDS[4]} x", f"{WORDS[0]} {WORDS[5]} y", f"{WORDS[3]} {WORDS[7]} z", f"{WORDS[3]} q"]
    alone = chosen(chooser, inputs, queries, 3)
    assert chosen(chooser, inputs, queries, 3, groups=4) == alone
    found = chosen(chooser, inputs, queries, 3, groups=2)
    assert found[0] == found[1] != found[2] == found[3]
    assert {inputs[index].split()[0] for index in found[0]} == {WORDS[0]}
    assert {inputs[index].split()[0] for index in found[2]} == {WORDS[3]}


def test_groups_need_vectors_where_words_alone_decide() -> None:
    assert not needs_vectors("bm25")
    assert needs_vectors("bm25", groups=2)
    assert needs_vectors("nearest")


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.data())
def test_equally_similar_examples_are_taken_in_the_order_of_the_bank(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 40))
    forbidden = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=4))
    allowed = [index for index in range(len(values)) if index not in forbidden]
    expected = sorted(allowed, key=lambda index: (-values[index], index))[:count]
    assert most_similar(np.array(values, dtype=np.float32), count, forbidden) == expected[::-1]


def test_clusters_of_equal_vectors_are_no_more_than_there_are_different_ones() -> None:
    assert set(k_means(np.ones((5, 3), dtype=np.float32), 3, seed=1)[0]) == {0}


@pytest.mark.parametrize("choice", ["random", "balanced", "diverse"])
def test_groups_are_refused_where_all_queries_share_their_demonstrations(choice: Any) -> None:
    with pytest.raises(ValueError, match=f"choose={choice} shows all queries the same demonstrations"):
        selection(choice, vectors_of, groups=2)


def test_what_a_bank_needs_is_computed_once() -> None:
    calls = []

    def vectors(texts: Sequence[str]) -> np.ndarray:
        calls.append(len(texts))
        return vectors_of(texts)

    bank = [Example(word, "y") for word in WORDS]
    nearest = selection("nearest", vectors)
    for query in (bank[0], bank[1], Example("another", "y")):  # what is in the bank has its vector
        nearest(bank, [query], 2, random_generator("x"))
    assert calls == [len(WORDS), 1]


def test_labels_that_a_prediction_depends_on() -> None:
    bank = [Example(word, "y") for word in WORDS]
    used = {c: selection(c, vectors_of).labels_used(bank, 4) for c in ("random", *CHOOSERS)}  # type: ignore[arg-type]
    assert used == {"random": 4, "balanced": 4, "diverse": 4, "bm25": len(WORDS), "nearest": len(WORDS)}
