from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_en_llm.prediction.to_label import to_label

WAYS = ["random", "centres", "mixture"]


def pool(clusters: int = 5, rows: int = 12) -> tuple[list[str], np.ndarray]:
    """Rows of well separated clusters, one behind the other."""
    generator = np.random.default_rng(0)
    vectors = np.repeat(np.eye(clusters), rows, axis=0) + 0.05 * generator.normal(size=(clusters * rows, clusters))
    return [f"text {number}" for number in range(clusters * rows)], vectors.astype(np.float32)


@pytest.mark.parametrize("by", ["centres", "mixture"])
def test_one_row_of_each_separated_cluster(by: Any) -> None:
    texts, vectors = pool()
    chosen = to_label(texts, 5, by, vectors)
    assert sorted(row.index // 12 for row in chosen) == [0, 1, 2, 3, 4]
    assert all("of 12 rows" in row.reason for row in chosen)
    for row in chosen:  # at the centre
        members = (
            vectors[row.index // 12 * 12 :][:12] / np.linalg.norm(vectors[row.index // 12 * 12 :][:12], axis=1)[:, None]
        )
        distances = np.linalg.norm(members - members.mean(axis=0), axis=1)
        assert distances.argmin() == row.index % 12


@pytest.mark.parametrize("by", ["centres", "mixture"])
def test_clusters_with_a_label_are_left_alone(by: Any) -> None:
    texts, vectors = pool()
    chosen = to_label(texts, 3, by, vectors, labelled=[0, 59])
    assert sorted(row.index // 12 for row in chosen) == [1, 2, 3]


@given(
    by=st.sampled_from(WAYS),
    words=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=14),
    data=st.data(),
)
@settings(max_examples=40)
def test_rows_are_distinct_unlabelled_and_always_the_same(by: Any, words: list[str], data: st.DataObject) -> None:
    labelled = data.draw(st.lists(st.integers(0, len(words) - 1), max_size=4))
    left = set(words) - {words[index] for index in labelled}
    count = data.draw(st.integers(0, len(left)))
    # some words look alike to the model
    vectors = np.array([[ord(word) % 3, ord(word) % 2, 1] for word in words], dtype=np.float32)
    chosen = to_label(words, count, by, vectors, labelled, seed=7)
    assert chosen == to_label(words, count, by, vectors, labelled, seed=7)
    found = [words[row.index] for row in chosen]
    assert len(found) == len(set(found)) == count
    assert set(found) <= left
    assert all(row.reason for row in chosen)


def test_random_differs_by_seed_and_needs_no_vectors() -> None:
    texts, _ = pool()
    draws = {tuple(row.index for row in to_label(texts, 4, "random", seed=seed)) for seed in range(5)}
    assert len(draws) == 5


def test_more_rows_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 rows are to be chosen but only 1 different unlabelled ones are there"):
        to_label(["a", "a", "b"], 3, "random", labelled=[2])
