"""The methods, one file each: a frozen dataclass with its keys, its learner and its predictor.

The file's name is the method's: `metaicl.py` is `--method metaicl`. `diff` two files to compare two methods.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..config import DEFAULT_METHOD, typed_keys
from ..registry import class_in, names_in
from ..results import Provenance
from .method import Learner as Learner
from .method import Method


def method_names() -> list[str]:
    """The names of all methods."""
    return names_in(__path__, "method")


def method_type(name: str) -> type[Method]:
    """The dataclass of the method of that name; ValueError when there is none."""
    if name not in method_names():
        raise ValueError(f"method is {name!r}; it must be one of {', '.join(method_names())}")
    return class_in(__name__, name, Method)


def method_from_keys(keys: Mapping[str, Any], where: str = "configuration") -> Method:
    """The method of `keys["method"]` (by default MAML-en-LLM) with the other keys, values as YAML has them.

    Raises ValueError, which begins with `where`, for an unknown or missing key or a wrong value.
    """
    kind = method_type(str(keys.get("method", DEFAULT_METHOD)))
    values = typed_keys({name: value for name, value in keys.items() if name != "method"}, kind, where)
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.name not in values:
            raise ValueError(f"{where}: the key {field.name!r} is missing; add it")
    return kind(**values)


def method_of_model(provenance: Provenance | None) -> Method:
    """The method that made a model, from what training wrote of it; of any other model, language modelling.

    Keys that the method no longer has are ignored: they say nothing about how its prompts look.
    """
    keys = dict(provenance.config) if provenance else {}
    name = str(keys.pop("method", "language-model"))
    kind = method_type(name)
    fields = {field.name for field in dataclasses.fields(kind)}
    required: dict[str, Any] = {"collection": "", "setting": "", "model": "", "output": ""}
    known = {key: value for key, value in keys.items() if key in fields}
    return method_from_keys({"method": name} | required | known, "the record of the model's training")
