"""What predicts: a score for every option of every example of a task; the lowest wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from ..models.loading import check_tokenizer, load_model, load_tokenizer
from ..tasks.collection import Example
from .scoring import Scorer


@dataclass(frozen=True)
class LabelledTask:
    """A task with the labelled examples, `bank`, that a prediction may use."""

    name: str
    bank: Sequence[Example]
    instruction: str | None = None


@runtime_checkable
class Predictor(Protocol):
    """A way to predict the output of examples of a task from labelled examples of it."""

    def scores(self, task: LabelledTask, examples: Sequence[Example], seed: int, order: int = 0) -> list[list[float]]:
        """For each example and option a score, the lowest of which is predicted.

        seed: of the draw of labelled examples. order: 0 as they were drawn, others are the same examples shuffled.
        """

    def labels_used(self, task: LabelledTask) -> int:
        """How many labelled examples of the task its predictions depend on."""


class LoadedModel:
    """A causal language model and its tokenizer, loaded once for all that predicts with it.

    folder: Hugging Face folder or hub id. tokens_per_forward: see Scorer.
    """

    def __init__(self, folder: str, device: Any, tokens_per_forward: int | None = None) -> None:
        self.folder, self._tokens_per_forward = folder, tokens_per_forward
        self.tokenizer = load_tokenizer(folder)
        self.network = load_model(folder, device)
        check_tokenizer(self.tokenizer, self.network, folder)

    @cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.network, self._tokens_per_forward)
