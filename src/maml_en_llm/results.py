"""What `train`, `evaluate` and `adapt` write for others to read: typed, written and checked here alone.

    OUTPUT.json                  Results: one row of a table in one setting
    OUTPUT.predictions.jsonl     one Prediction a line
    RUN/run.json                 RunRecord: what a run was made of and what it cost
    MODEL/maml_en_llm.json       Provenance: how `train` made a model
    scores.parquet               Results of many files in one table

Reports read fields, never a label.  Reading raises ValueError, which names the file, for any content that is not what
is written here (docs/results-format.md).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pyarrow
import pyarrow.parquet as parquet
from pydantic import Field, TypeAdapter, ValidationError

from .files import content, write_text, writing
from .hub import model_folder
from .names import check_file, unfinished

RESULTS_FORMAT = "maml-en-llm results 2"
RESULTS_SIGN = "maml-en-llm results"  # of any version
PROVENANCE = "maml_en_llm.json"  # in a model folder

Subset = Literal["test", "unseen_domain_test"]
Metric = Literal["macro_f1", "accuracy"]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Scores = Annotated[dict[str, Fraction], Field(min_length=1)]
"""By demonstration seed."""


@dataclass(frozen=True, kw_only=True)
class DataChange:
    """A correction of its training data after which a run went on."""

    batches: Count
    """Seen before it."""
    before: str
    after: str
    """Hashes of the data."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What something was computed from and what that cost."""

    config_hash: str
    """Of the values that change what is computed."""
    manifest_hash: str
    """Of the data that was read; where it was corrected meanwhile, of all that was read in turn."""
    data_changes: tuple[DataChange, ...] = ()
    code_version: str
    hardware: str
    wall_seconds: Amount
    """With all continuations."""
    peak_memory_bytes: Count
    model_commit: str | None = None
    """Of the hub repository that the model came from; None for other models."""

    def made_from(self, hashes: Mapping[str, str]) -> bool:
        """Whether it has these hashes."""
        return all(getattr(self, key) == value for key, value in hashes.items())


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model was meta-trained, as far as rows of a table differ in it."""

    method: str
    """Its name in the registry of methods."""
    baseline: str | None = None
    """The method that reports compare it with, besides the raw model."""
    copies: Count | None = None
    """n; None for a method without adapted copies."""
    inner_steps: Count | None = None
    """k."""
    order: str | None = None
    """Of the meta-gradient: second or first."""
    trainable: str
    """Which parameters learned."""
    seed: int
    batches: Count
    """Batches seen."""
    updates: Count
    """Optimizer steps."""
    data_amount: str
    """Of each training task: complete or limited."""
    recipe_hash: str
    """Of all that the training was told but its seed: runs that differ in the seed alone have the same."""


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How a model learned each target task before it was scored on it."""

    examples: Count
    steps: Count
    lr: Amount


@dataclass(frozen=True, kw_only=True)
class Row:
    """What tells one row of a report from another. `label` is its name and nothing else."""

    label: str
    training: Training | None = None
    """None for a raw model: one that was not meta-trained."""
    model: str
    """Folder or hub id; of a meta-trained model the one that its training started from."""
    direction: Literal["direct", "channel"]
    learner: str = "in-context"
    """What made the predictions: the language model in its context, or for example `logistic`."""
    choose: str = "random"
    """How the demonstrations were chosen."""
    demonstrations: Count
    labels_used: Count
    """Labelled examples of a target task that a prediction could draw on, at most."""
    calibrated: bool = False
    """Whether the score of an option behind the input "N/A" was subtracted."""
    instructions: bool = False
    adaptation: Adaptation | None = None
    layout: str
    max_tokens: Count
    max_tokens_per_example: Count
    overflow: str = "fit"
    split: str = "test"
    """Which examples were scored."""
    data_amount: str = "complete"
    """How many of them: complete or limited."""
    max_examples: Count | None = None

    @property
    def method(self) -> str | None:
        """Registry name of the method that trained the model; None for a raw model."""
        return self.training.method if self.training else None

    @property
    def baseline(self) -> str | None:
        return self.training.baseline if self.training else None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How `train` made a model."""

    label: str
    training: Training | None
    """None for a model that learned language and not tasks in context: it counts as raw."""
    config: dict[str, Any]
    """The keys of the training that were read."""
    trained: str
    """What of the model learned, in words."""
    trained_parameters: Count
    training_tasks: tuple[str, ...]
    training_tasks_named: Count
    """How many the setting names."""
    started_from: Provenance | str
    """The record of the model that training started from, or its name where it has none."""
    versions: dict[str, str]
    run: RunRecord

    @property
    def start(self) -> str:
        """Folder or hub id of the model that training started from."""
        return str(self.config.get("model", ""))


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """The metric of one task."""

    scores: Scores
    """By demonstration seed."""
    average: Fraction
    worst: Fraction
    scores_by_order: dict[str, Annotated[tuple[Fraction, ...], Field(min_length=1)]] | None = None
    """By seed, once for each order of its demonstrations; None where there was one."""
    confusion: dict[str, dict[str, Count]] | None = None
    """Gold output -> predicted option -> how often, over all seeds; None where options differ between examples."""


@dataclass(frozen=True, kw_only=True)
class TaskResult(TaskScores):
    """One task's part of a results file."""

    kind: str
    metric: Metric
    examples: Count
    guess: Fraction | None = None
    """What guessing uniformly among the options would score, from expected counts."""
    unseen_domain: bool = False
    before: TaskScores | None = None
    """Before adaptation."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Means over the tasks of a subset; None without tasks."""

    average: Fraction | None = None
    worst: Fraction | None = None
    tasks: Count
    tasks_named: Count
    examples: Count


