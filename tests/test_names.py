"""What may be a name, and that no command touches what it did not make."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import make_collection, make_task
from maml_en_llm import names
from maml_en_llm.cli import main
from maml_en_llm.files import only_writer, replace_folder, write_text
from maml_en_llm.names import check_file, check_folder, check_name, mark, printable, unfinished
from maml_en_llm.tasks.collection import load_collection
from maml_en_llm.tasks.writing import recorded

ROWS = "text,label\n" + "".join(f"text number {n},{'good' if n % 2 else 'bad'}\n" for n in range(20))
BAD_NAMES = ["", " ", ".", "..", "a/b", "/etc", "../x", "a\\b", ".hidden", " a", "a ", "a\nb", "a\0b", "a\x1b[31m"]
BAD_NAMES += ["\u202ename", "\ud800", "x" * 201, "é" * 101]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, with the content of files."""
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


def csv(path: Path, text: str = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def importing(source: Path, collection: Path, *flags: object) -> int:
    words = ["tasks", "import", "--source", source, "--collection", collection, "--yes"]
    return main([str(word) for word in (*words, "--input", "text", "--output", "label", *flags)])


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"the task name .* use letters, digits"):
        check_name(name, "task")


@pytest.mark.parametrize("name", ["a", "glue-rte", "unifiedqa:mctest", "a b", "a.b", "日本", "x" * 200, "..a"[2:]])
def test_ordinary_names_are_names(name: str) -> None:
    assert check_name(name, "task") == name


@given(st.text(max_size=300))
def test_a_good_name_is_that_of_one_file_in_the_folder(tmp_path_factory: Any, name: str) -> None:
    try:
        check_name(name, "task")
    except ValueError:
        return
    folder = tmp_path_factory.mktemp("names")
    (folder / f"{name}.json").write_text("x")
    assert os.listdir(folder) == [f"{name}.json"]


@given(st.text())
def test_printable_text_has_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = printable(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or "\u202a" <= c <= "\u202e" for c in shown)
    shown.encode()
    assert all(c in shown for c in text if c.isalnum())


def test_printable_spells_escapes_out() -> None:
    assert printable("a\x1b[31mb\tc\nd\u202e é") == "a\\x1b[31mb\\tc\\nd\\u202e é"
    assert printable("a\nb\x07", keep="\n") == "a\nb\\x07"


# ---- folders and files


def folder_of(path: Path, maker: str = "new-model") -> Path:
    path.mkdir(parents=True)
    (path / "inner").mkdir()
    (path / "inner" / "weights").write_text("w")
    mark(path, maker)
    return path


def test_a_folder_is_replaced_when_all_of_it_is_the_makers(tmp_path: Path) -> None:
    made = folder_of(tmp_path / "made")
    check_folder(made, "new-model")
    check_folder(tmp_path / "absent", "new-model")
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty", "new-model")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "new").write_text("n")
    replace_folder(fresh, made, "new-model")
    assert set(tree(made)) == {names.MARKER, "new"}
    check_folder(made, "new-model")


def another_command(path: Path) -> None:
    mark(path, "train")


def another_file(path: Path) -> None:
    (path / "notes.txt").write_text("mine")


def a_link(path: Path) -> None:
    (path / "link").symlink_to(path.parent)


def no_marker(path: Path) -> None:
    (path / names.MARKER).unlink()


def a_broken_marker(path: Path) -> None:
    (path / names.MARKER).write_text('{"made by": "maml-en-llm new-model", "files": 3}')


@pytest.mark.parametrize("change", [another_command, another_file, a_link, no_marker, a_broken_marker])
def test_a_folder_with_anything_else_is_left_alone(tmp_path: Path, change: Callable[[Path], None]) -> None:
    made = folder_of(tmp_path / "made")
    change(made)
    before = tree(made)
    (tmp_path / "fresh").mkdir()
    with pytest.raises(ValueError, match="new-model did not write; choose another folder, or delete it yourself"):
        replace_folder(tmp_path / "fresh", made, "new-model")
    assert tree(made) == before


def test_links_files_and_no_names_are_no_folders_to_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = folder_of(tmp_path / "made")
    (tmp_path / "link").symlink_to(made)
    (tmp_path / "file").write_text("mine")
    for path, said in ((tmp_path / "link", "symbolic link"), (tmp_path / "file", "not a folder"), (Path(), "no name")):
        with pytest.raises(ValueError, match=said):
            check_folder(path, "new-model")


