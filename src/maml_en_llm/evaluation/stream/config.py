"""What a stream can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ...config import Config
from .learners import Learner


@dataclass(frozen=True, kw_only=True)
class StreamConfig(Config):
    """Keys of `stream`."""

    FREE: ClassVar[frozenset[str]] = Config.FREE | {"documents", "probes", "checkpoint_every"}

    documents: Path
    learner: Learner
    output: Path
    probes: Path | None = None
    trainable: Literal["full", "bias", "last_blocks"] = "full"
    last_blocks: int = 2
    checkpoint_every: int = 100
    device: str = "auto"

    def check(self) -> None:
        super().check()
        self.at_least(1, "last_blocks", "checkpoint_every")
        if self.trainable != "last_blocks" and self.last_blocks != 2:
            raise ValueError(f"last_blocks is set but trainable={self.trainable} does not read it; leave it out")
