"""Multi-task zero-shot: MetaICL's update on prompts without demonstrations, at training as at test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..prompts.style import PromptStyle
from .metaicl import MetaICL


@dataclass(frozen=True, kw_only=True)
class MultitaskZeroShot(MetaICL):
    """MetaICL without demonstrations."""

    demonstrations: ClassVar[int] = 0  # type: ignore[misc]  # a constant, and no key

    def title(self, style: PromptStyle) -> str:
        return "Multi-task zero-shot"
