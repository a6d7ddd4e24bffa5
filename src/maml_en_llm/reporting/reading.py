"""What a report is made from: results of `evaluate` and `adapt`, published tables, run directories.

A file that cannot be used is named with the reason, and the others are read.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ..evaluation.protocol import RESULTS_FORMAT
from ..files import read_json
from ..methods import method_of_model
from ..training.model_card import PROVENANCE

SUBSETS = {"unseen_domain_test": "Target tasks in unseen domains", "test": "All target tasks"}
NOT_SEARCHED = ("model", "checkpoints")  # large, and no results in them
NO_SEED = ""  # in place of a seed, where there are no demonstrations to draw

Scores = Mapping[str, Mapping[str, float]]  # task -> demonstration seed -> score in percent


@dataclass(frozen=True)
class Row:
    """One cell of the table: a method in a setting. Scores in percent; worst is None where it has no meaning."""

    method: str
    setting: str
    subset: str
    average: float
    worst: float | None
    tasks: int | None = None
    tasks_named: int | None = None
    examples: int | None = None
    source: str = ""
    """Name of the table it is from; empty for what was measured here."""


@dataclass(frozen=True)
class Result:
    """One results file. `method` is its label."""

    path: Path
    record: Mapping[str, Any]
    digest: str
    """SHA-256 of the file."""
    method: str
    rows: tuple[Row, ...]
    before: tuple[Row, ...] = ()
    """Of an adapted model: the same rows before adaptation, under the label of the model that was adapted."""

    @property
    def setting(self) -> str:
        return str(self.record["setting"])

    @property
    def config(self) -> Mapping[str, Any]:
        return self.record.get("config") or {}

    @property
    def training(self) -> Mapping[str, Any]:
        """The configuration that the model was trained with; empty for a model that `train` did not make."""
        return (self.record.get("model") or {}).get("config") or {}

    @property
    def prefix(self) -> str:
        return "Channel " if self.config.get("direction") == "channel" else ""

    @property
    def meta_trained(self) -> bool:
        return self.training.get("method", "language-model") != "language-model"

    @property
    def adaptation(self) -> Mapping[str, Any]:
        return self.record.get("adaptation") or {}

    @property
    def predictions(self) -> Path:
        return self.path.with_suffix(".predictions.jsonl")

    def tasks(self, subset: str = "test") -> dict[str, Mapping[str, Any]]:
        return {name: t for name, t in self.record["tasks"].items() if subset == "test" or t["unseen_domain"]}

    def scores(self, subset: str = "test", before: bool = False) -> Scores:
        """By task and seed, in percent; `before` adaptation if asked so."""
        entries = {name: task.get("before") if before else task for name, task in self.tasks(subset).items()}
        scores = {
            name: {seed: 100 * float(score) for seed, score in entry["scores"].items()}
            for name, entry in entries.items()
            if entry
        }
        if self.config.get("demonstrations") == 0:
            return {name: {NO_SEED: next(iter(by_seed.values()))} for name, by_seed in scores.items()}
        return scores


@dataclass(frozen=True)
class Run:
    """A run directory of `train`."""

    path: Path
    config: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    measured: Mapping[str, Any]
    """Content of run.json: wall_seconds, peak_memory_bytes, hardware, code_version; empty where there is none."""

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """How the model was made; empty where the run has not finished."""
        return read_json(self.path / "model" / PROVENANCE)

    @property
    def setting(self) -> str:
        return str(self.config["setting"])

    @property
    def label(self) -> str:
        if label := self.record.get("label"):
            return str(label)
        try:
            return method_of_model({"config": self.config}).label()
        except ValueError:  # of an incomplete configuration
            return str(self.config["method"])


@dataclass
class Inputs:
    results: list[Result] = field(default_factory=list)
    published: list[Row] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    not_read: list[tuple[Path, str]] = field(default_factory=list)

    assumed: list[str] = field(default_factory=list)
    """Tables that do not say which tasks their numbers are of: taken to be of those that were measured."""

    @property
    def rows(self) -> list[Row]:
        """What was measured here, without models adapted to their tasks: they are no rows of the paper's tables."""
        shown = subsets_of(self.results)
        whole = [result for result in self.results if not result.adaptation]
        return [row for result in whole for row in result.rows if row.subset in shown]

    @property
    def notes(self) -> list[str]:
        """Sentences on which tasks the numbers are of."""
        found = [
            f"{source} does not say which tasks its numbers are of (it has no column subset); they are taken to be of "
            "those that were scored here."
            for source in self.assumed
        ]
        if self.results and "test" not in subsets_of(self.results):
            found.insert(0, "Every target task that was scored is in an unseen domain, so there is one set of numbers.")
        return found


