"""From a folder of messy spreadsheets to a collection, by the command line."""

import json
import re
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from maml_en_llm.cli import main
from maml_en_llm.sources import importing
from maml_en_llm.sources.importing import hold_out
from maml_en_llm.tasks.check import check_collection
from maml_en_llm.tasks.collection import Example, load_collection

SCRIPT = Path(__file__).parents[2] / "examples" / "messy_spreadsheets.py"
MAPS = ["log-in=login", "payments=payment", "cancell=cancel", "booking=book", "travell=travel", "decisions=decision"]
MAPS += ["tasks=task", "wheather=weather", "sport=sports", "positiv=positive", "delivary=delivery", "refunds=refund"]


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("messy") / "my tasks"
    runpy.run_path(str(SCRIPT))["main"](folder)
    return folder


def run(source: Path, collection: Path, *flags: object) -> int:
    return main(["tasks", "import", "--source", str(source), "--collection", str(collection), *map(str, flags)])


def flags_for(said: str) -> list[str]:
    """The flags that the sentence about missing columns proposes."""
    found = re.search(r'--input "([^"]+)" --output "([^"]+)"', said)
    assert found, said
    return ["--input", found[1], "--output", found[2]]


def test_twelve_messy_files(messy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(list(messy.glob("*.csv"))) == 12
    assert run(messy, tmp_path / "c") == 2
    columns = flags_for(capsys.readouterr().err)
    assert run(messy, tmp_path / "c", *columns, "--dry-run") == 0
    said = capsys.readouterr().err
    assert not (tmp_path / "c").exists()
    assert all(len(line.rstrip()) <= 80 for line in said.splitlines())
    for part in (
        "NO, No -> no",
        "YES, Yes -> yes",
        "'delivary' and 'delivery'",
        "'e-mail' 2",
        "without a label (-, N/A",
    ):
        assert part in " ".join(said.split())
    for name in messy.glob("*.csv"):
        assert f"same text, {name.stem}" in " ".join(said.split())  # the contradiction in each

    maps = [word for text in MAPS for word in ("--label-map", text)]
    assert run(messy, tmp_path / "c", *columns, *maps, "--label-map", "e-mail=", "--yes") == 0
    collection = load_collection(tmp_path / "c")
    assert check_collection(collection) == []
    assert len(collection) == 12
    labels = {name: set(task.train[0].options) for name, task in collection.items()}
    assert labels["urgent"] == labels["complaint"] == labels["return-requests"] == {"yes", "no"}
    assert labels["support-tickets"] == {"refund", "delivery", "defect", "invoice"}
    assert labels["Bug-Reports"] == {"login", "payment", "search"}
    assert labels["restaurant-reviews"] == {"positive", "negative"}
    for task in collection.values():
        counts = Counter(example.output for example in task.test)
        assert counts.keys() == set(task.train[0].options)
        assert 100 <= len(task.train) <= 400
    setting = collection.setting("held-out")
    assert (len(setting.train), len(setting.test)) == (10, 2)


def test_the_same_seed_gives_the_same_files(messy: Path, tmp_path: Path) -> None:
    runpy.run_path(str(SCRIPT))["main"](tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in messy.iterdir()}


# ---- one thing at a time


def csv(path: Path, rows: list[tuple[str, str]], header: str = "text,label") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + "\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
    return path


def plain(name: str, labels: str = "ab", count: int = 20) -> list[tuple[str, str]]:
    return [(f"{name} text {n}", labels[n % len(labels)]) for n in range(count)]


TEXT = ["--input", "text", "--output", "label", "--yes"]


def test_each_file_may_have_other_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv(tmp_path / "s" / "one.csv", plain("one"), " Text ,LABEL")
    csv(tmp_path / "s" / "two.csv", plain("two"), "message,kind")
    csv(tmp_path / "s" / "three.csv", plain("three"), "subject,label")
    assert run(tmp_path / "s", tmp_path / "c", *TEXT) == 2
    said = capsys.readouterr().err
    assert "2 files do not have the columns" in said
    assert "three.csv: subject, label; two.csv: message, kind" in said
    columns = flags_for(said)
    assert columns == ["--input", "text|subject|message", "--output", "label|kind"]
    assert run(tmp_path / "s", tmp_path / "c", *columns, "--yes") == 0
    assert {task.train[0].input.split()[0] for task in load_collection(tmp_path / "c").values()} == {
        "one", "two", "three",
    }  # fmt: skip
    assert run(tmp_path / "s", tmp_path / "d", "--input", "{text}|subject: {subject}|{message}!", *columns[2:]) == 0
    collection = load_collection(tmp_path / "d")
    assert collection["three"].train[0].input.startswith("subject: three")
    assert collection["two"].train[0].input.endswith("!")


def test_empty_columns_and_rows_and_excels_first_line(tmp_path: Path) -> None:
    rows = "".join(f"text {n};{'ab'[n % 2]};;\r\n;;;\r\n" for n in range(12))
    (tmp_path / "a.csv").write_bytes(f"sep=;\r\nText;Label;;\r\n{rows}".encode("utf-8-sig"))
    assert run(tmp_path / "a.csv", tmp_path / "c", *TEXT) == 0
    collection = load_collection(tmp_path / "c")
    assert len(collection["a"].train) + len(collection["a"].test) == 12


def test_contradictions_are_listed_and_settled_by_the_majority(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*plain("x"), ("twice", "a"), ("Twice", "b"), ("thrice", "a"), ("thrice", "b"), ("thrice ", "a")]
    path = csv(tmp_path / "t.csv", rows)
    assert run(path, tmp_path / "c", *TEXT, "--dry-run") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "inputs with several labels: 2" in said
    assert "'twice' (a: t.csv:22; b: t.csv:23): left out" in said
    assert "'thrice' (a: t.csv:24, t.csv:26; b: t.csv:25): a is kept" in said
    assert "3 contradicted" in said
    assert run(path, tmp_path / "c", *TEXT) == 0
    task = load_collection(tmp_path / "c")["t"]
    kept = {example.input: example.output for split in (task.train, task.test) for example in split}
    assert "twice" not in kept
    assert kept["thrice"] == "a"
    assert len(kept) == 21


def test_every_label_has_its_share_of_the_test_split() -> None:
    labels = ["common"] * 100 + ["seldom"] * 10 + ["once"]
    examples = [Example(str(n), label, ("common", "once", "seldom")) for n, label in enumerate(labels)]
    train, test = hold_out(examples, 0.2, "t", 1)
    assert Counter(example.output for example in test) == {"common": 20, "seldom": 2}
    assert Counter(example.output for example in train) == {"common": 80, "seldom": 8, "once": 1}
    assert sorted([*train, *test], key=lambda example: int(example.input)) == examples
    assert hold_out(examples[-1:], 0.2) == (examples[-1:], [])


def test_a_label_map_that_fits_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv(tmp_path / "t.csv", plain("x"))
    for text, said in (
        ("c=a", "names 'c', which is no label of any task"),
        ("ab", "must be OLD=NEW"),
        ("=a", "OLD=NEW"),
    ):
        assert run(path, tmp_path / "c", *TEXT, "--label-map", text) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def setting_of(collection: Path) -> dict[str, list[str]]:
    record = json.loads((collection / "settings" / "held-out.json").read_text())
    return {key: record[key] for key in ("train", "test")}


def test_targets_are_named_or_drawn_among_tasks_that_can_be_targets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcd":
        csv(tmp_path / "s" / f"{name}.csv", plain(name))
    csv(tmp_path / "s" / "free.csv", [(f"text {n}", f"answer {n}") for n in range(20)])
    assert run(tmp_path / "s", tmp_path / "c", *TEXT, "--targets", "b,d") == 0
    assert setting_of(tmp_path / "c") == {"train": ["a", "c", "free"], "test": ["b", "d"]}
    for seed in range(5):
        assert run(tmp_path / "s", tmp_path / str(seed), *TEXT, "--seed", seed, "--held-out", "0.6") == 0
        lists = setting_of(tmp_path / str(seed))
        assert len(lists["test"]) == 3
        assert "free" not in lists["test"]
    capsys.readouterr()
    for targets, said in (("x", "which is not imported"), ("free", "cannot be a target"), ("a,b,c,d,free", "free")):
        assert run(tmp_path / "s", tmp_path / "d", *TEXT, "--targets", targets) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_tasks_that_come_later_join_the_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection = tmp_path / "c"

    def add(name: str, *flags: str) -> str:
        assert run(csv(tmp_path / f"{name}.csv", plain(name)), collection, *TEXT, *flags) == 0
        return " ".join(capsys.readouterr().err.split())

    assert "no setting yet: a setting needs tasks to train on and targets; import more tasks" in add("a")
    assert "setting held-out: trains on 1 tasks, holds out" in add("b")
    before = setting_of(collection)
    said = add("c")
    assert "c joined its training tasks (--targets makes targets)" in said
    assert setting_of(collection) == {"train": sorted([*before["train"], "c"]), "test": before["test"]}
    add("d", "--targets", "d")
    add("c", "--targets", "c")  # moved
    assert setting_of(collection) == {"train": before["train"], "test": sorted([*before["test"], "c", "d"])}
    assert "(as before)" in add("d", "--targets", "d")

    mine = collection / "settings" / "held-out.json"
    mine.write_text(mine.read_text().replace('"c",\n', ""))
    text = mine.read_text()
    assert "was changed since, so it stays as it is: to use e, add to its lists" in add("e")
    assert mine.read_text() == text
    assert run(tmp_path / "e.csv", collection, *TEXT, "--targets", "e") == 2
    assert "edit it, or give another --setting" in capsys.readouterr().err
    assert mine.read_text() == text


def test_label_columns_of_the_same_texts_are_kept_on_one_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = [(f"text {n}", "yes" if n % 2 else "no") for n in range(40)]
    for name in ("angry", "urgent"):
        csv(tmp_path / "s" / f"{name}.csv", same)
    csv(tmp_path / "s" / "spam.csv", plain("spam"))
    assert run(tmp_path / "s", tmp_path / "c", *TEXT, "--targets", "urgent", "--dry-run") == 0
    assert "examples of urgent, a target, are also in angry" in " ".join(capsys.readouterr().err.split())
    assert run(tmp_path / "s", tmp_path / "c", *TEXT, "--targets", "urgent,angry") == 0
    assert "are also in" not in capsys.readouterr().err


def test_an_import_of_large_files_shows_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "LARGE", 1000)
    for name in "ab":
        csv(tmp_path / "s" / f"{name}.csv", [(f"{name} {n} " + "word " * 300, "xy"[n % 2]) for n in range(1000)])
    assert run(tmp_path / "s", tmp_path / "c", *TEXT) == 0
    assert re.search(r"import: (\d+)/\1 kB, .* left", capsys.readouterr().err)


def test_spreadsheets_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv(tmp_path / "s" / "a.csv", plain("a"))
    (tmp_path / "s" / "old.xlsx").write_bytes(b"PK")
    assert run(tmp_path / "s", tmp_path / "c", *TEXT) == 0
    assert "not read: old.xlsx (save tables as CSV)" in capsys.readouterr().err


def test_what_the_data_holds_is_shown_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Any] = [
        (f"\x1b[2J\x1b]0;title\x07 text {n}", "[bold]a[/bold]" if n % 2 else "b\u202e[/]") for n in range(20)
    ]
    path = csv(tmp_path / "[red]t.csv", rows)
    assert run(path, tmp_path / "c", *TEXT, "--dry-run", "--task", "[red]t") == 0
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "[bold]a[/bold] 10" in said
    assert "[red]t" in said
    assert run(path, tmp_path / "c", *TEXT, "--task", "[red]t") == 0
    for verb in (["check"], ["list"], ["show", "[red]t"]):
        assert main(["tasks", *verb, "--collection", str(tmp_path / "c")]) == 0
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err
        assert "[red]t" in captured.out + captured.err
