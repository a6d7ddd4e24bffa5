"""Language modelling: the next-token loss on the whole text of training prompts, to make a base model."""

from __future__ import annotations

from typing import Any

from ..prompts.batches import MixtureSampler, Sampler
from .metaicl import MetaICL


class LanguageModel(MetaICL):
    def sampler(self, **data: Any) -> Sampler:
        return MixtureSampler(**data, whole_text=True)
