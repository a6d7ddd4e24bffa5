"""What data holds is shown: terminals do not act on it, rich does not read markup in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.text import Text

from builders import make_task, write_setting
from maml_en_llm.cli import main
from maml_en_llm.progress import console, result, track

ESCAPE, MARKUP = "\x1b[31m", "[red]x[/y]"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A collection whose names, labels and texts are hostile; a table and demonstrations of that kind."""
    make_task(tmp_path / "c", f"t{MARKUP.replace('/', '')}", [f"{ESCAPE}a", MARKUP])
    make_task(tmp_path / "c", "target[bold]", [f"{ESCAPE}a", MARKUP])
    make_task(tmp_path / "c", "free[bold]", [])
    write_setting(tmp_path / "c", "s", [f"t{MARKUP.replace('/', '')}"], ["target[bold]", "free[bold]"], [])
    rows = "".join(f"{ESCAPE}ant {n} {MARKUP},{MARKUP if n % 2 else ESCAPE}\n" for n in range(30))
    (tmp_path / "in.csv").write_text(f"te{ESCAPE}xt,label\n{rows}")
    shown = [{"input": f"{ESCAPE}ant", "output": f"{ESCAPE}a"}, {"input": "bee", "output": MARKUP}]
    (tmp_path / "shown.jsonl").write_text("".join(json.dumps(line) + "\n" for line in shown))
    return tmp_path


def test_hostile_data_in_every_verb_is_shown(
    hostile: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--demonstrations", "1", "--max-tokens", "128", "--max-tokens-per-example", "32", "--device", "cpu"]
    of_setting = ["--collection", hostile / "c", "--setting", "s", "--model", model_folder, *sizes]
    shown, column = ["--model", model_folder, "--demonstrations", hostile / "shown.jsonl"], f"te{ESCAPE}xt"
    table = ["--source", hostile / "in.csv", "--input", column, "--output", "label"]
    choose = ["--input", hostile / "in.csv", "--column", column, "--by", "random", "--count", "2"]
    for words in (
        ["tasks", "list", "--collection", hostile / "c"],
        ["tasks", "check", "--collection", hostile / "c"],
        ["tasks", "show", "target[bold]", "--collection", hostile / "c"],
        ["tasks", "show-prompt", "--collection", hostile / "c", "--task", "target[bold]", "--model", model_folder],
        ["tasks", "import", *table, "--collection", hostile / "new", "--yes"],
        ["tasks", "choose", *choose, "--output", hostile / "to-label.csv"],
        ["train", *of_setting, "--method", "metaicl", "--batches", "1", "--output", hostile / "run"],
        ["evaluate", *of_setting, "--max-examples", "2", "--label", MARKUP, "--output", hostile / "r.json"],
        ["report", hostile / "r.json", hostile / "run", "--output", hostile / "report"],
        ["predict", *shown, "--input", f"{ESCAPE}cat {MARKUP}"],
        ["predict", *shown, "--input-file", hostile / "in.csv", "--text-column", column, "--output", hostile / "o.csv"],
    ):
        capsys.readouterr()
        assert main([str(word) for word in words]) in (0, None), words
        printed = capsys.readouterr()
        assert "\x1b" not in printed.out + printed.err, words
        assert words[0] != "report" or MARKUP in printed.err


def test_consoles_obey_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for printing, read in ((console, "err"), (result, "out")):
        printing.print(f"{ESCAPE}{MARKUP}\nnext [/bold]")
        printing.print(Text("plain"))
        said = getattr(capsys.readouterr(), read)
        assert said == f"\\x1b[31m{MARKUP}\nnext [/bold]\nplain\n"
    console.rule(f"a {MARKUP}")
    assert MARKUP in capsys.readouterr().err
    with track(MARKUP, 1, "x") as progress:
        progress.advance(figures=f"{ESCAPE}{MARKUP}")
    assert f"{MARKUP}: 1/1" in (said := capsys.readouterr().err)
    assert "\x1b" not in said
