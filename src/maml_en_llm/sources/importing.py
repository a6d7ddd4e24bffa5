"""From a user's own files to a collection: CSV, TSV, JSON lines, JSON, Parquet, saved Hugging Face datasets, MetaICL's
preprocessed folders and Natural Instructions.

Reading is strict: what cannot be read for certain is an error that names file, line and remedy, and nothing is written
before all of it was read.
"""

from __future__ import annotations

import csv
import io
import json
import re
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..names import check_name
from ..tasks.collection import KINDS, SPLITS, Example, parse_line
from ..tasks.seeds import random_generator
from ..tasks.writing import (
    check_collection_folder,
    check_setting,
    check_task,
    separated,
    task_hashes,
    write_manifest,
    write_setting,
    write_task,
)
from .mappings import FIELD, MissingColumn, Row, as_text, fields_of, fill, value_at

PAPER_FILE = re.compile(r"(?P<task>.+)_(?P<number>\d+)_(?P<seed>\d+)_(?P<split>train|dev|test)\.jsonl")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow")
SPLIT_WORDS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev", "test": "test"}
MOST_CHARACTERS = 1_000_000  # of one field: more is a missing quote, not a text to learn from
MOST_LABELS = 100
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")


@dataclass(frozen=True)
class Table:
    """Rows of one file with the place of each, and what was found out about the file."""

    path: Path
    rows: list[tuple[int, Row]]  # line (from 1) or row number, and the row
    columns: tuple[str, ...]
    remarks: tuple[str, ...] = ()


# ---- reading files


def check_file(path: Path) -> None:
    """ValueError with what to do when `path` is not a file that can be read."""
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path}: is a symbolic link that leads nowhere; give the file itself")
    if not path.exists():
        raise ValueError(f"{path}: does not exist; check --source")
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path}: is not a regular file; give a file or a folder of files")
    with path.open("rb") as file:  # PermissionError is reported with the file's name
        if not file.read(1):
            raise ValueError(f"{path}: is empty; give a file with examples")
    if zipfile.is_zipfile(path):
        raise ValueError(f"{path}: is a zip archive; unpack it and give the folder")


def read_text(path: Path, encoding: str | None = None) -> tuple[str, list[str]]:
    """The text of a file and remarks about its encoding: UTF-8, UTF-16 with a mark, else Windows-1252.

    Raises ValueError with the line of the first byte that does not fit, or of a NUL byte.
    """
    check_file(path)
    data = path.read_bytes()
    remarks = []
    if encoding is None:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            encoding = "utf-16"
            remarks.append("read as UTF-16")
        elif b"\0" in data:
            line = data.count(b"\n", 0, data.index(b"\0")) + 1
            raise ValueError(f"{path}:{line}: holds a NUL byte, so it is not a text file (or UTF-16: give --encoding)")
        else:
            encoding = "utf-8-sig"
    try:
        text = data.decode(encoding)
    except LookupError:
        raise ValueError(f"unknown --encoding {encoding!r}; use a name like utf-8 or cp1252") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        if encoding != "utf-8-sig":
            raise ValueError(
                f"{path}:{line}: is not {encoding} (byte {error.start}); give another --encoding"
            ) from None
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            raise ValueError(f"{path}:{line}: is neither UTF-8 nor Windows-1252; give its --encoding") from None
        if _CONTROL.search(text):
            raise ValueError(f"{path}:{line}: is not UTF-8 and does not look like text; give its --encoding") from None
        remarks.append(f"not UTF-8 (line {line}); read as Windows-1252, give --encoding if that is wrong")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path}:{line}: holds a NUL character; is --encoding right?")
    return text, remarks


def detect_delimiter(text: str) -> str:
    """The delimiter that cuts the first records into the most equal number of fields, at least two."""
    best, best_score = ",", (0.0, 0)
    sample = text[:200_000].splitlines(keepends=True)[:200]
    for delimiter in (",", "\t", ";", "|"):
        try:
            widths = Counter(len(record) for record in islice(csv.reader(sample, delimiter=delimiter), 50) if record)
        except csv.Error:
            continue
        if not widths:
            continue
        width, count = widths.most_common(1)[0]
        score = (count / sum(widths.values()), width)
        if width > 1 and score > best_score:
            best, best_score = delimiter, score
    return best


