from __future__ import annotations

import json
from pathlib import Path

import pytest

from maml_en_llm.starter.quickstart import quickstart
from maml_en_llm.starter.tasks import write_starter_collection
from maml_en_llm.tasks.check import check_collection
from maml_en_llm.tasks.collection import load_collection


def test_the_built_in_tasks_are_good_and_always_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_starter_collection(tmp_path / name)
    collection = load_collection(tmp_path / "a")
    assert check_collection(collection) == []
    files = [path.relative_to(tmp_path / "a") for path in sorted((tmp_path / "a").rglob("*")) if path.is_file()]
    assert files
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    for name in collection:
        inputs = [e.input for e in collection[name].train] + [e.input for e in collection[name].test]
        assert len(set(inputs)) == len(inputs)


def test_the_whole_job_from_nothing_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maml_en_llm.starter.quickstart.SEEDS", (100, 13))
    report = quickstart(tmp_path / "quick", batches=16, base_batches=4)
    assert report == tmp_path / "quick" / "report" / "report.html"
    page, text = report.read_text(), report.with_suffix(".md").read_text()
    assert "Learning curves" in page
    for method in ("No ICL", "Raw LM", "MetaICL", "MAML-2-1", "MAML-2-4"):
        assert f"| {method} |" in text
    assert "MAML-en-LLM wins" in text
    updates = {
        name: json.loads((tmp_path / "quick" / name / "model" / "maml_en_llm.json").read_text())["updates"]
        for name in ("base", "metaicl", "maml-2-1", "maml-2-4")
    }
    assert updates == {"base": 4, "metaicl": 16, "maml-2-1": 8, "maml-2-4": 2}

    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "quick").rglob("*.safetensors")}
    assert quickstart(tmp_path / "quick", batches=16, base_batches=4).read_text() == page
    assert {path: path.stat().st_mtime_ns for path in made} == made
