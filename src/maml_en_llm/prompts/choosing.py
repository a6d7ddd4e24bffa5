"""Choosing the demonstrations of a query from a bank of labelled examples.

random     drawn once for all queries (`demonstrations.Random`, the protocol's)
balanced   the same, but as many of each label as possible
diverse    the same, but one of each of as many clusters of the bank
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
from itertools import islice
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
        return Diverse(vectors=vectors)
    return (BM25 if choice == "bm25" else Nearest)(vectors=vectors, groups=groups)


def needs_vectors(choice: Choice, groups: int = 0) -> bool:
    """Whether vectors of texts are needed: to compare them, or to group queries."""
    return choice in ("nearest", "diverse") or (choice == "bm25" and groups > 0)


@dataclass
class _Prepared:
    """What keeps what it found out about a bank."""

    _kept: dict[int, tuple[Sequence[Example], Any]] = field(default_factory=dict, repr=False, kw_only=True)

    def _prepared(self, bank: Sequence[Example], prepare: Callable[[Sequence[Example]], Any]) -> Any:
        """What `prepare` makes of `bank`, once."""
        if id(bank) not in self._kept:
            self._kept[id(bank)] = (bank, prepare(bank))
        return self._kept[id(bank)][1]


@dataclass
class _OneOfEach(_Prepared):
    """One example of each group of the bank in turn, drawn at random."""

    def _groups(self, bank: Sequence[Example], count: int) -> list[list[int]]:
        raise NotImplementedError

    def __call__(
        self,
        bank: Sequence[Example],
        queries: Sequence[Example],
        count: int,
        generator: np.random.Generator,
        excluded: Sequence[int] = (),
    ) -> list[list[int]]:
        if not len(queries) or not len(bank) or not count:
            return [[] for _ in queries]
        places = self._prepared(bank, lambda examples: _places([example.input for example in examples]))
        groups = [generator.permutation(group) for group in self._groups(bank, count)]
        most = count + len(excluded) + max(len(places.get(query.input, ())) for query in queries)
        order: list[int] = []
        for turn in range(max(map(len, groups))):
            if len(order) >= most:
                break
            order += [int(groups[g][turn]) for g in generator.permutation(len(groups)) if len(groups[g]) > turn]
        forbidden = [{*excluded, *places.get(query.input, ())} for query in queries]
        return [list(islice((index for index in order if index not in those), count)) for those in forbidden]

    def labels_used(self, bank: Sequence[Example], count: int) -> int:
        return min(count, len(bank))


@dataclass
class Balanced(_OneOfEach):
    """One example of each label in turn, drawn at random."""

    _labels: _Prepared = field(default_factory=_Prepared, repr=False)

    def _groups(self, bank: Sequence[Example], count: int) -> list[list[int]]:
        by_label = self._labels._prepared(bank, lambda examples: _places([example.output for example in examples]))
        return [by_label[label] for label in sorted(by_label)]


@dataclass
class Diverse(_OneOfEach):
    """One example of each of `count` clusters, drawn at random; k-means finds them without looking at labels."""

    vectors: TextVectors | None = None
    _clusters: dict[int, _Prepared] = field(default_factory=dict, repr=False)

    def _groups(self, bank: Sequence[Example], count: int) -> list[list[int]]:
        return self._clusters.setdefault(count, _Prepared())._prepared(
            bank, lambda examples: self._cluster(bank, count)
        )

    def _cluster(self, bank: Sequence[Example], count: int) -> list[list[int]]:
        assert self.vectors is not None
        cluster_of = k_means(self.vectors([example.input for example in bank]), count, seed=0)[0]
        return [np.flatnonzero(cluster_of == cluster).tolist() for cluster in np.unique(cluster_of)]


@dataclass
class Nearest(_Prepared):
    """For each query the most similar examples, the most similar last, next to the query."""

    vectors: TextVectors | None = None
    groups: int = 0

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
        def prepare(examples: Sequence[Example]) -> tuple[dict[str, list[int]], Any]:
            inputs = [example.input for example in examples]
            return _places(inputs), self._index(inputs)

        return self._prepared(bank, prepare)

    def _of(self, texts: Sequence[str]) -> np.ndarray:
        assert self.vectors is not None
        return self.vectors(texts)

    def _index(self, inputs: list[str]) -> Any:
        """What a bank is searched by."""
        return unit(self._of(inputs))

    def _similarities(self, bank: Sequence[Example], texts: list[str]) -> Iterator[np.ndarray]:
        """For each text its similarity to each example of the bank [examples]."""
        places, vectors = self._searchable(bank)
        for start in range(0, len(texts), QUERIES_PER_BLOCK):
            block = texts[start : start + QUERIES_PER_BLOCK]
            known = all(text in places for text in block)  # as in training, whose queries are of the bank
            found = vectors[[places[text][0] for text in block]] if known else unit(self._of(block))
            yield from found @ vectors.T


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
