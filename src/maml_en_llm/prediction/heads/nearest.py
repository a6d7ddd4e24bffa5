"""The label of the nearest example."""

from __future__ import annotations

from dataclasses import dataclass

from ...prompts.choosing import unit
from .head import Head, Labels, Queries, Scores, Vectors, nearest_scores


@dataclass(frozen=True)
class Nearest(Head):
    """The class of the most similar support example.

    With s the largest cosine similarity of the query to an example of a class, the probabilities are
    softmax(sharpness s).
    """

    sharpness: float = 10.0

    def scores(self, support: Vectors, labels: Labels, queries: Queries, classes: int) -> Scores:
        return nearest_scores(unit(queries) @ unit(support).T, labels, classes, self.sharpness)
