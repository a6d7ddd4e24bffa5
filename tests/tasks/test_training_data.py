"""What is checked of a setting before the first update."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import evaluate_config, line, make_collection, train_config, write_lines, write_setting
from maml_en_llm.config import AdaptConfig
from maml_en_llm.evaluation.adaptation import adapt
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.tasks import check
from maml_en_llm.tasks.check import check_evaluation_data, check_training_data
from maml_en_llm.tasks.collection import Collection, load_collection
from maml_en_llm.training.loop import train


def checked(folder: Path, setting: str = "small", cache: Path | None = None) -> int:
    collection = load_collection(folder)
    return check_training_data(collection, collection.setting(setting), cache)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_collection(tmp_path / "c")


def add(path: Path, record: dict[str, Any] | str) -> None:
    with path.open("a") as file:
        file.write((record if isinstance(record, str) else json.dumps(record)) + "\n")


def test_good_data_are_counted(folder: Path) -> None:
    files = [*(folder / "data" / name / "train.jsonl" for name in ("colour", "size", "pick", "swap"))]
    files += [folder / "data" / name / f"{split}.jsonl" for name in ("mood", "choice") for split in ("train", "test")]
    assert checked(folder) == sum(len(path.read_text().splitlines()) for path in files)


@pytest.mark.parametrize("place", ["colour/train", "mood/train", "mood/test", "choice/dev"])
@pytest.mark.parametrize(
    ("bad", "said"), [("{", "not valid JSON"), (line("x", "a", "b"), '"task" is'), ("", "the line is blank")]
)
def test_a_bad_line_anywhere_is_found(folder: Path, place: str, bad: Any, said: str) -> None:
    path = folder / "data" / f"{place}.jsonl"
    before = len(path.read_text().splitlines()) if path.exists() else 0
    add(path, bad)
    with pytest.raises(ValueError, match=said) as caught:
        checked(folder)
    assert str(caught.value).startswith(f"{path}:{before + 1}: ")


def test_tasks_that_the_setting_does_not_name_are_not_read(folder: Path) -> None:
    add(folder / "data" / "turn" / "train.jsonl", "{")
    add(folder / "data" / "colour" / "test.jsonl", "{")  # of a training task only train is read
    checked(folder)
    with pytest.raises(ValueError, match="turn/train"):
        checked(folder, "free")


def test_no_task_is_trained_on_and_a_target(folder: Path) -> None:
    write_setting(folder, "both", ["colour", "mood"], ["mood"], [])
    with pytest.raises(ValueError, match=r"both\.json: mood is under both train and test"):
        checked(folder, "both")


@pytest.mark.parametrize("split", ["test", "dev"])
def test_no_scored_example_is_in_the_training_data(folder: Path, split: str) -> None:
    train = folder / "data" / "swap" / "train.jsonl"
    number = len(train.read_text().splitlines()) + 1
    path = folder / "data" / "mood" / f"{split}.jsonl"
    add(path, line("mood", "how is it", "glad", ["glad", "sad", "neither of the two"]))
    place = len(path.read_text().splitlines())
    add(train, line("swap", "how is it", "sad"))
    checked(folder)
    add(train, line("swap", "how is it", "glad"))
    with pytest.raises(ValueError, match="do not train on") as caught:
        checked(folder)
    assert str(caught.value).startswith(f"{path}:{place}: ")
    assert f"{train}:{number + 1};" in str(caught.value)


def test_demonstrations_of_a_target_may_be_in_the_training_data(folder: Path) -> None:
    add(folder / "data" / "swap" / "train.jsonl", line("swap", "how is it", "glad"))
    add(folder / "data" / "mood" / "train.jsonl", line("mood", "how is it", "glad", ["glad", "sad"]))
    checked(folder)


def test_equal_hashes_of_other_examples_are_no_match(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Zero:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def digest(self) -> bytes:
            return bytes(8)

    monkeypatch.setattr(check.hashlib, "blake2b", Zero)
    checked(folder)


def test_a_training_task_without_examples_is_named(folder: Path) -> None:
    (folder / "data" / "colour" / "train.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"colour/train\.jsonl is empty"):
        checked(folder)
    shutil.rmtree(folder / "data" / "size")
    (folder / "data" / "size").mkdir()
    with pytest.raises(ValueError, match=r"colour|size"):
        checked(folder)


def test_good_files_are_not_read_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    plain = check.texts

    def counting(examples: Any) -> Any:
        read.append(examples.path)
        return plain(examples)

    monkeypatch.setattr(check, "texts", counting)
    cache = tmp_path / "cache"
    count, files = checked(folder, cache=cache), len(read)
    assert files == len(set(read)) > 0
    assert checked(folder, cache=cache) == count
    elsewhere = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert checked(elsewhere, cache=cache) == count
    assert len(read) == files

    add(folder / "data" / "swap" / "train.jsonl", line("swap", "new", "wen"))
    assert checked(folder, cache=cache) == count + 1
    assert read[files:] == [folder / "data" / "swap" / "train.jsonl"]
    for file in (cache / "checked").iterdir():
        file.write_bytes(file.read_bytes()[:40])
    read.clear()
    assert checked(folder, cache=cache) == count + 1
    assert len(read) == files
    for file in (cache / "checked").iterdir():
        np.save(file, np.zeros(3, np.uint64))
    assert checked(folder, cache=cache) == count + 1


def test_a_cache_that_cannot_be_written_is_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert checked(folder, cache=tmp_path / "file") == checked(folder)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_task_is_part_of_what_is_cached(tmp_path: Path) -> None:
    """The same bytes are bad in the folder of another task."""
    for name in ("a", "b"):
        write_lines(tmp_path / "c" / "data" / name / "train.jsonl", [line("a", "x", "y")])
    write_setting(tmp_path / "c", "s", ["a"], [], [])
    write_setting(tmp_path / "c", "t", ["b"], [], [])
    assert checked(tmp_path / "c", "s", tmp_path / "cache") == 1
    with pytest.raises(ValueError, match=r"b/train\.jsonl:1: "):
        checked(tmp_path / "c", "t", tmp_path / "cache")


def test_the_built_in_tasks_pass(starter_folder: Path, tmp_path: Path) -> None:
    collection: Collection = load_collection(starter_folder)
    for name in ("starter", "class_to_class", "hr_to_lr"):
        assert check_training_data(collection, collection.setting(name), tmp_path) > 1000


def checked_for(folder: Path, split: str, targets: tuple[str, ...] = ("mood", "choice")) -> int:
    collection = load_collection(folder)
    return check_evaluation_data(collection, collection.setting("small"), targets, split)


@pytest.mark.parametrize("place", ["colour/train", "mood/train", "choice/test", "mood/dev"])
def test_an_evaluation_reads_all_that_it_may_need_first(folder: Path, place: str) -> None:
    split = "dev" if place == "mood/dev" else "test"
    write_lines(folder / "data" / "mood" / "dev.jsonl", [line("mood", "how", "glad", ["glad", "sad"])])
    checked_for(folder, split)
    path = folder / "data" / f"{place}.jsonl"
    before = len(path.read_text().splitlines())
    add(path, "{")
    with pytest.raises(ValueError, match="not valid JSON") as caught:
        checked_for(folder, split)
    assert str(caught.value).startswith(f"{path}:{before + 1}: ")


def test_an_evaluation_does_not_ask_for_what_it_does_not_score(folder: Path) -> None:
    add(folder / "data" / "mood" / "dev.jsonl", "{")
    add(folder / "data" / "choice" / "test.jsonl", "{")
    (folder / "data" / "colour" / "train.jsonl").unlink()
    checked_for(folder, "test", ("mood",))


@pytest.mark.parametrize(("split", "file"), [("test", "test"), ("validation", "train")])
def test_no_example_that_is_scored_is_in_the_training_data(folder: Path, split: str, file: str) -> None:
    add(folder / "data" / "mood" / f"{file}.jsonl", line("mood", "how is it", "glad", ["glad", "sad"]))
    add(folder / "data" / "swap" / "train.jsonl", line("swap", "how is it", "glad"))
    with pytest.raises(ValueError, match=f"{file}.jsonl:.*this example of the target mood is also in the training"):
        checked_for(folder, split)
    checked_for(folder, "dev")


def test_verbs_that_score_check_before_they_load_a_model(folder: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    config = evaluate_config(folder, nothing, tmp_path / "results.json")
    for verb, chosen in ((evaluate, config), (adapt, AdaptConfig(**vars(config)))):
        add(folder / "data" / "mood" / "test.jsonl", "{")
        with pytest.raises(ValueError, match=r"mood/test\.jsonl:.*not valid JSON"):
            verb(chosen)  # type: ignore[operator]
    write_setting(folder, "small", ["colour", "mood"], ["mood"], [])
    with pytest.raises(ValueError, match="mood is under both train and test"):
        evaluate(config)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_an_evaluation_says_which_targets_the_model_was_trained_on(
    folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train(train_config(folder, model_folder, tmp_path / "run", "metaicl", batches=1))
    write_setting(folder, "other", ["mood"], ["choice", "colour"], [])
    capsys.readouterr()
    evaluate(evaluate_config(folder, trained, tmp_path / "results.json", setting="other", max_examples=2))
    said = capsys.readouterr().err
    assert "note: not new to the model, which was trained on these tasks: colour\n" in said
