"""Language modelling on training prompts, to make a base model: the next-token loss of every token, or of the answers
of all examples in a prompt, demonstrations included."""

from __future__ import annotations

from typing import Any

from ..prompts.batches import MixtureSampler, Sampler
from .metaicl import MetaICL


class LanguageModel(MetaICL):
    def sampler(self, **data: Any) -> Sampler:
        return MixtureSampler(**data, predicted=self.config.predicted)
