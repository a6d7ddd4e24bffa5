"""What a head is: a frozen dataclass with `scores`, one in each file of this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from ...prompts.choosing import unit

Vectors = Float[np.ndarray, "examples width"]
Queries = Float[np.ndarray, "queries width"]
Labels = Int[np.ndarray, " examples"]
Scores = Float[np.ndarray, "queries classes"]
UNSEEN = 50.0  # nats; no probability that a head gives is as small


@dataclass(frozen=True)
class Head:
    """Base of all heads."""

    reads: ClassVar[Literal["vectors", "texts"]] = "vectors"
    """What `scores` gets as support and queries."""
    meta_trained: ClassVar[bool] = False
    """Whether it must learn from training tasks first."""

    def scores(self, support: Any, labels: Labels, queries: Any, classes: int) -> Scores:
        """Negative log-probabilities in nats, the lowest of which is predicted.

        support, queries: vectors [examples, width] and [queries, width], or lists of texts. labels: of the support,
        below `classes`. A class without a support example has the score UNSEEN. Deterministic; but for rounding, the
        order of the support and the numbers of the classes do not matter.
        """
        raise NotImplementedError

    def meta_train(self, tasks: Mapping[str, tuple[Vectors, Labels]], examples: int, seed: int) -> Head:
        """The head after it learned from training tasks (vectors and labels by name) to classify from `examples`."""
        return self


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


def logistic_scores(support, labels, queries, classes, C):  # type: ignore[no-untyped-def]
    """Vectors may be sparse here, which has no type that says so."""
    if len(seen := np.unique(labels)) == 1:
        return spread(np.zeros((queries.shape[0], 1)), seen, classes)
    with np.errstate(invalid="ignore"):  # OpenBLAS sets the flag for finite numbers on some CPUs (numpy issue 24067)
        logits = LogisticRegression(C=C, max_iter=1000).fit(support, labels).decision_function(queries)
    if logits.ndim == 1:  # of the second of two classes against the first
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    return spread(log_softmax(logits, axis=1), seen, classes)


def nearest_scores(similarity: np.ndarray, labels: np.ndarray, classes: int, sharpness: float) -> np.ndarray:
    seen = np.unique(labels)
    best = np.stack([similarity[:, labels == label].max(axis=1) for label in seen], axis=1)
    return spread(log_softmax(sharpness * best.astype(np.float64), axis=1), seen, classes)


def tfidf(support: Sequence[str], queries: Sequence[str]):  # type: ignore[no-untyped-def]
    """Sparse unit vectors of words and pairs of them [examples, words]; texts without any word are all alike."""
    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True)
    try:
        x = vectorizer.fit_transform(support)
    except ValueError:  # an empty vocabulary
        from scipy.sparse import csr_array

        return csr_array((len(support), 1)), csr_array((len(queries), 1))
    return x, vectorizer.transform(queries)
