"""From rows of a table to examples: which columns are the input, the output and the options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..tasks.collection import Example
from .labels import label_set
from .mappings import FIELD, MissingColumn, Row, as_text, fields_of, fill, value_at
from .reading import MOST_CHARACTERS, Table

LABEL_COLUMNS = ("label", "labels", "class", "category", "output", "target", "answer", "sentiment", "intent", "topic")


@dataclass(frozen=True)
class Columns:
    """Which columns make an example. Texts are column names or templates like "{title} [SEP] {body}"; alternatives,
    of which the first that a file has is taken, are separated by |."""

    input: tuple[str, ...] = ()
    output: str | None = None
    options: str = "auto"  # auto, label words separated by commas, or {column} with a list
    kind: str = "auto"


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
    """`name` as a column of the table or a template over them, None when it has not all of them; ValueError if it is
    neither."""
    if (column := _column(table, name)) is not None:
        return column if column in table.columns else f"{{{column}}}"
    if not set("{}") & set(name):
        return None
    if not (paths := fields_of(name)) or set("{}") & set(FIELD.sub("", name)):
        raise ValueError(f"{flag} {name!r} is no template; write columns in braces, like '{{title}} [SEP] {{body}}'")
    columns = {path: _column(table, path) for path in paths}
    return None if None in columns.values() else FIELD.sub(lambda match: f"{{{columns[match[1]]}}}", name)


def _find(table: Table, name: str, flag: str) -> tuple[str, str]:
    """The first of the alternatives in `name` that the table has, by its name and as _piece says. Raises NoColumn."""
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
        if len(set(options)) < len(options) or "" in options:
            raise ValueError(f"{table.path}:{line}: an option is empty or stands more than once in {options}")
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
