"""`tasks import`: what it reads, what it finds out, and a clear sentence for whatever it cannot read."""

import errno
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_en_llm.cli import main
from maml_en_llm.sources import importing
from maml_en_llm.sources.columns import Columns
from maml_en_llm.sources.importing import read_tasks
from maml_en_llm.sources.joining import proposed_setting
from maml_en_llm.sources.labels import label_set
from maml_en_llm.sources.layouts import split_of
from maml_en_llm.sources.reading import SUFFIXES, detect_delimiter
from maml_en_llm.tasks import writing
from maml_en_llm.tasks.check import check_collection
from maml_en_llm.tasks.collection import load_collection

SHARED = Path(__file__).parents[3] / "shared" / "tasks"
REVIEWS = [(f"review {n}, quite long", "good" if n % 2 else "bad") for n in range(20)]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def csv_text(delimiter: str = ",", header: str | None = "text{}label") -> str:
    quoted = [f'"{text}"{delimiter}{label}\n' for text, label in REVIEWS]
    return (header.format(delimiter) + "\n" if header else "") + "".join(quoted)


def read_one(path: Path, *columns: str, **reading: Any) -> importing.Imported:
    return read_tasks(path, Columns(*((columns[:1], *columns[1:]) if columns else ())), **reading)[0]


def run(*words: object) -> int:
    return main(["tasks", "import", "--yes", *map(str, words)])


# ---- what it reads


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_in_every_dress(tmp_path: Path, delimiter: str, encoding: str) -> None:
    found = read_one(write(tmp_path / "reviews.csv", csv_text(delimiter), encoding), "text", "label")
    assert (found.kind, found.options) == ("classification", ("bad", "good"))
    assert {len(found.splits["train"]), len(found.splits["test"])} == {16, 4}


def test_windows_1252_is_read_and_said(tmp_path: Path) -> None:
    found = read_one(write(tmp_path / "a.csv", "text,label\ncafé,x\nthé,x\nlait,y\nbon,y\n", "cp1252"), "text", "label")
    assert any("Windows-1252" in remark for remark in found.remarks)
    assert "café" in {example.input for examples in found.splits.values() for example in examples}


def test_json_lines_parquet_and_a_saved_dataset_give_the_same_task(tmp_path: Path) -> None:
    rows = [{"text": text, "label": label} for text, label in REVIEWS]
    table = arrow.Table.from_pylist(rows)
    write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(tmp_path / "b.json", json.dumps(rows))
    write(tmp_path / "c.csv", csv_text())
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    saved = tmp_path / "e"
    saved.mkdir()
    with (
        arrow.OSFile(str(saved / "data-00000-of-00001.arrow"), "wb") as file,
        arrow.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table)
    write(saved / "dataset_info.json", "{}")
    write(saved / "state.json", "{}")
    sources = [tmp_path / name for name in ("a.jsonl", "b.json", "c.csv", "d.parquet", "e")]
    found = [read_one(source, "text", "label", task="same") for source in sources]
    assert all(task.splits == found[0].splits and task.options == found[0].options for task in found)


def test_split_files_make_one_task_and_nothing_of_test_stays_in_train(tmp_path: Path) -> None:
    folder = tmp_path / "reviews"
    write(folder / "train.csv", "text,label\n" + "".join(f"t{n},{n % 2}\n" for n in range(10)) + "shared,1\n")
    write(folder / "validation.csv", "text,label\nv,1\n")
    write(folder / "test.csv", "text,label\nshared,1\nq,0\nq,0\n")
    found = read_tasks(folder, Columns(("text",), "label"))
    assert [task.name for task in found] == ["reviews"]
    assert {split: len(examples) for split, examples in found[0].splits.items()} == {"train": 10, "dev": 1, "test": 2}


def test_a_folder_of_csvs_is_a_collection_with_a_proposed_setting(tmp_path: Path) -> None:
    for name in "abcde":
        write(tmp_path / "files" / f"{name}.csv", csv_text().replace("review", name))
    assert (
        run("--source", tmp_path / "files", "--collection", tmp_path / "c", "--input", "text", "--output", "label") == 0
    )
    collection = load_collection(tmp_path / "c")
    assert check_collection(collection) == []
    setting = collection.setting("held-out")
    assert (len(setting.train), len(setting.test)) == (4, 1)


