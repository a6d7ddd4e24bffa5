"""Every part of the benchmark of a GPU works, in a tiny size on a CPU, and goes on where it was stopped."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_every_part_works_and_is_made_once(tmp_path: Path) -> None:
    def run() -> dict[str, Any]:
        words = [sys.executable, SCRIPT, "--tiny", "--device", "cpu", "--output", tmp_path]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        record: dict[str, Any] = json.loads((tmp_path / "gpu.json").read_text())
        assert {name: part.get("error") for name, part in record["parts"].items()} == dict.fromkeys(record["parts"])
        return record

    record = run()
    parts, page = record["parts"], (tmp_path / "gpu.md").read_text()
    assert set(parts) == {
        *("throughput", "memory", "launches", "groups", "compile", "evaluation", "errors", "torchopt")
    }
    assert all(part["rows"] and f"## {name.capitalize()}" in page for name, part in parts.items())

    rows = {(row["training"], row["parameters"]): row for row in parts["launches"]["rows"]}
    before, after = (rows["MAML-2-1", way] for way in ("one by one", "in long tensors"))
    assert after["kernels"] < before["kernels"]
    assert after["numbers read, profiler"] < before["numbers read, profiler"]
    losses: dict[str, list[float]] = {}
    for row in parts["groups"]["rows"]:
        losses.setdefault(row["batch"], []).append(row["loss"])
    for found in losses.values():  # however prompts share passes
        assert found == pytest.approx(found[:1] * len(found), rel=1e-5)

    del parts["evaluation"]
    parts["errors"] = {"error": "RuntimeError: out of memory", "seconds": 1, "code": "1"}
    (tmp_path / "gpu.json").write_text(json.dumps(record))
    again = run()["parts"]
    assert "rows" in again.pop("evaluation")
    assert "rows" in again.pop("errors")
    assert again == {name: part for name, part in parts.items() if name in again}


def test_what_fails_keeps_nothing_else_from_being_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    gpu = importlib.import_module("gpu")

    def full() -> dict[str, Any]:
        raise torch.OutOfMemoryError

    def good(setting: Any) -> list[dict[str, Any]]:
        """Works."""
        return [gpu.tried({"size": 1}, lambda: {"ms": 2.0}), gpu.tried({"size": 9}, full)]

    def bad(setting: Any) -> list[dict[str, Any]]:
        """Fails."""
        raise AttributeError

    def start_anew(path: str, words: list[str]) -> None:
        started.append(words)
        raise SystemExit

    started: list[list[str]] = []
    monkeypatch.setattr(gpu, "PARTS", {"one": good, "two": bad, "three": good})
    monkeypatch.setattr(gpu.os, "execv", start_anew)
    words = ["--tiny", "--device", "cpu", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    with pytest.raises(SystemExit):
        gpu.main(words)
    assert started == [[sys.executable, "gpu.py", *words, "--parts", "three"]]
    gpu.main(started[0][2:])
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    rows = [{"size": 1, "ms": 2.0}, {"size": 9, "note": "out of memory"}]
    assert [parts[name].get("rows") for name in parts] == [rows, None, rows]
    assert parts["two"]["error"] == "AttributeError: "
