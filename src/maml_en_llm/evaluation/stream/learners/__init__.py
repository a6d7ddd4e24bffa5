"""Learners of a stream, one file each: how a model takes one step on a document.

The file's name is the learner's: `learned_rates.py` is `stream --learner learned-rates`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....hub import model_folder
from ....registry import class_in, names_in
from .learner import Learner as Learner


def learner_names() -> list[str]:
    """The names of all learners."""
    return names_in(__path__, "learner")


def learner_from_keys(name: str, keys: Mapping[str, Any], model: str) -> Learner:
    """The learner of that name; ValueError when there is none, or for a key that it does not read.

    model: folder or name of the model that learns; without `learned`, what was learned for steps is looked for there.
    """
    if name not in learner_names():
        raise ValueError(f"learner is {name!r}; it must be one of {', '.join(learner_names())}")
    kind = class_in(__name__, name, Learner)
    read = {field.name for field in dataclasses.fields(kind)}
    if unread := [key for key in keys if key not in read]:
        raise ValueError(f"{unread[0]} is set but learner={name} does not read it; leave it out")
    there = {"learned": Path(model_folder(model))} if "learned" in read else {}
    return kind(**(there | dict(keys)))
