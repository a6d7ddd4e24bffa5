"""What a run keeps: its directory, its record and its validation. The loop computes, and this writes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..bilevel.checks import check_finite
from ..bilevel.steps import waits_for_numbers
from ..methods.method import Learner, Method
from ..progress import console
from ..prompts.token_cache import cache_folder
from ..tasks.check import check_training_data
from ..tasks.collection import Collection
from .checkpoint import DATA_CHANGED, RunDirectory
from .data import data_fingerprint, training_data_hash, training_setting
from .model_card import provenance_files
from .record import Measurement
from .remarks import moved_nothing
from .tensorboard import Board
from .validation import Validation


class Journal:
    """Of the processes that compute their share alone, all but the first: it writes nothing."""

    finished = False
    """Whether the run's model is there."""

    def __init__(self, config: Method) -> None:
        self.config, self.model = config, config.output / "model"

    def begin(self, size: int, expected: Mapping[str, Tensor]) -> tuple[int, Mapping[str, Tensor]]:
        """How many batches the newest good checkpoint has seen and its state; 0 and nothing when there is none.

        size: how many numbers learn. expected: tensors like those of the state.
        """
        return 0, {}

    @contextlib.contextmanager
    def update(self, learner: Learner, seen: int, saved_at: int) -> Iterator[None]:
        """An update after `seen` batches, of which a checkpoint has `saved_at`: an error in it loses nothing."""
        yield

    def log(self, learner: Learner, seen: int, figures: Mapping[str, float | Tensor], logged: bool) -> str:
        """Takes down the update that ends after `seen` batches; `logged`: for good. Returns what the progress shows."""
        return ""

    def save(self, seen: int, state: Mapping[str, Tensor]) -> None:
        """Writes a checkpoint of the state after `seen` batches."""

    def finish(self, learner: Learner) -> None:
        """Writes the model."""
        learner.save(self.model, {})


class RunJournal(Journal):
    """Of the first process, in the run's directory. Raises ValueError when that holds anything else, or the data is
    not good."""

    def __init__(
        self, config: Method, collection: Collection, resume: bool, data_corrected: bool, device: torch.device
    ) -> None:
        super().__init__(config)
        self.collection, self.setting = collection, training_setting(config, collection)
        self.run = RunDirectory(config, data_fingerprint(collection, self.setting), resume, data_corrected)
        console.print(self.setting.presence())
        left_out = [name for name in collection.setting(config.setting).train if name not in self.setting.train]
        if left_out:
            console.print(f"left out, because the manifest has no instruction for them: {', '.join(left_out)}")
        self.finished = self.run.finished
        if self.finished:
            self.run.finish()  # a kill may have left checkpoints behind the model
            console.print(f"{self.run.model} is finished already")
            return
        check_training_data(collection, self.setting, cache_folder())
        self.device = device
        self.record = Measurement(config, training_data_hash(config, collection), device, self.run.record)
        if self.record.earlier_data != self.record.data and not data_corrected:
            raise ValueError(f"{self.run.record}: {DATA_CHANGED}")
        self.validation = Validation(config, collection, self.setting) if config.validate_every else None
        self.losses: list[float | Tensor] = []
        self.size, self.shown = 0, ""

    def begin(self, size: int, expected: Mapping[str, Tensor]) -> tuple[int, Mapping[str, Tensor]]:
        self.size = size
        self.run.begin()
        seen, state = self.run.restore(expected)
        self.record.goes_on_after(seen)
        self.record.write()
        if self.validation:
            self.validation.restore(self.run.extra)
        self.board = Board(self.config.output, seen) if self.config.tensorboard else None
        self.started = time.monotonic()
        return seen, state

    @contextlib.contextmanager
    def update(self, learner: Learner, seen: int, saved_at: int) -> Iterator[None]:
        state = learner.state_dict()
        before = [tensor._version for tensor in state.values()]  # how often each was changed in place
        try:
            yield
        except Exception as error:
            whole = before == [tensor._version for tensor in state.values()]
            if whole and seen > saved_at and not isinstance(error, OSError) and not self.config.shard:
                self.write(seen, state)
                console.print(f"an error after {seen} batches; they are in a checkpoint, and --resume goes on")
            raise

    def log(self, learner: Learner, seen: int, figures: Mapping[str, float | Tensor], logged: bool) -> str:
        self.losses.append(figures["loss"])
        if logged or not waits_for_numbers(self.device):
            self.shown = f"loss {self.finite(figures['loss'], seen):.3f}"
        if self.validation and self.validation.due(seen):
            score = self.validation.measure(learner, self.files, seen)
            figures, logged = {**figures, "validation_score": score}, True
        if logged:
            read = {"batches": seen, **{name: float(value) for name, value in figures.items()}}
            read["seconds"] = time.monotonic() - self.started
            self.run.log(read)
            if self.board:
                self.board.show(read)
        return self.shown

    def save(self, seen: int, state: Mapping[str, Tensor]) -> None:
        self.finite(self.losses[-1], seen)
        self.write(seen, state)

    def write(self, seen: int, state: Mapping[str, Tensor]) -> None:
        self.run.save(seen, state, self.validation.extra if self.validation else {})
        self.record.write()

    def finish(self, learner: Learner) -> None:
        self.record.write()
        if self.validation:
            self.validation.finish(self.model)
        else:
            learner.save(self.model, self.files())
        self.run.finish()
        unread = self.config.unread()
        if "trainable" not in unread and (remark := moved_nothing([float(loss) for loss in self.losses])):
            console.print(f"note: {remark}", markup=False)

    def finite(self, loss: float | Tensor, seen: int) -> float:
        """The loss, which on a GPU nothing has looked at before; ValueError if it is not finite."""
        return check_finite(float(loss), "the loss", f" after {seen} batches")

    def files(self) -> dict[str, str]:
        """The texts that go into the model folder."""
        return provenance_files(self.config, self.collection, self.setting, self.size, self.record.now())
