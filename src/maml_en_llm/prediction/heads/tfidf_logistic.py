"""Logistic regression on words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .head import Head, Labels, Scores, logistic_scores, tfidf


@dataclass(frozen=True)
class TfidfLogistic(Head):
    """Logistic regression on TF-IDF weights of words; the vocabulary is that of the support examples."""

    reads = "texts"
    C: float = 10.0

    def scores(self, support: Sequence[str], labels: Labels, queries: Sequence[str], classes: int) -> Scores:
        x, q = tfidf(support, queries)
        return logistic_scores(x, labels, q, classes, self.C)
