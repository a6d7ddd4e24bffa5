"""The label of the example with the most similar words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .head import Head, Labels, Scores, nearest_scores, tfidf


@dataclass(frozen=True)
class TfidfNearest(Head):
    """The class of the support example with the most similar TF-IDF weights; probabilities as in `Nearest`."""

    reads = "texts"
    sharpness: float = 10.0

    def scores(self, support: Sequence[str], labels: Labels, queries: Sequence[str], classes: int) -> Scores:
        x, q = tfidf(support, queries)
        return nearest_scores(np.asarray((q @ x.T).todense()), labels, classes, self.sharpness)
