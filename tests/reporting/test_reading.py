from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builders import a_run, write_results
from maml_en_llm.reporting.reading import Inputs, not_read_lines, read_inputs, read_result
from maml_en_llm.results import to_json


def write_run(folder: Path, lines: str = '{"batches": 1, "loss": 2.0}\n', **files: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("method: metaicl\nsetting: small\nbatches: 4\n")
    (folder / "metrics.jsonl").write_text(lines)
    for name, text in files.items():
        (folder / f"{name}.json").write_text(text)
    return folder


def complaints(found: Inputs) -> str:
    return "\n".join(not_read_lines(found))


def test_a_folder_gives_its_results_and_runs_wherever_they_are(tmp_path: Path) -> None:
    write_results(tmp_path / "deep" / "er" / "a.json", "MetaICL", {"t": [0.5, 0.6]})
    write_run(tmp_path / "runs" / "one", run=to_json(a_run(wall_seconds=12.0)))
    for folder in ("model", "checkpoints", ".git"):
        write_results(tmp_path / "runs" / "one" / folder / "b.json", "hidden", {"t": [0.5, 0.6]})
    (tmp_path / "deep" / "manifest.json").write_text('{"tasks": []}')
    (tmp_path / "deep" / "a.predictions.jsonl").write_text("{}\n")
    found = read_inputs([tmp_path, tmp_path / "deep" / "er" / "a.json", tmp_path / "deep"])  # each once
    assert [result.label for result in found.results] == ["MetaICL"]
    assert [(run.label, run.measured) for run in found.runs] == [("metaicl", a_run(wall_seconds=12.0))]
    assert complaints(found) == f"{tmp_path / 'deep'}: no results file and no run directory in it that is not read yet"


def test_what_cannot_be_used_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    good = write_results(tmp_path / "good.json", "MetaICL", {"t": [0.5, 0.6]})
    half = tmp_path / "half.json"
    half.write_text(good.read_text()[:200])
    (tmp_path / "b.unfinished.jsonl").write_text("")
    write_run(tmp_path / "run", '{"batches": 1, "loss": NaN}\n{"batches": 2, "lo', run="[")
    write_run(tmp_path / "foreign")
    (tmp_path / "foreign" / "config.yaml").write_text("a: [")
    double = write_results(tmp_path / "later" / "same.json", "MetaICL", {"t": [0.1, 0.2]})
    found = read_inputs([tmp_path, tmp_path / "absent.json", tmp_path / "absent"])
    assert [result.path for result in found.results] == [good]
    assert len(found.runs[0].metrics) == 1
    text = complaints(found)
    assert f"{half}: not a results file of `evaluate` or `adapt` of this version: not valid JSON" in text
    assert f"{tmp_path / 'b.unfinished.jsonl'}: an evaluation that is not finished" in text
    assert f"{tmp_path / 'run' / 'metrics.jsonl'}: 1 of its lines are not whole" in text
    assert f"{tmp_path / 'run' / 'run.json'}: not valid JSON" in text
    assert f"{tmp_path / 'foreign'}: its config.yaml or metrics.jsonl cannot be read" in text
    assert f"{double}: MetaICL on small like {good}; name one of them with --label" in text
    assert f"{tmp_path / 'absent.json'}: cannot be read as text (FileNotFoundError)" in text
    assert f"{tmp_path / 'absent'}: cannot be read" in text
    assert len(found.not_read) == 8


RESULTS: dict[str, Any] = {"format": "maml-en-llm results 2"}
FOREIGN = [
    ("a.json", '{"acc": 0.5}', r"a\.json: not a results file of `evaluate`.*: setting: Field required"),
    ("a.json", "[1]", r"a\.json: not a results file of `evaluate`.*: Input should be an object"),
    (
        "a.json",
        '{"format": "maml-en-llm results 1"}',
        r"a\.json: not a results file.*: format: Input should be 'maml-en-llm results 2'",
    ),
    ("a.json", '{\n"format": ', r"a\.json: not a results file.*: not valid JSON \(.* at line 2 column"),
    ("a.json", "[" * 100_000, r"a\.json: not a results file.*: not valid JSON"),
    ("a.json", json.dumps(RESULTS), r"a\.json: not a results file.*: setting: Field required"),
    ("a.csv", "method,setting\nx,y\n", r"a\.csv:2: needs the columns method, setting, average and worst"),
    ("a.csv", "method,setting,average,worst\nx,y,1,2\nx,z,high,2\n", r"a\.csv:3: needs the columns"),
    ("a.csv", "method,setting,average,worst\nx,y,nan,2\n", r"a\.csv:2: needs the columns"),
    ("a.bin", b"\xff\xfe", r"a\.bin: cannot be read as text"),
]


@pytest.mark.parametrize(("name", "content", "message"), FOREIGN)
def test_with_nothing_usable_the_reason_is_the_error(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"nothing to report on: .*{message}"):
        read_inputs([path])


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": {"t": {"unseen_domain": False}}},
        {"tasks": []},
        {"seeds": 3},
        {"seeds": []},
        {"summary": {"test": {"tasks": 1, "tasks_named": 1, "examples": 1, "average": float("nan"), "worst": 0.1}}},
        {"summary": {"test": {"tasks": 1, "tasks_named": 1, "examples": 1}}},
        {"run": "fast"},
        {"before": {}},
        {"row": {"label": "MetaICL"}},
        {"setting": None},
    ],
)
def test_results_with_a_part_missing_are_not_read(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write_results(tmp_path / "a.json", "MetaICL", {"t": [0.5, 0.6]})
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"a\.json: not a results file of.*(Field required|should |without|needs)"):
        read_result(path)


def test_a_file_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.json: cannot be read"):
        read_result(tmp_path / "nothing.json")