def read_csv(path: Path, encoding: str | None, delimiter: str | None, header: bool) -> Table:
    """A CSV or TSV file. Raises ValueError with the line of a record with too many or too few fields."""
    text, remarks = read_text(path, encoding)
    separator = delimiter or ("\t" if path.suffix.lower() == ".tsv" else detect_delimiter(text))
    remarks.append(f"delimiter {separator!r}")
    csv.field_size_limit(MOST_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows: list[tuple[int, Row]] = []
    columns: list[str] | None = None
    line = 1
    try:
        for record in reader:
            start, line = line, reader.line_num + 1
            if not record:
                continue
            if columns is None:
                columns = [name.strip() for name in record] if header else [str(n + 1) for n in range(len(record))]
                repeated = [name for name, count in Counter(columns).items() if count > 1]
                if repeated:
                    raise ValueError(
                        f"{path}:{start}: the column {repeated[0]!r} stands twice in the header; rename one"
                    )
                if header:
                    continue
            if len(record) != len(columns):
                raise ValueError(
                    f"{path}:{start}: has {len(record)} fields but there are {len(columns)} columns; put fields that "
                    f"hold {separator!r} in quotes, or give --delimiter"
                )
            rows.append((start, dict(zip(columns, record, strict=True))))
    except csv.Error as error:
        what = f"a field has over {MOST_CHARACTERS:,} characters" if "field larger" in str(error) else str(error)
        raise ValueError(f"{path}:{reader.line_num or 1}: {what}; is a quote missing?") from None
    return Table(path, rows, tuple(columns or ()), tuple(remarks))


def read_json_lines(path: Path, encoding: str | None) -> Table:
    """JSON lines, or one JSON list of objects. Raises ValueError with the line that is not a JSON object."""
    text, remarks = read_text(path, encoding)
    found: list[tuple[int, Any]] = []
    if text.lstrip()[:1] == "[":
        found = list(enumerate(_json(text, path, 1), start=1))
    else:
        for line, part in enumerate(text.split("\n"), start=1):
            if part.strip():
                found.append((line, _json(part, path, line)))
    rows: list[tuple[int, Row]] = []
    columns: dict[str, None] = {}
    for place, value in found:
        if not isinstance(value, dict):
            raise ValueError(f"{path}:{place}: is not a JSON object but {str(value)[:40]!r}; one object an example")
        columns |= dict.fromkeys(value)
        rows.append((place, value))
    for _, row in rows:
        if len(row) < len(columns):
            assert isinstance(row, dict)
            row.update({name: None for name in columns if name not in row})
    return Table(path, rows, tuple(columns), tuple(remarks))


def _json(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{line + error.lineno - 1}: not valid JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{path}:{line}: not valid JSON (nested too deeply)") from None
    except ValueError as error:  # an integer with thousands of digits
        raise ValueError(f"{path}:{line}: not usable JSON ({str(error)[:80]})") from None


def read_arrow(path: Path) -> Table:
    """A Parquet file or an Arrow file of a saved Hugging Face dataset. Raises ValueError when it is neither."""
    import pyarrow as arrow
    import pyarrow.ipc
    import pyarrow.parquet

    check_file(path)
    try:
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            with pyarrow.memory_map(str(path)) as source:
                table = pyarrow.ipc.open_stream(source).read_all()
        rows: list[tuple[int, Row]] = list(enumerate(table.to_pylist(), start=1))
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError, arrow.ArrowSerializationError, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        kind = "Parquet" if path.suffix == ".parquet" else "Arrow"
        raise ValueError(f"{path}: not a readable {kind} file ({' '.join(str(error).split())[:120]})") from None
    return Table(path, rows, tuple(table.column_names))


def read_table(path: Path, encoding: str | None = None, delimiter: str | None = None, header: bool = True) -> Table:
    """The rows of one file, read as its name ends. Raises ValueError with file, line and remedy."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".txt"):
        return read_csv(path, encoding, delimiter, header)
    if suffix in (".jsonl", ".json"):
        return read_json_lines(path, encoding)
    if suffix in (".parquet", ".arrow"):
        return read_arrow(path)
    check_file(path)
    raise ValueError(f"{path}: unknown kind of file; give one that ends in {', '.join(SUFFIXES)}")


# ---- from rows to examples


@dataclass(frozen=True)
class Columns:
    """Which columns make an example. Texts are column names or templates like "{title} [SEP] {body}"."""

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
    remarks: list[str] = field(default_factory=list)


def _pieces(table: Table, names: Sequence[str], flag: str) -> list[tuple[str, str]]:
    """What each of `names` is for the table: ("column", name) or ("template", text). Raises ValueError if neither."""
    pieces = []
    for name in names:
        paths = [name]
        if name in table.columns or not set("{}") & set(name):
            pieces.append(("column", name))
        elif not (paths := fields_of(name)) or set("{}") & set(FIELD.sub("", name)):
            raise ValueError(
                f"{flag} {name!r} is no template; write columns in braces, like '{{title}} [SEP] {{body}}'"
            )
        else:
            pieces.append(("template", name))
        for path in paths:
            if path not in table.columns and path.split(".")[0] not in table.columns:
                known = ", ".join(table.columns)
                raise ValueError(f"{table.path}: there is no column {path!r}; the columns are {known}")
    return pieces


def _text(row: Row, pieces: Sequence[tuple[str, str]]) -> str:
    """One text of several columns, each named; alone a column is bare. Columns without a value are left out."""
    texts = []
    for kind, name in pieces:
        text = as_text(value_at(row, name)) if kind == "column" else fill(name, row)
        if text:
            texts.append(text if kind == "template" or len(pieces) == 1 else f"{name}: {text}")
    return " [SEP] ".join(texts)


def examples_of(table: Table, columns: Columns) -> tuple[list[Example], list[str]]:
    """The examples of a table (options still empty unless each row has its own) and remarks.

    Raises ValueError for unknown columns and for values that are no text, with the line.
    """
    if not columns.input or columns.output is None:
        if {"input", "output"} <= set(table.columns):
            listed = "{options}" if "options" in table.columns else columns.options
            columns = Columns(("input",), "output", listed, columns.kind)
        else:
            raise ValueError(
                f"{table.path}: give --input COLUMN and --output COLUMN; the columns are {', '.join(table.columns)}"
            )
    read = _pieces(table, columns.input, "--input")
    written = _pieces(table, [str(columns.output)], "--output")
    own = None
    if columns.options.startswith("{"):
        own = columns.options.removeprefix("{").removesuffix("}")
        _pieces(table, [columns.options], "--options")
    found, empty = [], 0
    for place, row in table.rows:
        try:
            text, label = _text(row, read), _text(row, written)
            options = tuple(as_text(option) or "" for option in value_at(row, own) or ()) if own else ()
        except (MissingColumn, ValueError, TypeError) as error:
            raise ValueError(f"{table.path}:{place}: {error}") from None
        if not text or not label:
            empty += 1
            continue
        if max(len(text), len(label)) > MOST_CHARACTERS:
            raise ValueError(f"{table.path}:{place}: a text has over {MOST_CHARACTERS:,} characters; cut or drop it")
        if options and label not in options:
            raise ValueError(f"{table.path}:{place}: the output {label[:60]!r} is not among the options {options}")
        if len(set(options)) < len(options):
            raise ValueError(f"{table.path}:{place}: an option stands more than once in {options}")
        found.append(Example(text, label, options))
    remarks = [f"{empty} of {len(table.rows)} rows have no input or no output and are left out"] if empty else []
    if not found:
        raise ValueError(f"{table.path}: no row has both an input and an output; check --input and --output")
    return found, remarks


def option_words(options: str) -> tuple[str, ...]:
    """The label words of --options. Raises ValueError unless there are two or more, all distinct and none empty."""
    words = tuple(word.strip() for word in options.split(","))
    if len(words) < 2 or "" in words:
        raise ValueError(f"--options {options!r} must name two labels or more, separated by commas, none of them empty")
    if len(set(words)) < len(words):
        raise ValueError("--options names a label twice; each must be distinct")
    return words


def label_set(examples: Sequence[Example]) -> tuple[str, ...]:
    """The label words when the outputs look like labels (few, short, repeated), else nothing."""
    counts = Counter(example.output for example in examples)
    few = len(counts) <= MOST_LABELS and len(counts) <= max(len(examples) // 3, 2)
    short = all(len(word) <= 60 for word in counts)
    repeated = sum(count > 1 for count in counts.values()) * 2 >= len(counts) and len(counts) < len(examples)
    return tuple(sorted(counts)) if few and short and repeated and len(counts) > 1 else ()


def with_options(
    name: str, splits: Mapping[str, list[Example]], columns: Columns, where: Path
) -> tuple[str, tuple[str, ...], dict[str, list[Example]]]:
    """Kind, label words and examples with their options. Raises ValueError when a label is not among the options."""
    everything = [example for examples in splits.values() for example in examples]
    if any(example.options for example in everything):
        lists = {example.options for example in everything}
        kind = "classification" if len(lists) == 1 else "multiple_choice_qa"
        words: tuple[str, ...] = next(iter(lists)) if len(lists) == 1 else ()
        filled = dict(splits)
    else:
        if columns.options != "auto":
            words = option_words(columns.options)
        else:
            words = label_set(everything) if columns.kind != "free_form" else ()
        if columns.options == "auto" and not words and columns.kind in ("classification", "nli", "paraphrase"):
            words = tuple(sorted({example.output for example in everything}))
        stray = next((example for example in everything if words and example.output not in words), None)
        if stray is not None:
            raise ValueError(f"{where}: the output {stray.output[:60]!r} is not among --options {', '.join(words)}")
        kind = "classification" if words else "free_form"
        filled = {
            split: [Example(example.input, example.output, words) for example in examples]
            for split, examples in splits.items()
        }
    if columns.kind != "auto":
        if columns.kind not in KINDS:
            raise ValueError(f"--kind is {columns.kind!r}; it must be auto or one of {', '.join(KINDS)}")
        if (columns.kind == "free_form") != (kind == "free_form"):
            raise ValueError(f"--kind is {columns.kind} but the examples of {name} look like {kind}; see --options")
        kind = columns.kind
    return kind, words, filled


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


def natural_instructions(path: Path) -> Imported | None:
    """A task of Natural Instructions (Definition and Instances in one JSON object); None when the file is not one.

    The first output of an instance is its answer. Raises ValueError for an instance that has none.
    """
    if path.suffix.lower() != ".json":
        return None
    text, remarks = read_text(path)
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
    words = label_set(found)
    found = [Example(example.input, example.output, words) for example in found]
    kind = "classification" if words else "free_form"
    instruction = " ".join(definition.split()) if isinstance(definition, str) else None
    return Imported(safe_name(path.stem), kind, {"": found}, words, instruction, [str(path)], remarks)


# ---- the whole


def read_task(
    name: str,
    files: Mapping[str, Sequence[Path]],
    columns: Columns,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    header: bool = True,
    test_share: float = 0.2,
    seed: int = 100,
    instruction: str | None = None,
) -> Imported:
    """One task from its files, deduplicated and split. Raises ValueError with file, line and remedy."""
    if "paper" in files:
        parts = paper_task(name, files["paper"])
        kind, words, splits = with_options(name, parts, Columns(), files["paper"][0].parent)
        sources = [str(path) for path in files["paper"]]
        return Imported(name, kind, _filled(splits), words, instruction, sources)
    paths = [path for part in files.values() for path in part]
    remarks: list[str] = []
    single = natural_instructions(paths[0]) if len(paths) == 1 else None
    parts = {}
    if single is not None:
        parts, kind, words = {"train": single.splits[""]}, single.kind, single.options
        instruction = instruction or single.instruction
    else:
        for split, some in files.items():
            for path in some:
                table = read_table(path, encoding, delimiter, header)
                found, said = examples_of(table, columns)
                remarks += [f"{path.name}: {remark}" for remark in (*table.remarks, *said)]
                parts.setdefault(split or "train", []).extend(found)
        kind, words, parts = with_options(name, parts, columns, paths[0])
    before = sum(map(len, parts.values()))
    if "train" not in parts:
        raise ValueError(f"{paths[0].parent}: has no train file, only {', '.join(sorted(parts))}; add or rename one")
    splits = _filled(separated(parts, test_share, name, seed))
    if (dropped := before - sum(map(len, splits.values()))) > 0:
        remarks.append(f"{dropped} repeated inputs are left out")
    return Imported(name, kind, splits, words, instruction, [str(path) for path in paths], remarks)


def _filled(splits: Mapping[str, list[Example]]) -> dict[str, list[Example]]:
    return {split: examples for split, examples in splits.items() if examples}


def read_tasks(source: Path, columns: Columns, *, task: str | None = None, **reading: Any) -> list[Imported]:
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
    for name, files in found:
        path = next(path for part in files.values() for path in part)
        earlier = first.setdefault(check_name(name, "task").casefold(), path)  # many disks do not tell A from a
        if earlier is not path:
            raise ValueError(
                f"{earlier} and {path} would both become the task {name}; rename one, or import each with a --task"
            )
    return [read_task(name, files, columns, **reading) for name, files in found]


def proposed_setting(names: Sequence[str], held_out: float, seed: int) -> dict[str, list[str]]:
    """A setting that holds out a share of the tasks, at least one, as targets; the rest are trained on."""
    order = [names[int(index)] for index in random_generator("held out", seed).permutation(len(names))]
    number = min(max(round(len(names) * held_out), 1), len(names) - 1)
    return {"train": sorted(order[number:]), "test": sorted(order[:number]), "unseen_domain_test": []}


def write_tasks(
    collection: Path,
    tasks: Sequence[Imported],
    *,
    overwrite: bool = False,
    setting: str | None = None,
    held_out: float = 0.2,
    seed: int = 100,
) -> Path | None:
    """Writes tasks into a collection, and a proposed setting over all of them when there are at least two.

    Returns the setting's file. Raises ValueError when a task is there already and `overwrite` is not set.
    """
    check_collection_folder(collection)
    for task in tasks:
        same = check_task(collection, task.name, task_hashes(task.name, task.splits))
        if (collection / "data" / task.name).exists() and not same and not overwrite:
            raise ValueError(f"{collection / 'data' / task.name} exists already; give --overwrite or another --task")
    lists = None
    if len(tasks) > 1 and setting is not None:
        lists = proposed_setting([task.name for task in tasks], held_out, seed)
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
    if lists is None or setting is None:
        write_manifest(collection, entries)
        return None
    written = write_setting(collection, setting, lists)
    write_manifest(collection, entries, settings=[setting])
    return written
