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
from pathlib import Path
from typing import Any

from ..files import content
from ..names import printable
from ..results import (
    RESULTS_SIGN,
    Provenance,
    Results,
    Row,
    RunRecord,
    Summary,
    TaskResult,
    TaskScores,
    Training,
    from_json,
    read_provenance,
    read_run,
)
from ..safe_yaml import read_yaml_file
from .escaping import from_csv

SUBSETS = {"unseen_domain_test": "Target tasks in unseen domains", "test": "All target tasks"}
NOT_SEARCHED = ("model", "checkpoints")  # large, and no results in them
NO_SEED = ""  # in place of a seed, where there are no demonstrations to draw

SeedScores = Mapping[str, Mapping[str, float]]  # task -> demonstration seed -> score in percent
RunScores = Sequence[SeedScores]  # one for each training run


@dataclass(frozen=True)
class Score:
    """The score of a row in a setting, in percent; worst is None where it has no meaning."""

    label: str
    setting: str
    subset: str
    average: float
    worst: float | None
    tasks: int | None = None
    tasks_named: int | None = None
    examples: int | None = None
    source: str = ""
    """Name of the table it is from; empty for what was measured here."""
    row: Row | None = None
    """None for a published score whose row is not known."""


@dataclass(frozen=True)
class Result:
    """A row in a setting: one results file, or one for each of several training seeds."""

    path: Path
    content: Results
    digest: str
    """SHA-256 of the file."""
    others: tuple[Result, ...] = ()
    """The same row trained with other seeds."""

    @property
    def runs(self) -> tuple[Result, ...]:
        """One for each training seed."""
        return (self, *self.others)

    @property
    def row(self) -> Row:
        return self.content.row

    @property
    def label(self) -> str:
        return self.row.label

    @property
    def setting(self) -> str:
        return self.content.setting

    @property
    def predictions(self) -> Path:
        return self.path.with_suffix(".predictions.jsonl")

    @property
    def summaries(self) -> list[Score]:
        """Of several runs the means."""
        return self._summaries(self.label, [run.content.summary for run in self.runs])

    @property
    def summaries_before(self) -> list[Score]:
        """The same before adaptation, under the label of the model that was adapted."""
        provenance = self.content.provenance
        return self._summaries(
            provenance.label if provenance else "Raw LM", [run.content.before or {} for run in self.runs]
        )

    def _summaries(self, label: str, summaries: Sequence[Mapping[Any, Summary]]) -> list[Score]:
        found = []
        for subset, s in summaries[0].items():
            several = [one[subset] for one in summaries if subset in one]
            averages = [one.average for one in several if one.average is not None]
            worsts = [one.worst for one in several if one.worst is not None]
            if averages and worsts:
                average, worst = (100 * sum(some) / len(some) for some in (averages, worsts))
                counts = (s.tasks, s.tasks_named, s.examples)
                shown = worst if len(self.content.seeds) > 1 else None
                found.append(Score(label, self.setting, subset, average, shown, *counts, row=self.row))
        return found

    def tasks(self, subset: str = "test") -> dict[str, TaskResult]:
        """Of the first run."""
        return {n: task for n, task in self.content.tasks.items() if subset == "test" or task.unseen_domain}

    def average(self, task: str, before: bool = False) -> float | None:
        """A task's average in percent, over the runs; None where it was not scored."""
        entries = [run.content.tasks.get(task) for run in self.runs]
        scores = [e.before if before else e for e in entries if e]
        found = [score.average for score in scores if score]
        return 100 * sum(found) / len(found) if found else None

    def confusion(self, task: str) -> dict[str, dict[str, int]]:
        """Gold output -> predicted option -> how often, over all runs; empty where it is not known."""
        found: dict[str, dict[str, int]] = {}
        for run in self.runs:
            entry = run.content.tasks.get(task)
            for gold, row in ((entry.confusion if entry else None) or {}).items():
                for option, count in row.items():
                    cells = found.setdefault(gold, {})
                    cells[option] = cells.get(option, 0) + count
        return found

    def scores(self, subset: str = "test", before: bool = False) -> RunScores:
        """Of each run, by task and seed, in percent; `before` adaptation if asked so."""
        return [run._scores(subset, before) for run in self.runs]

    def _scores(self, subset: str, before: bool) -> SeedScores:
        entries: dict[str, TaskScores | None] = {n: t.before if before else t for n, t in self.tasks(subset).items()}
        scores = {n: {s: 100 * score for s, score in e.scores.items()} for n, e in entries.items() if e is not None}
        if self.row.demonstrations == 0 and self.row.learner == "in-context":
            return {name: {NO_SEED: next(iter(by_seed.values()))} for name, by_seed in scores.items()}
        return scores


