"""`tasks build` against local folders in the hub's Parquet layout."""

import errno
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet
import pytest
import yaml

from maml_en_llm.cli import main
from maml_en_llm.sources import build as building
from maml_en_llm.sources.build import Hub, build, parquet_files
from maml_en_llm.sources.catalog import catalogue, paper_files
from maml_en_llm.tasks import writing
from maml_en_llm.tasks.check import check_collection
from maml_en_llm.tasks.collection import load_collection

ROWS = yaml.safe_load((Path(__file__).parent / "catalog_rows.yaml").read_text(encoding="utf-8"))


def put(hub: Path, repository: str, revision: str, name: str, rows: list[dict[str, Any]]) -> None:
    path = hub / repository / revision / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(arrow.Table.from_pylist(rows), path)


def pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"sentence1": f"first {n}", "sentence2": f"second {n}", "label": n % 2, "idx": n}
        for n in range(start, start + count)
    ]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A few repositories in each layout that the hub has."""
    folder = tmp_path / "hub"
    # written by the datasets library, a folder a configuration, in two files
    put(folder, "nyu-mll/glue", "main", "rte/train-00000-of-00002.parquet", pairs(30))
    put(folder, "nyu-mll/glue", "main", "rte/train-00001-of-00002.parquet", pairs(30, 30))
    put(folder, "nyu-mll/glue", "main", "rte/validation-00000-of-00001.parquet", pairs(10, 55))  # 5 are in train too
    put(folder, "nyu-mll/glue", "main", "mrpc/train-00000-of-00001.parquet", pairs(4))
    # without configurations; one labelled split, of which a fifth is held out
    poems = [{"sms": f"text {n}", "label": n % 2} for n in range(50)]
    put(folder, "ucirvine/sms_spam", "main", "plain_text/train-00000-of-00001.parquet", poems)
    # a loading script on main, converted by the hub
    (folder / "Hate-speech-CNERG/hatexplain/main").mkdir(parents=True)
    (folder / "Hate-speech-CNERG/hatexplain/main/hatexplain.py").write_text("raise SystemExit")
    for split in ("train", "validation"):
        rows = [{**ROWS["hatexplain"]["rows"][0], "post_tokens": [split, str(n)]} for n in range(5)]
        name = f"plain_text/{split}/0000.parquet"
        put(folder, "Hate-speech-CNERG/hatexplain", "refs/convert/parquet", name, rows)
    # pinned
    anli = catalogue()["anli"]
    for split in ("train_r1", "dev_r1", "train_r2"):
        rows = [{"uid": str(n), "premise": f"{split} {n}", "hypothesis": "h", "label": n % 3} for n in range(6)]
        put(folder, "facebook/anli", str(anli.revision), f"plain_text/{split}-00000-of-00001.parquet", rows)
    # columns that have changed
    put(folder, "allenai/qasc", "main", "data/train-00000-of-00001.parquet", [{"text": "x"}])
    # the paper's own files
    task, paper = "unifiedqa:qasc_with_ir", paper_files()
    folder_of_task = folder / paper.hub / paper.revision / "data" / task
    folder_of_task.mkdir(parents=True)
    for seed in (13, 100):
        for split in ("train", "test"):
            lines = [
                {
                    "task": task,
                    "input": f"{split} {n + (seed if split == 'train' else 0)}",
                    "output": "a",
                    "options": ["a", "b"],
                }
                for n in range(4)
            ]
            path = folder_of_task / f"{task}_16_{seed}_{split}.jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


TASKS = ("glue-rte", "sms_spam", "hatexplain", "anli", "unifiedqa:qasc_with_ir")


def test_end_to_end_through_the_command_line(hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "built"
    flags = [word for task in TASKS for word in ("--task", task)]
    assert main(["tasks", "build", "--output", str(output), "--hub", str(hub), *flags]) == 0
    collection = load_collection(output)
    assert sorted(collection) == sorted(TASKS)
    assert check_collection(collection) == []
    sizes = {name: (len(task.train), len(task.test)) for name, task in collection.items()}
    assert sizes == {
        "anli": (6, 6),
        "glue-rte": (55, 10),  # what stands in both splits stays in test
        "hatexplain": (5, 5),
        "sms_spam": (40, 10),
        "unifiedqa:qasc_with_ir": (8, 4),
    }
    assert collection["anli"].kind == "nli"
    manifest = json.loads((output / "manifest.json").read_text())
    lines = {line["name"]: line for line in manifest["tasks"]}
    for name, line in lines.items():
        for file, digest in line["files"].items():
            assert hashlib.sha256((output / "data" / name / file).read_bytes()).hexdigest() == digest
    assert lines["hatexplain"]["source"]["revisions"] == ["refs/convert/parquet"]
    assert lines["unifiedqa:qasc_with_ir"]["licence"] == paper_files().licence
    assert not (output / writing.STAGING).exists()


def test_a_failing_task_is_reported_with_reason_and_remedy_and_the_rest_is_built(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "built"
    flags = ["--task", "qasc", "--task", "glue-rte", "--task", "boolq"]
    assert main(["tasks", "build", "--output", str(output), "--hub", str(hub), *flags]) == 2
    said = capsys.readouterr().err
    assert "qasc: there is no column 'choices.text'" in said or "qasc: allenai/qasc has no Parquet files" in said
    assert "boolq: " in said
    assert "tasks import --task boolq" in said
    assert list(load_collection(output)) == ["glue-rte"]
    assert json.loads((output / "manifest.json").read_text())["missing"] == ["boolq", "qasc"]


def test_a_finished_task_is_not_built_again_unless_asked_differently(hub: Path, tmp_path: Path) -> None:
    output = tmp_path / "built"
    source = Hub(hub)
    assert build(output, tasks=["glue-rte"], hub=source, workers=1) == []
    made = (output / "data" / "glue-rte").stat().st_ino
    assert build(output, tasks=["glue-rte", "anli"], hub=source, workers=1) == []
    assert (output / "data" / "glue-rte").stat().st_ino == made
    with (output / "data" / "glue-rte" / "train.jsonl").open("a") as file:
        file.write("\n")  # no longer as it was built
    with pytest.raises(ValueError, match="was changed since; choose another name, or delete it yourself"):
        build(output, tasks=["glue-rte"], hub=source, workers=1)
    shutil.rmtree(output / "data" / "glue-rte")
    assert build(output, tasks=["glue-rte"], hub=source, workers=1) == []
    assert build(output, tasks=["glue-rte"], hub=source, examples=20, workers=1) == []
    assert len(load_collection(output)["glue-rte"].train) == 20


def test_a_stopped_build_goes_on_where_it_was(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, whole = tmp_path / "built", tmp_path / "whole"
    assert build(whole, tasks=TASKS, hub=Hub(hub), workers=1) == []
    built: list[str] = []
    plain = building.build_task

    def stopping(collection: Path, entry: Any, *rest: Any) -> dict[str, Any]:
        if len(built) == 2:
            raise KeyboardInterrupt
        built.append(entry.name)
        return plain(collection, entry, *rest)

    monkeypatch.setattr(building, "build_task", stopping)
    with pytest.raises(KeyboardInterrupt):
        build(output, tasks=TASKS, hub=Hub(hub), workers=1)
    assert not (output / "manifest.json").exists()
    monkeypatch.setattr(building, "build_task", plain)
    made = {name: (output / "data" / name).stat().st_ino for name in built}
    assert build(output, tasks=TASKS, hub=Hub(hub), workers=1) == []
    assert {name: (output / "data" / name).stat().st_ino for name in built} == made
    assert (output / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


def test_a_full_disk_leaves_nothing_half_written(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "built"))

    monkeypatch.setattr(writing.os, "fsync", full)
    flags = ["--output", str(tmp_path / "built"), "--hub", str(hub), "--task", "glue-rte", "--workers", "1"]
    assert main(["tasks", "build", *flags]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [path for path in (tmp_path / "built").rglob("*") if path.is_file()] == []


def test_a_setting_is_written_with_its_lists(hub: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings"
    settings.mkdir()
    lists = {"train": ["glue-rte"], "test": ["anli", "boolq"], "unseen_domain_test": []}
    (settings / "small.json").write_text(json.dumps(lists))
    failures = build(tmp_path / "built", setting="small", settings=settings, hub=Hub(hub), workers=2)
    assert [failure.task for failure in failures] == ["boolq"]
    setting = load_collection(tmp_path / "built").setting("small")
    assert (setting.train, setting.test, setting.named["test"]) == (("glue-rte",), ("anli",), 2)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "nothing to build"),
        (["--task", "glue-xyz"], "no task 'glue-xyz'"),
        (["--setting", "hr"], "known settings: class_to_class, hr_to_lr"),
        (["--task", "anli", "--workers", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_built_is_said(flags: list[str], said: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["tasks", "build", "--output", str(tmp_path / "built"), *flags]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "built").exists()


def test_the_hub_is_not_asked_again_once_it_could_not_be_reached() -> None:
    calls = []

    class ConnectError(Exception):
        pass

    def refused(repository: str, *names: str) -> None:
        calls.append(repository)
        raise ConnectError("refused")

    hub = Hub()
    for _ in range(3):
        with pytest.raises(ValueError, match=r"cannot read a/b from the hub \(the hub cannot be reached \(refused\)\)"):
            hub._ask(refused, "a/b")
    assert calls == ["a/b"]


@pytest.mark.parametrize(
    ("names", "config", "split", "found"),
    [
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], None, "train", [0]),
        (["data/train-00000-of-00001-3cf888b12fff1dd6.parquet"], None, "train", [0]),
        (["data/train-00000-of-00001.parquet"], "plain_text", "train", [0]),
        (["a/train-00000-of-00001.parquet", "b/train-00000-of-00001.parquet"], "b", "train", [1]),
        (["a/train-00000-of-00001.parquet", "b/train-00000-of-00001.parquet"], "c", "train", []),
        (["default/train/0001.parquet", "default/train/0000.parquet"], None, "train", [1, 0]),
        (["default/partial-train/0000.parquet", "default/test/0000.parquet"], None, "train", [0]),
        (["x/race-train.parquet", "x/race-validation.parquet"], "x", "validation", [1]),
        (["p/train_r1-00000-of-00001.parquet", "p/train_r2-00000-of-00001.parquet"], "p", "train_r1", [0]),
        (["README.md", "train.csv"], None, "train", []),
    ],
)
def test_parquet_files(names: list[str], config: str | None, split: str, found: list[int]) -> None:
    assert parquet_files(names, config, split) == [names[index] for index in found]


@pytest.mark.parametrize("name", sorted(ROWS))
def test_every_entry_builds_from_parquet(name: str, tmp_path: Path) -> None:
    """Each entry end to end with its two rows in every split that it reads."""
    entry = catalogue()[name]
    splits = [part for theirs in entry.splits.values() for part in ([theirs] if isinstance(theirs, str) else theirs)]
    for number, split in enumerate(dict.fromkeys(splits)):
        rows = [change(row, f" {number}") for row in ROWS[name]["rows"]]
        rows += [change(row, f" {number} more") for row in ROWS[name]["rows"]]
        file = f"{entry.config or 'data'}/{split}-00000-of-00001.parquet"
        put(tmp_path / "hub", str(entry.hub), entry.revision or "main", file, rows)
    assert build(tmp_path / "built", tasks=[name], hub=Hub(tmp_path / "hub"), workers=1) == []
    collection = load_collection(tmp_path / "built")
    assert check_collection(collection) == []
    assert collection[name].kind == entry.kind


def change(value: Any, ending: str, path: str = "") -> Any:
    """A copy of a row with other texts where that leaves its meaning, so that splits differ."""
    texts = {"text", "sentence", "question", "premise", "context", "input", "title", "claim", "content", "tweet", "sms"}
    texts |= {"sentence1", "question1", "question_1", "sentence_A", "sentence_good", "sent_more", "document", "goal"}
    texts |= {"query", "Question", "RawQuestion", "sub_label", "masked_sentence", "normalized-question", "statement"}
    texts |= {
        "ctx",
        "startphrase",
        "question_stem",
        "question_propmt",
        "verse_text",
        "observation_1",
        "passage",
        "word",
    }
    texts |= {"answer-Y", "question_title", "story", "word"}
    if isinstance(value, dict):
        return {key: change(inner, ending, str(key)) for key, inner in value.items() if inner != {}}
    if isinstance(value, list) and path == "post_tokens":
        return [*value, *ending.split()]
    if isinstance(value, str) and path in texts and value not in ("cause", "effect"):
        return f"{ending} {value}" if "(A)" in value else value + ending
    return value


def test_a_build_leaves_what_it_did_not_build(hub: Path, tmp_path: Path) -> None:
    output = tmp_path / "built"
    lines = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(10)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["tasks", "import", "--collection", str(output), "--source", str(tmp_path / "own.jsonl"), "--yes"]
    assert main([*words, "--task", "glue-rte", "--input", "text", "--output", "label"]) == 0
    imported = (output / "data" / "glue-rte" / "train.jsonl").read_bytes()
    assert build(output, tasks=["glue-rte", "anli"], hub=Hub(hub), workers=1) == []
    assert (output / "data" / "glue-rte" / "train.jsonl").read_bytes() == imported

    mine = output / "data" / "hatexplain"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="hatexplain was not written by maml-en-llm"):
        build(output, tasks=["hatexplain"], hub=Hub(hub), workers=1)
    assert (mine / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="setting name"):
        build(output, setting="../settings/x", hub=Hub(hub), workers=1)


def test_a_setting_that_somebody_wrote_is_not_replaced_by_a_build(hub: Path, tmp_path: Path) -> None:
    output = tmp_path / "built"
    (output / "settings").mkdir(parents=True)
    mine = '{"train":  ["glue-rte"], "test": [],\n "unseen_domain_test": []}'
    (output / "settings" / "s.json").write_text(mine)
    assert build(output, setting="s", hub=Hub(hub), workers=1) == []
    assert (output / "settings" / "s.json").read_text() == mine
