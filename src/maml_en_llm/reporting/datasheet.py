"""The tasks that results are about: from the results themselves, and from the collection where it is still there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..sources.quality import TaskStatistics, statistics_of
from .browser import Predictions
from .reading import Result
from .tables import Cell, Table

MOST_LABELS = 6


def data_tables(results: Sequence[Result], predictions: Predictions) -> list[Table]:
    """The target tasks that were scored, and the tasks that the models were trained on."""
    targets: dict[str, Result] = {}
    training: dict[str, tuple[Result, set[str]]] = {}
    for result in results:
        targets = dict.fromkeys(result.tasks(), result) | targets
        for name in result.content.provenance.training_tasks if result.content.provenance else ():
            training.setdefault(name, (result, set()))[1].add(result.label)
    numbers = _statistics(predictions, {**{n: r for n, (r, _) in training.items()}, **targets})
    absent = [place for place, collection in predictions.collections.items() if collection is None and place]
    there = [place for place, collection in predictions.collections.items() if collection is not None]
    known = f"Counts of splits, options and characters are from the collection {', '.join(there)}. " if there else ""
    gone = f"The collection {', '.join(absent)} is not there, so its splits are not described. " if absent else ""

    rows: list[Sequence[Cell]] = []
    for name, result in sorted(targets.items()):
        entry = result.tasks()[name]
        side = "unseen domain" if entry.unseen_domain else "target"
        scored = (name, side, entry.kind, entry.metric, entry.examples)
        rows.append((*scored, _labels(predictions.labels(name)), *_splits(numbers.get(name))))
    columns = ("task", "side", "kind", "metric", "examples scored", "gold labels", *SPLIT_COLUMNS)
    note = f"What was scored. {known}{gone}"
    target_table = Table("data-targets", "Target tasks", note, columns, rows, long=True).without_empty_columns()

    rows = []
    for name, (_, methods) in sorted(training.items()):
        found = numbers.get(name)
        labels = _labels(found.labels) if found else ""
        rows.append((name, found.kind if found else "", len(methods), labels, *_splits(found)))
    seen = ("task", "kind", "methods", "train labels", *SPLIT_COLUMNS)
    note = f"What the models among the results were trained on; methods: how many of them saw the task. {known}{gone}"
    training_table = Table("data-training", "Training tasks", note, seen, rows, long=True)
    return [target_table, training_table.without_empty_columns()]


SPLIT_COLUMNS = ("train", "dev", "test", "options", "median characters")


def _splits(found: TaskStatistics | None) -> tuple[Cell, ...]:
    if found is None:
        return (None,) * len(SPLIT_COLUMNS)
    least, most = found.options
    options = str(least) if least == most else f"{least} to {most}"
    return (*(found.examples.get(split) for split in ("train", "dev", "test")), options, found.input_characters[1])


def _labels(counts: Mapping[str, int]) -> str:
    if len(counts) > 4 * MOST_LABELS:
        return f"{len(counts)} different"
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{label[:40]} {count}" for label, count in ranked[:MOST_LABELS])
    return f"{shown} and {len(counts) - MOST_LABELS} more" if len(counts) > MOST_LABELS else shown


def _statistics(predictions: Predictions, users: Mapping[str, Result]) -> dict[str, TaskStatistics]:
    found: dict[str, TaskStatistics] = {}
    for collection in filter(None, predictions.collections.values()):
        names = [n for n, result in users.items() if predictions.collection(result) is collection and n in collection]
        found |= statistics_of(collection, names)
    return found