def test_a_file_is_known_by_its_sign(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    check_file(path, "maml-en-llm results")
    path.write_text('{"format": "maml-en-llm results 1"}')
    check_file(path, "maml-en-llm results")
    path.write_text("")
    check_file(path, "maml-en-llm results")
    path.write_text('{"format": "something else"}')
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    for other in (path, tmp_path, Path("/dev/null"), tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"choose another file|give the name of a file"):
            check_file(other, "maml-en-llm results")


def test_files_next_to_an_output_survive(tmp_path: Path) -> None:
    for name in ("a.json.partial", "a.json.old", "a.json.unfinished"):
        (tmp_path / name).write_text("mine")
    write_text(tmp_path / "a.json", "{}")
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine", "{}"}
    assert unfinished(tmp_path / "a.json").parent == tmp_path


# ---- the verbs


@pytest.mark.parametrize(
    "flags",
    [
        ["--task", ".."],
        ["--task", "../../victim"],
        ["--task", ""],
        ["--task", "."],
        ["--task", "data/inner"],
        ["--task", "{absolute}"],
        ["--setting", "../../x"],
        ["--setting", ""],
        ["--task", "a\x1b[2J"],
    ],
)
def test_import_refuses_names_that_lead_elsewhere(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = csv(tmp_path / "source" / "reviews.csv")
    make_task(tmp_path / "c", "old", ["a", "b"])
    victim = csv(tmp_path / "victim" / "precious.csv").parent
    words = [flag.format(absolute=victim) for flag in flags]
    before = tree(tmp_path)
    assert importing(source, tmp_path / "c", "--overwrite", *words) == 2
    said = capsys.readouterr().err
    assert f"the {flags[0][2:]} name" in said
    assert said.count("\n") == 1
    assert tree(tmp_path) == before


def test_overwrite_replaces_what_was_imported_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = csv(tmp_path / "reviews.csv")
    assert importing(source, tmp_path / "c") == 0
    assert importing(source, tmp_path / "c", "--overwrite", "--seed", "5") == 0
    with (tmp_path / "c" / "data" / "reviews" / "train.jsonl").open("a") as file:
        file.write("an own line\n")
    make_task(tmp_path / "c", "own", ["good", "bad"])
    (tmp_path / "c" / "data" / "noted").mkdir()
    (tmp_path / "c" / "data" / "noted" / "notes.txt").write_text("mine")
    (tmp_path / "c" / "data" / "linked").symlink_to(tmp_path)
    before = tree(tmp_path)
    for task in ("reviews", "own", "noted", "linked"):
        assert importing(source, tmp_path / "c", "--overwrite", "--task", task) == 2
        assert f"{task} was not written by maml-en-llm, or was changed since" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_import_does_not_write_into_another_programs_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = csv(tmp_path / "reviews.csv")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text('{"name": "a web page"}')
    before = tree(tmp_path)
    assert importing(source, tmp_path / "app") == 2
    assert "not that of a collection; choose another --collection" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_import_does_not_replace_a_setting_that_somebody_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        csv(tmp_path / "s" / f"{name}.csv")
    (tmp_path / "c" / "settings").mkdir(parents=True)
    (tmp_path / "c" / "settings" / "held-out.json").write_text('{"train": [], "test": [], "unseen_domain_test": []}')
    before = tree(tmp_path)
    importing(tmp_path / "s", tmp_path / "c")
    assert tree(tmp_path / "c" / "settings") == {"held-out.json": before["c/settings/held-out.json"]}


@pytest.mark.parametrize(
    "paths",
    [
        ("food/data.csv", "music/data.csv"),
        ("a b.csv", "a-b.csv"),
        ("a.csv", "a.tsv"),
        ("A.csv", "a.jsonl"),
        ("caf\u00e9.csv", "cafe\u0301.csv"),
        ("beside.csv", "folder/inner.csv"),
    ],
)
def test_imported_names_that_collide_are_an_error_that_names_both(
    tmp_path: Path, paths: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in paths:
        csv(tmp_path / "s" / path)
    assert importing(tmp_path / "s", tmp_path / "c") == 2
    said = capsys.readouterr().err
    for path in paths:
        assert path in said
    assert not (tmp_path / "c").exists()


def test_an_import_can_be_repeated_as_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcde":
        csv(tmp_path / "s" / f"{name}.csv", ROWS.replace("text number", name))
    assert importing(tmp_path / "s", tmp_path / "whole") == 0
    replace, calls = os.replace, 0

    def stopping(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        replace(*arguments)

    for stop in range(1, 8):  # five tasks, the setting, the manifest
        calls = 0
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", stopping)
            assert importing(tmp_path / "s", tmp_path / str(stop)) == 130
        assert calls == stop
        assert importing(tmp_path / "s", tmp_path / str(stop)) == 0
        assert tree(tmp_path / str(stop)) == tree(tmp_path / "whole")
    before = tree(tmp_path / "whole")
    assert importing(tmp_path / "s", tmp_path / "whole") == 0
    assert tree(tmp_path / "whole") == before


def test_limit_can_be_repeated_as_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_collection(tmp_path / "c")
    words = ["tasks", "limit", "--collection", str(tmp_path / "c"), "--output", str(tmp_path / "small")]
    replace, calls = os.replace, 0

    def stopping(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        replace(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stopping)
        assert main(words) == 130
    assert not (tmp_path / "small").exists()
    assert main(words) == 0
    assert list(load_collection(tmp_path / "small")) == list(load_collection(tmp_path / "c"))
    assert {path.name for path in tmp_path.iterdir()} == {"c", "small"}


MODEL = "--vocabulary 280 --layers 1 --width 8 --heads 2 --context 128".split()


def test_new_model_replaces_its_own_folder_only(
    tmp_path: Path, collection_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["new-model", "--collection", str(collection_folder), "--setting", "small", *MODEL, "--output"]
    for name in ("m.old", "m.partial"):
        csv(tmp_path / name / "precious.csv")
    assert main([*words, str(tmp_path / "m")]) == 0
    assert main([*words, str(tmp_path / "m"), "--seed", "1"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"m", "m.old", "m.partial"}
    assert len(tree(tmp_path / "m.old")) == len(tree(tmp_path / "m.partial")) == 1
    csv(tmp_path / "m" / "notes.csv")
    csv(tmp_path / "own" / "precious.csv")
    before = tree(tmp_path)
    for output in ("m", "own", "own/precious.csv"):
        assert main([*words, str(tmp_path / output)]) == 2
        assert "choose another folder" in capsys.readouterr().err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("flag", ["--layers", "--vocabulary", "--width", "--heads", "--context"])
def test_new_model_refuses_sizes_of_nothing(
    tmp_path: Path, collection_folder: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["new-model", "--collection", str(collection_folder), "--setting", "small", *MODEL]
    assert main([*words, flag, "0", "--output", str(tmp_path / "m")]) == 2
    assert f"{flag} is 0; it must be at least 1" in capsys.readouterr().err


def test_a_check_does_not_write_over_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_collection(tmp_path / "c")
    (tmp_path / "mine.json").write_text("{}")
    words = ["tasks", "check", "--collection", str(folder), "--report"]
    assert main([*words, str(tmp_path / "mine.json")]) == 2
    assert "was not written by this command" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "report.json")]) == 0
    assert main([*words, str(tmp_path / "report.json")]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["violations"] == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--input", "{text"], "--input '{text' is no template; write columns in braces"),
        (["--input", "text}"], "is no template"),
        (["--input", "{}"], "is no template"),
        (["--input", "{text} {"], "is no template"),
        (["--output", "{label"], "--output '{label' is no template"),
        (["--options", "{label"], "--options '{label' is no template"),
        (["--options", "good,bad,"], "must name two labels or more, separated by commas, none of them empty"),
        (["--options", "good"], "must name two labels or more"),
        (["--options", ","], "must name two labels or more"),
    ],
)
def test_templates_and_options_that_are_none(
    tmp_path: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tasks", "import", "--source", str(csv(tmp_path / "a.csv")), "--collection", str(tmp_path / "c")]
    given = {"--input": "text", "--output": "label"} | dict(zip(flags[::2], flags[1::2], strict=True))
    assert main([*words, *(word for pair in given.items() for word in pair)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_a_column_may_have_a_brace_in_its_name(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", ROWS.replace("text,", "{text,"))
    words = ["tasks", "import", "--source", str(path), "--collection", str(tmp_path / "c"), "--output", "label"]
    assert main([*words, "--input", "{text", "--yes"]) == 0
    assert load_collection(tmp_path / "c")["a"].train[0].input.startswith("text number")
    assert list(recorded(tmp_path / "c")) == ["a"]


def test_two_commands_do_not_write_to_one_collection(
    tmp_path: Path, collection_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = csv(tmp_path / "reviews.csv")
    verbs = [["tasks", "limit", "--collection", str(collection_folder), "--output", str(tmp_path / "c")]]
    verbs += [["tasks", "build", "--output", str(tmp_path / "c"), "--task", "glue-rte", "--hub", str(tmp_path)]]
    with only_writer(tmp_path / "c"):
        assert importing(source, tmp_path / "c") == 2
        assert "is being written by process" in capsys.readouterr().err
        for words in verbs:
            assert main(words) == 2
            assert "is being written by process" in capsys.readouterr().err
        assert importing(source, tmp_path / "c", "--dry-run") == 0
    assert not (tmp_path / "c").exists()
    assert importing(source, tmp_path / "c") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"c", "reviews.csv"}