@dataclass(frozen=True)
class Run:
    """A run directory of `train`."""

    path: Path
    config: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    measured: RunRecord | None
    provenance: Provenance | None
    """None where the run has not finished."""

    @property
    def setting(self) -> str:
        return str(self.config["setting"])

    @property
    def label(self) -> str:
        return self.provenance.label if self.provenance else str(self.config["method"])

    @property
    def batches(self) -> int:
        """Batches seen so far."""
        return max((int(line["batches"]) for line in self.metrics), default=0)


@dataclass
class Inputs:
    results: list[Result] = field(default_factory=list)
    published: list[Score] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    not_read: list[tuple[Path, str]] = field(default_factory=list)

    assumed: list[str] = field(default_factory=list)
    """Tables that do not say which tasks their numbers are of: taken to be of those that were measured."""

    @property
    def scores(self) -> list[Score]:
        """What was measured here, without models adapted to their tasks: they are no rows of the paper's tables."""
        shown = subsets_of(self.results)
        whole = [result for result in self.results if not result.row.adaptation]
        return [score for result in whole for score in result.summaries if score.subset in shown]

    @property
    def scores_shown(self) -> list[Score]:
        """Measured scores, and published ones of the same settings; all published ones when nothing was measured."""
        settings = {score.setting for score in self.scores}
        return [*self.scores, *(score for score in self.published if not settings or score.setting in settings)]

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
    scored = {subset: [r for r in results if any(s.subset == subset for s in r.summaries)] for subset in SUBSETS}
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
    join_training_seeds(found)
    _refuse_doubles(found)
    if not (found.results or found.published or found.runs):
        reasons = "; ".join(_sentence(path, reason) for path, reason in found.not_read)
        raise ValueError(f"nothing to report on: {reasons}")
    return found


def _sentence(path: Path, reason: str) -> str:
    return printable(f"{path}{'' if reason.startswith(':') else ': '}{reason}")


def not_read_lines(found: Inputs) -> list[str]:
    return [_sentence(path, reason) for path, reason in found.not_read]


def _not_read(found: Inputs, path: Path, error: ValueError) -> None:
    found.not_read.append((path, str(error).removeprefix(str(path)).removeprefix(": ")))


def _read_file(path: Path, found: Inputs) -> None:
    try:
        found.results.append(read_result(path))
    except ValueError as error:
        _not_read(found, path, error)


def _read_table(path: Path, found: Inputs) -> None:
    """A published table; where it does not name a subset and only one was measured, it is about that one."""
    measured = list(subsets_of(found.results))
    subset = measured[0] if len(measured) == 1 else "test"
    try:
        plain, scores = read_table(path), read_table(path, subset)
    except ValueError as error:
        _not_read(found, path, error)
        return
    found.published += [replace(score, source=path.stem) for score in scores]
    if scores != plain:
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
        return RESULTS_SIGN.encode() in content(path)
    except (OSError, ValueError):
        return True  # then reading it says why it cannot be read


def _seedless(row: Row) -> Row:
    return row if row.training is None else replace(row, training=replace(row.training, seed=0))


def join_training_seeds(found: Inputs) -> None:
    """Results of one row that was trained with several seeds become one; of two others with the same label, setting
    and subset the first is kept."""
    groups: list[list[Result]] = []
    of_cell: dict[tuple[str, str, str], list[Result]] = {}
    for result in found.results:
        cells = [(score.label, score.setting, score.subset) for score in result.summaries]
        group = next((of_cell[cell] for cell in cells if cell in of_cell), None)
        if group is None:
            groups.append([result])
            of_cell |= dict.fromkeys(cells, groups[-1])
            continue
        training, seeds = result.row.training, [run.row.training.seed for run in group if run.row.training]
        if training and training.seed not in seeds and _seedless(result.row) == _seedless(group[0].row):
            group.append(result)
            continue
        reason = f"{result.label} on {result.setting} like {group[0].path}"
        found.not_read.append((result.path, f"{reason}; name one of them with --label, or report them apart"))
    found.results[:] = [replace(one, others=tuple(others)) for one, *others in groups]