@dataclass(frozen=True, kw_only=True)
class Results:
    """One results file."""

    format: Literal["maml-en-llm results 2"] = RESULTS_FORMAT  # type: ignore[assignment]
    setting: str
    row: Row
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    summary: dict[Subset, Summary]
    before: dict[Subset, Summary] | None = None
    """The summary before adaptation."""
    tasks: dict[str, TaskResult]
    config: dict[str, Any]
    """The resolved configuration of the evaluation."""
    provenance: Provenance | None = None
    """Of the model; None for one that `train` did not make."""
    versions: dict[str, str]
    run: RunRecord

    def __post_init__(self) -> None:
        if (self.row.adaptation is None) != (self.before is None):
            raise ValueError("an adapted model needs a summary before adaptation, and no other has one")
        for name, task in self.tasks.items():
            if (self.row.adaptation is None) != (task.before is None):
                raise ValueError(f"tasks.{name}: an adapted model needs scores before adaptation, and no other has any")
        for subset, summary in {**self.summary, **(self.before or {})}.items():
            if summary.tasks and (summary.average is None or summary.worst is None):
                raise ValueError(f"summary.{subset}: {summary.tasks} tasks without an average")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What was predicted for one example."""

    task: str
    seed: int
    index: Count
    """Place of the example among those that were scored, from 0."""
    output: str
    """The gold output."""
    predicted: str
    scores: Annotated[tuple[Finite, ...], Field(min_length=1)]
    """Of each option, in the order of the example's options: the lowest wins (nats for a language model)."""
    order: Count = 0
    """Which order of the seed's demonstrations."""


@dataclass(frozen=True, kw_only=True)
class _SeedPredictions:
    """A line of OUTPUT.unfinished.jsonl: the predictions of one task and seed."""

    rows: Annotated[tuple[Prediction, ...], Field(min_length=1)]


T = TypeVar("T")


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def to_json(value: Any, indent: int | None = 1) -> str:
    """The JSON of one of the classes above; ValueError when a value is not what its type says (NaN, for example)."""
    adapter = _adapter(type(value))
    text = adapter.dump_json(value, indent=indent)
    from_json(type(value), text, type(value).__name__)
    return text.decode()


def from_json(kind: type[T], text: str | bytes, where: str | Path) -> T:
    """`text` as a `kind`; ValueError of one line that names `where` and the place in it."""
    try:
        found: T = _adapter(kind).validate_json(text, strict=True)
        return found
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise ValueError(f"{where}: not valid JSON ({first['ctx']['error']})") from None
        place = ".".join(map(str, first["loc"]))[:200]
        what = " ".join(first["msg"].removeprefix("Value error, ").split())
        raise ValueError(f"{where}: {place + ': ' if place else ''}{what}") from None


