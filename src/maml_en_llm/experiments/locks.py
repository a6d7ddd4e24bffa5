"""Locks by files, so that several processes, also of several machines, work on one set of runs."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

HEARTBEAT = 30.0  # seconds between two signs of life of a lock's owner
SILENCE = 900.0  # seconds without one after which the owner on another machine counts as dead


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Whether this process now owns what `path` locks; the file is deleted at the end.

    A lock is stale, and taken over, when its process is gone from this machine, or when another machine has given no
    sign of life for `SILENCE` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _acquire(path):
        yield False
        return
    ended = threading.Event()

    def show_life() -> None:
        while not ended.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=show_life, daemon=True)
    thread.start()
    try:
        yield True
    finally:
        ended.set()
        thread.join()
        path.unlink(missing_ok=True)


def owner(path: Path) -> str:
    """Who holds a lock, for people."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return f"process {record['pid']} on {record['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _acquire(path: Path) -> bool:
    if _create(path):
        return True
    if not _stale(path):
        return False
    # Of those who see a stale lock only the one that makes this file may delete it, after another look.
    guard = path.with_name(path.name + ".takeover")
    if not _create(guard):
        if _stale(guard):
            guard.unlink(missing_ok=True)
        return False
    try:
        if _stale(path):
            path.unlink(missing_ok=True)
        return _create(path)
    finally:
        guard.unlink(missing_ok=True)


def _create(path: Path) -> bool:
    """Makes the file with this process in it, unless it is there."""
    record = {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(record))
    return True


def _stale(path: Path) -> bool:
    try:
        silent = time.time() - path.stat().st_mtime > SILENCE
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["host"] != socket.gethostname():
            return silent
        # A process that is younger than the lock only has the number of the one that made it.
        return psutil.Process(record["pid"]).create_time() > record["time"] + 1
    except FileNotFoundError:
        return False  # its owner has just ended; the next look will find it free
    except psutil.NoSuchProcess:
        return True
    except (ValueError, KeyError, TypeError):
        return silent  # not yet written, or broken
