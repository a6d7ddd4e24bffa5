from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import line, make_collection, make_task, write_lines, write_setting
from maml_en_llm.tasks.collection import Example, Examples, load_collection


def test_examples_come_as_they_stand_on_disk(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "data" / "t" / "train.jsonl",
        [line("t", "a\nb", "yes", ["yes", "no"]), line("t", "é東", "x"), line("t", "c", "no", ["yes", "no"])],
    )
    train = load_collection(tmp_path)["t"].train
    assert len(train) == 3
    assert train[0] == Example("a\nb", "yes", ("yes", "no"))
    assert train[1] == Example("é東", "x", ())
    assert train[-1] == train[2] == Example("c", "no", ("yes", "no"))
    assert train[1:] == [train[1], train[2]]
    assert list(train) == [train[0], train[1], train[2]]
    with pytest.raises(IndexError):
        train[3]


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1, max_size=6), st.booleans())
def test_every_line_is_found_whatever_it_holds(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], newline_at_end: bool
) -> None:
    path = tmp_path_factory.mktemp("lines") / "train.jsonl"
    text = "\n".join(json.dumps(line("t", text, text), ensure_ascii=False) for text in texts)
    path.write_bytes((text + "\n" * newline_at_end).encode())
    assert [e.input for e in Examples(path, "t")] == texts


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files whose content was looked at."""
    import maml_en_llm.tasks.collection as module

    opened: list[Path] = []
    memmap = module.np.memmap

    def counting(path: Path, *arguments: object, **keywords: object) -> object:
        opened.append(path)
        return memmap(path, *arguments, **keywords)  # type: ignore[call-overload]

    monkeypatch.setattr(module.np, "memmap", counting)
    return opened


def test_a_task_that_is_not_used_is_not_read(tmp_path: Path, reads: list[Path]) -> None:
    make_task(tmp_path, "good", ["a", "b"])
    write_setting(tmp_path, "s", ["good", "poison"], ["huge"], [])
    poison = write_lines(tmp_path / "data" / "poison" / "train.jsonl", [b"\xff\xfe not JSON", "neither is this"])
    huge = tmp_path / "data" / "huge" / "train.jsonl"
    huge.parent.mkdir()
    with huge.open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no room
    (huge.parent / "test.jsonl").write_text("{")

    collection = load_collection(tmp_path)
    assert list(collection) == ["good", "huge", "poison"]
    assert collection.setting("s").train == ("good", "poison")
    _ = collection["huge"], collection["poison"], Examples(huge, "huge"), Examples(poison, "poison")
    assert reads == []

    assert len(collection["good"].train) == 20
    assert [path.parent.name for path in reads] == ["good"]


def test_a_bad_line_costs_nothing_until_it_is_asked_for(tmp_path: Path) -> None:
    write_lines(tmp_path / "data" / "t" / "train.jsonl", [line("t", "a", "b"), "{bad", line("t", "c", "d")])
    train = load_collection(tmp_path)["t"].train
    assert (train[0].input, train[2].input) == ("a", "c")
    with pytest.raises(ValueError, match=r"data/t/train\.jsonl:2: not valid JSON"):
        train[1]


def test_a_folder_without_data_is_not_a_collection(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a collection: it has no folder data/"):
        load_collection(tmp_path)
    with pytest.raises(ValueError, match="nowhere is not a collection"):
        load_collection(tmp_path / "nowhere")


def test_a_split_that_is_absent_or_empty_is_named(tmp_path: Path) -> None:
    make_task(tmp_path, "t", ["a", "b"])
    write_lines(tmp_path / "data" / "t" / "test.jsonl", [])
    task = load_collection(tmp_path)["t"]
    with pytest.raises(ValueError, match=r"data/t/dev\.jsonl does not exist: the task t has no dev examples"):
        _ = task.dev
    with pytest.raises(ValueError, match=r"data/t/test\.jsonl is empty"):
        _ = task.test


def test_kinds_are_declared_or_told_from_the_options(tmp_path: Path) -> None:
    make_task(tmp_path, "fixed", ["a", "b"])
    make_task(tmp_path, "varying", None)
    make_task(tmp_path, "free", [])
    make_task(tmp_path, "declared", ["a", "b"])
    manifest = {"tasks": [{"name": "declared", "kind": "nli"}, {"name": "fixed"}]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    kinds = {name: task.kind for name, task in load_collection(tmp_path).items()}
    assert kinds == {
        "fixed": "classification",
        "varying": "multiple_choice_qa",
        "free": "free_form",
        "declared": "nli",
    }


def test_the_kind_of_a_task_without_any_split_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data" / "bare").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"data/bare has none of train\.jsonl"):
        _ = load_collection(tmp_path)["bare"].kind


def test_a_setting_leaves_out_what_the_manifest_declares_missing(tmp_path: Path) -> None:
    make_task(tmp_path, "a", ["x", "y"])
    make_task(tmp_path, "b", ["x", "y"])
    write_setting(tmp_path, "s", ["a", "gone"], ["b", "lost"], ["b"])
    with pytest.raises(ValueError, match=r'the task gone is named under train .* list it under "missing"'):
        load_collection(tmp_path).setting("s")

    (tmp_path / "manifest.json").write_text(json.dumps({"missing": ["gone", "lost"]}))
    setting = load_collection(tmp_path).setting("s")
    assert (setting.train, setting.test, setting.unseen_domain_test) == (("a",), ("b",), ("b",))
    assert setting.presence() == "s: 1 of 2 train, 1 of 2 test, 1 of 1 unseen-domain test tasks present"


def test_an_unknown_setting_lists_the_known_ones(tmp_path: Path) -> None:
    make_task(tmp_path, "a", ["x", "y"])
    write_setting(tmp_path, "one", ["a"], [], [])
    write_setting(tmp_path, "two", ["a"], [], [])
    with pytest.raises(ValueError, match="no setting 'three'; known settings: one, two"):
        load_collection(tmp_path).setting("three")


def test_an_unknown_task_is_a_key_error(tmp_path: Path) -> None:
    make_task(tmp_path, "a", ["x", "y"])
    with pytest.raises(KeyError, match="has no task 'b'"):
        load_collection(tmp_path)["b"]


def test_instructions_come_from_the_manifest(tmp_path: Path) -> None:
    folder = make_collection(tmp_path)
    collection = load_collection(folder)
    assert (collection["colour"].instruction, collection["size"].instruction) == ("Name the colour.", None)
    (folder / "manifest.json").write_text('{"tasks": [{"name": "size", "instruction": 3}]}')
    with pytest.raises(ValueError, match=r"manifest\.json: the instruction of size must be a sentence"):
        load_collection(folder)["size"]
