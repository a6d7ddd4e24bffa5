"""Choosing the demonstrations of a query from a bank of labelled examples.

random     drawn once for all queries (`demonstrations.Random`, the protocol's)
balanced   the same, but as many of each label as possible
diverse    the examples nearest to the centres of as many clusters of the bank, once for all queries
bm25       those whose words match the query's best (Robertson & Zaragoza, 2009)
nearest    those whose vectors have the largest cosine similarity to the query's

Choosing for each query on its own gives up the prefix that all of them share, which makes scoring slow; with `groups`,
k-means puts similar queries together, and each group shares what suits its queries best on average.

No example has the input of its query, or of another query of its group: an example must not be its own demonstration,
nor its twin.  `random` alone is the protocol's draw as it is, on which no query has an influence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from ..tasks.collection import Example
from .demonstrations import Random, Select

Choice = Literal["random", "balanced", "bm25", "nearest", "diverse"]
TextVectors = Callable[[Sequence[str]], np.ndarray]  # texts -> [texts, width]
QUERIES_PER_BLOCK = 256


def selection(choice: Choice, vectors: TextVectors | None = None, groups: int = 0) -> Select:
    """The way to choose of that name. vectors: of texts, for all that compare them (`needs_vectors`).

    Raises ValueError when `groups` is given to a choice that is the same for all queries.
    """
    if groups and choice not in ("bm25", "nearest"):
        raise ValueError(f"choose={choice} shows all queries the same demonstrations; leave choose_groups out")
    if choice == "random":
        return Random()
    if choice == "balanced":
        return Balanced()
    assert vectors is not None or not needs_vectors(choice, groups), "this way to choose compares vectors"
    if choice == "diverse":
        return Diverse(vectors)
    return BM25(vectors, groups) if choice == "bm25" else Nearest(vectors, groups)


def needs_vectors(choice: Choice, groups: int = 0) -> bool:
    """Whether vectors of texts are needed: to compare them, or to group queries."""
    return choice in ("nearest", "diverse") or (choice == "bm25" and groups > 0)


@dataclass
class Balanced:
    """One example of each label in turn, drawn at random."""

    def __call__(
        self,
        bank: Sequence[Example],
        queries: Sequence[Example],
        count: int,
        generator: np.random.Generator,
        excluded: Sequence[int] = (),
    ) -> list[list[int]]:
        by_label: dict[str, list[int]] = {}
        for index in generator.permutation(len(bank)):
            by_label.setdefault(bank[index].output, []).append(int(index))
        order = []
        for turn in range(max(map(len, by_label.values()), default=0)):
            shuffled = [by_label[str(label)] for label in generator.permutation(sorted(by_label))]
            order += [members[turn] for members in shuffled if len(members) > turn]
        return _first_allowed(order, bank, queries, count, excluded)

    def labels_used(self, bank: Sequence[Example], count: int) -> int:
        return min(count, len(bank))


@dataclass
class _Compared:
    """What compares texts, and keeps what it found out about a bank."""

    vectors: TextVectors | None = None
    groups: int = 0
    _kept: dict[int, tuple[Sequence[Example], Any]] = field(default_factory=dict, repr=False)

    def _prepared(self, bank: Sequence[Example], prepare: Callable[[list[str]], Any]) -> Any:
        """What `prepare` makes of the inputs of `bank`, once."""
        if id(bank) not in self._kept:
            self._kept[id(bank)] = (bank, prepare([example.input for example in bank]))
        return self._kept[id(bank)][1]

    def _of(self, texts: Sequence[str]) -> np.ndarray:
        assert self.vectors is not None
        return self.vectors(texts)


@dataclass
class Diverse(_Compared):
    """The example nearest to each of `count` centres, which k-means finds without looking at labels."""

    def __call__(
        self,
        bank: Sequence[Example],
        queries: Sequence[Example],
        count: int,
        generator: np.random.Generator,
        excluded: Sequence[int] = (),
    ) -> list[list[int]]:
        if not count or not len(bank):
            return [[] for _ in queries]
        cluster_of, distances = k_means(self._prepared(bank, self._of), count, int(generator.integers(1 << 31)))
        ranked = []
        for cluster in np.unique(cluster_of):
            members = np.flatnonzero(cluster_of == cluster)
            ranked.append(members[np.argsort(np.round(distances[members, cluster], 6), kind="stable")])
        turns = range(max(map(len, ranked)))  # second come those that are second nearest to a centre
        order = [int(members[turn]) for turn in turns for members in ranked if len(members) > turn]
        return _first_allowed(order, bank, queries, count, excluded)

    def labels_used(self, bank: Sequence[Example], count: int) -> int:
        return min(count, len(bank))


@dataclass
class Nearest(_Compared):
    """For each query the most similar examples, the most similar last, next to the query."""

    def __call__(
        self,
        bank: Sequence[Example],
        queries: Sequence[Example],
        count: int,
        generator: np.random.Generator,
        excluded: Sequence[int] = (),
    ) -> list[list[int]]:
        if not len(queries):
            return []
        texts = [query.input for query in queries]
        twins_of, _ = self._searchable(bank)
        forbidden = [[*twins_of.get(text, []), *excluded] for text in texts]
        rows = self._similarities(bank, texts)
        if not self.groups:
            return [most_similar(row, count, forbidden[place]) for place, row in enumerate(rows)]
        group_of = k_means(self._of(texts), self.groups, int(generator.integers(1 << 31)))[0]
        sums = np.zeros((group_of.max() + 1, len(bank)))
        for place, row in enumerate(rows):
            sums[group_of[place]] += row
        chosen = []
        for group, total in enumerate(sums):
            members = np.flatnonzero(group_of == group)
            chosen.append(most_similar(total / len(members), count, [i for m in members for i in forbidden[m]]))
        return [chosen[group] for group in group_of]

    def labels_used(self, bank: Sequence[Example], count: int) -> int:
        return len(bank)

    def _searchable(self, bank: Sequence[Example]) -> tuple[dict[str, list[int]], Any]:
        return self._prepared(bank, lambda inputs: (_places(inputs), self._index(inputs)))

    def _index(self, inputs: list[str]) -> Any:
        """What a bank is searched by."""
        return unit(self._of(inputs))

    def _similarities(self, bank: Sequence[Example], texts: list[str]) -> Iterator[np.ndarray]:
        """For each text its similarity to each example of the bank [examples]."""
        _, vectors = self._searchable(bank)
        for start in range(0, len(texts), QUERIES_PER_BLOCK):
            yield from unit(self._of(texts[start : start + QUERIES_PER_BLOCK])) @ vectors.T


@dataclass
class BM25(Nearest):
    """The same with BM25 scores (k1 = 1.5, b = 0.75) in the place of cosine similarity."""

    def _index(self, inputs: list[str]) -> Any:
        try:
            import bm25s
        except ImportError:
            raise ValueError(
                "choosing by bm25 needs the package bm25s; install it with `pip install maml-en-llm[retrieval]`"
            ) from None
        words = _words(inputs)
        known = {word for text in words for word in text}
        retriever = bm25s.BM25()
        if known:
            retriever.index(words, show_progress=False)
        return known, retriever

    def _similarities(self, bank: Sequence[Example], texts: list[str]) -> Iterator[np.ndarray]:
        _, (known, retriever) = self._searchable(bank)
        for text in _words(texts):
            shared = [word for word in text if word in known]
            yield retriever.get_scores(shared) if shared else np.zeros(len(bank), np.float32)


def _words(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    pattern = r"(?u)\b\w+\b"
    found = bm25s.tokenize(list(texts), token_pattern=pattern, stopwords=None, return_ids=False, show_progress=False)
    return [list(map(str, text)) for text in found]


def _places(inputs: Sequence[str]) -> dict[str, list[int]]:
    """The indices of each text."""
    places: dict[str, list[int]] = {}
    for index, text in enumerate(inputs):
        places.setdefault(text, []).append(index)
    return places


def _first_allowed(
    order: Sequence[int], bank: Sequence[Example], queries: Sequence[Example], count: int, excluded: Sequence[int]
) -> list[list[int]]:
    """For each query the first `count` of `order` that are not excluded and have another input."""
    allowed = [index for index in order if index not in set(excluded)]
    shared = allowed[:count]
    shown = {bank[index].input for index in shared}
    return [
        [index for index in allowed if bank[index].input != query.input][:count] if query.input in shown else shared
        for query in queries
    ]


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


def k_means(
    vectors: Float[np.ndarray, "texts width"], count: int, seed: int
) -> tuple[Int[np.ndarray, " texts"], Float[np.ndarray, "texts clusters"]]:
    """The cluster of each vector and the distance of each vector to each centre; fewer clusters than `count` when fewer
    vectors differ."""
    from sklearn.cluster import KMeans

    x = np.asarray(vectors, dtype=np.float64)
    model = KMeans(min(count, len(np.unique(x, axis=0))), n_init=4, random_state=seed).fit(x)
    return model.labels_, model.transform(x)
