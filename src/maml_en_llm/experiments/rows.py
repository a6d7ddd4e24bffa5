"""A table as data: shared values, settings, and rows that say only how they differ (experiments/tables/*.yaml)."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..config import DEFAULT_METHOD, AdaptConfig, EvaluateConfig, load_yaml, typed_keys
from ..methods import method_names, method_type
from ..methods.method import Method
from . import TableName

TABLES = Path(__file__).parent / "tables"
TABLE_NAMES: tuple[str, ...] = typing.get_args(TableName)
SCORING: dict[str, type[Any]] = {"evaluate": EvaluateConfig, "adapt": AdaptConfig}
SECTIONS = ("train", *SCORING)
ROW_KEYS = {"run", *SECTIONS}
FILE_KEYS = {"settings", "model", "training_seeds", "rows", *SECTIONS}  # of a user's file, besides single keys
TABLE_KEYS = {"about", "settings", "model", "training_seeds", "runs", "rows", *SECTIONS}
TRAINING_SEEDS = (100, 13, 21)  # one run says nothing about how much another would differ
GIVEN = ("collection", "setting", "model", "output", "device")  # by flags, not by tables
HUB = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")  # hub ids of openai-community

Sections = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RowRun:
    """One training run of a cell of a table: how its model is trained (None: it is not) and how it is scored."""

    row: str
    setting: str
    train: Method | None
    score: EvaluateConfig

    @property
    def name(self) -> str:
        """That of its results: the row's, with the training seed behind it unless that is the table's first."""
        return self.score.output.stem

    def __str__(self) -> str:
        return f"{self.setting}/{self.name}"


@dataclass
class Overrides:
    """What the user changes: by a file a table's shared values (`sections`) and those of single rows (`rows`), by flags
    those of every row (`forced`)."""

    where: str = ""
    sections: Sections = field(default_factory=dict)
    rows: dict[str, Sections] = field(default_factory=dict)
    forced: Sections = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    model: str | None = None
    training_seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class TableFile:
    """A table file, its values typed."""

    name: str
    path: Path
    settings: tuple[str, ...]
    model: str
    training_seeds: tuple[int, ...]
    runs: str
    shared: Sections
    rows: Mapping[str, dict[str, Any]]


def read_table(name: str, folder: Path = TABLES) -> TableFile:
    """The table of that name; ValueError naming file, row and key when it is not one."""
    path = folder / f"{name}.yaml"
    record = load_yaml(path)
    _refuse_unknown(record, TABLE_KEYS, str(path))
    rows = {}
    for row, differences in (record.get("rows") or {}).items():
        where = f"{path}: row {row}"
        _refuse_unknown(differences or {}, ROW_KEYS, where)
        rows[row] = _sections(differences or {}, where) | {k: v for k, v in (differences or {}).items() if k == "run"}
    if not rows or not record.get("settings") or not record.get("model"):
        raise ValueError(f"{path}: a table needs settings, a model and rows")
    seeds, runs = _training_seeds(record, str(path)) or TRAINING_SEEDS, record.get("runs", name)
    shared = _sections(record, str(path))
    return TableFile(name, path, tuple(record["settings"]), record["model"], seeds, runs, shared, rows)


def read_overrides(path: Path) -> Overrides:
    """The user's file: settings, model, training seeds, and keys of training and evaluation, either in sections
    `train`, `evaluate` and `adapt` or without, which means every section that has the key; under `rows`, sections of
    single rows by name.

    A file can serve several tables, so a row must be known to any of them.
    """
    record = load_yaml(path)
    plain = {k: v for k, v in record.items() if k not in FILE_KEYS}
    sections = _sections(record, str(path))
    known = {"train": training_keys(), "evaluate": {field.name for field in dataclasses.fields(EvaluateConfig)}}
    for key, value in plain.items():
        readers = [name for name, keys in known.items() if key in keys]
        if not readers:
            names = ", ".join(sorted({*FILE_KEYS, *known["train"], *known["evaluate"]} - {*GIVEN}))
            raise ValueError(f"{path}: unknown key {key!r}; known keys are {names}")
        for name in readers:
            typed = _sections({name: {key: value}}, str(path))[name]
            sections[name] = typed | sections.get(name, {})
    settings = record.get("settings", [])
    if not isinstance(settings, list) or not all(isinstance(name, str) for name in settings):
        raise ValueError(f"{path}: settings is {settings!r}; it must be a list of names")
    rows = record.get("rows", {})
    if not isinstance(rows, dict):
        raise ValueError(f"{path}: rows must hold names of rows, like `rows: {{raw-lm: {{evaluate: {{...}}}}}}`")
    changed = {}
    readable: dict[str, set[str]] = {}  # by row, the sections that it has in any table
    for table in TABLE_NAMES if rows else ():
        for name, row in read_table(table).rows.items():
            readable.setdefault(name, {"evaluate"}).update(row)
    for name, values in rows.items():
        if name not in readable:
            raise ValueError(f"{path}: no table has a row {name!r}; `reproduce TABLE --plan` lists a table's rows")
        if not isinstance(values, dict):
            raise ValueError(f"{path}: row {name} must hold sections, like `{name}: {{evaluate: {{...}}}}`")
        _refuse_unknown(values, readable[name] & {*SECTIONS}, f"{path}: row {name}")
        changed[name] = _sections(values, f"{path}: row {name}")
    seeds = _training_seeds(record, str(path))
    return Overrides(str(path), sections, changed, {}, tuple(settings), record.get("model"), seeds)


def _training_seeds(record: Mapping[str, Any], where: str) -> tuple[int, ...]:
    seeds = record.get("training_seeds", [])
    if not isinstance(seeds, list) or not all(type(s) is int and s >= 0 for s in seeds) or len({*seeds}) < len(seeds):
        raise ValueError(f"{where}: training_seeds is {seeds!r}; it must be a list of different seeds, like [100, 13]")
    return tuple(seeds)


def rows_of(
    table: TableFile,
    overrides: Overrides,
    *,
    settings: Sequence[str],
    model: str,
    collection: Path,
    output: Path,
    device: str = "auto",
) -> list[RowRun]:
    """Every row of the table in every setting, those that are trained once for each training seed unless they set one;
    ValueError for a value that is wrong or that no row reads."""
    trainers = table if table.runs == table.name else read_table(table.runs, table.path.parent)
    model = f"openai-community/{model}" if model in HUB and not Path(model).is_dir() else model
    given = {"collection": collection, "device": device}
    seeds = overrides.training_seeds or table.training_seeds
    read: set[str] = set()
    found = []
    for setting, (name, row) in itertools.product(settings, table.rows.items()):
        run = row.get("run", name)
        source = trainers if "run" in row else table
        if run not in source.rows:
            raise ValueError(f"{table.path}: row {name}: {source.path} has no row {run!r}")
        shared = source.shared.get("train", {}) | overrides.sections.get("train", {})
        differences = source.rows[run].get("train", {}) | overrides.rows.get(run, {}).get("train", {})
        differences |= overrides.forced.get("train", {})
        trained = "train" in source.rows[run]
        for seed in seeds if trained and "seed" not in shared | differences else (None,):
            ending = "" if seed in (None, seeds[0]) else f"-seed{seed}"
            train = None
            if trained:
                place = output / source.name / "runs" / setting / f"{run}{ending}"
                values = given | {"setting": setting, "model": model, "output": place} | differences
                values |= {} if seed is None else {"seed": seed}
                train = _method(values, shared, f"{source.path.name}: row {run}")
                ignored = {key for key in shared if key not in vars(train)} | train.unread().keys()
                read |= overrides.sections.get("train", {}).keys() - (ignored - differences.keys())
            values = given | {"setting": setting, "model": str(train.output / "model") if train else model}
            values["output"] = output / table.name / "results" / setting / f"{name}{ending}.json"
            score = _score(table, overrides, name, values)
            read |= (score.shared.keys() - score.config.unread().keys()) | score.own.keys()
            found.append(RowRun(name, setting, train, score.config))
    unread = [k for section in overrides.sections.values() for k in section if k not in read]
    if unread and found:
        raise ValueError(f"{overrides.where}: {unread[0]} is read by no row of {table.name}; leave it out")
    return found


class _Scoring(NamedTuple):
    config: EvaluateConfig
    shared: dict[str, Any]  # keys of all rows
    own: dict[str, Any]


def _score(table: TableFile, overrides: Overrides, name: str, values: Mapping[str, Any]) -> _Scoring:
    """How a row is scored: by `values` and what table and user say of all rows and of this one."""
    row = table.rows[name]
    section = "adapt" if "adapt" in row else "evaluate"
    readers = ("evaluate", "adapt") if section == "adapt" else ("evaluate",)
    shared: dict[str, Any] = {}
    own = dict(values)
    for part in (table.shared, overrides.sections, row, overrides.rows.get(name, {}), overrides.forced):
        into = shared if part is table.shared or part is overrides.sections else own
        for reader in readers:
            into |= part.get(reader, {})
    return _Scoring(_with_shared(SCORING[section], shared, own, f"{table.path.name}: row {name}"), shared, own)


def training_keys() -> set[str]:
    """The keys of all methods."""
    return {"method"} | {field.name for name in method_names() for field in dataclasses.fields(method_type(name))}


def _method(keys: Mapping[str, Any], shared: Mapping[str, Any], where: str) -> Method:
    """A row's training: of the `shared` keys those that its method reads, under its own `keys`."""
    kind = method_type(str(keys.get("method", shared.get("method", DEFAULT_METHOD))))
    fields = {field.name for field in dataclasses.fields(kind)}
    own = {key: value for key, value in keys.items() if key != "method"}
    if unknown := [key for key in own if key not in fields]:
        raise ValueError(f"{where}: {unknown[0]} is no key of its method")
    made: Method = _with_shared(kind, {key: value for key, value in shared.items() if key in fields}, own, where)
    return made


