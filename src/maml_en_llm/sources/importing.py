"""From a user's own files to tasks of a collection; nothing is written before all of it was read and checked.

Every change to the data (labels made one, rows left out) is a remark of the task, to be read before it is written.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from ..names import check_name
from ..progress import track
from ..tasks.collection import KINDS, SPLITS, Example, parse_line, read_setting
from ..tasks.limited import stratified_indices
from ..tasks.seeds import random_generator
from ..tasks.writing import (
    check_collection_folder,
    check_setting,
    check_task,
    question,
    read_manifest,
    separated,
    setting_is_ours,
    setting_path,
    task_hashes,
    write_manifest,
    write_setting,
    write_task,
)
from .labels import Cleaning, clean, label_set
from .mappings import FIELD, MissingColumn, Row, as_text, fields_of, fill, value_at
from .reading import MOST_CHARACTERS, SUFFIXES, Table, check_file, read_table, read_text

PAPER_FILE = re.compile(r"(?P<task>.+)_(?P<number>\d+)_(?P<seed>\d+)_(?P<split>train|dev|test)\.jsonl")
SPLIT_WORDS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev", "test": "test"}
LABEL_COLUMNS = ("label", "labels", "class", "category", "output", "target", "answer", "sentiment", "intent", "topic")
TABLES = (".xlsx", ".xls", ".ods", ".numbers", ".gsheet")
LARGE = 20_000  # kB of files from which reading shows its progress


# ---- from rows to examples


@dataclass(frozen=True)
class Columns:
    """Which columns make an example. Texts are column names or templates like "{title} [SEP] {body}"; alternatives,
    of which the first that a file has is taken, are separated by |."""

    input: tuple[str, ...] = ()
    output: str | None = None
    options: str = "auto"  # auto, label words separated by commas, or {column} with a list
    kind: str = "auto"


@dataclass
class Imported:
    """One task read from files, and what the user should see before it is written."""

    name: str
    kind: str
    splits: dict[str, list[Example]]
    options: tuple[str, ...] = ()
    instruction: str | None = None
    sources: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # what was done
    left_out: dict[str, int] = field(default_factory=dict)  # how many rows, by what is wrong with them
    warnings: list[str] = field(default_factory=list)  # what to look at

    @property
    def labels(self) -> dict[str, int]:
        """Examples by label, the most frequent first; empty for a task without fixed labels."""
        counts = Counter(example.output for examples in self.splits.values() for example in examples)
        return {label: counts[label] for label in sorted(self.options, key=lambda label: (-counts[label], label))}


@dataclass(frozen=True)
class Placed:
    """An example with the file and line that it comes from."""

    example: Example
    place: str


class NoColumn(ValueError):
    """A table does not have the columns that were asked for."""

    def __init__(self, table: Table, what: str) -> None:
        super().__init__(f"{table.path}: {what}")
        self.table = table


def _column(table: Table, name: str) -> str | None:
    """The column of the table that `name` means: itself, or the only one that differs just in case; else None."""
    if name in table.columns or name.split(".")[0] in table.columns:
        return name
    alike = [column for column in table.columns if column.casefold() == name.strip().casefold()]
    return alike[0] if len(alike) == 1 else None


def _piece(table: Table, name: str, flag: str) -> str | None:
    """`name` as a template over the table's columns, None when it has not all of them. ValueError if it is none."""
    if (column := _column(table, name)) is not None:
        return column if set("{}") & set(column) else f"{{{column}}}"
    if not set("{}") & set(name):
        return None
    if not (paths := fields_of(name)) or set("{}") & set(FIELD.sub("", name)):
        raise ValueError(f"{flag} {name!r} is no template; write columns in braces, like '{{title}} [SEP] {{body}}'")
    columns = {path: _column(table, path) for path in paths}
    return None if None in columns.values() else FIELD.sub(lambda match: f"{{{columns[match[1]]}}}", name)


