from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders import line, make_collection, make_task, write_lines, write_setting
from maml_en_llm.cli import main
from maml_en_llm.tasks.check import check_collection
from maml_en_llm.tasks.collection import load_collection

GOOD = line("t", "in", "yes", ["yes", "no"])


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in GOOD.items() if k != key}


BAD_LINES: list[tuple[dict[str, Any] | str | bytes, str]] = [
    ('{"task": "t", "input": ', "not valid JSON (Expecting value at column"),
    ("", "the line is blank; delete it"),
    ("   ", "the line is blank; delete it"),
    (b'{"task": "t", "input": "caf\xe9", "output": "x", "options": []}', "not UTF-8 at byte 27 of the line"),
    (b'{"task": "t", "input": "\xed\xa0\x80", "output": "x", "options": []}', "not UTF-8 at byte 24 of the line"),
    ('{"task": "t", "input": "\\ud800", "output": "x", "options": []}', "half of a surrogate pair"),
    ("﻿" + json.dumps(GOOD), "not valid JSON (Unexpected UTF-8 BOM"),
    ("[1]", "a line must be a JSON object, this one is a list"),
    ("null", "a line must be a JSON object, this one is null"),
    ("[" * 100_000, "nested too deeply"),
    (without("task"), 'the key "task" is missing'),
    (without("input"), 'the key "input" is missing'),
    (without("output"), 'the key "output" is missing'),
    (without("options"), 'the key "options" is missing (write [] for a free-form task)'),
    (GOOD | {"input": 3}, '"input" must be a string, not a number'),
    (GOOD | {"output": None, "options": []}, '"output" must be a string, not null'),
    (GOOD | {"task": True}, '"task" must be a string, not true or false'),
    (GOOD | {"options": "yes"}, '"options" must be a list of strings'),
    (GOOD | {"options": ["yes", 1]}, '"options" must be a list of strings'),
    (GOOD | {"options": ["yes", "no", "no"]}, "the option 'no' stands more than once"),
    (GOOD | {"output": "maybe"}, "the output 'maybe' is not among the options ['yes', 'no']"),
    (GOOD | {"task": "u"}, "\"task\" is 'u' but the folder is 't'"),
    (GOOD | {"label": 0}, 'unknown key "label"'),
]


@pytest.mark.parametrize(("bad", "expected"), BAD_LINES)
def test_a_bad_line_is_reported_with_file_and_line(tmp_path: Path, bad: Any, expected: str) -> None:
    path = write_lines(tmp_path / "data" / "t" / "dev.jsonl", [GOOD, GOOD, bad, GOOD])
    (violation,) = check_collection(load_collection(tmp_path))
    assert (violation.path, violation.line, violation.severity) == (path, 3, "error")
    assert expected in violation.message
    assert str(violation).startswith(f"{path}:3: ")
    with pytest.raises(ValueError, match=r"dev\.jsonl:3: "):
        load_collection(tmp_path)["t"].dev[2]


def test_all_problems_of_a_line_are_reported(tmp_path: Path) -> None:
    write_lines(tmp_path / "data" / "t" / "train.jsonl", [{"task": "u", "input": 1, "options": ["a", "a"], "z": 0}])
    found = check_collection(load_collection(tmp_path))
    assert len(found) == 5  # wrong task, wrong input, no output, repeated option, unknown key
    assert {violation.line for violation in found} == {1}


def test_all_violations_of_a_collection_are_reported_at_once(tmp_path: Path) -> None:
    folder = make_collection(tmp_path)
    train = folder / "data" / "colour" / "train.jsonl"
    train.write_text(train.read_text() + "{\n")
    write_lines(folder / "data" / "mood" / "test.jsonl", [line("mood", "x", "angry", ["glad", "sad"])])
    (folder / "data" / "size" / "train.jsonl").unlink()
    (folder / "data" / "hollow").mkdir()
    write_lines(folder / "data" / "empty" / "dev.jsonl", [])
    path = folder / "settings" / "bad.json"
    path.write_text(
        "{\n"
        '  "train": ["colour",\n'
        '            "absent",\n'
        '            "colour"],\n'
        '  "test": ["mood",\n'
        '           "colour"],\n'
        '  "unseen_domain_test": ["choice"]\n'
        "}\n"
    )
    broken = folder / "settings" / "broken.json"
    broken.write_text('{"train": [],\n"test": [}')
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"tasks": [{"name": "mood", "kind": "feeling"}]}, indent=1))

    found = [(str(v.path.relative_to(folder)), v.line, v.message) for v in check_collection(load_collection(folder))]
    expected = [
        ("manifest.json", 4, "unknown kind 'feeling'"),
        ("data/colour/train.jsonl", 21, "not valid JSON"),
        ("data/empty/dev.jsonl", 1, "is empty"),
        ("data/hollow", 1, "has none of train.jsonl, dev.jsonl and test.jsonl"),
        ("data/mood/test.jsonl", 1, "'angry' is not among the options"),
        ("settings/bad.json", 2, "colour stands more than once under train"),
        ("settings/bad.json", 3, "the task absent is named under train but data/absent does not exist"),
        ("settings/bad.json", 6, "colour is under both train and test"),
        ("settings/bad.json", 7, "choice is under unseen_domain_test but not under test"),
        ("settings/broken.json", 2, "not valid JSON"),
        ("settings/free.json", 4, "data/size/train.jsonl does not exist"),
        ("settings/small.json", 4, "data/size/train.jsonl does not exist"),
    ]
    assert len(found) == len(expected)
    for (path_found, line_found, message), (path_expected, line_expected, words) in zip(found, expected, strict=True):
        assert (path_found, line_found) == (path_expected, line_expected)
        assert words in message


