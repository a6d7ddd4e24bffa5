"""Nearest-neighbour demonstrations (Liu et al., DeeLIO 2022): MetaICL's update on prompts whose demonstrations are the
examples most similar to the target, at training as at prediction (docs/methods/nearest-demonstrations.md).

theta <- theta - AdamW(grad L(theta; batch))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..prediction.in_context import InContext
from ..prediction.predictor import LoadedModel, Predictor
from ..prompts.batches import MixtureSampler, Sampler
from ..prompts.choosing import BM25
from ..prompts.demonstrations import Select
from ..prompts.layout import EncodedPrompt
from ..prompts.style import PromptStyle
from ..tasks.seeds import random_generator
from .metaicl import MetaICL


@dataclass(frozen=True, kw_only=True)
class NearestDemonstrations(MetaICL):
    """MetaICL with the demonstrations whose words match the target's best (BM25), the best last."""

    def title(self, style: PromptStyle) -> str:
        return "Nearest demonstrations"

    def sampler(self, **data: Any) -> Sampler:
        return NearestSampler(**data | {"select": data.get("select") or BM25()})

    def predictor(self, model: LoadedModel, style: PromptStyle, **options: Any) -> Predictor:
        return InContext(model, style, **{"select": BM25(), **options})

    def check(self) -> None:
        super().check()
        self.at_least(1, "demonstrations")


@dataclass
class NearestSampler(MixtureSampler):
    """The mixture's targets, each behind the demonstrations that `select` finds for it among the rest of its task."""

    select: Select = field(default_factory=BM25)

    def encode(self, name: str, target: int, shown: Sequence[int]) -> EncodedPrompt:
        """As of MixtureSampler, but that `shown`, which was drawn at random, is not read."""
        bank, generator = self.tasks[name], random_generator("nearest", self.seed, name, target)
        (nearest,) = self.select(bank, [bank[target]], self.demonstrations, generator, excluded=[target])
        return super().encode(name, target, nearest)
