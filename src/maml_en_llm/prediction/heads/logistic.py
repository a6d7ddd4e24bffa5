"""Logistic regression on vectors."""

from __future__ import annotations

from dataclasses import dataclass

from .head import Head, Labels, Queries, Scores, Vectors, logistic_scores


@dataclass(frozen=True)
class Logistic(Head):
    """Multinomial logistic regression on vectors (Tian et al., ECCV 2020: a good embedding is all you need).

    C: inverse of the weight of the squared norm, as in scikit-learn.
    """

    C: float = 100.0

    def scores(self, support: Vectors, labels: Labels, queries: Queries, classes: int) -> Scores:
        return logistic_scores(support, labels, queries, classes, self.C)