def _find(table: Table, name: str, flag: str) -> tuple[str, str]:
    """The first of the alternatives in `name` that the table has, and its template. Raises NoColumn if it has none."""
    for alternative in [name] if name in table.columns else [part.strip() for part in name.split("|")]:
        if (template := _piece(table, alternative, flag)) is not None:
            return alternative, template
    absent = fields_of(name)[0] if "|" not in name and fields_of(name) else name
    raise NoColumn(table, f"there is no column {absent!r}")


def _text(row: Row, pieces: Sequence[tuple[str, str]]) -> str:
    """One text of several columns, each named; alone a column is bare. Columns without a value are left out."""
    texts = []
    for name, template in pieces:
        text = as_text(value_at(row, template)) if template in row else fill(template, row)
        if text:
            texts.append(text if "{" in name or len(pieces) == 1 else f"{name}: {text}")
    return " [SEP] ".join(texts)


def examples_of(table: Table, columns: Columns, missing: Iterable[str] = ()) -> tuple[list[Placed], int]:
    """The examples of a table (options still empty unless each row has its own) and how many rows have none.

    missing: words that are no input. Raises ValueError for unknown columns and for values that are no text, with the
    line.
    """
    if not columns.input or columns.output is None:
        if not {"input", "output"} <= set(table.columns):
            raise NoColumn(table, "give --input COLUMN and --output COLUMN")
        listed = "{options}" if "options" in table.columns else columns.options
        columns = Columns(("input",), "output", listed, columns.kind)
    read = [_find(table, name, "--input") for name in columns.input]
    written = [_find(table, str(columns.output), "--output")]
    own = _find(table, columns.options, "--options")[1].strip("{}") if columns.options.startswith("{") else None
    nothing = frozenset(word.casefold() for word in missing)
    found: list[Placed] = []
    empty = 0
    for line, row in table.rows:
        try:
            text, label = _text(row, read), _text(row, written)
            options = tuple(as_text(option) or "" for option in value_at(row, own) or ()) if own else ()
        except (MissingColumn, ValueError, TypeError) as error:
            raise ValueError(f"{table.path}:{line}: {error}") from None
        if not text or not label or text.casefold() in nothing:
            empty += 1
            continue
        if max(len(text), len(label)) > MOST_CHARACTERS:
            raise ValueError(f"{table.path}:{line}: a text has over {MOST_CHARACTERS:,} characters; cut or drop it")
        if options and label not in options:
            raise ValueError(f"{table.path}:{line}: the output {label[:60]!r} is not among the options {options}")
        if len(set(options)) < len(options):
            raise ValueError(f"{table.path}:{line}: an option stands more than once in {options}")
        found.append(Placed(Example(text, label, options), f"{table.path.name}:{line}"))
    if not found:
        raise ValueError(f"{table.path}: no row has both an input and an output; check --input and --output")
    return found, empty


def suggestion(tables: Sequence[Table], columns: Columns) -> str:
    """Which columns the tables have, and which of them look like input and output, behind those that were asked for."""
    inputs = dict.fromkeys(columns.input)
    outputs = dict.fromkeys([columns.output] if columns.output else [])
    listed = "; ".join(f"{table.path.name}: {', '.join(table.columns)}" for table in tables)
    listed = f"the columns are {', '.join(tables[0].columns)}" if len(tables) == 1 else f"they have {listed}"
    for table in tables:
        lengths, labels = {}, {}
        for column in table.columns:
            texts = [str(row[column]).strip() for _, row in table.rows[:1000] if row.get(column) not in (None, "")]
            lengths[column] = sum(map(len, texts)) / max(len(texts), 1)
            if label_set(counts := Counter(text.casefold() for text in texts)):
                labels[column] = len(counts)
        text = max(lengths, key=lambda column: lengths[column], default=None)
        likely = [c for c in labels if c != text and c.casefold() in LABEL_COLUMNS] or [c for c in labels if c != text]
        label = min(likely, key=lambda column: labels[column], default=None)
        if text is None or label is None:
            return listed
        inputs[text] = outputs[label] = None
    flags = f"--input {_quoted('|'.join(inputs))} --output {_quoted('|'.join(outputs))}"
    return f"{listed}; by their content, {flags}"


def _quoted(text: str) -> str:
    return text if text.isalnum() else f'"{text}"'


