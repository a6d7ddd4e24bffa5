"""Files and folders that are replaced whole: written beside, then renamed; a name never stands on half of one.

And what is read of them by those who can do without."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from .names import check_folder, mark, unfinished


def write_text(path: Path, text: str) -> None:
    """Writes a file beside `path` and renames it; nothing is left beside it when that fails (disk full, say)."""
    beside = unfinished(path)
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def replace_folder(beside: Path, folder: Path, maker: str) -> None:
    """Puts the finished folder `beside` in the place of `folder`; an interruption leaves one of the two whole.

    Raises ValueError when `folder` holds what `maker` (a verb) did not write.
    """
    check_folder(folder, maker)
    mark(beside, maker)
    old = unfinished(folder.with_name(folder.name + ".old"))
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(beside, folder)
    shutil.rmtree(old, ignore_errors=True)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def content_hash(path: Path) -> str:
    """SHA-256 of a file, computed once in a process while its size and time stay."""
    state = path.stat()
    return _content_hash(path, state.st_size, state.st_mtime_ns)


@cache
def _content_hash(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
