"""The label of the nearest mean, after each labelled example was fused with similar texts of the training tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax

from ...tasks.seeds import random_generator
from .head import Head, Labels, Queries, Scores, Vectors, centred
from .prototype import Prototype

MOST_PASSAGES = 4096


@dataclass(frozen=True)
class RetrievalPrototype(Head):
    """`Prototype` on (1 - weight) x + weight sum_j a_j c_j, where c_j are the `passages` vectors of the corpus most
    similar to the support example x, and a = softmax(sharpness <x, c_j>) (after Li et al., RAML, 2023).

    The corpus are inputs of the training tasks; their labels are not read.
    """

    meta_trained = True
    weight: float = 0.5
    passages: int = 8
    sharpness: float = 10.0
    corpus: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32), repr=False)

    def meta_train(self, tasks: Mapping[str, tuple[Vectors, Labels]], examples: int, seed: int) -> RetrievalPrototype:
        rows = np.concatenate([vectors for _, (vectors, _) in sorted(tasks.items())])
        kept = random_generator("corpus", seed).permutation(len(rows))[:MOST_PASSAGES]
        found = np.asarray(rows[np.sort(kept)])
        return replace(self, corpus=centred(found, found)[0])

    def scores(self, support: Vectors, labels: Labels, queries: Queries, classes: int) -> Scores:
        return Prototype().scores(self.fused(support), labels, queries, classes)

    def fused(self, support: Vectors) -> Vectors:
        if not len(self.corpus):
            return support
        weights, places = self.weights(support)
        found = np.einsum("ep,epw->ew", weights, self.corpus[places])
        return ((1 - self.weight) * support + self.weight * found).astype(support.dtype)

    def weights(
        self, support: Vectors
    ) -> tuple[Float[np.ndarray, "examples passages"], Int[np.ndarray, "examples passages"]]:
        """The weights of the most similar passages of each example, and which they are."""
        similarity = support @ self.corpus.T
        places = np.argsort(-similarity, axis=1, kind="stable")[:, : self.passages]
        return softmax(self.sharpness * np.take_along_axis(similarity, places, axis=1), axis=1), places
