"""Heads as predictors: they see the labelled examples that a prompt would show, and no prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..prompts.demonstrations import Random, Select, queries_by_demonstrations
from ..tasks.collection import Example
from .features import Features
from .heads.head import UNSEEN, Head, Scores, centred
from .predictor import LabelledTask


@dataclass
class FromFeatures:
    """A head on the inputs of examples.

    demonstrations: how many labelled examples it learns from, all when there are fewer; with the same `select` they are
    those that InContext shows. features: makes the vectors, for heads that read vectors.

    Classes are outputs: an option that no labelled example has as its output is predicted last.
    """

    head: Head
    demonstrations: int
    features: Features | None = None
    select: Select = field(default_factory=Random)

    def labels_used(self, task: LabelledTask) -> int:
        return self.select.labels_used(task.bank, self.demonstrations)

    def scores(self, task: LabelledTask, examples: Sequence[Example], seed: int, order: int = 0) -> list[list[float]]:
        groups = queries_by_demonstrations(self.select, task.bank, examples, self.demonstrations, task.name, seed)
        found: list[list[float]] = [[] for _ in examples]
        for shown, members in groups.items():
            support = [task.bank[index] for index in shown]
            rows = self._classify(support, [examples[index] for index in members])
            for index, row in zip(members, rows, strict=True):
                found[index] = row
        return found

    def _classify(self, support: Sequence[Example], queries: Sequence[Example]) -> list[list[float]]:
        classes = list(dict.fromkeys(option for query in queries for option in query.options))
        classes += sorted({example.output for example in support} - set(classes))
        number = {label: place for place, label in enumerate(classes)}
        labels = np.array([number[example.output] for example in support])
        scores = self.class_scores([e.input for e in support], labels, [q.input for q in queries], len(classes))
        return [[float(row[number[o]]) for o in query.options] for query, row in zip(queries, scores, strict=True)]

    def class_scores(self, support: Sequence[str], labels: np.ndarray, queries: Sequence[str], classes: int) -> Scores:
        """Scores of all classes [queries, classes] from support texts with labels below `classes`."""
        if len(support) == 0:
            return np.full((len(queries), classes), UNSEEN)
        if self.head.reads == "texts":
            return self.head.scores(support, labels, queries, classes)
        assert self.features is not None, f"{type(self.head).__name__} reads vectors"
        x, q = centred(self.features.vectors(support), self.features.vectors(queries))
        return self.head.scores(x, labels, q, classes)
