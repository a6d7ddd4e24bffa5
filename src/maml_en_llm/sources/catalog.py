"""The 142 tasks of the paper's settings: where each comes from and how its rows become examples (catalog.yaml)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..tasks.collection import KINDS, Example
from .mappings import MAPPINGS, Row, options_of


@dataclass(frozen=True)
class Entry:
    """One task of the catalogue; catalog.yaml says what each field means."""

    name: str
    kind: str
    licence: str
    verified: str  # content, documentation or none
    hub: str | None = None
    config: str | None = None
    revision: str | None = None
    splits: Mapping[str, str | list[str]] = field(default_factory=lambda: {"train": "train", "test": "validation"})
    holdout: float | int = 0
    test_share: float = 1.0
    at_most: int | None = None
    map: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    instruction: str | None = None
    note: str | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """The label words, the same in every example; empty when each example has its own, or none."""
        if "words" in self.parameters:
            return options_of(self.parameters["words"])
        return ("sentence 1", "sentence 2") if self.map == "ordered_pair" else ()

    def examples(self, rows: Iterable[Row]) -> Iterator[Example]:
        """The examples of source rows. Raises ValueError when a column that the entry names is not there."""
        if self.map is None:
            raise ValueError(f"the catalogue knows no source of {self.name} but the paper's own files")
        return MAPPINGS[self.map](rows, **self.parameters)


@dataclass(frozen=True)
class PaperFiles:
    """Where the paper's own preprocessed files are."""

    hub: str
    revision: str
    licence: str


@cache
def _read() -> tuple[dict[str, Entry], PaperFiles]:
    record = yaml.safe_load((Path(__file__).parent / "catalog.yaml").read_text(encoding="utf-8"))
    own = {name for name in Entry.__dataclass_fields__ if name not in ("name", "parameters")}
    entries = {}
    for name, fields in record["tasks"].items():
        known = {key: value for key, value in fields.items() if key in own}
        parameters = {key: value for key, value in fields.items() if key not in own}
        entries[name] = Entry(name=name, parameters=parameters, **known)
    return entries, PaperFiles(**record["metaicl"])


def catalogue() -> dict[str, Entry]:
    """All entries by task name."""
    return _read()[0]


def paper_files() -> PaperFiles:
    """Where the paper's own preprocessed files are."""
    return _read()[1]


def problems_of_entry(entry: Entry) -> list[str]:
    """What is wrong with an entry, as sentences; empty when it is good."""
    problems = []
    if entry.kind not in KINDS:
        problems.append(f"unknown kind {entry.kind!r}")
    if entry.verified not in ("content", "documentation", "none"):
        problems.append(f"unknown verified {entry.verified!r}")
    if (entry.hub is None) != (entry.map is None):
        problems.append("hub and map must both be given or both be left out")
    if entry.hub is not None and entry.hub.count("/") != 1:
        problems.append(f"the repository {entry.hub!r} has no owner")
    if entry.map is not None:
        if entry.map not in MAPPINGS:
            return [*problems, f"unknown map {entry.map!r}"]
        try:
            inspect.signature(MAPPINGS[entry.map]).bind((), **entry.parameters)
        except TypeError as error:
            problems.append(f"{entry.map}: {error}")
    if "train" not in entry.splits or set(entry.splits) - {"train", "dev", "test"}:
        problems.append(f"splits must name train, and dev and test at most, not {sorted(entry.splits)}")
    if ("test" in entry.splits) == bool(entry.holdout):
        problems.append("give either a test split or a holdout")
    return problems