def test_templates_kind_and_instruction(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.csv", "a,b,same\n" + "".join(f"x{n},y{n},{n % 2}\n" for n in range(12)))
    flags = ["--source", path, "--collection", tmp_path / "c", "--output", "{same}", "--kind", "paraphrase"]
    flags += ["--options", "0, 1", "--instruction", "Do they mean the same?", "--task", "same"]
    assert run(*flags, "--input", "{a} [SEP] {b}") == 0
    collection = load_collection(tmp_path / "c")
    assert re.fullmatch(r"x\d+ \[SEP\] y\d+", collection["same"].train[0].input)
    assert collection["same"].kind == "paraphrase"
    assert collection.manifest["tasks"][0]["instruction"] == "Do they mean the same?"
    assert run(*flags, "--input", "a", "--input", "b", "--overwrite") == 0
    assert re.fullmatch(r"a: x\d+ \[SEP\] b: y\d+", load_collection(tmp_path / "c")["same"].train[0].input)


def test_choices_of_their_own(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "choices": [f"a{n}", f"b{n}"], "answer": f"b{n}"} for n in range(6)]
    path = write(tmp_path / "quiz.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = read_one(path, "question", "answer", "{choices}")
    assert found.kind == "multiple_choice_qa"
    assert all(example.output in example.options for example in found.splits["train"])


def test_without_a_header_columns_are_numbers(tmp_path: Path) -> None:
    found = read_one(write(tmp_path / "u.tsv", "who?\tann\nwhere?\trome\nwhy?\tso\n"), "1", "2", header=False)
    assert found.kind == "free_form"
    assert sum(map(len, found.splits.values())) == 3


def paper_file(folder: Path, task: str, number: int, seed: int, split: str, inputs: list[str]) -> None:
    lines = [{"task": task, "input": text, "output": "a", "options": ["a", "b"]} for text in inputs]
    write(folder / task / f"{task}_{number}_{seed}_{split}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def test_metaicls_preprocessed_folders(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    paper_file(folder, "glue-rte", 16384, 100, "train", [f"t{n}" for n in range(9)] + ["q"])
    for seed in (13, 100):
        paper_file(folder, "glue-rte", 16, seed, "train", ["t1"])
        paper_file(folder, "glue-rte", 16, seed, "dev", [f"d{seed}"])
        paper_file(folder, "glue-rte", 16, seed, "test", ["q", "r"])
        paper_file(folder, "unifiedqa:mctest", 16, seed, "train", [f"m{seed}", "m"])
        paper_file(folder, "unifiedqa:mctest", 16, seed, "test", ["z"])
    assert run("--source", tmp_path, "--collection", tmp_path / "c") == 0
    collection = load_collection(tmp_path / "c")
    sizes = {name: (len(task.train), len(task.test)) for name, task in collection.items()}
    assert sizes == {"glue-rte": (9, 2), "unifiedqa:mctest": (3, 1)}
    assert check_collection(collection) == []


def test_natural_instructions(tmp_path: Path) -> None:
    record = {
        "Definition": ["Say whether the text is happy."],
        "Positive Examples": [],
        "Instances": [{"id": str(n), "input": f"text {n}", "output": ["yes" if n % 2 else "no"]} for n in range(10)],
    }
    found = read_one(write(tmp_path / "task1_mood.json", json.dumps(record)))
    assert (found.name, found.kind, found.options) == ("task1_mood", "classification", ("no", "yes"))
    assert found.instruction == "Say whether the text is happy."


def test_real_examples_come_through_unchanged(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no real tasks at {SHARED}")
    for name in ("glue-rte", "codah", "lama-squad"):
        found = read_tasks(SHARED / "data" / name, Columns())[0]
        real = load_collection(SHARED)[name]
        assert {split: len(examples) for split, examples in found.splits.items()} == {
            split: len(real.split(split)) for split in ("train", "dev", "test") if real.has(split)
        }
        kinds = {"nli": "classification"}
        assert found.kind == kinds.get(real.kind, real.kind)
        assert found.splits["test"][0] in list(real.test)


def test_the_preview_is_shown_and_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "reviews.csv", csv_text(";"))
    flags = ["--source", path, "--collection", tmp_path / "c", "--input", "text", "--output", "label"]
    assert run(*flags, "--dry-run") == 0
    said = capsys.readouterr().err
    assert re.search(r"reviews +classification +16 +4 +bad 10, good 10", said)
    for part in ("delimiter ';'", "-> '", "nothing was written"):
        assert part in said
    assert not (tmp_path / "c").exists()


def test_the_same_source_gives_the_same_files(tmp_path: Path) -> None:
    path = write(tmp_path / "reviews.csv", csv_text())
    for name in ("one", "two"):
        assert run("--source", path, "--collection", tmp_path / name, "--input", "text", "--output", "label") == 0
    for file in ("data/reviews/train.jsonl", "data/reviews/test.jsonl", "manifest.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.csv", "train"),
        ("validation-00000-of-00001.parquet", "dev"),
        ("my_test.jsonl", "test"),
        ("restrained.csv", None),
        ("train_test.csv", None),
    ],
)
def test_split_of(name: str, split: str | None) -> None:
    assert split_of(Path(name)) == split


