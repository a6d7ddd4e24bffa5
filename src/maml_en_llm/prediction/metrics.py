"""Metrics of the MetaICL protocol."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.metrics import accuracy_score, f1_score

from ..results import Metric


def metric_of(kind: str) -> Metric:
    """`macro_f1` for classification, NLI and paraphrase, `accuracy` otherwise."""
    return "macro_f1" if kind in ("classification", "nli", "paraphrase") else "accuracy"


def score(metric: str, gold: Sequence[str], predicted: Sequence[str]) -> float:
    """The metric, from 0 to 1; macro-F1 is over the labels that occur in `gold`, as in MetaICL."""
    if metric == "accuracy":
        return float(accuracy_score(gold, predicted))
    return float(f1_score(gold, predicted, labels=sorted(set(gold)), average="macro", zero_division=0))


def guessing(metric: Metric, gold: Sequence[str], options: Sequence[int]) -> float:
    """The metric of guessing uniformly, from expected counts; options: how many each example has."""
    hits = [1 / count for count in options]
    if metric == "accuracy":
        return sum(hits) / len(gold)
    by_label = [[hit for hit, output in zip(hits, gold, strict=True) if output == label] for label in set(gold)]
    return sum(2 * sum(right) / (sum(hits) + len(right)) for right in by_label) / len(by_label)