def option_words(options: str) -> tuple[str, ...]:
    """The label words of --options. Raises ValueError unless there are two or more, all distinct and none empty."""
    words = tuple(word.strip() for word in options.split(","))
    if len(words) < 2 or "" in words:
        raise ValueError(f"--options {options!r} must name two labels or more, separated by commas, none of them empty")
    if len(set(words)) < len(words):
        raise ValueError("--options names a label twice; each must be distinct")
    return words


Split = dict[str, list[Placed]]


def label(task: Imported, splits: Split, columns: Columns, cleaning: Cleaning) -> tuple[Split, set[str]]:
    """The splits with their labels cleaned and their options set, as are those of `task`, with its kind and remarks.

    Also the keys of `cleaning.renamed` that were used. Raises ValueError when a label is not among the options.
    """
    everything = [placed for part in splits.values() for placed in part]
    lists = {placed.example.options for placed in everything}
    if columns.kind not in ("auto", *KINDS):
        raise ValueError(f"--kind is {columns.kind!r}; it must be auto or one of {', '.join(KINDS)}")
    used: set[str] = set()
    if lists != {()}:
        task.kind = "classification" if len(lists) == 1 else "multiple_choice_qa"
        task.options = next(iter(lists)) if len(lists) == 1 else ()
    else:
        words = option_words(columns.options) if columns.options != "auto" else ()
        cleaned = clean(task.name, [p.example.output for p in everything], cleaning, words, columns.kind)
        task.remarks += cleaned.remarks
        task.left_out |= cleaned.left_out
        task.warnings += cleaned.warnings
        task.options, used = cleaned.labels, cleaned.used
        task.kind = "classification" if task.options else "free_form"
        outputs = iter(cleaned.outputs)
        splits = {
            split: [
                Placed(Example(placed.example.input, output, task.options), placed.place)
                for placed in part
                if (output := next(outputs)) is not None
            ]
            for split, part in splits.items()
        }
        for placed in (placed for part in splits.values() for placed in part):
            if task.options and placed.example.output not in task.options:
                stray, known = placed.example.output[:60], ", ".join(task.options)
                raise ValueError(f"{placed.place}: the output {stray!r} is not among --options {known}")
    if columns.kind != "auto":
        if (columns.kind == "free_form") != (task.kind == "free_form"):
            kind = columns.kind
            raise ValueError(f"--kind is {kind} but the examples of {task.name} look like {task.kind}; see --options")
        task.kind = columns.kind
    return splits, used


def settled(task: Imported, splits: Split) -> dict[str, list[Example]]:
    """Examples without those inputs that have several labels: where one label is the most frequent, it is kept."""
    if not task.options:
        return {split: [placed.example for placed in part] for split, part in splits.items()}
    votes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    texts: dict[str, str] = {}
    for part in splits.values():
        for placed in part:
            asked = question(placed.example)
            texts.setdefault(asked, placed.example.input)
            votes[asked][placed.example.output].append(placed.place)
    kept: dict[str, str | None] = {}
    said = []
    for asked, labels in votes.items():
        if len(labels) > 1:
            first, second, *_ = sorted(labels, key=lambda word: -len(labels[word]))
            kept[asked] = first if len(labels[first]) > len(labels[second]) else None
            places = "; ".join(f"{word}: {', '.join(places[:3])}" for word, places in labels.items())
            said.append(
                f"{texts[asked][:60]!r} ({places}): {'left out' if kept[asked] is None else f'{kept[asked]} is kept'}"
            )
    if said:
        removed = sum(
            kept.get(question(p.example), p.example.output) != p.example.output for p in chain(*splits.values())
        )
        task.left_out["contradicted"] = removed
        task.warnings.append("\n".join([f"inputs with several labels: {len(said)}", *said]))
    return {
        split: [p.example for p in part if kept.get(question(p.example), p.example.output) == p.example.output]
        for split, part in splits.items()
    }


