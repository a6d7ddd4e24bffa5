"""Language modelling on training prompts, to make a base model: the next-token loss of every token, or of the answers
of all examples in a prompt, demonstrations included. A model that no method made counts as one of these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ..prompts.choosing import Choice
from ..prompts.style import PromptStyle
from .metaicl import MetaICL


@dataclass(frozen=True, kw_only=True)
class LanguageModel(MetaICL):
    """Gradient descent on the next-token loss."""

    is_raw: ClassVar[bool] = True

    predicted: Literal["text", "answers"] = "text"  # type: ignore[assignment]
    """What counts in the loss: every token, or the answers of all examples in the prompt."""

    @property
    def baseline(self) -> str | None:
        return None

    def title(self, style: PromptStyle) -> str:
        return "Raw LM" if style.demonstrations else "No ICL"

    def prompts_at_test(self) -> PromptStyle:
        """It was not trained for a direction, a number of demonstrations or a way to choose them."""
        return replace(self, direction="direct", demonstrations=16).prompts()

    @property
    def choose_at_test(self) -> Choice:
        return "random"
