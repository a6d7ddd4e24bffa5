"""Choosing the demonstrations of a query from a bank of labelled examples.

random     drawn once for all queries, as the protocol does (`demonstrations.fixed_demonstrations`)
balanced   the same, but as many of each label as possible
diverse    the examples nearest to the centres of as many clusters of the bank, once for all queries
bm25       those whose words match the query's best (Robertson & Zaragoza, 2009)
nearest    those whose vectors have the largest cosine similarity to the query's

Choosing for each query on its own gives up the prefix that all of them share, which makes scoring slow; with `groups`,
k-means puts similar queries together, and each group shares what suits its queries best on average.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from ..tasks.seeds import random_generator
from .demonstrations import draw_indices

Chooser = Literal["random", "balanced", "bm25", "nearest", "diverse"]
Bank = Literal["own", "all"]
QUERIES_PER_BLOCK = 256


def needs_vectors(chooser: Chooser, groups: int = 0) -> bool:
    """Whether `choose` needs vectors: to compare texts, or to group queries."""
    return chooser in ("nearest", "diverse") or (chooser == "bm25" and groups > 0)


def choose(
    chooser: Chooser,
    inputs: Sequence[str],
    outputs: Sequence[str],
    queries: Sequence[str],
    count: int,
    task: str,
    seed: int,
    *,
    vectors: Float[np.ndarray, "examples width"] | None = None,
    query_vectors: Float[np.ndarray, "queries width"] | None = None,
    groups: int = 0,
) -> list[list[int]]:
    """For each query the indices of its demonstrations in the bank, in the order of the prompt: `count` of them, or all
    there are.

    inputs, outputs: of the bank's examples. task, seed: key of what is random. vectors, query_vectors: of inputs and
    queries, where `needs_vectors`. groups: how many sets `bm25` and `nearest` choose; 0: one for each query.  The most
    similar example comes last, next to the query; of equally similar ones the first in the bank is taken.

    No example has the input of its query, or of another query of its group: an example must not be its own
    demonstration, nor its twin.  `random` alone is the protocol's draw as it is, which other queries decide nothing of.
    """
    if chooser == "random":
        drawn = draw_indices(random_generator("demonstrations", task, seed), len(inputs), count)
        return [drawn] * len(queries)
    twins: dict[str, list[int]] = {}
    for index, text in enumerate(inputs):
        twins.setdefault(text, []).append(index)
    forbidden = [twins.get(query, []) for query in queries]
    if chooser in ("balanced", "diverse"):
        generator = random_generator(chooser, task, seed)
        order = _balanced(outputs, generator) if chooser == "balanced" else _diverse(_given(vectors), count, seed)
        sets = {(): order} | {tuple(f): [i for i in order if i not in set(f)] for f in forbidden if f}
        return [sets[tuple(f)][:count] for f in forbidden]
    if len(queries) == 0:
        return []
    blocks = _cosine(_given(vectors), _given(query_vectors)) if chooser == "nearest" else _bm25(inputs, queries)
    if not groups:
        return [most_similar(row, count, forbidden[place]) for place, row in enumerate(_rows(blocks))]
    group_of = clusters(_given(query_vectors), groups, seed)
    sums = np.zeros((group_of.max() + 1, len(inputs)))
    for place, row in enumerate(_rows(blocks)):
        sums[group_of[place]] += row
    chosen = []
    for group, total in enumerate(sums):
        members = np.flatnonzero(group_of == group)
        chosen.append(most_similar(total / len(members), count, sorted({i for m in members for i in forbidden[m]})))
    return [chosen[group] for group in group_of]


def most_similar(similarity: Float[np.ndarray, " examples"], count: int, forbidden: Sequence[int] = ()) -> list[int]:
    """The `count` most similar examples that are not forbidden, the most similar last; of equals the first.

    Similarities that differ by less than 1e-6 count as equal: what rounding makes of them depends on the machine.
    """
    rounded = np.round(similarity.astype(np.float64), 6)
    rounded[list(forbidden)] = -np.inf
    count = min(count, len(rounded) - len(set(forbidden)))
    if count == 0:
        return []
    least = np.partition(rounded, len(rounded) - count)[len(rounded) - count]
    candidates = np.flatnonzero(rounded >= least)
    best = candidates[np.argsort(-rounded[candidates], kind="stable")][:count]
    return [int(index) for index in best[::-1]]


def unit(vectors: Float[np.ndarray, "texts width"]) -> Float[np.ndarray, "texts width"]:
    """Each vector divided by its length; a zero vector stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def clusters(vectors: Float[np.ndarray, "texts width"], count: int, seed: int) -> Int[np.ndarray, " texts"]:
    """The cluster of each vector, by k-means; fewer clusters than `count` when fewer vectors differ."""
    return _k_means(vectors, count, seed)[0]


