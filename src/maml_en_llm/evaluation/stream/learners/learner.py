"""What a learner of a stream is: a loss, an optimizer step, and which earlier documents the step learns from, too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ....bilevel import Step
from ....bilevel.curvature import Loss
from ....config import check_literals
from ....models.trainable import TrainableModel


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Base of all learners; their fields are flags of `stream`."""

    lr: float
    """Learning rate."""

    def __post_init__(self) -> None:
        check_literals(self)
        if not 0 <= self.lr < float("inf"):
            raise ValueError(f"lr is {self.lr}; it must be finite and not negative")

    @property
    def name(self) -> str:
        """That of its file."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    @property
    def label(self) -> str:
        """Its name in reports."""
        return f"{self.name}, lr {self.lr:g}"

    def loss(self, model: TrainableModel) -> Loss:
        """Of a batch of documents all of whose tokens are predicted."""
        return model.loss

    def step(self, model: TrainableModel) -> Step:
        """The optimizer, whose moments last for the whole stream."""
        raise NotImplementedError

    def replayed(self, number: int) -> list[int]:
        """Earlier documents, counted from 0, whose mean loss is added to that of document `number`."""
        return []

    def files(self) -> list[Path]:
        """What it reads besides the model."""
        return []


def file_in(learned: Path, name: str, method: str) -> Path:
    """The file `name` of the folder `learned`, or `learned` itself; ValueError when it is not there."""
    path = learned / name if learned.is_dir() else learned
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist; give --learned a model folder that `train --method {method}` made, or its {name}"
        )
    return path
