"""Files and folders that are replaced whole, outputs that are tried before the work, and one writer for each.

What is written goes to a name of its own first, onto the disk, and is then renamed: a name never has half of a
file, neither after a kill nor after a power cut, and what was there stays when the disk is full."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from .names import MARKER, check_file, check_folder, mark, marked_hashes, marker, unfinished


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Gives an error of writing `path` (disk full, say) that name, also one of safetensors."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from None
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def write_text(path: Path, text: str) -> None:
    """Writes a file, all of it or nothing."""
    beside = unfinished(path)
    try:
        with writing(path):
            beside.write_text(text, encoding="utf-8")
            to_disk(beside)
            os.replace(beside, path)
            to_disk(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def replace_folder(beside: Path, folder: Path, maker: str) -> None:
    """Puts the finished folder `beside` in the place of `folder`; an interruption leaves one of the two whole.

    Raises ValueError when `folder` holds what `maker` (a verb) did not write.
    """
    check_folder(folder, maker)
    mark(beside, maker)
    with writing(folder):
        for path in beside.rglob("*"):
            to_disk(path)
        to_disk(beside)
        old = unfinished(folder.with_name(folder.name + ".old"))
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(beside, folder)
        to_disk(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_files(folder: Path, files: Mapping[str, str], maker: str) -> None:
    """Writes `files` (name -> text) to `folder`, where there may be others, and deletes what an earlier call wrote and
    this one does not.

    ValueError, with nothing written, when a file of one of the names was made, or changed since, by anything else.
    """
    made = marked_hashes(folder, maker)

    def is_own(name: str) -> bool:
        path = folder / name
        inside = path.resolve().is_relative_to(folder.resolve())
        return inside and path.is_file() and not path.is_symlink() and content_hash(path) in made.get(name, [])

    for name in files:
        if ((folder / name).exists() or (folder / name).is_symlink()) and not is_own(name):
            raise ValueError(
                f"{folder / name} was not made by `{maker}`, or has been changed since; choose another --output or "
                "move it away"
            )
    earlier = [name for name in made if name not in files and is_own(name)]
    new = {name: [hashlib.sha256(text.encode()).hexdigest()] for name, text in files.items()}
    # Until all is written, a file can be the earlier or the new one.
    both = {name: [*made.get(name, []), *new.get(name, [])] for name in {**made, **new}}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / MARKER, marker(maker, both))
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_text(folder / name, text)
    for name in earlier:
        (folder / name).unlink()
    write_text(folder / MARKER, marker(maker, new))


def to_disk(path: Path) -> None:
    """Waits until a file or folder is on the disk; files get the usual modes, as libraries make some private."""
    if path.is_file():
        path.chmod(0o666 & ~_umask())
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems do not sync folders
            raise
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0o077)  # it cannot be read without being set
    os.umask(mask)
    return mask


def check_output(path: Path, folder: bool = False, ending: str = "", sign: str = "") -> None:
    """Raises ValueError unless a file, or with `folder` a folder, can be written at `path`; leaves nothing there.

    To be called before the work whose result goes to `path`. ending: what the name of the file must end in. sign: what
    the command's own files have near their beginning, others are not replaced.
    """
    kind = "folder" if folder else "file"
    try:
        if path.name in ("", ".."):
            raise ValueError(f"--output {str(path)!r} is no name of a new {kind}; give one")
        if path.exists() and path.is_dir() != folder:
            other = "file" if folder else "folder"
            raise ValueError(f"--output {path} is a {other}; give the name of a {kind}")
        if not path.name.endswith(ending):
            raise ValueError(f"--output {path} must end in {ending}, as in {path.name + ending}")
        unfinished(path).exists()  # an error when the name is too long
        if sign:
            check_file(path, sign)
        there = path if folder else path.parent
        while not there.exists():
            there = there.parent
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise ValueError(f"--output {path} cannot be written: {error.strerror or error}; choose another") from None


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Whether this process now owns what `path` locks; the file is deleted at the end.

    The lock is the operating system's: it ends with its process, however that ends. Over machines it holds on file
    systems that lock (NFS 4, Lustre with flock).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path)
    try:
        held.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        with contextlib.suppress(OSError):  # it says who has the lock; the lock holds without
            path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")
        yield True
    finally:
        path.unlink(missing_ok=True)  # who opened it meanwhile finds out, and opens the next one
        held.release()


def owner(path: Path) -> str:
    """Who holds a lock, for people."""
    record = read_json(path)
    return f"process {record['pid']} on {record['host']}" if {"pid", "host"} <= record.keys() else "another process"


@contextlib.contextmanager
def only_writer(output: Path) -> Iterator[None]:
    """Keeps other processes from writing to `output`; ValueError with who does when one is at it."""
    if not output.name:
        raise ValueError(f"{str(output)!r} is no name of a file or folder; give one")
    path = output.with_name(f".{output.name}.lock")
    with lock(path) as ours:
        if not ours:
            raise ValueError(f"{output} is being written by {owner(path)}; wait for it, end it or choose another")
        yield


def content(path: Path) -> bytes:
    """What a file holds; ValueError for devices and pipes, which may have no end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path}: is not a regular file; give a file")
    return path.read_bytes()


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file without their line feeds, other line ends left in; ValueError when it is not one."""
    try:
        return content(path).decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; save the file as UTF-8") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is none."""
    try:
        found = json.loads(content(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def content_hash(path: Path) -> str:
    """SHA-256 of a file, computed once in a process while its size and time stay."""
    state = path.stat()
    return _content_hash(path, state.st_size, state.st_mtime_ns)


@cache
def _content_hash(path: Path, size: int, modified: int) -> str:
    return file_hash(path)


def file_hash(path: Path) -> str:
    """SHA-256 of a file as it is now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
