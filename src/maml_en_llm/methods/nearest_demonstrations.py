"""Nearest-neighbour demonstrations (Liu et al., DeeLIO 2022): MetaICL's update on prompts whose demonstrations are the
examples most similar to the target, at training as at prediction (docs/methods/nearest-demonstrations.md).

theta <- theta - AdamW(grad L(theta; batch))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..prediction.features import selection_with
from ..prediction.in_context import InContext
from ..prediction.predictor import LoadedModel, Predictor
from ..prompts.batches import MixtureSampler, Sampler
from ..prompts.choosing import BM25
from ..prompts.style import PromptStyle
from .metaicl import MetaICL


@dataclass(frozen=True, kw_only=True)
class NearestDemonstrations(MetaICL):
    """MetaICL with the demonstrations that are most similar to the target, the most similar last."""

    choose: Literal["bm25", "nearest"] = "bm25"
    """By words that match (bm25), or by the cosine similarity of vectors of the starting model (nearest)."""

    def title(self, style: PromptStyle) -> str:
        return "Nearest demonstrations"

    def label(self, style: PromptStyle | None = None) -> str:
        return super().label(style).removesuffix(f" trained with {self.choose}")

    def sampler(self, **data: Any) -> Sampler:
        return MixtureSampler(**{"select": BM25(), **data})

    def predictor(self, model: LoadedModel, style: PromptStyle, **options: Any) -> Predictor:
        return InContext(model, style, **{"select": selection_with(model, self.choose, layer=self.layer), **options})

    def check(self) -> None:
        super().check()
        self.at_least(1, "demonstrations")
