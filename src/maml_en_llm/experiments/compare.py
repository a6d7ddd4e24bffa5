"""The verb `compare`: which row that the product offers predicts the tasks of a setting best, cheap ones included.

OUTPUT/validation/ROW.json   results of each row on held-out train examples, which the best is chosen by
OUTPUT/test/ROW.json         those of the best row on the test examples, which have no part in the choice
OUTPUT/report/               the report of all rows
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..config import EvaluateConfig
from ..evaluation.protocol import demonstration_bank, evaluate, target_data_hash
from ..files import check_output
from ..names import model_folder, printable
from ..progress import console, duration, result
from ..prompts.choosing import Choice
from ..reporting.reading import read_inputs
from ..reporting.report import write_report
from ..results import Results, read_provenance, read_results
from ..tasks.collection import Collection, Task, load_collection
from ..training.record import config_hash

CHEAP = ("majority", "tfidf-nearest", "tfidf-logistic", "nearest", "prototype", "logistic")
GROUPS = 8  # of queries that share nearest demonstrations
SEEDS = (100, 13, 21)
Split = Literal["validation", "test"]


@dataclass(frozen=True)
class Candidate:
    """A row: its name, the keys of its evaluation, how `predict` gets it, and about how long it takes (1: a head)."""

    name: str
    keys: Mapping[str, Any]
    predict: str
    work: float = 1.0

    @property
    def file(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.name) + ".json"


def candidates(models: Sequence[str], few: int, every: int, max_tokens: int | None = None) -> list[Candidate]:
    """The rows, cheap ones first, with `few` labelled examples and with all, `every`, of them. Heads that read vectors
    take those of the first model; max_tokens: of prompts."""
    rows = []
    for count, words, flags in ((few, f"{few} labels", f" --choose random --count {few}"), (every, "all labels", "")):
        for learner in CHEAP:
            keys = {"learner": learner, "demonstrations": count, "model": models[0]}
            rows.append(Candidate(f"{learner}, {words}", keys, f"--learner {learner}{flags}"))
    choices: tuple[Choice, ...] = ("random", "balanced", "diverse", "nearest")
    for model, name in zip(models, model_names(models), strict=True):
        for choose in choices:
            keys = {"model": model, "choose": choose, "demonstrations": few, "max_tokens": max_tokens}
            flags, work = f"--choose {choose} --count {few}", 5.0
            if choose == "nearest":
                keys["choose_groups"], work = GROUPS, 20.0
                flags += f" --choose-groups {GROUPS}"
            rows.append(Candidate(f"{name}, {choose}", keys, flags, work))
    return rows


def model_names(models: Sequence[str]) -> list[str]:
    """Short names of models, all different: the last part of a path that tells them apart."""
    for parts in range(1, 1 + max(len(Path(model).parts) for model in models)):
        pieces = [[part for part in Path(model).parts if part != "model"] or [model] for model in models]
        names = ["/".join(some[-parts:]) for some in pieces]
        if len(set(names)) == len(names):
            return names
    return list(models)


class Comparison:
    """The rows of a comparison, with all that can be wrong with its inputs found."""

    def __init__(
        self,
        collection: Path,
        setting: str,
        output: Path,
        models: Sequence[str] = ("starter",),
        *,
        demonstrations: int = 16,
        max_examples: int | None = 200,
        max_tokens: int | None = None,
        seeds: Sequence[int] = SEEDS,
        device: str = "auto",
    ) -> None:
        check_output(output, folder=True)
        self.output, self.models = output, list(dict.fromkeys(models))
        self.collection = load_collection(collection)
        if demonstrations < 1:
            raise ValueError(f"demonstrations is {demonstrations}; it must be at least 1")
        self.tasks = targets(self.collection, setting)
        self._check_models(setting)
        self.common: dict[str, Any] = {
            "collection": collection,
            "setting": setting,
            "max_examples": max_examples,
            "seeds": tuple(seeds),
            "device": device,
        }
        probe = EvaluateConfig(model="", output=output, split="validation", **self.common)
        sizes = [len(demonstration_bank(probe, task)) for task in self.tasks]
        few = min(demonstrations, *sizes)
        if few < demonstrations:
            console.print(f"{few} labelled examples instead of {demonstrations}: the smallest task has no more")
        self.rows = candidates(self.models, few, max(sizes), max_tokens)

    def _check_models(self, setting: str) -> None:
        """ValueError for a model that is not there, or that was trained on what it would be scored on."""
        scored = {task.name for task in self.tasks}
        for model in self.models:
            looks_like_path = model.startswith((".", "/", "~")) or model.count("/") > 1
            if not Path(model_folder(model)).exists() and looks_like_path:
                raise ValueError(f"--model {model} does not exist; give a model folder, a hub id or starter")
            made = read_provenance(model)
            if made is not None and made.training and (seen := sorted(scored & set(made.training_tasks))):
                raise ValueError(
                    f"{model} was trained on {seen[0]}, a target of {setting}, so its row would say nothing; choose "
                    "another --setting or leave the model out"
                )

    def config(self, row: Candidate, split: Split) -> EvaluateConfig:
        return EvaluateConfig(
            output=self.output / split / row.file, split=split, label=row.name, **self.common, **row.keys
        )

    def finished(self, row: Candidate, split: Split) -> Results | None:
        """The results of the row, if they are there and made from these inputs."""
        config = self.config(row, split)
        if not config.output.is_file():
            return None
        try:
            found = read_results(config.output)
        except ValueError:
            return None
        data = target_data_hash(config, self.collection)
        return found if found.run.made_from({"config_hash": config_hash(config), "manifest_hash": data}) else None

    def scored(self, row: Candidate, split: Split) -> Results:
        return self.finished(row, split) or evaluate(self.config(row, split), quiet=True)

    def run(self) -> Path:
        """Does the rows that are not finished, prints the table and the best row; returns the report's path."""
        found: dict[str, Results] = {}
        started, done = time.monotonic(), 0.0
        waiting = [row for row in self.rows if self.finished(row, "validation") is None]
        left = sum(row.work for row in waiting)
        for number, row in enumerate(self.rows, start=1):
            if row in waiting:
                # What heads take says little about the model, which reads prompts.
                known = done > sum(r.work for r in waiting if r.work == 1.0)
                time_left = f", about {duration((time.monotonic() - started) / done * left)} left" if known else ""
                console.print(f"row {number} of {len(self.rows)}: {row.name}{time_left}", markup=False)
            found[row.name] = self.scored(row, "validation")
            if row in waiting:
                done, left = done + row.work, left - row.work
        best = max(self.rows, key=lambda row: average(found[row.name]))  # of equals the first, which is cheaper
        on_test = self.scored(best, "test")
        page = write_report(
            read_inputs([self.config(row, "validation").output for row in self.rows]),
            self.output / "report",
            quiet=True,
        )
        result.print(table_of(self.rows, found, best), soft_wrap=False)
        metrics = {task.metric for task in on_test.tasks.values()}
        metric = metrics.pop().replace("macro_f1", "macro-F1") if len(metrics) == 1 else "score"
        result.print(
            f"Best: {best.name}, {100 * average(found[best.name]):.1f} {metric} on held-out train examples, by which "
            f"it was chosen, and {100 * average(on_test):.1f} on the test examples, which had no part in that.",
            markup=False,
        )
        result.print(f"To predict a file with it (here the test examples of {self.tasks[0].name}; put in yours):")
        result.print(self.command(best), markup=False)
        return page

    def command(self, row: Candidate) -> str:
        """The command that predicts the test examples of the first task with `row`."""
        task = self.tasks[0]
        words = ["maml-en-llm", "predict", "--model", str(row.keys["model"])]
        words += ["--demonstrations", str(task.folder / "train.jsonl"), *row.predict.split()]
        words += ["--input-file", str(task.folder / "test.jsonl"), "--text-column", "input"]
        return shlex.join([*words, "--output", str(self.output / f"{task.name}.csv")])


