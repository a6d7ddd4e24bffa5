"""Heads: classifiers on vectors or texts that learn from the same labelled examples that a prompt would show.

The file's name is the head's: `tfidf_logistic.py` is `--learner tfidf-logistic`.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from .head import Head as Head


def head_names() -> list[str]:
    """The names of all heads."""
    return sorted(module.name.replace("_", "-") for module in iter_modules(__path__) if module.name != "head")


def head_type(name: str) -> type[Head]:
    """The dataclass of the head of that name; ValueError when there is none."""
    if name not in head_names():
        raise ValueError(f"learner is {name!r}; it must be one of in-context, {', '.join(head_names())}")
    module = import_module(f".{name.replace('-', '_')}", __name__)
    (found,) = (
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Head) and kind.__module__ == module.__name__
    )
    return found
