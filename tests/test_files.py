"""Files are replaced whole, outputs are tried before the work, and each has one writer."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from maml_en_llm.files import check_output, lock, only_writer, owner, read_json, replace_folder, write_text, writing
from maml_en_llm.names import mark


def test_the_root_and_nothing_are_no_outputs() -> None:
    for path in (Path("/"), Path("")):
        with pytest.raises(ValueError, match="is no name of a file or folder; give one"), only_writer(path):
            pass


def no_space(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_was_there_stays_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notes.json"
    write_text(path, "before")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left") as error:
        write_text(path, "after")
    assert error.value.filename == str(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_finished_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "model", tmp_path / "model.partial"
    for folder, text in ((old, "before"), (new, "after")):
        folder.mkdir()
        (folder / "weights").write_text(text)
    mark(old, "train")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="No space left"):
            replace_folder(new, old, "train")
    assert (old / "weights").read_text() == "before"
    replace_folder(new, old, "train")
    assert (old / "weights").read_text() == "after"
    assert list(tmp_path.iterdir()) == [old]


def test_errors_of_safetensors_are_named_like_others(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    script = (
        "import resource, signal, sys, torch, safetensors.torch\n"
        "from pathlib import Path\n"
        "from maml_en_llm.files import writing\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (5000, {limit[1]}))\n"
        "try:\n"
        "    with writing(Path(sys.argv[1])):\n"
        "        safetensors.torch.save_file({'w': torch.zeros(10000)}, sys.argv[1])\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "weights")]
    printed = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert printed.strip() == f"[Errno 27] File too large: '{tmp_path / 'weights'}'"
    with pytest.raises(SafetensorError, match="header"), writing(tmp_path):  # not of the disk
        raise SafetensorError("header too large")


def test_new_folders_have_the_modes_of_new_files(tmp_path: Path) -> None:
    new, plain = tmp_path / "new.partial", tmp_path / "plain"
    new.mkdir()
    safetensors.torch.save_file({"w": torch.zeros(1)}, new / "weights")
    (new / "weights").chmod(0o600)  # as some versions of some libraries leave them
    replace_folder(new, tmp_path / "new", "train")
    plain.touch()
    assert (tmp_path / "new" / "weights").stat().st_mode == plain.stat().st_mode


def test_outputs_that_cannot_be_written_are_named_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    check_output(tmp_path / "not" / "there" / "yet.json", ending=".json")
    check_output(tmp_path / "folder", folder=True)
    check_output(tmp_path / "file")
    for path, keys, words in [
        (tmp_path / "folder", {}, "is a folder; give the name of a file"),
        (tmp_path / "file", {"folder": True}, "is a file; give the name of a folder"),
        (tmp_path / "file" / "x.json", {}, "cannot be written: Not a directory"),
        (tmp_path / "a.v1", {"ending": ".json"}, r"must end in \.json, as in a\.v1\.json"),
        (tmp_path / ("long" * 64), {}, "cannot be written: File name too long"),
        (Path("/proc/nothing/x"), {}, "cannot be written"),
    ]:
        with pytest.raises(ValueError, match=words):
            check_output(path, **keys)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(ValueError, match="cannot be written: No space left on device; choose another"):
        check_output(tmp_path / "results.json")


def test_a_lock_is_owned_once_and_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "row.lock"
    with lock(path) as ours:
        assert ours
        assert owner(path) == f"process {os.getpid()} on {socket.gethostname()}"
        with lock(path) as again:
            assert not again
        assert path.exists()
    said = f"row is being written by process {os.getpid()} on "
    with only_writer(tmp_path / "row"), pytest.raises(ValueError, match=said), only_writer(tmp_path / "row"):
        pass
    assert list(path.parent.iterdir()) == []
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]


def test_a_lock_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lock(tmp_path / "row.lock"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "row.lock"
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from maml_en_llm.files import lock\n"
        "with lock(Path(sys.argv[1])) as ours:\n"
        "    print(ours, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "True"
    with lock(path) as ours:
        assert not ours
        assert owner(path) == f"process {process.pid} on {socket.gethostname()}"
    process.kill()
    process.communicate()
    assert path.exists()
    with lock(path) as ours:
        assert ours


def test_of_many_that_want_a_lock_one_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "row.lock"
    path.write_text("left by a process that was killed")
    start, end = Barrier(6), Barrier(6)

    def take(_: int) -> bool:
        start.wait()
        with lock(path) as ours:
            end.wait()
            return ours

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(take, range(6))) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_json_object_reads_as_empty(tmp_path: Path) -> None:
    for content in (b"", b"[1]", b"\xff", b"[" * 100_000):
        (tmp_path / "x.json").write_bytes(content)
        assert read_json(tmp_path / "x.json") == {}
