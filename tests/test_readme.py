"""The README does what it says: its commands and its Python are run as they stand, with a tiny model, few batches."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from maml_en_llm.cli import VERBS, main
from maml_en_llm.models import new_gpt2, save_model, train_tokenizer
from maml_en_llm.tasks.collection import problems_of_record

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
ELSEWHERE = "by-anything"  # its Python is run by tests/bilevel/test_by_anything.py
SMALLER = {"openai-community/gpt2": "tiny", "--batches 2000": "--batches 8 --device cpu"}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def write_own_tasks(folder: Path) -> None:
    """The folder of "Your own data": a CSV file for each of five tasks."""
    folder.mkdir()
    for task in ("reviews", "questions", "moods", "spam", "topics"):
        rows = [f"{task} text {n},{('good', 'bad')[n % 2]}" for n in range(40)]
        (folder / f"{task}.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")


@pytest.fixture
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with tasks in CSV files, the examples and a tiny model."""
    write_own_tasks(tmp_path / "my-tasks")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    tokenizer = train_tokenizer([README], vocabulary=300)
    save_model(new_gpt2(tokenizer, layers=1, width=8, heads=1), tokenizer, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_make_targets_exist() -> None:
    start = blocks(README, "bash")[0]
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    commands = [line.split() for line in start.splitlines()]
    assert [command[0] for command in commands] == ["make", "make"]
    assert {command[1] for command in commands} <= targets


def test_own_data_commands_run(own_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = "".join(blocks(README, "bash")[1:])
    for old, new in SMALLER.items():
        assert commands.count(old) == 1
        commands = commands.replace(old, new)
    for line in commands.splitlines():
        program, *words = shlex.split(line)
        assert program == "maml-en-llm"
        assert main(words) == 0, capsys.readouterr().err
    assert (own_data / "runs/mine/model/model.safetensors").is_file()
    assert json.loads((own_data / "compare/validation/mine--random.json").read_text())["summary"]["test"]["tasks"] == 1
    assert {"good", "bad"} & set(capsys.readouterr().out.split())


def test_the_readmes_line_is_a_good_example() -> None:
    (line,) = blocks(README, "json")
    assert problems_of_record(json.loads(line), "reviews") == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != ELSEWHERE], ids=lambda page: page.name)
@pytest.mark.slow
def test_python_runs(page: Path, own_data: Path) -> None:
    names: dict[str, object] = {}  # a page is read from top to bottom
    for code in blocks(page.read_text(encoding="utf-8"), "python"):
        exec(compile(code, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)|src=\"([^\":]+)\"", text):
        target = (page.parent / (link[0] or link[1])).resolve()
        assert target.exists(), target


def test_tree_names_what_there_is() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = contributing.partition("## What is where")[2].split("```")[1]
    package, rest = tree.split("\nconfigs/", maxsplit=1)
    named = re.findall(r"^  ([\w.]+)", package, flags=re.MULTILINE)
    here = [path.name for path in (ROOT / "src/maml_en_llm").iterdir() if path.suffix == ".py" or path.is_dir()]
    assert set(named) == {name for name in here if not name.startswith("__")}
    assert all((ROOT / name).is_dir() for name in re.findall(r"^(\w+)/", "configs/" + rest, flags=re.MULTILINE))


def test_commands_in_the_pages_have_the_flags_that_they_use(capsys: pytest.CaptureFixture[str]) -> None:
    used: dict[str, set[str]] = {}
    for page in PAGES:
        for line in re.findall(r"^maml-en-llm (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            words = line.split()
            verb = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
            used.setdefault(verb, set()).update(word for word in words if word.startswith("--"))
    assert {"train", "evaluate", "adapt", "reproduce"} <= used.keys()
    for verb, flags in used.items():
        with pytest.raises(SystemExit):
            main([*verb.split(), "--help"])
        known = set(re.findall(r"--[\w-]+", capsys.readouterr().out)) | {"--config"}
        assert flags <= known, verb
