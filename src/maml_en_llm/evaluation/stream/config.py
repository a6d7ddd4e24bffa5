"""What a stream can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...config import Config, Trainable
from .learners import Learner


@dataclass(frozen=True, kw_only=True)
class StreamConfig(Config):
    """Keys of `stream`."""

    FREE: ClassVar[frozenset[str]] = Config.FREE | {"documents", "probes", "checkpoint_every"}

    documents: Path
    learner: Learner
    output: Path
    probes: Path | None = None
    trainable: Trainable = "full"
    lora_rank: int = 8
    keep_adapter: bool = False
    last_blocks: int = 2
    checkpoint_every: int = 100
    device: str = "auto"

    def check(self) -> None:
        super().check()
        self.at_least(1, "last_blocks", "lora_rank", "checkpoint_every")
        for key, reader in (("last_blocks", "last_blocks"), ("lora_rank", "lora"), ("keep_adapter", "lora")):
            if self.trainable != reader and getattr(self, key) != getattr(type(self), key):
                raise ValueError(f"{key} is set but trainable={self.trainable} does not read it; leave it out")
