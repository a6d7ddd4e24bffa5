"""Predicting every row of a file: CSV, TSV, JSON lines or Parquet in, any of them out, read and written as a stream.

OUTPUT                      the rows with `prediction`, `probability` and a column `score_LABEL` for each label, or
                            a column `scores` with a JSON object, where options differ by row
OUTPUT.bad-rows.jsonl       rows that cannot be predicted, each with its place and the reason
OUTPUT.unfinished.jsonl     scores as they come: a run that was stopped goes on from there, then they go
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from .. import names
from ..files import content_hash, write_text, writing
from ..models import Processes
from ..progress import stop_on_signal, track
from ..sources.reading import MOST_CHARACTERS, check_file, detect_delimiter

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
ROWS_AT_ONCE = 1024
Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """One row of a file: its line or number from 1, and the row or what is wrong with it."""

    number: int
    row: Row | None
    problem: str = ""


@dataclass(frozen=True)
class Predicted:
    """What became of a file: rows by predicted label, and how many were set aside."""

    counts: Counter[str]
    bad: int
    bad_rows: Path


@dataclass(frozen=True)
class Asked:
    """What is asked of a row: the text in `column`, and its options in `options` if they differ by row."""

    column: str
    options: str | None = None

    def of(self, place: Place, labels: Sequence[str]) -> tuple[tuple[str, list[str]] | None, str]:
        """The text and the options of a row, else None and what is wrong."""
        text, problem = _text(place, self.column)
        if text is None or place.row is None:
            return None, problem
        if self.options is None:
            return (text, list(labels)), ""
        found = _listed(place.row.get(self.options))
        if len(set(found)) < len(found) or len(found) < 2:
            return None, f"has not two different options or more in {self.options!r}"
        return (text, found), ""

    def new_columns(self, labels: Sequence[str]) -> list[str]:
        scores = [f"score_{label}" for label in labels] if self.options is None else ["scores"]
        return ["prediction", "probability", *scores]


def _listed(value: Any) -> list[str]:
    """Options from a list, or from a text that is a JSON list or has | or commas between them."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = value.split("|" if "|" in value else ",")
    return [text for option in value if (text := str(option).strip())] if isinstance(value, list) else []


