"""The label of the nearest mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from .head import Head, Labels, Queries, Scores, Vectors, spread


@dataclass(frozen=True)
class Prototype(Head):
    """softmax(-|query - mean of the class|^2) (Snell et al., NeurIPS 2017, equation 2)."""

    def scores(self, support: Vectors, labels: Labels, queries: Queries, classes: int) -> Scores:
        seen = np.unique(labels)
        means = np.stack([support[labels == label].mean(axis=0) for label in seen])
        # |q|^2 is the same for every class
        logits = 2.0 * queries @ means.T - (means**2).sum(axis=1)
        return spread(log_softmax(logits.astype(np.float64), axis=1), seen, classes)