def hold_out(examples: Sequence[Example], share: float, *key: int | str) -> tuple[list[Example], list[Example]]:
    """(train, test): a share of every label is held out; labels with one example, and one example at least, stay."""
    counts = Counter(example.output for example in examples if example.options)
    free = [n for n, example in enumerate(examples) if not example.options or counts[example.output] > 1]
    if len(free) < 2:
        return list(examples), []
    fixed = len({example.options for example in examples}) == 1 and bool(examples[0].options)
    labels = [examples[n].output if fixed else "" for n in free]
    chosen = {free[index] for index in stratified_indices(labels, share, "holdout", *key)}
    train = [example for n, example in enumerate(examples) if n not in chosen]
    return train, [examples[n] for n in sorted(chosen)]


# ---- what a source is


def split_of(path: Path) -> str | None:
    """train, dev or test when a file's name says so: train.csv, validation-00000-of-00001.parquet, data_test.jsonl."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    found = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def safe_name(name: str) -> str:
    """A task name that can be a folder's name."""
    return re.sub(r"[^\w:.-]+", "-", unicodedata.normalize("NFC", name)).strip("-.") or "task"


def data_files(folder: Path) -> list[Path]:
    """The data files in a folder, sorted. Raises ValueError when there are none."""
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith((".", "cache-")) and not path.is_dir()
    ]
    hidden = {"dataset_info.json", "state.json", "dataset_dict.json", "manifest.json"}
    found = [path for path in found if path.name not in hidden]
    if not found:
        raise ValueError(f"{folder}: holds no file that ends in {', '.join(SUFFIXES)}; check --source")
    return found


def find_sources(source: Path) -> list[tuple[str, dict[str, list[Path]]]]:
    """Task names with split -> files; split "" is still to be split. Raises ValueError when nothing can be read."""
    if not source.is_dir():
        return [(safe_name(source.stem), {"": [source]})]
    if (source / "dataset_dict.json").is_file():  # a saved DatasetDict: a folder a split
        return [(safe_name(source.name), {split_of(inner) or "": data_files(inner) for inner in _folders(source)})]
    if (source / "data").is_dir() and not _holds_data(source):
        source = source / "data"
    folders = _folders(source)
    if not _holds_data(source):
        if not folders:
            data_files(source)
        return [task for folder in folders for task in find_sources(folder)]
    files = data_files(source)
    inner = next((found for folder in folders for found in folder.rglob("*") if found.suffix.lower() in SUFFIXES), None)
    if inner is not None:
        raise ValueError(
            f"{source} holds {files[0].name} next to a folder with {inner}; import one of the two at a time"
        )
    paper = [match for path in files if (match := PAPER_FILE.fullmatch(path.name))]
    if len(paper) == len(files):
        return [(task, {"paper": _of_task(files, task)}) for task in dict.fromkeys(match["task"] for match in paper)]
    if (source / "dataset_info.json").is_file() and not all(split_of(path) for path in files):  # one saved split
        return [(safe_name(source.name), {"": files})]
    if all(split_of(path) for path in files):
        by_split: dict[str, list[Path]] = {}
        for path in files:
            by_split.setdefault(split_of(path) or "", []).append(path)
        return [(safe_name(source.resolve().name), by_split)]
    return [(safe_name(path.stem), {"": [path]}) for path in files]


