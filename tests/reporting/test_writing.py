"""What a report writes: nothing of others is replaced or deleted, and no text of data is acted on."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_run, write_results
from maml_en_llm.files import write_files
from maml_en_llm.names import MARKER
from maml_en_llm.reporting.escaping import csv_text, from_csv, latex_text, markdown_text
from maml_en_llm.reporting.reading import read_table
from maml_en_llm.reporting.report import report


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return write_results(tmp_path / "a.json", "MetaICL", {"t": [0.5, 0.6]}, method="metaicl")


@pytest.mark.parametrize("name", ["report.md", "report.html", "tables/numbers.csv"])
def test_a_file_of_the_user_is_not_replaced(name: str, result: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "tables").mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"{re.escape(name)} was not made by `report`.*choose another --output"):
        report([result], out)
    assert (out / name).read_text() == "mine"
    assert [path.name for path in out.rglob("*") if path.is_file()] == [Path(name).name]


def test_files_of_the_user_between_those_of_the_report_stay(result: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "tables").mkdir(parents=True)
    (out / "tables" / "mine.csv").write_text("mine")
    (out / "notes.md").write_text("mine")
    report([result], out)
    other = write_results(tmp_path / "b.json", "Raw LM", {"t": [0.5, 0.6]}, setting="another")
    report([other], out)
    assert (out / "tables" / "mine.csv").read_text() == (out / "notes.md").read_text() == "mine"
    assert not (out / "tables" / "tasks-small.csv").exists()  # of the first report
    assert (out / "tables" / "tasks-another.csv").exists()
    (out / "report.md").write_text("with my notes")
    with pytest.raises(ValueError, match="has been changed since"):
        report([result], out)
    assert (out / "report.md").read_text() == "with my notes"


def test_the_list_of_what_was_made_reaches_nowhere_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_files(out, {"a.md": "a"}, "report")
    (tmp_path / "mine.md").write_text("a")
    (out / "link.md").symlink_to(tmp_path / "mine.md")
    record = json.loads((out / MARKER).read_text())
    hashes = record["files"]["a.md"]
    (out / MARKER).write_text(json.dumps(record | {"files": dict.fromkeys(["../mine.md", "link.md", "a.md"], hashes)}))
    write_files(out, {"b.md": "b"}, "report")
    assert (tmp_path / "mine.md").read_text() == "a"
    assert (out / "link.md").is_symlink()
    assert not (out / "a.md").exists()


@pytest.mark.parametrize("after", range(4))
def test_an_interrupted_report_can_be_made_again(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maml_en_llm import files as module

    out, written = tmp_path / "out", []
    write_files(out, {"a.md": "old", "b.md": "old", "gone.md": "old"}, "report")
    original = module.write_text

    def stopping(path: Path, text: str) -> None:
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path)
        original(path, text)

    monkeypatch.setattr(module, "write_text", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_files(out, {"a.md": "new", "b.md": "new"}, "report")
    monkeypatch.undo()
    write_files(out, {"a.md": "newest", "b.md": "newest"}, "report")
    assert {path.name: path.read_text() for path in out.glob("*.md")} == {"a.md": "newest", "b.md": "newest"}


HOSTILE = "=cmd|' [red] /C <img src=x onerror=alert(1)> [a](javascript:b) \x1b[31m`x` & |"


def test_hostile_names_do_nothing_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path / "in" / "a.json", HOSTILE, {HOSTILE: [0.5, 0.6]}, setting=HOSTILE.replace("/", ""))
    (tmp_path / "in" / "bad\x1b[31m.json").write_text('{"format": "maml-en-llm results 2"}')
    out = report([tmp_path / "in"], tmp_path / "out").parent
    for path in out.rglob("*.md"):
        text = path.read_text()
        assert "<img" not in text
        assert "](javascript" not in text
        assert "\x1b" not in text
    for path in out.rglob("*.csv"):
        with path.open() as file:
            cells = [cell for line in csv.reader(file) for cell in line]
        assert any("cmd" in cell for cell in cells)
        assert not any(cell.startswith(("=", "+", "@")) for cell in cells)
        assert not any("\x1b" in cell for cell in cells)
    shown = capsys.readouterr().err
    assert "\x1b[31m" not in shown
    assert "\\x1b[31m" in shown
    assert "[red]" in shown  # not taken for markup


def test_names_that_look_like_formulas_come_back_from_a_table(tmp_path: Path) -> None:
    path = write_results(tmp_path / "a.json", "=1+1", {"t": [0.5, 0.6]})
    report([path], tmp_path / "out")
    (score, *_) = read_table(tmp_path / "out" / "tables" / "numbers.csv")
    assert (score.label, score.average) == ("=1+1", pytest.approx(55.0))


@given(st.text())
def test_texts_of_data_as_cells(text: str) -> None:
    assert from_csv(csv_text(text)) == text or text.startswith("'")
    assert not csv_text(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert "<" not in markdown_text(text)
    assert "\n" not in latex_text(text) + markdown_text(text)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"row": {"layout": "spaces"}}, "layout newlines and spaces"),
        ({"row": {"max_tokens": 64}}, "max tokens 128 and 64"),
        ({"row": {"demonstrations": 8, "labels_used": 8}}, "labels used 4 and 8, demonstrations 4 and 8"),
        ({"run": a_run(manifest_hash="other")}, "data"),
        ({"row": {"split": "dev"}}, "split test and dev"),
    ],
)
def test_unlike_rows_are_marked_and_not_tested(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    write_results(tmp_path / "in" / "raw.json", "Raw LM", {"t": [0.1, 0.2], "u": [0.3, 0.1]}, **change)
    tasks = {"t": [0.5, 0.6], "u": [0.5, 0.6]}
    write_results(tmp_path / "in" / "metaicl.json", "MetaICL", tasks, method="metaicl")
    write_results(tmp_path / "in" / "maml.json", "MAML-2-1", tasks, method="maml-en-llm")

    def lines(name: str, **changes: Any) -> dict[tuple[str, str], dict[str, str]]:
        page = report([tmp_path / "in"], tmp_path / name, **changes)
        assert ("--compare-unlike" in page.read_text()) == (not changes)
        assert reason in page.read_text()
        assert reason in page.with_name("report.md").read_text()
        with (page.parent / "tables" / "comparisons-test.csv").open() as file:
            return {(line["method"], line["baseline"]): line for line in csv.DictReader(file)}

    for name, changes, tested in (("plain", {}, False), ("asked", {"compare_unlike": True}, True)):
        found = lines(name, **changes)
        line = found["MetaICL", "Raw LM"]
        assert line["unlike in"] == reason
        assert bool(line["p"]) == bool(line["low"]) == tested
        assert float(line["difference"]) == pytest.approx(37.5)
        like = found["MAML-2-1", "MetaICL"]
        assert (like["unlike in"], bool(like["p"])) == ("", True)


def test_other_numbers_of_examples_are_unlike(tmp_path: Path) -> None:
    from dataclasses import replace

    from maml_en_llm.results import read_results
    from maml_en_llm.results import write_results as write

    path = write_results(tmp_path / "in" / "raw.json", "Raw LM", {"t": [0.1, 0.2]})
    whole = read_results(path)
    write(path, replace(whole, tasks={"t": replace(whole.tasks["t"], examples=3)}))
    write_results(tmp_path / "in" / "metaicl.json", "MetaICL", {"t": [0.5, 0.6]}, method="metaicl")
    assert "numbers of examples" in report([tmp_path / "in"], tmp_path / "out").read_text()