def _refuse_doubles(found: Inputs) -> None:
    """Keeps the first of two lines of a published table that would be in the same cell."""
    scores: dict[tuple[str, str, str, str], Score] = {}
    for score in found.published:
        key = (score.label, score.setting, score.subset, score.source)
        if key in scores:
            found.not_read.append(
                (Path(score.source + ".csv"), f"has a second line of {score.label} on {score.setting}")
            )
        scores.setdefault(key, score)
    found.published[:] = scores.values()


def _text(path: Path) -> str:
    try:
        return content(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: cannot be read as text ({type(error).__name__}); give results of `evaluate`"
        ) from None


def read_result(path: Path) -> Result:
    """A results file; ValueError naming it, and the place in it, when it is not whole."""
    text = _text(path)
    try:
        content = from_json(Results, text, path)
    except ValueError as error:
        found = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: not a results file of `evaluate` or `adapt` of this version: {found}") from None
    return Result(path, content, hashlib.sha256(text.encode()).hexdigest())


def read_table(path: Path, subset: str = "test") -> list[Score]:
    """The scores in a table (.csv) with the columns method, setting, average, worst and subset, or without the latter
    if it is about `subset`; a method that has its name from the paper's tables is taken to be that row of them.

    Raises ValueError naming the file when it is none.
    """
    scores = []
    try:
        records = list(csv.DictReader(_text(path).splitlines()))
    except csv.Error as error:
        raise ValueError(f"{path}: not a table ({error}); give CSV with a head") from None
    for number, record in enumerate(records, start=2):
        try:
            worst = float(record["worst"]) if record["worst"] else None
            average = float(record["average"])
            if not math.isfinite(average) or (worst is not None and not math.isfinite(worst)):
                raise ValueError
            label, setting = from_csv(record["method"]), from_csv(record["setting"])
            where = record.get("subset") or subset
            scores.append(Score(label, setting, where, average, worst, row=PAPER_ROWS.get(label)))
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path}:{number}: needs the columns method, setting, average and worst") from None
    return scores


def _paper_rows() -> Iterator[Row]:
    """The rows of the paper's tables 2 to 4 and 6, in their order (section 5: 50,000 batches, the MetaICL protocol)."""
    layout: dict[str, Any] = {"layout": "metaicl", "max_tokens": 1024, "max_tokens_per_example": 256}
    training: dict[str, Any] = {"trainable": "full", "seed": 100, "batches": 50_000, "data_amount": "complete"}
    for direction, prefix in (("direct", ""), ("channel", "Channel ")):
        common: dict[str, Any] = {"direction": direction, "model": "gpt2-medium", **layout}
        yield Row(label=f"{prefix}No ICL", demonstrations=0, labels_used=0, **common)
        common |= {"demonstrations": 16, "labels_used": 16}
        yield Row(label=f"{prefix}Raw LM", **common)
        metaicl = Training(method="metaicl", updates=50_000, recipe_hash="", **training)
        yield Row(label=f"{prefix}MetaICL", training=metaicl, **common)
        for n in (1, 4):
            maml: dict[str, Any] = {"method": "maml-en-llm", "baseline": "metaicl", "copies": n, "order": "second"}
            updates = training["batches"] // (2 * n)
            how = Training(**maml, inner_steps=1, updates=updates, recipe_hash="", **training)
            yield Row(label=f"{prefix}MAML-2-{n}", training=how, **common)


PAPER_ROWS = {row.label: row for row in _paper_rows()}


def _read_run(folder: Path, found: Inputs) -> None:
    try:
        config = read_yaml_file(folder / "config.yaml")
        lines = _text(folder / "metrics.jsonl").split("\n")
    except (ValueError, OSError) as error:
        found.not_read.append((folder, f"its config.yaml or metrics.jsonl cannot be read ({error})"))
        return
    if not isinstance(config, dict) or not all(isinstance(config.get(key), str) for key in ("method", "setting")):
        found.not_read.append((folder / "config.yaml", "not the configuration of `train`"))
        return
    good = list(_records(lines))
    broken = sum(1 for line in lines if line.strip()) - len(good)
    if broken:
        found.not_read.append((folder / "metrics.jsonl", f"{broken} of its lines are not whole; the others are shown"))
    measured = provenance = None
    try:
        measured = read_run(folder / "run.json") if (folder / "run.json").is_file() else None
    except ValueError as error:
        _not_read(found, folder / "run.json", error)
    try:
        provenance = read_provenance(folder / "model")
    except ValueError as error:
        _not_read(found, folder / "model", error)
    found.runs.append(Run(folder, config, tuple(good), measured, provenance))


def _records(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and type(batches := record.get("batches")) is int and 0 <= batches < 1 << 53:
            yield record
