"""How the tests check types: with beartype, but without looking into what is read lazily."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

from beartype import BeartypeConf, FrozenDict, beartype
from beartype.vale import IsInstance

LAZY = ("Collection", "Examples")  # beartype would read an element of these from disk, at every call


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    module = sys.modules.get("maml_en_llm.tasks.collection")
    classes = [getattr(module, name) for name in LAZY if hasattr(module, name)]
    overrides = FrozenDict({cls: Annotated[object, IsInstance[cls]] for cls in classes})
    conf = BeartypeConf(hint_overrides=overrides, is_random=False, is_pep484_tower=True)  # an int is a float
    return beartype(function, conf=conf)
