"""YAML files of users: what is read, and one sentence with file and line for what is not."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from maml_en_llm.safe_yaml import parse_yaml, read_yaml_file

BOMB = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{'a' if n == 'b' else chr(ord(n) - 1)}, *a]\n" for n in "bcdefgh")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, r"f:2: .*alias \*a; write the value out"),
        ("a: &a\n  b: *a\n", r"f:2: .*alias"),
        ("lr: 1\nseed: 2\nlr: 3\n", r"f:3: .*the key 'lr' stands twice"),
        ("a:\n  b: 1\n  b: 2\n", r"f:3: .*the key 'b' stands twice"),
        ("[" * 1000, "f:1: .*nested too deeply"),
        ("a: " + "9" * 5000, "f: not valid YAML"),
        ("a: 2001-99-99", "f: not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "f:1: .*could not determine a constructor"),
        ("a: !!binary x", "f:1: "),
        ("? [1]\n: 2\n", "f:1: "),
        ("a: [", "f:1: not valid YAML"),
        ("a: b: c", "f:1: not valid YAML"),
        ("--- 1\n--- 2\n", "f:2: "),
        ("a: \x07", "f: not valid YAML"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_yaml(text, "f")
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(plain)
def test_plain_values_are_read_as_they_are(value: Any) -> None:
    class NoAliases(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    assert parse_yaml(yaml.dump(value, Dumper=NoAliases), "f") == value


@given(st.text(max_size=60) | st.text("ab:-[]{}&*!? \n'\"|>#%@,1.", max_size=60))
def test_any_text_is_read_or_refused_with_its_place(text: str) -> None:
    try:
        parse_yaml(text, "some file")
    except ValueError as error:
        said = str(error)
    else:
        return
    assert said.startswith("some file")
    assert "\n" not in said


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbflr: 1.5\n")
    assert read_yaml_file(path) == {"lr": 1.5}
    path.write_text("")
    assert read_yaml_file(path) is None
    for content, said in ((b"a: 1\nb: \xff", "a.yaml:2: not UTF-8"), (b"#" * 1_000_001, "more than 1,000,000 bytes")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            read_yaml_file(path)
    with pytest.raises(ValueError, match="does not exist"):
        read_yaml_file(tmp_path / "nothing")
    for other in (Path("/dev/zero"), tmp_path):
        with pytest.raises(ValueError, match="not a regular file"):
            read_yaml_file(other)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        read_yaml_file(tmp_path / "pipe")
