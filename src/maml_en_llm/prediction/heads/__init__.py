"""Heads: classifiers on vectors or texts that learn from the same labelled examples that a prompt would show.

The file's name is the head's: `tfidf_logistic.py` is `--learner tfidf-logistic`.
"""

from __future__ import annotations

from ...registry import class_in, names_in
from .head import Head as Head


def head_names() -> list[str]:
    """The names of all heads."""
    return names_in(__path__, "head")


def head_type(name: str) -> type[Head]:
    """The dataclass of the head of that name; ValueError when there is none."""
    if name not in head_names():
        raise ValueError(f"learner is {name!r}; it must be one of in-context, {', '.join(head_names())}")
    return class_in(__name__, name, Head)