def test_labels_are_few_short_and_repeated() -> None:
    assert label_set({"0": 10, "2": 10, "1": 10}) == ("0", "1", "2")
    assert label_set({f"answer {n}": 1 for n in range(30)}) == ()
    assert label_set({"y" * 100: 15, "z": 15}) == ()


def test_a_proposed_setting_holds_out_tasks_and_trains_on_some() -> None:
    for number in range(2, 12):
        names = [f"t{n}" for n in range(number)]
        lists = proposed_setting(names, names[1:], 0.2, 100)
        assert len(lists["train"]) + len(lists["test"]) == number
        assert min(len(lists["train"]), len(lists["test"])) >= 1
        assert "t0" in lists["train"]


# ---- what it refuses: one clear sentence, and nothing written

ROWS = "text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(9))
FUZZ: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.csv", b"", "is empty"),
    "only a header": ("a.csv", b"text,label\n", "no row has both"),
    "blank": ("a.csv", b"\n\n\n", "columns are"),
    "a NUL byte": ("a.csv", ROWS.encode() + b"x\0,1\n", r"a\.csv:11: holds a NUL byte"),
    "ragged": ("a.csv", ROWS.encode() + b"one,two,three\n", r"a\.csv:11: has 3 fields but there are 2 columns"),
    "an open quote": ("a.csv", ROWS.encode() + b'"open,1\n', r"fields|quote"),
    "a giant field": ("a.csv", b"text,label\n" + b"x" * 10_000_000 + b",1\n", "a quote missing"),
    "neither utf-8 nor cp1252": ("a.csv", ROWS.encode() + b"\x81\x8d,1\n", r"a\.csv:11: is neither"),
    "binary": ("a.csv", b"text,label\n\x01\x02\xff\xfe,1\n", r"a\.csv:2: "),
    "a column twice": ("a.csv", b"text,text\na,b\n", "stands twice"),
    "another column": ("a.csv", b"body,label\na,b\n", "no column 'text'; the columns are body, label"),
    "broken json": ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": \n', r"a\.jsonl:2: not valid JSON"),
    "a json number": ("a.jsonl", b"7\n", r"a\.jsonl:1: is not a JSON object"),
    "deep json": ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: not valid JSON"),
    "a huge number": ("a.jsonl", b'{"text": ' + b"9" * 5000 + b', "label": 1}', r"a\.jsonl:1: not usable JSON"),
    "a nested text": ("a.jsonl", b'{"text": {"a": 1}, "label": 1}\n', r"a\.jsonl:1: .*not one text"),
    "a giant json field": (
        "a.jsonl",
        b'{"text": "' + b"x" * 10_000_000 + b'", "label": 1}\n',
        "over 1,000,000 characters",
    ),
    "no parquet": ("a.parquet", b"PAR1 but not really", "not a readable Parquet file"),
    "no arrow": ("a.arrow", b"xxxxxxxxxxxxxxxx", "not a readable Arrow file"),
    "another kind of file": ("a.docx", b"hello", "unknown kind of file"),
    "utf-16 without a mark": ("a.csv", ROWS.encode("utf-16-le"), "UTF-16: give --encoding"),
}


