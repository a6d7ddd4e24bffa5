"""What may be used as a name, and what a command may replace or delete: the one place of both rules.

A command replaces or deletes only what it made itself.  It knows a folder, or its files among others in one, by the
list in MARKER, which is written with them, a file by a text near its beginning, and its unfinished work by its name
(`unfinished`).  Anything else is a ValueError, before anything is written.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

MARKER = ".maml-en-llm.json"
LONGEST_NAME = 200  # bytes; file systems allow 255, and suffixes must fit


def check_name(name: str, what: str) -> str:
    """`name`, if a file or folder can have it; ValueError otherwise. what: a word like "task", for the sentence."""
    if not name.strip():
        problem = "is empty"
    elif "/" in name or "\\" in name:
        problem = "holds a slash"
    elif name.startswith("."):
        problem = "begins with a dot"
    elif name != name.strip():
        problem = "begins or ends with a space"
    elif printable(name) != name:
        problem = "holds a character that cannot be shown"
    elif len(name.encode()) > LONGEST_NAME:
        problem = f"has more than {LONGEST_NAME} bytes"
    else:
        return name
    raise ValueError(f"the {what} name {name[:80]!r} {problem}; use letters, digits, - and _")


def check_label(label: str) -> str:
    """`label`, if tables can show it as a name; ValueError otherwise."""
    if not label.strip() or printable(label) != label or len(label.encode()) > LONGEST_NAME:
        raise ValueError(
            f"label is {label[:80]!r}; give at most {LONGEST_NAME} bytes of text, without control characters"
        )
    return label


def printable(text: str, keep: str = "") -> str:
    """`text` with control characters, marks that reorder text and lone surrogates spelled out: no terminal obeys them.

    keep: characters that stay, such as line breaks.
    """
    if text.isascii() and text.isprintable():
        return text
    odd = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(c if c in keep or unicodedata.category(c) not in odd else ascii(c)[1:-1] for c in text)


def unfinished(path: Path) -> Path:
    """Where `path` is prepared; the name says whose it is, so that what an interruption left there may be deleted."""
    return path.with_name(f".{path.name}.maml-en-llm-unfinished")


def check_folder(folder: Path, maker: str) -> None:
    """ValueError unless `maker` may put a folder in the place of `folder`: it is absent, empty, or all its own.

    maker: the verb that writes the folder and marks it.
    """
    if folder.name in ("", ".."):
        raise ValueError(f"{str(folder)!r} is no name of a new folder; give one, like runs/mine")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        kind = "a symbolic link" if folder.is_symlink() else "not a folder"
        raise ValueError(f"{folder} exists and is {kind}; choose another folder")
    own = _marked(folder, maker)
    foreign = next((name for name in _files(folder) if name not in own), None)
    if foreign is not None:
        raise ValueError(
            f"{folder} holds {foreign}, which {maker} did not write; choose another folder, or delete it yourself"
        )


def check_file(path: Path, sign: str) -> None:
    """ValueError unless `path` may be written: it is absent, empty, or has its writer's `sign` near its beginning."""
    if path.name in ("", "..") or path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; give the name of a file in it")
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path} is a symbolic link that leads nowhere; choose another file")
    if not path.exists():
        return
    if path.is_file():
        with path.open("rb") as file:
            beginning = file.read(2000)
        if not beginning or sign.encode() in beginning:
            return
    raise ValueError(f"{path} exists and was not written by this command; choose another file, or delete it yourself")


def mark(folder: Path, maker: str) -> None:
    """Writes the list of all files in `folder`, by which `check_folder` knows them as made by `maker`."""
    files = sorted(name for name in _files(folder) if name != MARKER)
    (folder / MARKER).write_text(marker(maker, files))


def marker(maker: str, files: Sequence[str] | Mapping[str, Sequence[str]]) -> str:
    """The content of MARKER. files: names, or, where there may be files of others, also the hashes of their content."""
    return json.dumps({"made by": f"maml-en-llm {maker}", "files": files}, indent=1) + "\n"


def marked_hashes(folder: Path, maker: str) -> dict[str, list[str]]:
    """The hashes in MARKER, by file."""
    files = _record(folder, maker)
    return {n: hashes for n, hashes in files.items() if isinstance(hashes, list)} if isinstance(files, dict) else {}


def _marked(folder: Path, maker: str) -> set[str]:
    files = _record(folder, maker)
    names = {name for name in files if isinstance(name, str)} if isinstance(files, dict | list) else set()
    return names | {MARKER} if names else names


def _record(folder: Path, maker: str) -> Any:
    """What MARKER says of the files of `maker`."""
    if not (folder / MARKER).is_file():
        return None
    try:
        record = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return record["files"] if record["made by"] == f"maml-en-llm {maker}" else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _files(folder: Path) -> Iterator[str]:
    """Everything in `folder` that is no folder, and links to folders, as paths relative to it."""
    for path, folders, files in os.walk(folder):
        for name in (*files, *(name for name in folders if (Path(path) / name).is_symlink())):
            yield (Path(path) / name).relative_to(folder).as_posix()


def model_folder(model: str | Path) -> str:
    """The folder of the built-in model for its name, `starter`; any other model as it is named."""
    return str(Path(__file__).parent / "starter" / "model") if str(model) == "starter" else str(model)


def public_name(path: str | Path) -> str:
    """How a file that others get names a folder: an absolute path by its last word, anything else as it is."""
    if not os.path.isabs(path):
        return str(path)
    words = [word for word in Path(path).parts if word != "model"]  # what `train` calls every model folder
    return words[-1]
