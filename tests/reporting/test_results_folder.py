"""The measured results in the repository: one table of scores, from which every report can be made again."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as parquet
import pytest

from builders import write_results
from maml_en_llm.results import read_results, read_scores, to_json, write_scores

FOLDER = Path(__file__).parents[2] / "results"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("remake", FOLDER / "remake.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scores_come_back_as_the_results_that_they_are_of(tmp_path: Path) -> None:
    paths = [
        write_results(tmp_path / "a.json", "MetaICL", {"t": [0.5, 0.6], "u": [0.1, 0.2]}, method="metaicl"),
        write_results(tmp_path / "b.json", "Raw LM", {"t": [0.5, 0.6]}, unseen=["t"]),
    ]
    one, other = map(read_results, paths)
    write_scores(tmp_path / "s.parquet", {"x": [one, other], "y": [other]})
    found = read_scores(tmp_path / "s.parquet")
    assert {name: list(map(to_json, some)) for name, some in found.items()} == {
        "x": [to_json(one), to_json(other)],
        "y": [to_json(other)],
    }
    lines = parquet.read_table(tmp_path / "s.parquet").to_pylist()
    keys = ("table", "label", "training_method", "task", "seed", "score", "unseen_domain")
    assert [tuple(line[key] for key in keys) for line in lines[3:6]] == [
        ("x", "MetaICL", "metaicl", "u", 13, 0.2, False),
        ("x", "Raw LM", None, "t", 100, 0.5, True),
        ("x", "Raw LM", None, "t", 13, 0.6, True),
    ]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"a,b\n1,2\n"])
def test_another_file_is_no_table_of_scores(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"s\.parquet: cannot be read as a Parquet table of scores"):
        read_scores(tmp_path / "s.parquet")


def test_every_table_has_its_report_and_a_small_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = read_scores(FOLDER / "scores.parquet")
    assert {f"{name}.md" for name in tables} == {str(p.relative_to(FOLDER)) for p in FOLDER.glob("*/*.md")}
    remake = script()
    monkeypatch.setattr(remake, "HERE", tmp_path)
    monkeypatch.setattr(remake, "SCORES", tmp_path / "scores.parquet")
    write_scores(tmp_path / "scores.parquet", {"first-run/runtime": tables["first-run/runtime"]})
    remake.remake()
    report = Path("first-run/runtime.md")
    assert (tmp_path / report).read_text() == (FOLDER / report).read_text()


def test_results_of_a_folder_are_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remake = script()
    monkeypatch.setattr(remake, "HERE", tmp_path)
    monkeypatch.setattr(remake, "SCORES", tmp_path / "scores.parquet")
    write_results(tmp_path / "in" / "a.json", "MetaICL", {"t": [0.5, 0.6]}, method="metaicl")
    write_results(tmp_path / "in" / "deep" / "b.json", "Raw LM", {"t": [0.4, 0.6]})
    remake.remake(add=tmp_path / "in", table="mine/one", pages=tmp_path / "pages")
    assert "| MetaICL | 55.00 / 50.00 |" in (tmp_path / "mine" / "one.md").read_text()
    assert (tmp_path / "pages" / "mine" / "one" / "report.html").is_file()
    with pytest.raises(SystemExit, match="--table"):
        remake.remake(add=tmp_path / "in")
