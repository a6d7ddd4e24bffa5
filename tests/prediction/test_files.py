from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet
import pytest

from maml_en_llm.prediction import files
from maml_en_llm.prediction.files import predict_file, read_rows

LABELS = ["no", "yes"]
ROWS = [{"id": str(n), "message": f'text {n}, "quoted"\nand on' if n % 3 else f"text {n} é"} for n in range(12)]


def scores(texts: list[str], options: Any = None) -> np.ndarray:
    """Long texts are yes."""
    share = np.array([min(0.9, len(text) / 20) for text in texts])
    return -np.log(np.stack([1 - share, share], axis=1))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(arrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ";")
            writer.writeheader()
            writer.writerows(rows)
    return path


def run(source: Path, output: Path, column: str = "message", **changes: Any) -> files.Predicted:
    return predict_file(
        source, output, files.Asked(column), LABELS, changes.get("scores", scores), changes.get("described", "")
    )


@pytest.mark.parametrize("read", files.SUFFIXES)
@pytest.mark.parametrize("written", files.SUFFIXES)
def test_every_kind_of_file_in_and_out(read: str, written: str, tmp_path: Path) -> None:
    done = run(write(tmp_path / f"in{read}", ROWS), tmp_path / f"out{written}")
    found = [place.row for place in read_rows(tmp_path / f"out{written}")]
    assert [{key: row[key] for key in ("id", "message")} for row in found if row] == ROWS
    for row in found:
        assert row is not None
        expected = scores([row["message"]])[0]
        assert row["prediction"] == LABELS[int(expected.argmin())]
        assert float(row["probability"]) == pytest.approx(np.exp(-expected.min()), abs=1e-5)
        assert [float(row[f"score_{label}"]) for label in LABELS] == pytest.approx(list(expected), abs=1e-5)
    assert sum(done.counts.values()) == 12
    assert {path.name for path in tmp_path.iterdir()} == {f"in{read}", f"out{written}"}


