"""Files and folders that are replaced whole: written beside, then renamed; a name never stands on half of one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes a file beside `path` and renames it; nothing is left beside it when that fails (disk full, say)."""
    beside = path.with_name(path.name + ".partial")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def replace_folder(beside: Path, folder: Path) -> None:
    """Puts the finished folder `beside` in the place of `folder`; an interruption leaves one of the two whole."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(beside, folder)
    shutil.rmtree(old, ignore_errors=True)
