"""MetaICT (in-context tuning, Chen et al., ACL 2022): MetaICL's update on prompts with an instruction at their head."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..prompts.style import PromptStyle
from .metaicl import MetaICL


@dataclass(frozen=True, kw_only=True)
class MetaICT(MetaICL):
    """MetaICL on prompts that begin with the task's instruction."""

    def title(self, style: PromptStyle) -> str:
        return "MetaICT"

    def prompts(self) -> PromptStyle:
        return replace(super().prompts(), instructed=True)
