from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders import a_run, evaluate_config, make_collection, train_config, write_lines
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.results import digest, to_json
from maml_en_llm.tasks.collection import load_collection
from maml_en_llm.training import record as module
from maml_en_llm.training.loop import train
from maml_en_llm.training.record import (
    Measurement,
    code_version,
    config_hash,
    data_hash,
    model_identity,
    trained_identity,
)


def test_a_trained_model_is_known_by_the_hashes_of_its_training(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    config = train_config(collection_folder, model_folder, tmp_path / "run")
    expected = config_hash(config)
    model = train(config)
    made = json.loads((tmp_path / "run" / "run.json").read_text())
    assert made["config_hash"] == expected
    identity = trained_identity(made["config_hash"], made["manifest_hash"])
    assert model_identity(str(model)) == identity
    scoring = evaluate_config(collection_folder, model, tmp_path / "r.json")
    assert evaluate(scoring).run.config_hash == config_hash(scoring, identity)


def test_a_configuration_hash_tells_what_is_computed_from_where_it_lies(model_folder: Path, tmp_path: Path) -> None:
    def of(**changes: Any) -> str:
        base = {"collection": Path("c"), "model": model_folder, "output": tmp_path / "run", "method": "metaicl"}
        return config_hash(train_config(**(base | changes)))

    same = [{"checkpoint_every": 5}, {"log_every": 7}, {"output": Path("x")}, {"device": "auto"}]
    assert {of(**changes) for changes in same} == {of()}
    copy = shutil.copytree(model_folder, tmp_path / "copy")
    assert of(model=copy) == of()
    others = [{"lr": 2e-3}, {"batches": 9}, {"seed": 1}, {"model": "openai-community/gpt2"}, {"setting": "free"}]
    assert len({of(), *(of(**changes) for changes in others)}) == 6
    (copy / "model.safetensors").write_bytes(b"other")
    assert of(model=copy) != of()


def test_a_key_that_came_later_leaves_the_hash_of_earlier_runs(model_folder: Path) -> None:
    config = train_config(Path("c"), model_folder, Path("o"), copies=2)
    keys = {key: value for key, value in vars(config).items() if key not in config.FREE and key != "parallel"}
    earlier = digest(keys | {"kind": "maml-en-llm", "model": model_identity(str(model_folder))})
    assert config_hash(config) == earlier
    assert config_hash(replace(config, parallel="copies")) != earlier


def test_a_data_hash_changes_with_content_and_with_instructions_that_are_read(tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "c")

    def of(**changes: Any) -> str:
        return data_hash(load_collection(folder), ["colour", "size"], **changes)

    first = of(), of(instructions=True)
    write_lines(folder / "data" / "mood" / "train.jsonl", ["another task"])
    assert (of(), of(instructions=True)) == first
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["tasks"][0]["instruction"] = "Other words."
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert of() == first[0]
    assert of(instructions=True) != first[1]
    path = folder / "data" / "size" / "test.jsonl"
    path.write_bytes(path.read_bytes().replace(b"big", b"bag"))  # as long as before
    assert of() != first[0]


def test_time_is_summed_over_resumes(model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(to_json(a_run(wall_seconds=1000.0, peak_memory_bytes=1 << 50)))
    found = Measurement(train_config(Path("c"), model_folder, tmp_path), "data", torch.device("cpu"), path).now()
    assert 1000 < found.wall_seconds < 1010
    assert found.peak_memory_bytes == 1 << 50


def test_the_peak_of_memory_is_that_of_the_command(model_folder: Path, tmp_path: Path) -> None:
    config = train_config(Path("c"), model_folder, tmp_path)
    before = Measurement(config, "data", torch.device("cpu")).now().peak_memory_bytes
    record = Measurement(config, "data", torch.device("cpu"))
    held = np.ones(75_000_000)  # 600 MB, as what others freed meanwhile lowers the difference
    after = record.now().peak_memory_bytes
    assert held.size
    assert after - before > 150e6 or not Path("/proc/self/clear_refs").exists()


def test_the_version_of_the_code_is_the_commit_of_its_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "src" / "package" / "training" / "record.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    monkeypatch.setattr(module, "__file__", str(file))
    code_version.cache_clear()
    assert code_version() == module.version("maml-en-llm")
    words = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for more in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*words, *more], check=True)
    code_version.cache_clear()
    commit = code_version()
    assert len(commit) >= 7
    assert not commit.endswith("+dirty")
    file.write_text("changed")
    code_version.cache_clear()
    assert code_version() == f"{commit}+dirty"
    code_version.cache_clear()
