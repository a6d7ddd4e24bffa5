"""Devices and pipes where a file should be: a sentence, and no waiting and no memory without end."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import make_collection, write_results
from maml_en_llm.cli import main


@pytest.fixture(params=["zero", "pipe"])
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """/dev/zero, or a pipe that nobody writes to; what reads on for 20 seconds or fills the memory fails."""
    if request.param == "pipe":
        os.mkfifo(tmp_path / "pipe")
    limit, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, signal.SIG_DFL)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limit[1]))
    signal.alarm(20)
    yield Path("/dev/zero") if request.param == "zero" else tmp_path / "pipe"
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, limit)


def test_endless_files(endless: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection = make_collection(tmp_path / "c")
    output = ["--output", tmp_path / "out.json"]
    of_setting = ["--setting", "small", "--model", model_folder, *output]
    shown = ["--model", model_folder, "--demonstrations"]
    (tmp_path / "shown.jsonl").write_text('{"input": "ant", "output": "a"}\n{"input": "bee", "output": "b"}\n')
    commands: list[list[str | Path]] = [
        ["tasks", "import", "--source", endless, "--input", "a", "--output", "b", "--collection", tmp_path / "new"],
        ["predict", *shown, endless, "--input", "x"],
        ["predict", *shown, tmp_path / "shown.jsonl", "--input-file", endless, "--text-column", "t", *output],
        ["tasks", "choose", "--input", endless, "--column", "t", *output],
        ["train", "--config", endless],
        ["report", endless],
        ["tasks", "check", "--collection", endless],
        ["evaluate", *of_setting[:2], "--model", endless, "--collection", collection, *output],
    ]
    for part in ("settings/small.json", "data/mood/test.jsonl", "data/colour/train.jsonl"):
        other = Path(shutil.copytree(collection, tmp_path / part.replace("/", "-")))
        (other / part).unlink()
        (other / part).symlink_to(endless)
        commands += [["evaluate", "--collection", other, *of_setting], ["train", "--collection", other, *of_setting]]
        commands += [["tasks", "check", "--collection", other]]
    for name in ("a.json", "run/config.yaml", "run/metrics.jsonl", "run/run.json"):
        folder = tmp_path / f"report of {name.replace('/', ' ')}"
        write_results(folder / "b.json", "MetaICL", {"t": [0.5, 0.6]})
        (folder / "run").mkdir()
        (folder / "run" / "config.yaml").write_text("method: metaicl\nsetting: small\nbatches: 1\n")
        (folder / "run" / "metrics.jsonl").write_text('{"batches": 1}\n')
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(endless)
        commands += [["report", folder, "--output", folder / "out"]]
    for words in commands:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        assert "is a defect" not in said.err, words
        assert code == (0 if words[0] == "report" and words[1] != endless else 2), (words, said)
        assert said.err.strip() or said.out.strip()
