"""Heads: classifiers on vectors or texts that learn from the same labelled examples that a prompt would show.

Each is a frozen dataclass with one method,

    scores(support, labels, queries, classes) -> [queries, classes]

support and queries are vectors [examples, width] or, where `reads` is "texts", texts; labels are int [examples] below
`classes`.  A score is the negative logarithm of a probability, in nats: the lowest wins, as with option scores.  A
class without a support example has the largest score there is, `UNSEEN`.  Heads are deterministic, and the order of the
support examples does not matter, but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from ..prompts.choosing import unit

Vectors = Float[np.ndarray, "examples width"]
Queries = Float[np.ndarray, "queries width"]
Labels = Int[np.ndarray, " examples"]
Scores = Float[np.ndarray, "queries classes"]
UNSEEN = 50.0  # nats; no probability that a head gives is as small


class Head(Protocol):
    """What predicts the labels of queries from support examples."""

    reads: ClassVar[Literal["vectors", "texts"]]

    def scores(self, support: Vectors, labels: Labels, queries: Queries, classes: int) -> Scores: ...


class TextHead(Protocol):
    """The same for a head that reads the texts themselves."""

    reads: ClassVar[Literal["vectors", "texts"]]

    def scores(self, support: Sequence[str], labels: Labels, queries: Sequence[str], classes: int) -> Scores: ...


@dataclass(frozen=True)
class Uniform:
    """Guessing: every class has the same probability."""

    reads: ClassVar[Literal["vectors", "texts"]] = "texts"

    def scores(self, support: Sequence[str], labels: Labels, queries: Sequence[str], classes: int) -> Scores:
        return np.full((len(queries), classes), np.log(classes))


@dataclass(frozen=True)
class Majority:
    """The share of each class among the support examples."""

    reads: ClassVar[Literal["vectors", "texts"]] = "texts"

    def scores(self, support: Sequence[str], labels: Labels, queries: Sequence[str], classes: int) -> Scores:
        seen, counts = np.unique(labels, return_counts=True)
        return spread(np.tile(np.log(counts / counts.sum()), (len(queries), 1)), seen, classes)


@dataclass(frozen=True)
class Logistic:
    """Multinomial logistic regression on vectors (Tian et al., ECCV 2020: a good embedding is all you need).

    C: inverse of the weight of the squared norm, as in scikit-learn.
    """

    reads: ClassVar[Literal["vectors", "texts"]] = "vectors"
    C: float = 100.0

    def scores(self, support: Vectors, labels: Labels, queries: Queries, classes: int) -> Scores:
        return _logistic(support, labels, queries, classes, self.C)


@dataclass(frozen=True)
class Nearest:
    """The class of the most similar support example.

    With s the largest cosine similarity of the query to an example of a class, the probabilities are
    softmax(sharpness s).
    """

    reads: ClassVar[Literal["vectors", "texts"]] = "vectors"
    sharpness: float = 10.0

    def scores(self, support: Vectors, labels: Labels, queries: Queries, classes: int) -> Scores:
        return _nearest(unit(queries) @ unit(support).T, labels, classes, self.sharpness)


@dataclass(frozen=True)
class Prototype:
    """softmax(-|query - mean of the class|^2) (Snell et al., NeurIPS 2017, equation 2)."""

    reads: ClassVar[Literal["vectors", "texts"]] = "vectors"

    def scores(self, support: Vectors, labels: Labels, queries: Queries, classes: int) -> Scores:
        seen = np.unique(labels)
        means = np.stack([support[labels == label].mean(axis=0) for label in seen])
        # |q|^2 is the same for every class
        logits = 2.0 * queries @ means.T - (means**2).sum(axis=1)
        return spread(log_softmax(logits.astype(np.float64), axis=1), seen, classes)


@dataclass(frozen=True)
class DistilledLogistic:
    """Logistic regression that is trained again on its own softened predictions, `generations` times (born-again
    distillation, which Tian et al., ECCV 2020, section 3.4, apply to the embedding).

    A generation minimizes  C sum_i [ CE(y_i, q_i) + KL(p_i^T || q_i^T) ] + |W|^2 / 2,  where q are its own
    probabilities, p its predecessor's and ^T means logits divided by the temperature.  At an infinite temperature
    nothing is distilled: the second term vanishes.
    """

    reads: ClassVar[Literal["vectors", "texts"]] = "vectors"
    C: float = 100.0
    temperature: float = 2.0
    generations: int = 1

    def scores(self, support: Vectors, labels: Labels, queries: Queries, classes: int) -> Scores:
        seen, targets = np.unique(labels, return_inverse=True)
        x = np.hstack([support, np.ones((len(support), 1))]).astype(np.float64)
        y, heat = np.eye(len(seen))[targets], 1 / self.temperature
        C = self.C / 2 if len(seen) == 2 else self.C  # scikit-learn has one vector for two classes, here it is two
        weights, teacher = np.zeros((x.shape[1], len(seen))), y[:0]  # no teacher yet

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            w = flat.reshape(weights.shape)
            logits = x @ w
            value, residual = -(y * log_softmax(logits, axis=1)).sum(), np.exp(log_softmax(logits, axis=1)) - y
            if len(teacher):
                soft = log_softmax(heat * logits, axis=1)
                value += (np.exp(teacher) * (teacher - soft)).sum()
                residual = residual + heat * (np.exp(soft) - np.exp(teacher))
            penalized = np.vstack([w[:-1], np.zeros((1, w.shape[1]))])  # not the intercept
            return C * value + (penalized**2).sum() / 2, (C * x.T @ residual + penalized).ravel()

        for _ in range(1 + self.generations):
            found = minimize(loss, weights.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 1000})
            weights = found.x.reshape(weights.shape)
            teacher = log_softmax(heat * (x @ weights), axis=1)
        logits = queries @ weights[:-1] + weights[-1]
        return spread(log_softmax(logits, axis=1), seen, classes)


@dataclass(frozen=True)
class TfidfLogistic:
    """Logistic regression on TF-IDF weights of words; the vocabulary is that of the support examples."""

    reads: ClassVar[Literal["vectors", "texts"]] = "texts"
    C: float = 10.0

    def scores(self, support: Sequence[str], labels: Labels, queries: Sequence[str], classes: int) -> Scores:
        x, q = _tfidf(support, queries)
        return _logistic(x, labels, q, classes, self.C)


@dataclass(frozen=True)
class TfidfNearest:
    """The class of the support example with the most similar TF-IDF weights; probabilities as in `Nearest`."""

    reads: ClassVar[Literal["vectors", "texts"]] = "texts"
    sharpness: float = 10.0

    def scores(self, support: Sequence[str], labels: Labels, queries: Sequence[str], classes: int) -> Scores:
        x, q = _tfidf(support, queries)
        return _nearest(np.asarray((q @ x.T).todense()), labels, classes, self.sharpness)


def centred(support: Vectors, queries: Queries) -> tuple[Vectors, Queries]:
    """Both less the mean of the support vectors, at unit length (Wang et al., SimpleShot, 2019), which makes heads
    alike for models whose vectors are long or have a large part in common."""
    mean = support.mean(axis=0)
    return unit(support - mean), unit(queries - mean)


def spread(log_probabilities: np.ndarray, seen: np.ndarray, classes: int) -> np.ndarray:
    """Scores of all classes from the log-probabilities of those that were `seen`."""
    scores = np.full((len(log_probabilities), classes), UNSEEN)
    scores[:, seen] = np.minimum(-log_probabilities, UNSEEN)
    return scores


def _logistic(support, labels, queries, classes, C):  # type: ignore[no-untyped-def]
    """Vectors may be sparse here, which has no type that says so."""
    if len(seen := np.unique(labels)) == 1:
        return spread(np.zeros((queries.shape[0], 1)), seen, classes)
    logits = LogisticRegression(C=C, max_iter=1000).fit(support, labels).decision_function(queries)
    if logits.ndim == 1:  # of the second of two classes against the first
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    return spread(log_softmax(logits, axis=1), seen, classes)


def _nearest(similarity: np.ndarray, labels: np.ndarray, classes: int, sharpness: float) -> np.ndarray:
    seen = np.unique(labels)
    best = np.stack([similarity[:, labels == label].max(axis=1) for label in seen], axis=1)
    return spread(log_softmax(sharpness * best.astype(np.float64), axis=1), seen, classes)


def _tfidf(support: Sequence[str], queries: Sequence[str]):  # type: ignore[no-untyped-def]
    """Sparse unit vectors of words and pairs of them [examples, words]; texts without any word are all alike."""
    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True)
    try:
        x = vectorizer.fit_transform(support)
    except ValueError:  # an empty vocabulary
        from scipy.sparse import csr_array

        return csr_array((len(support), 1)), csr_array((len(queries), 1))
    return x, vectorizer.transform(queries)
