"""The tutorial does what it says: its commands are run as they stand, with less training."""

from __future__ import annotations

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from maml_en_llm.cli import main

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
SMALLER = {
    "--batches 64 --batch-size 16": "--batches 2 --batch-size 1 --max-tokens 256 --device cpu",
    "--validate-every 16": "--validate-every 2 --validate-examples 2",
    "--output compare\n": "--max-examples 4 --device cpu --output compare\n",
}


@pytest.mark.slow
def test_from_spreadsheets_to_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = TUTORIAL
    for old, new in SMALLER.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    make, dry, *commands = re.findall(r"^```bash\n(.*?)```", text, flags=re.MULTILINE | re.DOTALL)
    assert make.startswith("python examples/messy_spreadsheets.py")
    script, folder = shlex.split(make)[1:]
    subprocess.run([sys.executable, ROOT / script, folder], check=True, capture_output=True)

    assert main(shlex.split(dry)[1:]) == 2
    proposed = capsys.readouterr().err
    for line in commands:
        program, *words = shlex.split(line.replace("\\\n", " "))
        assert program == "maml-en-llm"
        for flag in ("--input", "--output"):
            if words[:2] == ["tasks", "import"]:
                assert f'{flag} "{words[words.index(flag) + 1]}"' in proposed
        assert main(words) == 0, capsys.readouterr().err
    with (tmp_path / "predicted.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    right = [row["prediction"] == row["output"] for row in rows]
    assert sum(right) > 0.8 * len(right)
    assert {"book", "cancel", "move"} == {row["prediction"] for row in rows}
