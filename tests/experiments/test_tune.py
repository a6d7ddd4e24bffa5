"""`tune` through the command line: equal tries on training tasks, taken up by `reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders import make_task, write_setting
from maml_en_llm.cli import main
from maml_en_llm.config import load_yaml
from maml_en_llm.experiments.rows import read_overrides, read_table, rows_of
from maml_en_llm.tasks.collection import load_collection

SMALL = """
demonstrations: 3
max_tokens: 96
max_tokens_per_example: 24
seeds: [100]
log_every: 1
train: {weight_decay: 0.1}
rows: {raw-lm: {evaluate: {layout: newlines}}}
"""
TRAIN = [f"train-{n}" for n in range(6)]
TARGETS = ["target-0", "target-1"]


@pytest.fixture
def words(model_folder: Path, tmp_path: Path) -> list[str]:
    collection = tmp_path / "collection"
    for name in (*TRAIN, *TARGETS):
        make_task(collection, name, ["red", "blue"])
    write_setting(collection, "small", TRAIN, TARGETS, TARGETS)
    for name in TARGETS:  # whoever reads a target fails
        (collection / "data" / name / "test.jsonl").write_text("not an example\n")
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    flags: dict[str, Any] = {"setting": "small", "collection": collection, "config": tmp_path / "small.yaml"}
    flags |= {"model": model_folder, "output": tmp_path / "tuning", "batches": 8, "device": "cpu", "max-examples": 4}
    named = [str(word) for key, value in flags.items() for word in (f"--{key}", value)]
    return ["tune", "table2a", *named, "--rows", "metaicl", "maml-2-1"]


def test_every_row_has_the_same_tries_and_the_best_is_what_reproduce_takes(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--grid", "lr=1e-4,1e-2,1e30"]
    assert main([*words, *grid]) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    chosen = tmp_path / "tuning" / "tuned.yaml"
    assert out.strip() == str(chosen)
    for row in ("metaicl", "maml-2-1"):
        assert f"validation/{row} failed" in err  # 1e30 is a try without a score
        assert err.count(f"table2a: validation/{row} ") == 3
    setting = load_collection(tmp_path / "tuning" / "collection").setting("validation")
    assert {*setting.train, *setting.test} == {*TRAIN}
    assert len(setting.test) == 1
    assert not {*setting.train} & {*setting.test}

    record = load_yaml(chosen)
    assert record["train"] == {"weight_decay": 0.1}
    assert record["rows"]["raw-lm"] == {"evaluate": {"layout": "newlines"}}
    lr = float(record["rows"]["maml-2-1"]["train"]["lr"])
    assert lr in (1e-4, 1e-2)
    places: dict[str, Any] = {"collection": Path("c"), "output": Path("o"), "settings": ["small"], "model": "m"}
    rows = {row.row: row.train for row in rows_of(read_table("table2a"), read_overrides(chosen), **places)}
    assert (rows["maml-2-1"].lr, rows["maml-2-1"].inner_lr) == (lr, lr)  # type: ignore[union-attr]

    before = chosen.read_bytes()
    assert main([*words, "--grid", "lr=1e-4,1e-2"]) == 0
    assert "table2a: validation/" not in capsys.readouterr().err  # nothing is trained again
    assert load_yaml(chosen) == record
    assert chosen.read_bytes() != before  # its head says two tries


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--grid", "lr"], "--grid lr: give a key and its values, like lr=1e-4,1e-3"),
        (["--grid", "rate=1"], "--grid: unknown key 'rate'; known keys are "),
        (["--grid", "lr=much"], "--grid: lr is 'much'; it must be a number"),
        (["--grid", "lr="], "give --grid values to try, like lr=1e-4,1e-3, and --rows that table2a trains"),
        (["--grid", "lr=1", "--rows", "raw-lm"], "give --grid values to try"),
        (["--grid", "lr=1", "--setting", "other"], "there is no setting 'other'; known settings: small"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    words: list[str], changes: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *changes]) == 2
    assert message in capsys.readouterr().err


def test_what_tune_did_not_write_stays(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tuning").mkdir()
    (tmp_path / "tuning" / "tuned.yaml").write_text("mine: 1\n")
    assert main([*words, "--grid", "lr=1e-4"]) == 2
    assert "tuned.yaml exists and was not written by this command" in capsys.readouterr().err
    assert (tmp_path / "tuning" / "tuned.yaml").read_text() == "mine: 1\n"
    (tmp_path / "tuning" / "tuned.yaml").unlink()
    folder = tmp_path / "tuning" / "collection" / "settings"
    folder.mkdir(parents=True)
    (folder / "validation.json").write_text("{}")
    assert main([*words, "--grid", "lr=1e-4"]) == 2
    assert "is of another collection or setting; choose another --output" in capsys.readouterr().err
    assert (folder / "validation.json").read_text() == "{}"
