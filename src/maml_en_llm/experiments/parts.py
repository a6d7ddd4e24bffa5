"""Work in parts, each of which is done once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import read_json, write_text
from ..results import digest


def distinct(training_seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds, each once. Raises ValueError when there is none, or one below 0."""
    seeds = tuple(dict.fromkeys(training_seeds))
    if not seeds or min(seeds) < 0:
        raise ValueError("training_seeds must be one or more numbers of at least 0")
    return seeds


def once(folder: Path, name: str, about: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `compute` found, a dict for JSON; when it was found before from the same `about`, it is read.

    The file in `folder` is named after `name` and `about`, so that what was found from other values stays.
    """
    words = "".join(c if c.isalnum() else "-" for c in name.lower())
    path = folder / f"{words}-{digest(dict(about))[:8]}.json"
    earlier = read_json(path).get("found")
    if isinstance(earlier, dict):
        return earlier
    found = compute()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"about": about, "found": found}, indent=1))
    return dict(read_json(path)["found"])  # as it will be read the next time