def subsets_of(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The subsets of target tasks that a report shows, each with the results that were scored on it.

    All target tasks are left out where those in unseen domains are the same tasks in every result.
    """
    scored = {subset: [r for r in results if any(row.subset == subset for row in r.rows)] for subset in SUBSETS}
    if all(set(result.tasks("unseen_domain_test")) == set(result.tasks()) for result in scored["test"]):
        scored["test"] = []
    return {subset: found for subset, found in scored.items() if found}


def read_inputs(paths: Sequence[Path]) -> Inputs:
    """Everything usable in the files and folders given, each file once.

    Raises ValueError when there is no results file, table or run among them.
    """
    found = Inputs()
    seen: set[Path] = set()
    published = []
    for given in paths:
        if given.is_dir():
            before = len(found.results) + len(found.runs) + len(found.not_read)
            _read_folder(given, found, seen)
            if before == len(found.results) + len(found.runs) + len(found.not_read):
                found.not_read.append((given, "no results file and no run directory in it that is not read yet"))
        elif given.resolve() not in seen:
            seen.add(given.resolve())
            if given.suffix == ".csv":
                published.append(given)
            else:
                _read_file(given, found)
    for path in published:
        _read_table(path, found)
    _refuse_doubles(found)
    if not (found.results or found.published or found.runs):
        reasons = "; ".join(_sentence(path, reason) for path, reason in found.not_read)
        raise ValueError(f"nothing to report on: {reasons}")
    return found


def _sentence(path: Path, reason: str) -> str:
    return f"{path}{'' if reason.startswith(':') else ': '}{reason}"


def not_read_lines(found: Inputs) -> list[str]:
    return [_sentence(path, reason) for path, reason in found.not_read]


def _read_file(path: Path, found: Inputs) -> None:
    try:
        found.results.append(read_result(path))
    except ValueError as error:
        found.not_read.append((path, str(error).removeprefix(str(path)).removeprefix(": ")))


def _read_table(path: Path, found: Inputs) -> None:
    """A published table; where it does not name a subset and only one was measured, it is beside that one."""
    measured = list(subsets_of(found.results))
    subset = measured[0] if len(measured) == 1 else "test"
    try:
        plain, rows = read_rows(path), read_rows(path, subset)
    except ValueError as error:
        found.not_read.append((path, str(error).removeprefix(str(path)).removeprefix(": ")))
        return
    found.published += [replace(row, source=path.stem) for row in rows]
    if rows != plain:
        found.assumed.append(path.stem)


def _read_folder(folder: Path, found: Inputs, seen: set[Path]) -> None:
    def unreadable(error: OSError) -> None:
        found.not_read.append((Path(error.filename or folder), error.strerror or "cannot be read"))

    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if name not in NOT_SEARCHED and not name.startswith("."))
        here = Path(place)
        if {"config.yaml", "metrics.jsonl"} <= set(names) and here.resolve() not in seen:
            seen.add(here.resolve())
            _read_run(here, found)
        for name in sorted(names):
            path = here / name
            if name.endswith(".unfinished.jsonl"):
                found.not_read.append((path, "an evaluation that is not finished; run its command again"))
            elif name.endswith(".json") and path.resolve() not in seen and _mentions_format(path):
                seen.add(path.resolve())
                _read_file(path, found)


def _mentions_format(path: Path) -> bool:
    try:
        return RESULTS_FORMAT.encode() in path.read_bytes()
    except OSError:
        return True  # then reading it says why it cannot be read


def _refuse_doubles(found: Inputs) -> None:
    """Keeps the first of two results, or two lines of one table, that would stand in the same cell."""
    first: dict[tuple[str, str, str, str], Path] = {}
    kept = []
    for result in found.results:
        keys = [(row.method, row.setting, row.subset, "") for row in result.rows]
        if double := next((key for key in keys if key in first), None):
            reason = f"{double[0]} on {double[1]} like {first[double]}"
            found.not_read.append((result.path, f"{reason}; name one of them with --label, or report them apart"))
            continue
        first |= dict.fromkeys(keys, result.path)
        kept.append(result)
    found.results[:] = kept
    rows: dict[tuple[str, str, str, str], Row] = {}
    for row in found.published:
        key = (row.method, row.setting, row.subset, row.source)
        if key in rows:
            found.not_read.append((Path(row.source + ".csv"), f"has a second line of {row.method} on {row.setting}"))
        rows.setdefault(key, row)
    found.published[:] = rows.values()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: cannot be read as text ({type(error).__name__}); give results of `evaluate`"
        ) from None


def read_result(path: Path) -> Result:
    """A results file; ValueError naming it, and the line if it is no JSON, when it is not whole."""
    text = _text(path)
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); give results of `evaluate`") from None
    except RecursionError:
        raise ValueError(f"{path}: not valid JSON (nested too deeply); give results of `evaluate`") from None
    if not isinstance(record, dict) or record.get("format") != RESULTS_FORMAT:
        raise ValueError(f"{path}: not a results file of `evaluate` (no format {RESULTS_FORMAT!r})")
    try:
        method, digest = str(record["label"]), hashlib.sha256(text.encode()).hexdigest()
        result = Result(path, record, digest, method, _rows(record, record["summary"], method))
        if result.adaptation:
            label = str((record.get("model") or {}).get("label") or result.prefix + "Raw LM")
            result = replace(result, before=_rows(record, result.adaptation["before"], label))
            if [row.subset for row in result.before] != [row.subset for row in result.rows]:
                raise ValueError("a whole summary before adaptation")
        for before in (False, True):
            for by_seed in result.scores(before=before).values():
                if not by_seed or not all(map(math.isfinite, by_seed.values())):
                    raise ValueError("a finite score")
        for task in record["tasks"].values():
            float(task["average"]), float(task["worst"]), str(task["kind"]), int(task["examples"])
        if not isinstance(result.training.get("method", ""), str) or not isinstance(record.get("run", {}), dict):
            raise ValueError("a good configuration")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a whole results file of `evaluate`: its summary, tasks, seeds, label or setting lacks "
            f"{error}; evaluate again"
        ) from None
    return result


def _rows(record: Mapping[str, Any], summary: Mapping[str, Any], method: str) -> tuple[Row, ...]:
    rows = []
    for subset, s in summary.items():
        if s["tasks"]:
            average, worst = 100 * float(s["average"]), 100 * float(s["worst"])
            if not math.isfinite(average + worst):
                raise ValueError("a finite average")
            worst_of_seeds = worst if len(record["seeds"]) > 1 else None
            counts = (s["tasks"], s["tasks_named"], s["examples"])
            rows.append(Row(method, str(record["setting"]), subset, average, worst_of_seeds, *counts))
    return tuple(rows)


def read_rows(path: Path, subset: str = "test") -> list[Row]:
    """The rows of a results file (.json), or of a table (.csv) with the columns method, setting, average, worst and
    subset, or without the latter if it is about `subset`.  Raises ValueError naming the file when it is neither."""
    if path.suffix != ".csv":
        return list(read_result(path).rows)
    rows = []
    for number, record in enumerate(csv.DictReader(_text(path).splitlines()), start=2):
        try:
            worst = float(record["worst"]) if record["worst"] else None
            average = float(record["average"])
            if not math.isfinite(average) or (worst is not None and not math.isfinite(worst)):
                raise ValueError
            rows.append(Row(record["method"], record["setting"], record.get("subset") or subset, average, worst))
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path}:{number}: needs the columns method, setting, average and worst") from None
    return rows


def _read_run(folder: Path, found: Inputs) -> None:
    try:
        config = yaml.safe_load(_text(folder / "config.yaml"))
        lines = _text(folder / "metrics.jsonl").split("\n")
    except (ValueError, yaml.YAMLError) as error:
        found.not_read.append((folder, f"its config.yaml or metrics.jsonl cannot be read ({type(error).__name__})"))
        return
    if not isinstance(config, dict) or not {"method", "setting", "batches"} <= set(config):
        found.not_read.append((folder / "config.yaml", "not the configuration of `train`"))
        return
    good = list(_records(lines))
    broken = sum(1 for line in lines if line.strip()) - len(good)
    if broken:
        found.not_read.append((folder / "metrics.jsonl", f"{broken} of its lines are not whole; the others are shown"))
    found.runs.append(Run(folder, config, tuple(good), _run_json(folder / "run.json", found)))


def _run_json(path: Path, found: Inputs) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        measured = json.loads(_text(path))
        if isinstance(measured, dict):
            return measured
    except ValueError:
        pass
    found.not_read.append((path, "not whole; what the run took is not shown"))
    return {}


def _records(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("batches"), int):
            yield record