def _k_means(vectors: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each vector, and the squared distance of each vector to each centre [texts, clusters]."""
    from sklearn.cluster import KMeans

    count = min(count, len(np.unique(vectors, axis=0)))
    model = KMeans(count, n_init=4, random_state=seed).fit(np.asarray(vectors, dtype=np.float64))
    return model.labels_, model.transform(vectors.astype(np.float64)) ** 2


def _balanced(outputs: Sequence[str], generator: np.random.Generator) -> list[int]:
    """All examples, one of each label in turn."""
    by_label: dict[str, list[int]] = {}
    for index in generator.permutation(len(outputs)):
        by_label.setdefault(outputs[index], []).append(int(index))
    labels = sorted(by_label)
    order = []
    for turn in range(max(map(len, by_label.values()), default=0)):
        shuffled = [by_label[str(label)] for label in generator.permutation(labels)]
        order += [members[turn] for members in shuffled if len(members) > turn]
    return order


def _diverse(vectors: np.ndarray, count: int, seed: int) -> list[int]:
    """All examples: first the one nearest to each of `count` centres, then the second nearest to each, and so on."""
    if len(vectors) == 0 or count == 0:
        return []
    cluster_of, distances = _k_means(vectors, count, seed)
    ranked = []
    for cluster in np.unique(cluster_of):
        members = np.flatnonzero(cluster_of == cluster)
        ranked.append(members[np.argsort(np.round(distances[members, cluster], 6), kind="stable")])
    turns = max(map(len, ranked))
    return [int(members[turn]) for turn in range(turns) for members in ranked if len(members) > turn]


def _rows(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        yield from block


def _cosine(vectors: np.ndarray, queries: np.ndarray) -> Iterator[np.ndarray]:
    """Cosine similarities [queries, examples], a block of queries at a time."""
    bank = unit(vectors)
    for start in range(0, len(queries), QUERIES_PER_BLOCK):
        yield unit(queries[start : start + QUERIES_PER_BLOCK]) @ bank.T


def _bm25(inputs: Sequence[str], queries: Sequence[str]) -> Iterator[np.ndarray]:
    """BM25 scores [queries, examples], one query at a time."""
    try:
        import bm25s
    except ImportError:
        raise ValueError(
            "choosing by bm25 needs the package bm25s; install it with `pip install maml-en-llm[retrieval]`"
        ) from None

    def words(texts: Sequence[str]) -> list[list[str]]:
        found = bm25s.tokenize(
            list(texts), token_pattern=r"(?u)\b\w+\b", stopwords=None, return_ids=False, show_progress=False
        )
        return [list(map(str, text)) for text in found]

    bank = words(inputs)
    known = {word for text in bank for word in text}
    retriever = bm25s.BM25()
    if known:
        retriever.index(bank, show_progress=False)
    for text in words(queries):
        shared = [word for word in text if word in known]
        yield (retriever.get_scores(shared) if shared else np.zeros(len(inputs), np.float32))[None]


def _given(vectors: np.ndarray | None) -> np.ndarray:
    assert vectors is not None, "this way to choose needs vectors"
    return vectors
