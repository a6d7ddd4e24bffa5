"""Folders whose files hold one class each, which is known by the file's name: methods, heads, learners of a stream."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

Base = TypeVar("Base")


def names_in(folder: Iterable[str], base: str) -> list[str]:
    """The names of all classes of a package, whose `__path__` is `folder`, without that of the file of their `base`."""
    return sorted(module.name.replace("_", "-") for module in iter_modules(folder) if module.name != base)


def class_in(package: str, name: str, base: type[Base]) -> type[Base]:
    """The subclass of `base` that is written in the file of that name."""
    module = import_module(f".{name.replace('-', '_')}", package)
    (found,) = (
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, base) and kind.__module__ == module.__name__
    )
    return found
