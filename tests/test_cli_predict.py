"""The verbs `predict` on files and `tasks choose`, as users type them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from maml_en_llm.classifier import InContextClassifier
from maml_en_llm.cli import main
from maml_en_llm.starter.drawing import words

FRUIT, INSECTS = words("fruit")[:20], words("insects")[:20]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: labelled.csv, and new.csv with 24 rows, one of them empty."""
    monkeypatch.chdir(tmp_path)
    pairs = [(text, label) for some, label in ((FRUIT, "sour"), (INSECTS, "sweet")) for text in some[:8]]
    write_csv(tmp_path / "labelled.csv", ["text", "label"], pairs)
    rows = [(number, text) for number, text in enumerate([*FRUIT[8:], "", *INSECTS[8:]])]
    write_csv(tmp_path / "new.csv", ["id", "message"], rows)
    return tmp_path


def write_csv(path: Path, columns: list[str], rows: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(line: str) -> int:
    return main([*line.split(), "--device", "cpu"])


PREDICT = "predict --model starter --demonstrations labelled.csv --input-file new.csv"


def test_predicting_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"{PREDICT} --text-column message --output out/predicted.csv --choose balanced"
    assert run(command) == 0
    shown = capsys.readouterr()
    assert shown.out == "out/predicted.csv\n"
    assert "1 rows could not be predicted; out/predicted.csv.bad-rows.jsonl has them" in shown.err
    found = read_csv(folder / "out/predicted.csv")
    assert [row["message"] for row in found] == [*FRUIT[8:], *INSECTS[8:]]
    labelled = read_csv(folder / "labelled.csv")
    model = InContextClassifier(device="cpu", choose="balanced")
    model.fit([row["text"] for row in labelled], [row["label"] for row in labelled])
    for row, scores in zip(found, model.scores([row["message"] for row in found]), strict=True):
        assert [float(row[f"score_{label}"]) for label in ("sour", "sweet")] == pytest.approx(list(scores), abs=1e-4)
        assert row["prediction"] == model.classes_[scores.argmin()]


@pytest.mark.parametrize("output", ["out.tsv", "out.jsonl", "out.parquet"])
def test_with_a_head_and_to_other_kinds(folder: Path, output: str) -> None:
    lines = [json.dumps({"input": r["text"], "output": r["label"]}) for r in read_csv(folder / "labelled.csv")]
    (folder / "labelled.jsonl").write_text("\n".join(lines))
    command = f"{PREDICT} --text-column message --output {output} --learner nearest".replace(
        ".csv --inp", ".jsonl --inp"
    )
    assert run(command) == 0
    assert (folder / output).stat().st_size > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--input new.csv", "--input is a text but new.csv is a file; give --input-file new.csv --text-column NAME"),
        ("", "give --input TEXT for one prediction, or --input-file FILE for one of each row"),
        ("--input x --input-file new.csv", "give --input TEXT for one prediction, or --input-file FILE"),
        ("--input-file new.csv", "give --text-column NAME with --input-file"),
        ("--input-file new.csv --text-column message", "give --output FILE with --input-file"),
        ("--input x --output out.csv", "output is set but --input prints its prediction"),
        ("--input x --options-column o", "options_column is a column of --input-file and takes the place of options"),
        (
            "--input-file new.csv --text-column message --output o.csv --options-column o",
            "there is no column 'o'; the columns are id, message",
        ),
        ("--input x --count 3", "choose=given does not read count"),
        ("--input x --choose random --options sour,bitter", "'sweet' is not among the options sour, bitter"),
        (
            "--input-file new.csv --text-column text --output o.csv",
            "there is no column 'text'; the columns are id, mes",
        ),
        ("--input-file no.csv --text-column text --output o.csv", "no.csv does not exist"),
        ("--input-file new.csv --text-column message --output new.csv", "new.csv exists already"),
        ("--input-file new.csv --text-column message --output o.xlsx", "o.xlsx: unknown kind of file"),
    ],
)
def test_what_cannot_be_meant(flags: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"predict --model starter --demonstrations labelled.csv {flags}") == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert {path.name for path in folder.iterdir()} == {"labelled.csv", "new.csv"}


@pytest.mark.parametrize("learner", ["in-context", "logistic"])
def test_options_of_each_row(learner: str, folder: Path) -> None:
    rows = [("mango", "sour|sweet"), ("gnat", "sweet|sour"), ("plum", "bitter,sour")]
    write_csv(folder / "choices.csv", ["message", "choices"], rows)
    command = PREDICT.replace("new.csv", "choices.csv") + " --text-column message --output o.csv"
    assert run(f"{command} --options-column choices --learner {learner}") == 0
    model = InContextClassifier(device="cpu", learner=learner, choose="given")
    labelled = read_csv(folder / "labelled.csv")
    model.fit([row["text"] for row in labelled], [row["label"] for row in labelled])
    options = [["sour", "sweet"], ["sweet", "sour"], ["bitter", "sour"]]
    expected = model.scores([text for text, _ in rows], options)
    for row, scores, some in zip(read_csv(folder / "o.csv"), expected, options, strict=True):
        assert json.loads(row["scores"]) == pytest.approx(dict(zip(some, scores, strict=True)), abs=1e-4)
        assert row["prediction"] == some[int(scores.argmin())]


def test_one_input_with_chosen_demonstrations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict --model starter --demonstrations labelled.csv --input mango --choose nearest --count 8") == 0
    assert capsys.readouterr().out == "sour\n"


def test_choosing_what_to_label(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(text, "x" if text == FRUIT[0] else "") for text in [*FRUIT, *INSECTS]] + [("", "x")]
    write_csv(folder / "pool.csv", ["text", "label"], rows)
    line = "tasks choose --input pool.csv --column text --count 4 --label-column label"
    chosen = {}
    for by in ("random", "centres", "mixture"):
        assert run(f"{line} --by {by} --output {by}.csv") == 0
        chosen[by] = read_csv(folder / f"{by}.csv")
        assert run(f"{line} --by {by} --output {by}-again.csv") == 0
        assert read_csv(folder / f"{by}-again.csv") == chosen[by]
        for row in chosen[by]:
            assert rows[int(row["row"]) - 1] == (row["text"], row["label"])
            assert row["label"] == ""
            assert row["reason"]
    assert "1 rows have nothing in 'text' and are left out" in capsys.readouterr().err
    assert {row["text"] in FRUIT for row in chosen["mixture"]} == {True, False}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--column words --output o.csv", "there is no column 'words'; the columns are id, message"),
        ("--column message --output new.csv", "new.csv exists already"),
        ("--column message --output o.csv --count 0", "count is 0; it must be at least 1"),
        (
            "--column message --output o.csv --count 99",
            "99 rows are to be chosen but only 24 different unlabelled ones",
        ),
    ],
)
def test_choosing_refuses(flags: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"tasks choose --input new.csv {flags}") == 2
    assert re.search(re.escape(message), capsys.readouterr().err)


DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["predicting.md", "choosing.md"])
def test_the_commands_of_the_docs_run(page: str, folder: Path) -> None:
    write_csv(folder / "pool.csv", ["text"], [(text,) for text in (*FRUIT, *INSECTS)])
    write_csv(folder / "new.csv", ["text"], [("mango",), ("gnat",)])
    blocks = re.findall(r"```(bash|python)\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    for language, block in blocks:
        if language == "python":
            exec(compile(block, page, "exec"), {})
        else:
            assert run(block.strip().removeprefix("maml-en-llm ")) == 0