@pytest.mark.parametrize("what", sorted(FUZZ))
def test_bad_files_get_one_sentence_and_leave_nothing(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, said = FUZZ[what]
    (tmp_path / name).write_bytes(content)
    flags = ["--source", tmp_path / name, "--collection", tmp_path / "c", "--input", "text", "--output", "label"]
    assert run(*flags) == 2
    sentence = capsys.readouterr().err.strip()
    assert re.search(said, sentence), sentence
    assert "\n" not in sentence
    assert name in sentence
    assert not (tmp_path / "c").exists()


def test_mixed_types_and_numbers_become_words(tmp_path: Path) -> None:
    rows = [{"text": n, "label": n % 2 == 0} for n in range(8)] + [
        {"text": None, "label": True},
        {"text": 1.5, "label": 1.0},
    ]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = read_one(path, "text", "label")
    everything = [example for examples in found.splits.values() for example in examples]
    assert {example.output for example in everything} == {"true", "false", "1"}
    assert found.left_out == {"without input or output": 1}


def test_places_that_are_no_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("a.json", "[]")
    for name, said in {
        "missing.csv": "does not exist",
        "link.csv": "symbolic link that leads nowhere",
        "loop.csv": "symbolic link that leads nowhere",
        "pipe.csv": "not a regular file",
        "empty": "holds no file",
        "data.zip": "is a zip archive; unpack it",
    }.items():
        assert run("--source", tmp_path / name, "--collection", tmp_path / "c") == 2
        sentence = capsys.readouterr().err
        assert said in sentence, sentence
        assert name in sentence
    assert not (tmp_path / "c").exists()


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    write(tmp_path / "real.csv", csv_text())
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    assert read_one(tmp_path / "link.csv", "text", "label").kind == "classification"


def test_no_permission(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.csv", csv_text())
    plain = Path.open

    def refusing(self: Path, *rest: Any, **named: Any) -> Any:  # root may read anything, so it is simulated
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(self, *rest, **named)

    monkeypatch.setattr(Path, "open", refusing)
    assert run("--source", path, "--collection", tmp_path / "c", "--input", "text", "--output", "label") == 2
    assert f"Permission denied: {path}" in capsys.readouterr().err


def test_a_full_disk_leaves_no_task_and_no_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.csv", csv_text())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(writing.os, "fsync", full)
    assert run("--source", path, "--collection", tmp_path / "c", "--input", "text", "--output", "label") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [found for found in (tmp_path / "c").rglob("*") if found.is_file()] == []


def test_a_task_that_is_there_is_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.csv", csv_text())
    flags = ["--source", path, "--collection", tmp_path / "c", "--input", "text", "--output", "label"]
    assert run(*flags) == 0
    before = (tmp_path / "c" / "data" / "a" / "train.jsonl").read_bytes()
    assert run(*flags, "--seed", "5") == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert (tmp_path / "c" / "data" / "a" / "train.jsonl").read_bytes() == before
    assert run(*flags, "--seed", "5", "--overwrite") == 0
    assert (tmp_path / "c" / "data" / "a" / "train.jsonl").read_bytes() != before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--options", "good,fine"], "the output 'bad' is not among --options"),
        (["--options", "bad,bad,good"], "names a label twice"),
        (["--kind", "sentiment"], "--kind is 'sentiment'"),
        (["--kind", "free_form", "--options", "good,bad"], "look like classification"),
        (["--encoding", "klingon"], "unknown --encoding"),
        (["--encoding", "ascii"], "is not ascii"),
        (["--test-share", "2"], "between 0 and 1"),
        (["--options", "{choices}"], "no column 'choices'"),
    ],
)
def test_wrong_flags(flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.csv", csv_text() + "é,good\n")
    assert run("--source", path, "--collection", tmp_path / "c", "--input", "text", "--output", "label", *flags) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_the_columns_are_named_when_none_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--source", write(tmp_path / "a.csv", csv_text()), "--collection", tmp_path / "c") == 2
    assert "give --input COLUMN and --output COLUMN; the columns are text, label" in capsys.readouterr().err


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(SUFFIXES))
def test_any_bytes_are_read_or_refused_with_the_files_name(tmp_path_factory: Any, data: bytes, suffix: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / f"a{suffix}"
    path.write_bytes(data)
    said = str(path)
    try:
        read_tasks(path, Columns(("text",), "label"))
    except ValueError as error:
        said = str(error)
    assert str(path) in said
    assert "\n" not in said


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=2, max_size=12))
def test_what_was_written_is_what_was_read(tmp_path_factory: Any, rows: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("round")
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    path = write(folder / "a.jsonl", "\n".join(lines) + "\n")
    found = read_tasks(path, Columns(("text",), "label"))
    importing.write_tasks(folder / "c", found)
    collection = load_collection(folder / "c")
    assert [v for v in check_collection(collection) if v.severity == "error"] == []
    for split, examples in found[0].splits.items():
        assert list(collection["a"].split(split)) == examples
    assert len(found[0].splits["train"]) >= 1


@given(st.text(max_size=200))
def test_detecting_a_delimiter_never_fails(text: str) -> None:
    assert detect_delimiter(text) in ",\t;|"