def _with_shared(config_type: type[Any], shared: Mapping[str, Any], own: Mapping[str, Any], where: str) -> Any:
    """A configuration of its `own` keys, over those of the `shared` ones that have an effect with them."""
    values = {**shared, **own}
    unchecked = object.__new__(config_type)  # which keys have an effect depends on the others alone
    vars(unchecked).update({field.name: field.default for field in dataclasses.fields(config_type)} | values)
    unread = unchecked.unread().keys() - own.keys()
    try:
        return config_type(**{key: value for key, value in values.items() if key not in unread})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _sections(record: Mapping[str, Any], where: str) -> Sections:
    """The typed sections of a table, a row or a user's file."""
    found = {}
    for name in SECTIONS:
        if name not in record:
            continue
        if not isinstance(record[name], dict):
            raise ValueError(f"{where}: {name} must hold keys and values, like `{name}: {{max_tokens: 512}}`")
        given = [key for key in record[name] if key in GIVEN]
        if given:
            raise ValueError(f"{where}: {name}: {given[0]} is not a value of a table; use the flags of `reproduce`")
        if name == "train":
            found[name] = training_section(record[name], f"{where}: {name}")
        else:
            found[name] = typed_keys(record[name], SCORING[name], f"{where}: {name}")
    return found


def training_section(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Keys of training with their types; without a `method`, those of any method."""
    _refuse_unknown(record, training_keys(), where)
    names = [str(record["method"])] if "method" in record else [DEFAULT_METHOD, *method_names()]
    found: dict[str, Any] = {key: value for key, value in record.items() if key == "method"}
    for kind in map(method_type, names):
        fields = {field.name for field in dataclasses.fields(kind)}
        found = typed_keys({k: v for k, v in record.items() if k in fields}, kind, where) | found
    _refuse_unknown(record, set(found), where)
    return found


def _refuse_unknown(record: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in record:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; known keys are {', '.join(sorted(known))}")
