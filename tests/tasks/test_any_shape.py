"""Manifests, settings and lines of any JSON shape: each verb works or says one sentence, and never a traceback."""

import contextlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import line, make_collection, write_lines
from maml_en_llm.cli import main

NAMES = ["mood", "colour", "turn", "gone", "../x", "", "a\x1b[31m", "[red]", "\ud800", "x" * 300]
KEYS = ["train", "test", "unseen_domain_test", "tasks", "missing", "name", "kind", "options", "instruction", "source"]
KEYS += ["files", "counts", "settings", "made by", "asked", "task", "input", "output", "licence", "limited"]
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([*NAMES, "nli", "free_form"]) | st.text()
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=4),
    max_leaves=12,
)
names = st.lists(st.sampled_from(NAMES), max_size=3)
entries = st.fixed_dictionaries({}, optional=dict.fromkeys(("name", "kind", "source", "files", "counts"), values))
manifests = values | st.fixed_dictionaries(
    {}, optional={"tasks": st.lists(entries, max_size=3) | values, "missing": names}
)
lists = values | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("train", "test", "unseen_domain_test"), names | values)
)
records = values | st.fixed_dictionaries({}, optional=dict.fromkeys(("task", "input", "output", "options"), values))
MANIFEST = '{"tasks": [{"name": "mood"}]}'
verb = st.integers(0, 5)
LIMIT = 3
fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", 40)), suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_collection(tmp_path / "c")
    (tmp_path / "c" / "manifest.json").write_text(MANIFEST)
    (tmp_path / "new.csv").write_text("text,label\n" + "".join(f"new text {n},{n % 2}\n" for n in range(12)))
    return tmp_path


def verbs(folder: Path) -> list[list[str]]:
    c = ["--collection", str(folder / "c")]
    new = ["--source", str(folder / "new.csv"), "--input", "text", "--output", "label", "--yes"]
    return [
        ["tasks", "check", *c],
        ["tasks", "list", *c],
        ["tasks", "show", "mood", *c],
        ["tasks", "limit", *c, "--output", str(folder / "limited")],
        ["tasks", "import", *c, *new, "--setting", "small"],
        ["tasks", "build", "--output", str(folder / "c"), "--setting", "small", "--hub", str(folder / "nothing")],
    ]


def run(words: list[str]) -> None:
    """The verb ends with 0, or with 2 and at least a sentence; anything else comes out of `main` and fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    said = out.getvalue() + err.getvalue()
    assert code in (0, 2)
    assert "Traceback" not in said
    if code == 2:
        assert said.strip()
        assert "object has no attribute" not in said
        assert "argument of type" not in said
    out.getvalue().encode()  # what is printed has no half of a surrogate pair


def run_some(folder: Path, path: Path, text: bytes, verb: int) -> None:
    """One of the verbs on a collection in which one file is replaced; the collection is as before then."""
    if path.suffix == ".jsonl" and verb == LIMIT:  # the tests' check of types looks at an example before limit does
        return
    before = path.read_bytes()
    path.write_bytes(text)
    run(verbs(folder)[verb])
    shutil.rmtree(folder / "limited", ignore_errors=True)
    for made in (path, folder / "c" / "data" / "new", folder / "c" / "manifest.json"):
        if made.is_dir():
            shutil.rmtree(made)
    path.write_bytes(before)
    (folder / "c" / "manifest.json").write_text(MANIFEST)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


@fuzz
@given(manifests, verb)
def test_a_manifest_of_any_shape(folder: Path, manifest: Any, verb: int) -> None:
    run_some(folder, folder / "c" / "manifest.json", as_json(manifest), verb)


@fuzz
@given(lists, verb)
def test_a_setting_of_any_shape(folder: Path, setting: Any, verb: int) -> None:
    run_some(folder, folder / "c" / "settings" / "small.json", as_json(setting), verb)


@fuzz
@given(st.lists(records, min_size=1, max_size=3), verb)
def test_lines_of_any_shape(folder: Path, lines: list[Any], verb: int) -> None:
    run_some(folder, folder / "c" / "data" / "mood" / "train.jsonl", b"\n".join(map(as_json, lines)), verb)


@fuzz
@given(st.binary(max_size=80), st.sampled_from(["manifest.json", "settings/small.json", "data/mood/train.jsonl"]), verb)
def test_files_of_any_bytes(folder: Path, data: bytes, name: str, verb: int) -> None:
    run_some(folder, folder / "c" / name, data, verb)


@pytest.mark.parametrize("name", ["manifest.json", "settings/small.json", "data/mood/train.jsonl"])
@pytest.mark.parametrize(
    "text", [b"1" * 5000, b'{"missing": ' + b"9" * 5000 + b"}", b"[" * 100_000, b"NaN", b"\xef\xbb\xbf{}"]
)
def test_numbers_and_nesting_without_end(folder: Path, name: str, text: bytes) -> None:
    for verb in range(6):
        run_some(folder, folder / "c" / name, text, verb)


def test_messages_about_long_values_are_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [line("t", "x", "y" * 100_000, ["z" * 100_000, "w"]), line("u" * 100_000, "x", "y"), {"k" * 100_000: 1}]
    write_lines(tmp_path / "data" / "t" / "train.jsonl", bad)
    with pytest.raises(SystemExit):
        main(["tasks", "check", "--collection", str(tmp_path)])
    assert len(capsys.readouterr().out) < 3000
