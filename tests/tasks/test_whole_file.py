from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maml_en_llm.tasks import whole_file
from maml_en_llm.tasks.collection import Examples, parse_line
from maml_en_llm.tasks.whole_file import ReadByLine, all_good, text, texts

GOOD = {"task": "t", "input": "a film", "output": "good", "options": ["good", "bad"]}
FREE = {"task": "t", "input": "2 + 2", "output": "four", "options": []}


def examples(folder: Path, data: bytes) -> Examples:
    path = folder / "train.jsonl"
    path.write_bytes(data)
    return Examples(path, "t")


def read(found: Examples) -> list[bytes]:
    return [one for some in texts(found) for one in some]


def line(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode() + b"\n"


@pytest.mark.parametrize("ascii_only", [True, False])
def test_good_files_are_read_at_once(tmp_path: Path, ascii_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_file, "_BLOCK", 1000)  # bytes: several batches
    records = [GOOD, FREE, GOOD | {"input": 'é 😀 \u2028 \x00 \\ " \n'}, GOOD | {"options": ["bad", "good", ""]}] * 20
    lines = "\n".join(json.dumps(record, ensure_ascii=ascii_only) for record in records)
    for data in (lines, lines + "\n", lines.replace("\n", "\r\n")):
        assert read(examples(tmp_path, data.encode())) == [f"{r['input']}\x1f{r['output']}".encode() for r in records]


@pytest.mark.parametrize(
    "bad",
    [
        b"\n",
        b"  \n",
        b"[]\n",
        b"null\n",
        b"{}\n",
        b"{\n",
        b'{"task": "t"\n',
        b"\xef\xbb\xbf" + line(),
        line(task="u"),
        line(input=None),
        line(input=7),
        line(input=["x"]),
        line(input="half \ud800"),
        line(options=["good", "half \udc00"]),
        line(output="worst"),
        line(options=None),
        line(options={}),
        line(options=["good", None]),
        line(options=["good", 1]),
        line(options=["good", "good"]),
        line(more=1),
        line()[:-1] + line(),
        line()[:-1] + b",\n",
        line()[:-1] + b" // why\n",
        line().replace(b"a film", b"a \xff film"),
        line().replace(b"a film", b"a \t film"),
        line().replace(b"a film", b"a \\q film"),
        line().replace(b'"a film"', b"NaN"),
        line().replace(b'"a film"', b"9" * 5000),
        line().replace(b'"a film"', b"[" * 3000 + b"]" * 3000),
        b'{"task": "t", "input": "a", "output": "b"}\n',
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_bad_line_is_left_to_the_parser_of_lines(tmp_path: Path, bad: bytes, place: int) -> None:
    lines = [line(), line()]
    lines.insert(place, bad)
    assert not all_good(examples(tmp_path, b"".join(lines)))


def test_two_objects_on_a_line_do_not_make_up_for_a_line_without_one(tmp_path: Path) -> None:
    assert not all_good(examples(tmp_path, line()[:-1] + line() + b" \n"))
    halves = line().replace(b', "options"', b',\n"options"')
    assert not all_good(examples(tmp_path, line()[:-1] + line() + halves))


@given(st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_at_once_reads_the_same_line_by_line(tmp_path: Path, data: st.DataObject) -> None:
    lines = bytearray(line() + json.dumps(FREE).encode() + b"\n" + line(input="\u00e9", output="bad"))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(lines) - 1))
        stop = data.draw(st.integers(start, min(len(lines), start + 40)))
        new = data.draw(st.one_of(st.binary(max_size=3), st.sampled_from([b"{", b"}", b"\n", b'"', b"\\", b",", b" "])))
        lines[start:stop] = new
    found = examples(tmp_path, bytes(lines))
    try:
        at_once = read(found)
    except ReadByLine:
        return
    parsed = [parse_line(found.line(index), "t") for index in range(len(found))]
    assert [problems for _, problems in parsed if problems] == []
    assert at_once == [text(example) for example, _ in parsed if example]
