"""Guessing: the row that any other must beat."""

from __future__ import annotations

from collections.abc import Sequence

from ..tasks.collection import Example
from ..tasks.seeds import random_generator
from .predictor import LabelledTask


class Guessing:
    """Scores drawn at random for each task, input and seed, so that every option is as likely as the others."""

    def labels_used(self, task: LabelledTask) -> int:
        return 0

    def scores(self, task: LabelledTask, examples: Sequence[Example], seed: int, order: int = 0) -> list[list[float]]:
        draws = [random_generator("guess", task.name, example.input, seed) for example in examples]
        pairs = zip(draws, examples, strict=True)
        return [[float(draw) for draw in generator.random(len(example.options))] for generator, example in pairs]
