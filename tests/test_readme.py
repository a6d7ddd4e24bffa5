"""The README does what it says: its commands and its Python are run as they stand, with a tiny model, few batches."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from maml_en_llm.cli import VERBS, main
from maml_en_llm.models import new_gpt2, save_model, train_tokenizer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
WRITTEN_LATER = {"docs/first-run.md"}
SMALLER = {"openai-community/gpt2": "tiny", "--batches 2000": "--batches 8 --device cpu"}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def write_readme_collection(folder: Path) -> None:
    """The collection of "Your own data": its setting, and tasks whose lines are like its example."""
    example, setting = map(json.loads, blocks(README, "json"))
    for task in {*setting["train"], *setting["test"]}:
        for split, numbers in (("train", range(20)), ("test", range(20, 26))):
            options = example["options"]
            lines = [
                example | {"task": task, "input": f"{example['input']} {n}", "output": options[n % len(options)]}
                for n in numbers
            ]
            path = folder / "data" / task / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "settings").mkdir()
    (folder / "settings" / "mine.json").write_text(json.dumps(setting), encoding="utf-8")


@pytest.fixture
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the README's collection, the examples and a tiny model."""
    write_readme_collection(tmp_path / "collection")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    tokenizer = train_tokenizer([README], vocabulary=300)
    save_model(new_gpt2(tokenizer, layers=1, width=8, heads=1), tokenizer, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_make_targets_exist() -> None:
    start, _ = blocks(README, "bash")
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    commands = [line.split() for line in start.splitlines()]
    assert [command[0] for command in commands] == ["make", "make"]
    assert {command[1] for command in commands} <= targets


def test_own_data_commands_run(own_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, commands = blocks(README, "bash")
    for old, new in SMALLER.items():
        assert commands.count(old) == 1
        commands = commands.replace(old, new)
    for line in commands.splitlines():
        program, *words = shlex.split(line)
        assert program == "maml-en-llm"
        assert main(words) == 0, capsys.readouterr().err
    assert (own_data / "runs/mine/model/model.safetensors").is_file()
    assert json.loads((own_data / "results/mine.json").read_text())["summary"]["test"]["tasks"] == 1
    assert {"good", "bad"} & set(capsys.readouterr().out.split())


def test_the_readmes_collection_is_good(own_data: Path) -> None:
    assert main(["tasks", "check", "--collection", "collection"]) == 0


def test_hint_after_the_quick_start_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    (hint,) = re.findall(r"maml-en-llm (predict .*)'$", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    words = shlex.split(hint)
    assert (ROOT / words[words.index("--demonstrations") + 1]).is_file()
    words[words.index("--model") + 1] = "no/such/model"
    assert main(words) == 2
    assert "no/such/model" in capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs(page: Path, own_data: Path) -> None:
    (own_data / "reviews.csv").write_text("input,output\nFine.,good\nLoud.,bad\n", encoding="utf-8")
    for code in blocks(page.read_text(encoding="utf-8"), "python"):
        exec(compile(code, str(page), "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)|src=\"([^\":]+)\"", text):
        target = (page.parent / (link[0] or link[1])).resolve()
        assert target.exists() or str(target.relative_to(ROOT.resolve())) in WRITTEN_LATER, target


def test_tree_names_what_there_is() -> None:
    tree = README.partition("## What is where")[2].split("```")[1]
    package, rest = tree.split("\nconfigs/", maxsplit=1)
    named = re.findall(r"^  ([\w.]+)", package, flags=re.MULTILINE)
    here = [path.name for path in (ROOT / "src/maml_en_llm").iterdir() if path.suffix == ".py" or path.is_dir()]
    assert set(named) == {name for name in here if not name.startswith("__")}
    assert all((ROOT / name).is_dir() for name in re.findall(r"^(\w+)/", "configs/" + rest, flags=re.MULTILINE))


def test_what_is_said_to_be_missing_is_missing() -> None:
    assert ("There is no CSV import yet" in README) == ("tasks import" not in VERBS)
