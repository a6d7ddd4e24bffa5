"""All examples of a file at once: Arrow reads them four times as fast as Python does line by line."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as arrow
import pyarrow.compute as compute
import pyarrow.json

from .collection import Example, Examples

_TEXT = arrow.string()
_SCHEMA = arrow.schema({"task": _TEXT, "input": _TEXT, "output": _TEXT, "options": arrow.list_(_TEXT)})
_BLOCK = 1 << 22  # bytes
BETWEEN = "\x1f"


def text(example: Example) -> bytes:
    """What examples are compared by."""
    return f"{example.input}{BETWEEN}{example.output}".encode()


class ReadByLine(Exception):
    """The file is not good, or Python could read it otherwise than Arrow: its lines have to be parsed one by one."""


def texts(examples: Examples) -> Iterator[list[bytes]]:
    """Input and output of each example of a good file, as `text` has them, some thousands at a time.

    Raises ReadByLine, possibly behind some examples, when a line may break a rule of `problems_of_record`.
    """
    if not examples.lines_begin_with(b"{"):  # so no line is blank, and none holds the end of an object alone
        raise ReadByLine
    read = arrow.json.ReadOptions(block_size=_BLOCK)
    parse = arrow.json.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="error")
    count = 0
    try:
        with arrow.json.open_json(examples.path, read_options=read, parse_options=parse) as batches:
            for batch in batches:
                if not _good(batch, examples.task):
                    raise ReadByLine
                joined = compute.binary_join_element_wise(batch["input"], batch["output"], BETWEEN)
                yield joined.cast(arrow.binary()).to_pylist()
                count += len(batch)
    except arrow.ArrowInvalid as error:
        raise ReadByLine from error
    if count != len(examples):
        raise ReadByLine


def all_good(examples: Examples) -> bool:
    """Whether all lines surely are good; if not, some of them may still be."""
    try:
        return all(True for _ in texts(examples))
    except ReadByLine:
        return False


def _good(batch: arrow.RecordBatch, task: str) -> bool:
    """Whether every record is surely good."""
    batch.validate(full=True)  # ArrowInvalid for what is not UTF-8
    lists = batch["options"]
    options = lists.flatten().dictionary_encode()
    if any(column.null_count for column in (*batch.columns, options)):
        return False
    if not compute.all(compute.equal(batch["task"], task)).as_py():
        return False
    rows, choices = compute.list_parent_indices(lists).to_numpy(), options.indices.to_numpy()
    if len(np.unique(rows * np.int64(len(options.dictionary)) + choices)) < len(rows):
        return False  # an option stands twice
    outputs = compute.index_in(batch["output"], options.dictionary).fill_null(-1).to_numpy()
    among = np.zeros(len(batch), dtype=bool)
    among[rows[choices == outputs[rows]]] = True
    return bool((among | (compute.list_value_length(lists).to_numpy() == 0)).all())
