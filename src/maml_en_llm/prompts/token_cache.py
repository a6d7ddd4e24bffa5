"""Token ids of training examples on disk, so that no run tokenizes what another one did.

One memory-mapped Arrow file per content of a JSONL file, tokenizer and way to lay out and cut an example.  Row 2i is
example i as it stands first in a prompt and row 2i + 1 as it stands behind others: a separator belongs to the piece
after it, so the token ids of the two may differ anywhere.

A file is written beside its name and renamed: what an interrupted run finished stays, and two processes that make the
same file write the same bytes.  The tokenizer uses all processor cores.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tokenizers

from ..files import content_hash
from ..progress import console
from ..tasks.collection import Examples
from .layout import EncodedTarget, PromptFormat

EXAMPLES_PER_CHUNK = 1024  # tokenized in one call and held in memory at once
VERSION = 1  # of the file's content; a new one makes new files


def cache_folder() -> Path | None:
    """`$MAML_EN_LLM_CACHE`, else `maml-en-llm` in the user's cache folder; None when the variable is set but empty."""
    said = os.environ.get("MAML_EN_LLM_CACHE")
    if said is not None:
        return Path(said).expanduser() if said else None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maml-en-llm"


class TokenCache:
    """The files of one tokenizer and prompt format in `folder` (None: there is no cache)."""

    def __init__(self, tokenizer: Any, format: PromptFormat, folder: Path | None) -> None:
        self.tokenizer = tokenizer
        self.format = format
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        # A tokenizer written in Python has no full description to tell it from others by.
        self.folder = folder / "tokens" if folder is not None and hasattr(backend, "to_str") else None
        if self.folder is not None:
            described = (
                *(VERSION, tokenizers.__version__, type(tokenizer).__name__, backend.to_str()),
                getattr(tokenizer, "split_special_tokens", None),
                *(format.direction, format.layout, format.max_tokens_per_example),
            )
            self._key = hashlib.sha256(repr(described).encode()).digest()

    def open(self, examples: Examples, make: bool = True) -> TokenizedExamples | None:
        """The token ids of `examples`; None when they are not there and `make` is false, or when there is no cache.

        Raises ValueError naming file and line when a line is not a good example.
        """
        if self.folder is None:
            return None
        content = bytes.fromhex(content_hash(examples.path))
        path = self.folder / f"{examples.task}-{hashlib.sha256(self._key + content).hexdigest()[:32]}.arrow"
        try:
            with contextlib.suppress(FileNotFoundError, pa.ArrowInvalid):
                return TokenizedExamples(path)
            if not make:
                return None
            self._make(path, examples)
            return TokenizedExamples(path)
        except OSError as error:
            console.print(f"no token ids are kept, because {path.parent} cannot be used: {error.strerror or error}")
            self.folder = None
            return None

    def _make(self, path: Path, examples: Examples) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        integer = pa.uint16() if len(self.tokenizer) <= 1 << 16 else pa.uint32()
        schema = pa.schema({"token_ids": pa.list_(integer), "context": pa.uint32()})
        beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
        try:
            with pa.OSFile(str(beside), "wb") as file, pa.ipc.new_file(file, schema) as writer:
                for start in range(0, len(examples), EXAMPLES_PER_CHUNK):
                    chunk = examples[start : start + EXAMPLES_PER_CHUNK]
                    forms = [self.format.encode_examples(self.tokenizer, chunk, first) for first in (True, False)]
                    rows = [target for pair in zip(*forms, strict=True) for target in pair]
                    lengths = np.cumsum([0, *map(len, rows)], dtype=np.int32)
                    pieces = chain.from_iterable((row.context, row.answer) for row in rows)
                    flat = np.fromiter(chain.from_iterable(pieces), integer.to_pandas_dtype(), count=int(lengths[-1]))
                    contexts = pa.array([len(row.context) for row in rows], type=pa.uint32())
                    lists = pa.ListArray.from_arrays(lengths, flat).cast(schema.field("token_ids").type)
                    writer.write_batch(pa.record_batch([lists, contexts], schema=schema))
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


class TokenizedExamples:
    """The token ids in one file, read from the memory map as they are asked for.

    Raises FileNotFoundError or pyarrow.ArrowInvalid when `path` is not such a file.
    """

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._chunks = []
        for index in range(reader.num_record_batches):
            token_ids, context = reader.get_batch(index).columns
            self._chunks.append((token_ids.offsets.to_numpy(), token_ids.values.to_numpy(), context.to_numpy()))

    def __len__(self) -> int:
        return sum(len(contexts) for _, _, contexts in self._chunks) // 2

    def encoded(self, index: int, first: bool) -> EncodedTarget:
        """Example `index` with its own output, as it stands first in a prompt or behind others."""
        chunk, place = divmod(index, EXAMPLES_PER_CHUNK)
        offsets, token_ids, contexts = self._chunks[chunk]
        row = 2 * place + (not first)
        read = int(offsets[row]) + int(contexts[row])
        return EncodedTarget(token_ids[offsets[row] : read].tolist(), token_ids[read : offsets[row + 1]].tolist())
