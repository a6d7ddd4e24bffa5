"""How the prompts of a method look, at training and at test."""

from __future__ import annotations

from dataclasses import dataclass

from .layout import PromptFormat


@dataclass(frozen=True)
class PromptStyle:
    """format: direction, layout and token limits. demonstrations: how many labelled examples precede each example.
    instructed: whether the task's instruction is the head of the prompt."""

    format: PromptFormat
    demonstrations: int = 16
    instructed: bool = False
