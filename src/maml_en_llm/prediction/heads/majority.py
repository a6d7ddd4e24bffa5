"""The most frequent label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .head import Head, Labels, Scores, spread


@dataclass(frozen=True)
class Majority(Head):
    """The share of each class among the support examples."""

    reads = "texts"

    def scores(self, support: Sequence[str], labels: Labels, queries: Sequence[str], classes: int) -> Scores:
        seen, counts = np.unique(labels, return_counts=True)
        return spread(np.tile(np.log(counts / counts.sum()), (len(queries), 1)), seen, classes)