def test_bad_rows_are_set_aside_with_reasons(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('id,message\n1,hello\n2,\n3,"a\nb",c\n\n4,"  "\n5,bye\n', encoding="utf-8")
    done = run(source, tmp_path / "out.csv")
    assert [place.row["id"] for place in read_rows(tmp_path / "out.csv") if place.row] == ["1", "5"]
    aside = [json.loads(line) for line in done.bad_rows.read_text().splitlines()]
    assert done.bad == 3
    assert aside == [
        {"place": 3, "reason": "has nothing in 'message'", "row": {"id": "2", "message": ""}},
        {"place": 4, "reason": "has 3 fields but there are 2 columns"},
        {"place": 7, "reason": "has nothing in 'message'", "row": {"id": "4", "message": "  "}},
    ]


def test_bad_lines_of_json(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    lines = ["{", "[1]", '{"id": 1}', '{"message": null}', '{"message": ["a"]}', '{"message": 7}', '{"message": "a"}']
    source.write_text("\n".join(lines), encoding="utf-8")
    done = run(source, tmp_path / "out.csv")
    reasons = [json.loads(line)["reason"] for line in done.bad_rows.read_text().splitlines()]
    assert reasons == [
        "is not valid JSON",
        "is not a JSON object",
        "has no 'message'",
        "has nothing in 'message'",
        "has list, not a text, in 'message'",
    ]
    assert next(place.row for place in read_rows(tmp_path / "out.csv") if place.row)["message"] == "7"


def test_a_stopped_run_goes_on_and_gives_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROWS_AT_ONCE", 5)
    source = write(tmp_path / "in.csv", ROWS)
    run(source, tmp_path / "whole.csv")
    calls: list[list[str]] = []

    def failing(texts: list[str], options: Any = None) -> np.ndarray:
        calls.append(texts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return scores(texts)

    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.csv", scores=failing)
    assert not (tmp_path / "out.csv").exists()
    unfinished = tmp_path / "out.csv.unfinished.jsonl"
    unfinished.write_text(unfinished.read_text() + "[0.1, 2")  # cut off in the middle of a line
    run(source, tmp_path / "out.csv", scores=failing)
    assert [len(texts) for texts in calls] == [5, 5, 5, 2]
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not unfinished.exists()


def test_a_run_that_is_asked_to_stop_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROWS_AT_ONCE", 5)

    def stopping(texts: list[str], options: Any = None) -> np.ndarray:
        signal.raise_signal(signal.SIGTERM)
        return scores(texts)

    source = write(tmp_path / "in.csv", ROWS)
    with pytest.raises(KeyboardInterrupt, match="stopped; the same command continues where it was"):
        run(source, tmp_path / "out.csv", scores=stopping)
    assert len((tmp_path / "out.csv.unfinished.jsonl").read_text().splitlines()) == 6
    assert sum(run(source, tmp_path / "out.csv").counts.values()) == 12


@pytest.mark.parametrize("changed", ["described", "source"])
def test_what_another_command_left_is_not_used(changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROWS_AT_ONCE", 5)
    source, calls = write(tmp_path / "in.csv", ROWS), []

    def failing(texts: list[str], options: Any = None) -> np.ndarray:
        calls.append(texts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return scores(texts)

    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.csv", scores=failing)
    if changed == "source":
        write(source, [{**ROWS[0], "message": "another"}, *ROWS[1:]])
    run(source, tmp_path / "out.csv", scores=failing, described="other" if changed == "described" else "")
    assert sum(map(len, calls[2:])) == 12


def test_nothing_is_replaced(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", ROWS)
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"out\.csv exists already; choose another --output"):
        run(source, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("in.csv", "id,text\n1,a\n", "message", r"there is no column 'message'; the columns are id, text"),
        ("in.csv", "message,prediction\na,b\n", "message", "has a column 'prediction' already"),
        ("in.csv", "message\n\n", "message", "no row has a text in 'message'"),
        ("in.csv", "message,b\n,1\n", "message", r"no row has a text in 'message'; the first, .*in.csv:2, has nothing"),
        ("in.csv", "a,a\n1,2\n", "a", r"in\.csv:1: two columns are named 'a'; rename one"),
        ("in.csv", "", "message", "is empty"),
        ("in.xlsx", "x", "message", "unknown kind of file"),
        ("in.parquet", "x", "message", "not a readable Parquet file"),
    ],
)
def test_files_that_cannot_be_used(name: str, content: str, column: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        run(tmp_path / name, tmp_path / "out.csv", column)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_other_encodings_are_read(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        (tmp_path / f"{encoding}.csv").write_text("message,b\ncafé,1\n", encoding=encoding)
        (place,) = read_rows(tmp_path / f"{encoding}.csv")
        assert place.row == {"message": "café", "b": "1"}


@pytest.mark.parametrize("read", files.SUFFIXES)
@pytest.mark.parametrize("written", files.SUFFIXES)
def test_options_that_differ_by_row(read: str, written: str, tmp_path: Path) -> None:
    listed = read in (".jsonl", ".parquet")
    options = [["a", "bb"], ["bb", "ccc", "d"], ["a"], ["d", "d"]]
    rows = [{"message": f"m{n}", "choices": some if listed else " | ".join(some)} for n, some in enumerate(options)]
    asked = files.Asked("message", "choices")

    def longest(texts: list[str], options: list[list[str]]) -> list[list[float]]:
        return [[1.0 / len(option) for option in some] for some in options]

    done = predict_file(write(tmp_path / f"in{read}", rows), tmp_path / f"out{written}", asked, LABELS, longest, "")
    found = [place.row or {} for place in read_rows(tmp_path / f"out{written}")]
    assert [row["prediction"] for row in found] == ["bb", "ccc"]
    assert json.loads(found[0]["scores"]) == {"a": 1.0, "bb": 0.5}
    assert done.bad == 2
    reasons = [json.loads(line)["reason"] for line in done.bad_rows.read_text().splitlines()]
    assert reasons == ["has not two different options or more in 'choices'"] * 2


@pytest.mark.parametrize(
    ("cell", "options"),
    [('["a, b", "c"]', ["a, b", "c"]), ("a|b, c", ["a", "b, c"]), ("a, b", ["a", "b"]), ("", []), (None, []), (7, [])],
)
def test_how_options_are_written_in_a_cell(cell: Any, options: list[str]) -> None:
    assert files._listed(cell) == options
