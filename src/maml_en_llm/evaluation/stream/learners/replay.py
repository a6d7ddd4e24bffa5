"""A step on the document and on some of those before it, against forgetting."""

from __future__ import annotations

from dataclasses import dataclass

from ....tasks.seeds import random_generator
from .plain import Plain


@dataclass(frozen=True, kw_only=True)
class Replay(Plain):
    """phi <- phi - lr * gradient of L(document) + mean of L over `stored` earlier documents, drawn anew each time."""

    stored: int = 4
    """Earlier documents that a step learns from."""
    seed: int = 100
    """Seed of their draw."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stored < 1:
            raise ValueError(f"stored is {self.stored}; it must be at least 1")

    @property
    def label(self) -> str:
        return f"{super().label}, {self.stored} stored"

    def replayed(self, number: int) -> list[int]:
        drawn = random_generator("replay", self.seed, number).permutation(number)[: self.stored]
        return [int(index) for index in drawn]
