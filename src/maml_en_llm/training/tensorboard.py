"""Figures of a run for TensorBoard, which is not needed otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class Board:
    """Writes figures to event files in RUN/tensorboard/; those after `seen` batches of an interrupted run are dropped.

    Raises ValueError when the package is not there.
    """

    def __init__(self, run: Path, seen: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError(
                "--tensorboard needs the package tensorboard; install it with `pip install maml-en-llm[tensorboard]`"
            ) from None
        self.writer = SummaryWriter(run / "tensorboard", purge_step=seen + 1)

    def show(self, figures: Mapping[str, float]) -> None:
        """Adds a line of metrics.jsonl."""
        for name, value in figures.items():
            if name != "batches":
                self.writer.add_scalar(name, value, int(figures["batches"]))
        self.writer.flush()