def _read(kind: type[T], path: Path, what: str) -> T:
    try:
        return from_json(kind, content(path), path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from None
    except ValueError as error:
        raise ValueError(f"{error}; {what}") from None


def write_results(path: Path, results: Results) -> None:
    write_text(path, to_json(results))


def read_results(path: Path) -> Results:
    return _read(Results, path, "give a file that `evaluate` or `adapt` of this version wrote")


def read_run(path: Path) -> RunRecord:
    return _read(RunRecord, path, "a new run writes it again")


def read_provenance(model: str | Path) -> Provenance | None:
    """How the model in a folder was made; None for any model that `train` did not make."""
    path = Path(model_folder(model)) / PROVENANCE
    return _read(Provenance, path, "train the model with this version") if path.is_file() else None


def prediction_line(prediction: Prediction) -> str:
    return to_json(prediction, indent=None) + "\n"


def read_predictions(path: Path, seed: int) -> tuple[list[Prediction], int]:
    """The predictions of one demonstration seed in its first order, and how many lines are not whole; ValueError when
    the file cannot be read."""
    found, broken, line = [], 0, b"\n"
    word = f'"seed":{seed},'.encode()  # the other lines need not be parsed: there may be millions
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is not a regular file")
    try:
        with path.open("rb") as file:
            for line in file:
                if word not in line:
                    continue
                try:
                    prediction = from_json(Prediction, line, path)
                except ValueError:
                    broken += 1
                    continue
                if prediction.seed == seed and not prediction.order:
                    found.append(prediction)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from None
    return found, broken + (not line.endswith(b"\n") and not broken)


def summarize(tasks: Sequence[TaskResult], named: int) -> Summary:
    """Means over tasks of their average and their worst."""
    count, examples = len(tasks), sum(task.examples for task in tasks)
    average = sum(task.average for task in tasks) / count if count else None
    worst = sum(task.worst for task in tasks) / count if count else None
    return Summary(average=average, worst=worst, tasks=count, tasks_named=named, examples=examples)


def confusion(predictions: Iterable[Prediction]) -> dict[str, dict[str, int]]:
    """Gold output -> predicted option -> how often."""
    found: dict[str, Counter[str]] = {}
    for prediction in predictions:
        found.setdefault(prediction.output, Counter())[prediction.predicted] += 1
    return {gold: dict(found[gold].most_common()) for gold in sorted(found)}


def write_scores(path: Path, tables: Mapping[str, Iterable[Results]]) -> None:
    """All scores of several tables as one Parquet file: a line for each table, row, setting, task and seed, with what
    tells rows apart and where they are from as columns. `results` holds what the other columns are made from."""
    lines = []
    for name, several in tables.items():
        for results in several:
            row, training, adaptation = asdict(results.row), results.row.training, results.row.adaptation
            known: dict[str, Any] = {"table": name, "setting": results.setting}
            known |= {key: value for key, value in row.items() if key not in ("training", "adaptation")}
            known |= {f"training_{f.name}": getattr(training, f.name, None) for f in fields(Training)}
            known |= {f"adaptation_{f.name}": getattr(adaptation, f.name, None) for f in fields(Adaptation)}
            known |= asdict(results.run) | {"results": to_json(results, indent=None)}
            for task, found in results.tasks.items():
                about = {"task": task, "kind": found.kind, "metric": found.metric, "examples": found.examples}
                about |= {"unseen_domain": found.unseen_domain}
                for seed, score in found.scores.items():
                    before = found.before.scores.get(seed) if found.before else None
                    lines.append(known | about | {"seed": int(seed), "score": score, "score_before": before})
    partial = unfinished(path)
    big = {"dictionary_pagesize_limit": 1 << 28, "data_page_size": 1 << 28}  # each text of `results` once
    try:
        parquet.write_table(pyarrow.Table.from_pylist(lines), partial, compression="zstd", compression_level=19, **big)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_scores(path: Path) -> dict[str, list[Results]]:
    """The results of each table that `write_scores` wrote."""
    try:
        columns = parquet.read_table(path, columns=["table", "results"]).to_pydict()
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path}: cannot be read as a Parquet table of scores ({type(error).__name__})") from None
    found: dict[str, list[Results]] = {}
    for table, text in dict.fromkeys(zip(columns["table"], columns["results"], strict=True)):
        found.setdefault(table, []).append(from_json(Results, text, path))
    return found


def digest(value: Any) -> str:
    """SHA-256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


class PredictionStore:
    """Predictions of a results file, kept as they come: nothing computed is lost when an evaluation stops.

    Until the end they are in `OUTPUT.unfinished.jsonl`, whose first line says what they belong to (`identity`).
    """

    @staticmethod
    def check(output: Path) -> None:
        """ValueError when a file of another origin has one of the names."""
        check_file(output.with_suffix(".predictions.jsonl"), '"index":0,"output":')
        check_file(output.with_suffix(".unfinished.jsonl"), '{"of": "')

    def __init__(self, output: Path, identity: str) -> None:
        self.check(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        self._final = output.with_suffix(".predictions.jsonl")
        self._partial = output.with_suffix(".unfinished.jsonl")
        self.rows: dict[tuple[str, int], list[Prediction]] = {}
        head = json.dumps({"of": identity})
        lines = self._kept(head)
        write_text(self._partial, "".join(line + "\n" for line in [head, *lines]))

    def _kept(self, head: str) -> list[str]:
        """The lines of an earlier evaluation of the same inputs, up to the first that is not whole."""
        if not self._partial.is_file():
            return []
        first, *lines = self._partial.read_bytes().split(b"\n")
        kept: list[str] = []
        if first == head.encode():
            for line in lines[:-1]:  # the last piece is empty, or was cut off
                try:
                    rows = list(from_json(_SeedPredictions, line, self._partial).rows)
                except ValueError:
                    break
                self.rows[rows[0].task, rows[0].seed] = rows
                kept.append(line.decode())
        return kept

    def finished(self, task: str) -> set[int]:
        return {seed for name, seed in self.rows if name == task}

    def add(self, task: str, seed: int, rows: list[Prediction]) -> None:
        self.rows[task, seed] = rows
        with writing(self._partial), self._partial.open("a", encoding="utf-8") as file:
            file.write(to_json(_SeedPredictions(rows=tuple(rows)), indent=None) + "\n")

    def write(self) -> None:
        """Writes one line per prediction to the final file."""
        write_text(self._final, "".join(prediction_line(row) for rows in self.rows.values() for row in rows))

    def forget(self) -> None:
        """Deletes the unfinished file, once the results file is written, too."""
        self._partial.unlink()