def targets(collection: Collection, setting: str) -> list[Task]:
    """The target tasks that can be scored; ValueError when there are none, or one lacks a split."""
    tasks = [collection[name] for name in collection.setting(setting).test]
    tasks = [task for task in tasks if task.kind != "free_form"]
    if not tasks:
        raise ValueError(f"no target task of {setting} is here and has options; give another --setting")
    for task in tasks:
        if min(len(task.train), len(task.test)) < 5:
            raise ValueError(f"the task {task.name} has fewer than 5 train or test examples; add examples")
    return tasks


def average(results: Results) -> float:
    """The mean score over target tasks, from 0 to 1."""
    return results.summary["test"].average or 0.0


def table_of(rows: Sequence[Candidate], found: Mapping[str, Results], best: Candidate) -> Table:
    """The rows at 80 columns; scores in percent."""
    guesses = [task.guess or 0.0 for task in found[best.name].tasks.values()]
    guess = sum(guesses) / len(guesses)
    title = f"{len(guesses)} task{'s' * (len(guesses) > 1)}, held-out train examples, in %; guessing: {100 * guess:.1f}"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, title=title)
    table.add_column("row", overflow="fold", max_width=44)
    for name in ("labels", "average", "worst", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        results = found[row.name]
        summary = results.summary["test"]
        numbers = [f"{100 * value:.1f}" for value in (summary.average or 0.0, summary.worst or 0.0)]
        seconds = f"{results.run.wall_seconds:.0f}"
        style = "bold" if row is best else ""
        table.add_row(Text(printable(row.name)), str(results.row.labels_used), *numbers, seconds, style=style)
    return table


def compare(collection: Path, setting: str, output: Path, models: Sequence[str] = ("starter",), **changes: Any) -> Path:
    """Scores the rows that are not finished and returns the report's path; `changes`: keys of `Comparison`.

    Raises ValueError for bad input.
    """
    return Comparison(collection, setting, output, models, **changes).run()