def _folders(source: Path) -> list[Path]:
    return [folder for folder in sorted(source.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]


def _holds_data(folder: Path) -> bool:
    return any(path.is_file() and path.suffix.lower() in SUFFIXES for path in folder.iterdir())


def left_out(source: Path) -> list[str]:
    """Files in a folder that are not read because of what they are, such as spreadsheets."""
    if not source.is_dir():
        return []
    found = [path for path in source.rglob("*") if path.is_file() and path.suffix.lower() in (*TABLES, ".txt", ".zip")]
    return sorted(path.name for path in found)


def _of_task(files: Iterable[Path], task: str) -> list[Path]:
    return [path for path in files if (match := PAPER_FILE.fullmatch(path.name)) and match["task"] == task]


# ---- MetaICL's preprocessed folders


def paper_task(task: str, paths: Sequence[Path]) -> dict[str, list[Example]]:
    """The splits of a task in MetaICL's files TASK_NUMBER_SEED_SPLIT.jsonl.

    The largest train file is the train split; a task with files of 16 examples a seed only gets those of all seeds.
    The test files of all seeds are the same and are read once. Raises ValueError with the line of a bad example.
    """
    matches = [(path, match) for path in sorted(paths) if (match := PAPER_FILE.fullmatch(path.name))]
    most = max(int(match["number"]) for _, match in matches)
    parts: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for path, match in matches:
        if match["split"] == "train" and int(match["number"]) < most:
            continue
        if match["split"] != "train" and parts[match["split"]]:
            continue
        text, _ = read_text(path)
        for number, line in enumerate(text.encode("utf-8", "surrogatepass").splitlines(), start=1):
            example, problems = parse_line(line, task)
            if example is None:
                raise ValueError(f"{path}:{number}: {problems[0]}")
            parts[match["split"]].append(example)
    return separated(parts, 0)


# ---- Natural Instructions


def natural_instructions(path: Path) -> tuple[list[Example], str | None] | None:
    """The examples and the definition of a task of Natural Instructions (Definition and Instances in one JSON object);
    None when the file is not one.

    The first output of an instance is its answer. Raises ValueError for an instance that has none.
    """
    if path.suffix.lower() != ".json":
        return None
    text, _ = read_text(path)
    if text.lstrip()[:1] != "{":
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return None  # perhaps JSON lines, whose reader says what is wrong
    if not isinstance(record, dict) or not isinstance(record.get("Instances"), list):
        return None
    definition = record.get("Definition")
    found = []
    for number, instance in enumerate(record["Instances"], start=1):
        outputs = instance.get("output") if isinstance(instance, dict) else None
        output = outputs[0] if isinstance(outputs, list) and outputs else outputs
        source = instance.get("input") if isinstance(instance, dict) else None
        if not isinstance(source, str) or not isinstance(output, str):
            raise ValueError(f"{path}:1: instance {number} must have an input and an output text; correct or delete it")
        if source.strip() and output.strip():
            found.append(Example(" ".join(source.split()), " ".join(output.split())))
    if not found:
        raise ValueError(f"{path}:1: has no instance with an input and an output")
    if isinstance(definition, list):
        definition = " ".join(str(part) for part in definition)
    instruction = " ".join(definition.split()) if isinstance(definition, str) else None
    return found, instruction


# ---- the whole


def read_task(
    name: str,
    files: Mapping[str, Sequence[Path]],
    columns: Columns,
    cleaning: Cleaning | None = None,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    header: bool = True,
    test_share: float = 0.2,
    seed: int = 100,
    instruction: str | None = None,
) -> tuple[Imported, set[str]]:
    """One task from its files, cleaned, deduplicated and split, and the keys of `cleaning.renamed` that it used.

    Raises ValueError with file, line and remedy.
    """
    cleaning = cleaning or Cleaning()
    paths = [path for part in files.values() for path in part]
    task = Imported(name, "free_form", {}, (), instruction, [str(path) for path in paths])
    if "paper" in files:
        task.splits = _filled(paper_task(name, files["paper"]))
        placed = {split: [Placed(example, name) for example in part] for split, part in task.splits.items()}
        placed, _ = label(task, placed, Columns(), Cleaning(fold=False, missing=()))
        task.splits = {split: [each.example for each in part] for split, part in placed.items()}
        return task, set()
    single = natural_instructions(paths[0]) if len(paths) == 1 else None
    splits: Split = {}
    empty = 0
    if single is not None:
        task.instruction = instruction or single[1]
        splits["train"] = [Placed(example, paths[0].name) for example in single[0]]
    else:
        for split, some in files.items():
            for path in some:
                table = read_table(path, encoding, delimiter, header)
                blank = cleaning.missing if path.suffix.lower() in (".csv", ".tsv") else ()
                found, said = examples_of(table, columns, blank)
                task.remarks += table.remarks if len(paths) == 1 else [f"{path.name}: {r}" for r in table.remarks]
                empty += said
                splits.setdefault(split or "train", []).extend(found)
    if "train" not in splits:
        raise ValueError(f"{paths[0].parent}: has no train file, only {', '.join(sorted(splits))}; add or rename one")
    if empty:
        task.left_out["without input or output"] = empty
    splits, used = label(task, splits, columns, cleaning)
    parts = settled(task, splits)
    before = sum(map(len, parts.values()))
    parts = separated(parts, 0)
    if dropped := before - sum(map(len, parts.values())):
        task.left_out["repeated"] = dropped
    if not parts["train"]:
        raise ValueError(f"{paths[0]}: no training example is left; check --input, --output and --missing")
    if not parts["test"]:
        parts["train"], parts["test"] = hold_out(parts["train"], test_share, name, seed)
    task.splits = _filled(parts)
    if task.options and sum(count > 0 for count in task.labels.values()) < 2:
        task.warnings.append("only one label is left, so there is nothing to learn")
    return task, used


def _filled(splits: Mapping[str, list[Example]]) -> dict[str, list[Example]]:
    return {split: examples for split, examples in splits.items() if examples}


def read_tasks(
    source: Path, columns: Columns, cleaning: Cleaning | None = None, *, task: str | None = None, **reading: Any
) -> list[Imported]:
    """All tasks in a file or folder. Raises ValueError with file, line and remedy."""
    if not source.is_dir():
        check_file(source)
    found = find_sources(source)
    if task is not None:
        if len(found) > 1:
            raise ValueError(
                f"{source} holds {len(found)} tasks ({', '.join(name for name, _ in found)}), so leave --task out"
            )
        found = [(check_name(task, "task"), found[0][1])]
    first: dict[str, Path] = {}
    sizes = []
    for name, files in found:
        paths = [path for part in files.values() for path in part]
        sizes.append(sum(path.stat().st_size for path in paths if path.exists()) // 1000)
        earlier = first.setdefault(check_name(name, "task").casefold(), paths[0])  # many disks do not tell A from a
        if earlier is not paths[0]:
            raise ValueError(
                f"{earlier} and {paths[0]} would both become the task {name}; rename one, or import each with a --task"
            )
    tasks: list[Imported] = []
    used: set[str] = set()
    other: list[NoColumn] = []
    large = track("import", sum(sizes), "kB") if sum(sizes) > LARGE else nullcontext()
    with large as progress:
        for (name, files), size in zip(found, sizes, strict=True):
            try:
                read, keys = read_task(name, files, columns, cleaning, **reading)
            except NoColumn as error:
                other.append(error)
                continue
            tasks.append(read)
            used |= keys
            if progress is not None:
                progress.advance(size, name)
    if other:
        what = f"{source}: {len(other)} files do not have the columns of --input and --output"
        hint = suggestion([error.table for error in other], columns)
        raise ValueError(f"{other[0] if len(other) == 1 else what}; {hint}")
    if unused := set(cleaning.renamed if cleaning else ()) - used:
        raise ValueError(
            f"--label-map names {min(unused)!r}, which is no label of any task; correct it or leave it out"
        )
    return tasks


# ---- settings


@dataclass(frozen=True)
class Plan:
    """What becomes of a setting when tasks are imported: its lists (None: it stays as it is), and a sentence."""

    lists: dict[str, list[str]] | None
    said: str


def proposed_setting(names: Sequence[str], held_out: float, seed: int) -> dict[str, list[str]]:
    """A setting that holds out a share of the tasks, at least one, as targets; the rest are trained on."""
    order = [names[int(index)] for index in random_generator("held out", seed).permutation(len(names))]
    number = min(max(round(len(names) * held_out), 1), len(names) - 1)
    return {"train": sorted(order[number:]), "test": sorted(order[:number]), "unseen_domain_test": []}


def plan_setting(
    collection: Path, setting: str, tasks: Sequence[Imported], targets: Sequence[str], held_out: float, seed: int
) -> Plan:
    """How imported tasks join `setting`, or which one is made of them and of those imported before.

    Raises ValueError when `targets` names tasks that are not there or cannot be targets, or the setting is not ours.
    """
    path = setting_path(collection, setting)
    lines = {line["name"]: line for line in read_manifest(collection).get("tasks", ()) if _imported(line)}
    kinds = {name: line.get("kind") for name, line in lines.items()} | {task.name: task.kind for task in tasks}
    tested = {name: (collection / "data" / name / "test.jsonl").is_file() for name in lines}
    tested |= {task.name: "test" in task.splits for task in tasks}
    able = [name for name in sorted(kinds) if kinds[name] != "free_form" and tested[name]]
    for name in targets:
        if name not in kinds:
            raise ValueError(
                f"--targets names {name!r}, which is not imported; the tasks are {', '.join(sorted(kinds))}"
            )
        if name not in able:
            raise ValueError(
                f"--targets names {name!r}, which cannot be a target: it has no options or no test examples"
            )
    if not path.is_file():
        others = sorted(set(kinds) - set(targets))
        if targets and not others:
            raise ValueError("--targets names all tasks, so none is left to train on; leave one out")
        if targets:
            lists = {"train": others, "test": sorted(targets), "unseen_domain_test": []}
        elif len(kinds) > 1 and able:
            proposal = (
                proposed_setting(able, held_out * len(kinds) / len(able), seed) if len(able) > 1 else {"test": able}
            )
            lists = {
                "train": sorted(set(kinds) - set(proposal["test"])),
                "test": proposal["test"],
                "unseen_domain_test": [],
            }
        else:
            why = "a setting needs tasks to train on and targets" if able else "no task can be a target"
            return Plan(None, f"no setting yet: {why}; import more tasks")
        return Plan(lists, _described(setting, lists))

    lists = read_setting(path)
    named = {name for names in lists.values() for name in names}
    new = [task.name for task in tasks if task.name not in named]
    moved = [name for name in targets if name not in lists["test"]]
    if not new and not moved:
        return Plan(None, f"{_described(setting, lists)} (as before)")
    if not setting_is_ours(path):
        how = f"{path} was not written by an import, or was changed since, so it stays as it is"
        if targets:
            raise ValueError(f"{how}; edit it, or give another --setting")
        return Plan(None, f"{how}: to use {', '.join(new)}, add to its lists, or give another --setting")
    lists["test"] = sorted({*lists["test"], *moved})
    lists["train"] = sorted({*lists["train"], *new} - set(moved))
    if not lists["train"]:
        raise ValueError("--targets names all tasks, so none is left to train on; leave one out")
    joined = [name for name in new if name not in moved]
    hint = f"; {', '.join(joined)} joined its training tasks (--targets makes targets)" if joined else ""
    return Plan(lists, _described(setting, lists) + hint)


def _imported(line: Mapping[str, Any]) -> bool:
    source = line.get("source")
    return isinstance(source, Mapping) and "asked" not in source and "files" in source


def _described(setting: str, lists: Mapping[str, Sequence[str]]) -> str:
    return f"setting {setting}: trains on {len(lists['train'])} tasks, holds out {', '.join(lists['test']) or 'none'}"


# ---- writing


def check_import(collection: Path, tasks: Sequence[Imported], overwrite: bool = False) -> None:
    """ValueError unless all tasks may be written: none may be there with other examples, except to overwrite it."""
    check_collection_folder(collection)
    for task in tasks:
        same = check_task(collection, task.name, task_hashes(task.name, task.splits))
        if (collection / "data" / task.name).exists() and not same and not overwrite:
            raise ValueError(f"{collection / 'data' / task.name} exists already; give --overwrite or another --task")


def write_tasks(
    collection: Path,
    tasks: Sequence[Imported],
    *,
    overwrite: bool = False,
    setting: str | None = None,
    lists: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Writes tasks into a collection, and `setting` with `lists` (see plan_setting) if there are any.

    Raises ValueError, before anything is written, when check_import does or the setting is not ours.
    """
    check_import(collection, tasks, overwrite)
    if setting is not None and lists is not None:
        check_setting(collection, setting, lists)
    entries = []
    for task in tasks:
        hashes = write_task(collection, task.name, task.splits)
        entries.append(
            {
                "name": task.name,
                "kind": task.kind,
                "options": list(task.options),
                "instruction": task.instruction,
                "source": {"files": task.sources},
                "counts": {split: len(examples) for split, examples in task.splits.items()},
                "files": hashes,
            }
        )
    if setting is not None and lists is not None:
        write_setting(collection, setting, lists)
    write_manifest(collection, entries)
