from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from maml_en_llm.cli import main
from maml_en_llm.models import load_tokenizer, new_gpt2, save_model, word_tokenizer
from maml_en_llm.starter.quickstart import quickstart
from recipes.starter import text


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    """An untrained model that reads the starter tasks, in place of the built-in one."""
    tokenizer = word_tokenizer(text.every_word(), context=1024)
    save_model(new_gpt2(tokenizer, layers=4, width=16, heads=2), tokenizer, tmp_path / "small")
    return tmp_path / "small"


@pytest.mark.slow
def test_the_whole_job_from_nothing_to_a_report_and_a_prediction(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("maml_en_llm.starter.quickstart.SEEDS", (100, 13))
    monkeypatch.setattr("maml_en_llm.starter.quickstart.MAX_EXAMPLES", 4)
    monkeypatch.setattr("maml_en_llm.starter.quickstart.CHEAP", ("majority", "logistic"))
    report = quickstart(tmp_path / "quick", small_model, batches=4)
    table = (report.parent / "report.md").read_text()
    for method in ("Raw LM", "MetaICL", "MAML-2-1"):
        assert f"| {method} |" in table
    said = capsys.readouterr().err
    for row in ("Majority", "Logistic", "Raw LM", "MetaICL", "MAML-2-1"):
        assert re.search(rf"{row} +│ +\d+\.\d │ +\d+\.\d", said), row
    (hint,) = re.findall(r"maml-en-llm (predict --model .*)", said)
    assert main(shlex.split(hint)) == 0
    assert capsys.readouterr().out.strip() in ("blick", "dax")
    updates = {
        name: json.loads((tmp_path / "quick" / name / "model" / "maml_en_llm.json").read_text())["training"]["updates"]
        for name in ("metaicl", "maml-2-1")
    }
    assert updates == {"metaicl": 4, "maml-2-1": 2}

    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "quick").rglob("*.safetensors")}
    edited = tmp_path / "quick" / "examples.jsonl"
    edited.write_text(edited.read_text().replace("blick", "zug"))
    quickstart(tmp_path / "quick", small_model, batches=4)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert "blick" not in edited.read_text()


def test_the_tokenizer_knows_every_word_of_the_starter_tasks(small_model: Path, starter_folder: Path) -> None:
    tokenizer = load_tokenizer(small_model)
    read = "".join(path.read_text() for path in sorted(starter_folder.glob("data/*/test.jsonl"))[::7])
    inputs = [json.loads(line)["input"] for line in read.splitlines() if line.strip()]
    pieces = [token for ids in tokenizer(inputs)["input_ids"] for token in tokenizer.convert_ids_to_tokens(ids)]
    assert sum(token.startswith("##") for token in pieces) < len(pieces) / 200
