from __future__ import annotations

import json
from pathlib import Path

import pytest

from maml_en_llm.starter.quickstart import quickstart


def test_the_whole_job_from_nothing_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maml_en_llm.starter.quickstart.SEEDS", (100, 13))
    report = quickstart(tmp_path / "quick", batches=16, base_batches=4)
    assert report == tmp_path / "quick" / "report" / "report.md"
    text = report.read_text()
    for method in ("No ICL", "Raw LM", "MetaICL", "MAML-2-1", "MAML-2-4"):
        assert f"| {method} |" in text
    assert "MAML-en-LLM wins" in text
    updates = {
        name: json.loads((tmp_path / "quick" / name / "model" / "maml_en_llm.json").read_text())["updates"]
        for name in ("base", "metaicl", "maml-2-1", "maml-2-4")
    }
    assert updates == {"base": 4, "metaicl": 16, "maml-2-1": 8, "maml-2-4": 2}

    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "quick").rglob("*.safetensors")}
    assert quickstart(tmp_path / "quick", batches=16, base_batches=4).read_text() == text
    assert {path: path.stat().st_mtime_ns for path in made} == made