def test_a_task_that_the_manifest_declares_missing_may_be_named(tmp_path: Path) -> None:
    make_task(tmp_path, "a", ["x", "y"])
    path = write_setting(tmp_path, "s", ["a", "gone"], [], [])
    (violation,) = check_collection(load_collection(tmp_path))
    assert (violation.path, violation.line) == (path, 4)
    assert "the task gone is named under train but data/gone does not exist" in violation.message

    (tmp_path / "manifest.json").write_text('{"missing": ["gone"]}')
    assert check_collection(load_collection(tmp_path)) == []


def test_an_overlap_of_tasks_that_are_both_missing_is_only_a_warning(tmp_path: Path) -> None:
    make_task(tmp_path, "a", ["x", "y"])
    write_setting(tmp_path, "s", ["a", "gone"], ["gone"], [])
    (tmp_path / "manifest.json").write_text('{"missing": ["gone"]}')
    (violation,) = check_collection(load_collection(tmp_path))
    assert violation.severity == "warning"
    assert main(["tasks", "check", "--collection", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("manifest", "line_number", "expected"),
    [
        ('{"missing":\n "a"}', 1, '"missing" must be a list'),
        ('{\n"tasks": [{"kind": "nli"}]}', 2, '"tasks" must be a list'),
        ('{\n"tasks": 3}', 2, '"tasks" must be a list'),
        ("[]", 1, "must be a JSON object"),
        ("{\n\n", 3, "not valid JSON"),
        (b'{\n"note": "\xff"}', 2, "not UTF-8"),
        ("[" * 100_000, 1, "nested too deeply"),
    ],
)
def test_a_broken_manifest_hides_no_broken_line(
    tmp_path: Path, manifest: str | bytes, line_number: int, expected: str
) -> None:
    write_lines(tmp_path / "data" / "t" / "train.jsonl", ["{"])
    path = tmp_path / "manifest.json"
    path.write_bytes(manifest if isinstance(manifest, bytes) else manifest.encode())
    first, second = check_collection(load_collection(tmp_path))
    assert (first.path, first.line) == (path, line_number)
    assert expected in first.message
    assert second.path.name == "train.jsonl"


@pytest.mark.parametrize("content", ["[]", '{"train": "a", "test": [], "unseen_domain_test": []}', "{}"])
def test_a_setting_of_the_wrong_shape_is_reported(tmp_path: Path, content: str) -> None:
    make_task(tmp_path, "a", ["x", "y"])
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "s.json").write_text(content)
    found = check_collection(load_collection(tmp_path))
    assert found
    assert {violation.path.name for violation in found} == {"s.json"}


def test_a_collection_without_tasks_is_bad(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (violation,) = check_collection(load_collection(tmp_path))
    assert "holds no task" in violation.message


def test_command_line_exits_with_0_when_good_and_2_when_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_collection(tmp_path)
    assert main(["tasks", "check", "--collection", str(folder)]) == 0
    assert "small: 4 of 4 train, 2 of 2 test, 1 of 1 unseen-domain test tasks present" in capsys.readouterr().out

    train = write_lines(folder / "data" / "size" / "train.jsonl", ["", "{"])
    with pytest.raises(SystemExit) as stopped:
        main(["tasks", "check", "--collection", str(folder)])
    assert stopped.value.code == 2
    lines = capsys.readouterr().out.splitlines()
    assert [text.split(": ")[0] for text in lines] == [f"{train}:1", f"{train}:2"]


@pytest.mark.slow
def test_the_real_tasks_are_good(shared: Callable[[str], Path], command: Callable[..., subprocess.Popen[str]]) -> None:
    printed, _ = (process := command("tasks", "check", "--collection", shared("tasks"))).communicate(timeout=100)
    assert process.returncode == 0
    # as counted in the collection's own README: here / named
    for name, train, test, unseen in [
        ("hr_to_lr", "37 of 61", "21 of 26", "4 of 4"),
        ("class_to_class", "35 of 43", "18 of 20", "4 of 4"),
        ("non_class_to_class", "19 of 37", "18 of 20", "4 of 4"),
        ("qa_to_qa", "16 of 37", "12 of 22", "1 of 1"),
        ("non_qa_to_qa", "23 of 33", "12 of 22", "1 of 1"),
        ("non_nli_to_nli", "45 of 55", "7 of 8", "1 of 1"),
        ("non_paraphrase_to_paraphrase", "50 of 59", "3 of 4", "1 of 1"),
    ]:
        presence = f"{name}: {train} train, {test} test, {unseen} unseen-domain test tasks present"
        assert presence in printed.splitlines()
    assert printed.splitlines()[-1] == "92 tasks are good"
