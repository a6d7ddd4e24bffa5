"""Rows of a user's own files: CSV, TSV, JSON lines, JSON, Parquet, saved Hugging Face datasets.

Reading is strict: what cannot be read for certain is an error that names file, line and remedy.
"""

from __future__ import annotations

import csv
import io
import json
import re
import stat
import zipfile
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from .mappings import Row

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow")
MOST_CHARACTERS = 1_000_000  # of one field: more is a missing quote, not a text to learn from
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")


@dataclass(frozen=True)
class Table:
    """Rows of one file with the place of each, and what was found out about the file."""

    path: Path
    rows: list[tuple[int, Row]]  # line (from 1) or row number, and the row
    columns: tuple[str, ...]
    remarks: tuple[str, ...] = ()


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
    if said := re.match(r"sep=([,;|\t])\r?\n", text):  # written by Excel
        delimiter, text = delimiter or said[1], "\n" + text[said.end() :]
    separator = delimiter or ("\t" if path.suffix.lower() == ".tsv" else detect_delimiter(text))
    if separator not in ",\t":
        remarks.append(f"delimiter {separator!r}")
    csv.field_size_limit(MOST_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows: list[tuple[int, Row]] = []
    columns: list[str] | None = None
    line = 1
    try:
        for record in reader:
            start, line = line, reader.line_num + 1
            if not any(map(str.strip, record)):
                continue
            if columns is None:
                columns = _column_names(record, header, f"{path}:{start}")
                if header:
                    continue
            while len(record) > len(columns) and not record[-1].strip():  # of a table with empty columns at its right
                record.pop()
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


def _column_names(record: list[str], header: bool, where: str) -> list[str]:
    """The names of the columns by the first record; numbers for those without. Raises ValueError when two are equal."""
    names = [name.strip() for name in record] if header else [""] * len(record)
    while header and not names[-1]:
        names.pop()
    names = [name or str(number) for number, name in enumerate(names, start=1)]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"{where}: the column {repeated[0]!r} stands twice in the header; rename one")
    return names


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
