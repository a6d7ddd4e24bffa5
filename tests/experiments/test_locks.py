from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maml_en_llm.experiments import locks
from maml_en_llm.experiments.locks import SILENCE, lock, owner


def write_lock(path: Path, pid: int, host: str, silent: float = 0.0) -> None:
    """A lock of that process, which has given no sign of life for `silent` seconds."""
    path.write_text(json.dumps({"pid": pid, "host": host, "time": time.time() - silent}))
    os.utime(path, (time.time() - silent, time.time() - silent))


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_is_owned_once_and_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "row.lock"
    with lock(path) as ours:
        assert ours
        assert owner(path) == f"process {os.getpid()} on {socket.gethostname()}"
        with lock(path) as again:
            assert not again
        assert path.exists()
    assert list(path.parent.iterdir()) == []


def test_a_lock_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lock(tmp_path / "row.lock"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pid", "host", "silent", "taken"),
    [
        ("dead", "here", 0, True),
        ("alive", "here", 10 * SILENCE, True),  # the number of a process that ended; this one is younger than the lock
        ("alive", "here", 0, False),
        ("dead", "elsewhere", 0, False),
        ("dead", "elsewhere", SILENCE + 5, True),
    ],
)
def test_stale_locks_are_taken_over(tmp_path: Path, pid: str, host: str, silent: float, taken: bool) -> None:
    path = tmp_path / "row.lock"
    number = dead_process() if pid == "dead" else os.getpid()
    write_lock(path, number, socket.gethostname() if host == "here" else "elsewhere", silent)
    with lock(path) as ours:
        assert ours == taken
    assert path.exists() != taken


def test_a_lock_that_is_no_json_is_stale_when_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / "row.lock"
    path.write_text("")
    with lock(path) as ours:
        assert not ours
    os.utime(path, (0, 0))
    with lock(path) as ours:
        assert ours


def test_an_owner_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    path = tmp_path / "row.lock"
    with lock(path):
        os.utime(path, (0, 0))
        time.sleep(0.2)
        assert time.time() - path.stat().st_mtime < 10


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "row.lock"
    write_lock(path, dead_process(), socket.gethostname())
    start, end = threading.Barrier(6), threading.Barrier(6)

    def take_over(_: int) -> bool:
        start.wait()
        with lock(path) as ours:
            end.wait()
            return ours

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(take_over, range(6))) == 1
    assert list(tmp_path.iterdir()) == []
