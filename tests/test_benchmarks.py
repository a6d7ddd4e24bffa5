"""Every part of the benchmark of a GPU works, in a tiny size on a CPU, and goes on where it was stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_every_part_works_and_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    words = ["--tiny", "--device", "cpu", "--output", str(tmp_path)]
    gpu.main(words)
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert list(record["parts"]) == list(gpu.PARTS)
    assert {name: part.get("error") for name, part in record["parts"].items()} == dict.fromkeys(gpu.PARTS)
    page = (tmp_path / "gpu.md").read_text()
    assert all(f"## {name.capitalize()}" in page for name in gpu.PARTS)

    before, after = record["parts"]["launches"]["rows"][2:4]
    assert after["kernels"] < before["kernels"]
    assert after["numbers read"] == 0 < before["numbers read"]
    by_batch: dict[str, list[float]] = {}
    for row in record["parts"]["groups"]["rows"]:
        by_batch.setdefault(row["batch"], []).append(row["loss"])
    for losses in by_batch.values():  # however prompts share passes
        assert losses == pytest.approx(losses[:1] * len(losses), rel=1e-5)

    del record["parts"]["memory"]
    record["parts"]["torchopt"] = {"error": "RuntimeError: out of memory", "seconds": 1, "code": "1"}
    (tmp_path / "gpu.json").write_text(json.dumps(record))
    gpu.main(words)
    again = json.loads((tmp_path / "gpu.json").read_text())
    assert all(
        again["parts"][name] == record["parts"][name] for name in gpu.PARTS if name not in ("memory", "torchopt")
    )
    assert all("rows" in part for part in again["parts"].values())
    assert sys.modules.pop("gpu") is gpu