def predict_file(
    source: Path,
    output: Path,
    asked: Asked,
    labels: Sequence[str],
    scores: Callable[[list[str], list[list[str]]], Sequence[Sequence[float]]],
    described: str,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> Predicted:
    """Predicts every row of `source` and writes `output`, whole or not at all.

    scores: texts and their options -> for each text the negative log-probabilities of its options, called on the same
    groups of rows whenever the run was stopped. described: all that decides on the scores but the file; what a stopped
    run left is used when it and the file are the same. Of several processes each scores other groups, and the first
    writes. Raises ValueError for files that cannot be read or must not be
    written, and KeyboardInterrupt when stopped.
    """
    check_files(source, output)
    total = check_columns(source, asked, labels)
    unfinished = beside(output, "unfinished")
    stamp = {"of": hashlib.sha256(repr((content_hash(source), asked, list(labels), described)).encode()).hexdigest()}
    first = processes.rank == 0
    kept = processes.same(_unfinished(unfinished, stamp) if first else 0)
    queries = (asked.of(place, labels)[0] for place in read_rows(source))
    good = (query for query in queries if query is not None)
    with track("predict", total, "rows", done=kept) as progress, stop_on_signal() as stop:
        for _ in islice(good, kept):
            pass
        with writing(unfinished), unfinished.open("a", encoding="utf-8") if first else nullcontext() as file:
            while at_once := list(islice(good, ROWS_AT_ONCE * processes.count)):
                own = at_once[processes.rank * ROWS_AT_ONCE :][:ROWS_AT_ONCE]
                found = scores([text for text, _ in own], [options for _, options in own]) if own else []
                lines = "".join(json.dumps([round(float(s), 6) for s in row]) + "\n" for row in found)
                for part in processes.gathered(lines):
                    assert file is not None
                    file.write(part)
                    file.flush()
                progress.advance(len(at_once))
                if processes.any(stop.requested) and progress.done < total:
                    raise KeyboardInterrupt("stopped; the same command continues where it was")
    done = None
    if first:
        done = _write(source, output, asked, labels, unfinished)
        unfinished.unlink()
    return processes.same(done)


def check_files(source: Path, output: Path) -> None:
    """ValueError when `source` cannot be read, or `output` must not be written."""
    if not source.exists():
        raise ValueError(f"{source} does not exist; give --input-file a file of rows")
    check_file(source)
    for path in (source, output):
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{path}: unknown kind of file; use one that ends in {', '.join(SUFFIXES)}")
    if output.exists():
        raise ValueError(f"{output} exists already; choose another --output or delete it")
    names.check_file(beside(output, "unfinished"), '{"of": "')
    names.check_file(beside(output, "bad-rows"), '{"place": ')
    output.parent.mkdir(parents=True, exist_ok=True)


def beside(output: Path, what: str) -> Path:
    """OUTPUT.bad-rows.jsonl or OUTPUT.unfinished.jsonl."""
    return output.with_name(f"{output.name}.{what}.jsonl")


def check_columns(source: Path, asked: Asked, labels: Sequence[str]) -> int:
    """How many rows can be predicted; ValueError when none can, or the columns do not do."""
    columns: dict[str, None] = {}
    good, first = 0, ""
    for place in read_rows(source):
        columns |= dict.fromkeys(place.row or ())
        query, problem = asked.of(place, labels)
        good += query is not None
        first = first or (f"; the first, {source}:{place.number}, {problem}" if problem else "")
    for name in (asked.column, asked.options):
        if columns and name is not None and name not in columns:
            raise ValueError(f"{source}: there is no column {name!r}; the columns are {', '.join(columns)}")
    if taken := [name for name in asked.new_columns(labels) if name in columns]:
        raise ValueError(f"{source}: has a column {taken[0]!r} already, which predictions go to; rename it")
    if not good:
        raise ValueError(
            f"{source}: no row has a text in {asked.column!r}{' and options' if asked.options else ''}{first}"
        )
    return good


def read_rows(path: Path) -> Iterator[Place]:
    """The rows of a file, one after the other; ValueError for a file that is not what its name says."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet_rows(path)
    elif suffix == ".jsonl":
        yield from _json_rows(path)
    else:
        yield from _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[Place]:
    csv.field_size_limit(MOST_CHARACTERS)
    with path.open(encoding=text_encoding(path), newline="") as file:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else detect_delimiter(file.read(200_000))
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter)
        line, columns = 1, None
        try:
            for record in reader:
                start, line = line, reader.line_num + 1
                if not record:
                    continue
                if columns is None:
                    columns = [name.strip() for name in record]
                    if repeated := [name for name, count in Counter(columns).items() if count > 1]:
                        raise ValueError(f"{path}:{start}: two columns are named {repeated[0]!r}; rename one")
                elif len(record) != len(columns):
                    yield Place(start, None, f"has {len(record)} fields but there are {len(columns)} columns")
                else:
                    yield Place(start, dict(zip(columns, record, strict=True)))
        except csv.Error as error:
            raise ValueError(f"{path}:{reader.line_num}: {error}; is a quote missing?") from None


def _json_rows(path: Path) -> Iterator[Place]:
    with path.open(encoding=text_encoding(path), newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                yield Place(number, None, "is not valid JSON")
                continue
            good = isinstance(row, dict)
            yield Place(number, row if good else None, "" if good else "is not a JSON object")


def _parquet_rows(path: Path) -> Iterator[Place]:
    import pyarrow as arrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield Place(number, row)
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())[:120]})") from None


def text_encoding(path: Path) -> str:
    """UTF-8, UTF-16 where a mark says so, else Windows-1252."""
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while block := file.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8-sig"


def _text(place: Place, column: str) -> tuple[str | None, str]:
    """The text of a row, or None and what is wrong."""
    if place.row is None:
        return None, place.problem
    if column not in place.row:
        return None, f"has no {column!r}"
    value = place.row[column]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, f"has nothing in {column!r}"
    if not isinstance(value, str | int | float):
        return None, f"has {type(value).__name__}, not a text, in {column!r}"
    text = str(value)
    if not text.strip():
        return None, f"has nothing in {column!r}"
    if len(text) > MOST_CHARACTERS:
        return None, f"has over {MOST_CHARACTERS:,} characters in {column!r}"
    return text, ""


def _unfinished(path: Path, stamp: Row) -> int:
    """How many rows a stopped run with the same `stamp` scored, in whole groups; the file then holds these alone."""
    if path.is_file():
        first, *lines = path.read_text(encoding="utf-8").split("\n")
        if first == json.dumps(stamp):
            kept = (len(lines) - 1) // ROWS_AT_ONCE * ROWS_AT_ONCE
            write_text(path, "\n".join([first, *lines[:kept]]) + "\n")
            return kept
    write_text(path, json.dumps(stamp) + "\n")
    return 0


def _write(source: Path, output: Path, asked: Asked, labels: Sequence[str], unfinished: Path) -> Predicted:
    """Writes the output and the bad rows from the scores in `unfinished`."""
    new = asked.new_columns(labels)
    counts: Counter[str] = Counter()
    bad_rows = beside(output, "bad-rows")
    new_files = [names.unfinished(path) for path in (output, bad_rows)]
    bad = 0
    try:
        with writing(output), ExitStack() as stack:
            scored = stack.enter_context(unfinished.open(encoding="utf-8"))
            aside = stack.enter_context(new_files[1].open("w", encoding="utf-8"))
            next(scored)
            add = stack.enter_context(_Writer(new_files[0], output.suffix.lower(), source, new))
            for place in read_rows(source):
                query, problem = asked.of(place, labels)
                if query is None:
                    bad += 1
                    kept = {"row": place.row} if place.row is not None else {}
                    aside.write(json.dumps({"place": place.number, "reason": problem} | kept, default=str) + "\n")
                    continue
                assert place.row is not None
                found = json.loads(next(scored))
                options = query[1]
                best = min(range(len(options)), key=found.__getitem__)
                counts[options[best]] += 1
                each = found if asked.options is None else [json.dumps(dict(zip(options, found, strict=True)))]
                values = [options[best], round(math.exp(-found[best]), 6), *each]
                add(place.row | dict(zip(new, values, strict=True)))
        os.replace(new_files[0], output)
        if bad:
            os.replace(new_files[1], bad_rows)
    finally:
        for path in new_files:
            path.unlink(missing_ok=True)
    return Predicted(counts, bad, bad_rows)


class _Writer:
    """Writes rows to a file of any kind; rows that lack a column of the file have nothing in it."""

    def __init__(self, path: Path, suffix: str, source: Path, new: Sequence[str]) -> None:
        self.path, self.suffix = path, suffix
        columns: dict[str, None] = {}
        for place in read_rows(source) if suffix != ".jsonl" else ():
            columns |= dict.fromkeys(place.row or ())
        self.columns = [*columns, *new]
        self.new = new
        self.source = source
        self.waiting: list[Row] = []
        self.parquet: Any = None

    def __enter__(self) -> Callable[[Row], None]:
        self.file = self.path.open("w", encoding="utf-8", newline="") if self.suffix != ".parquet" else None
        if self.suffix in (".csv", ".tsv"):
            assert self.file is not None
            self.csv = csv.writer(self.file, delimiter="\t" if self.suffix == ".tsv" else ",", lineterminator="\n")
            self.csv.writerow(self.columns)
        return self.add

    def add(self, row: Row) -> None:
        if self.suffix == ".jsonl":
            assert self.file is not None
            self.file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        elif self.suffix == ".parquet":
            self.waiting.append(row)
            if len(self.waiting) >= 10_000:
                self._flush()
        else:
            self.csv.writerow([_cell(row.get(name)) for name in self.columns])

    def __exit__(self, *failure: object) -> None:
        if self.file is not None:
            self.file.close()
        elif failure[0] is None:
            self._flush()
        if self.parquet is not None:
            self.parquet.close()

    def _flush(self) -> None:
        import pyarrow as arrow
        import pyarrow.parquet

        try:
            if self.parquet is None:
                schema = self._schema()
                self.parquet = pyarrow.parquet.ParquetWriter(self.path, schema)
            self.parquet.write_table(arrow.Table.from_pylist(self.waiting, schema=self.parquet.schema))
        except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ValueError(f"{self.source}: its columns do not fit in Parquet ({reason}); write .jsonl") from None
        self.waiting = []

    def _schema(self) -> Any:
        """The schema of a Parquet source, or of the first rows, with the new columns."""
        import pyarrow as arrow
        import pyarrow.parquet

        if self.source.suffix.lower() == ".parquet":
            schema = pyarrow.parquet.read_schema(self.source)
            for place, name in enumerate(self.new):
                text = place == 0 or name == "scores"
                schema = schema.append(arrow.field(name, arrow.string() if text else arrow.float64()))
            return schema
        return arrow.Table.from_pylist([dict.fromkeys(self.columns) | row for row in self.waiting]).schema


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else value
