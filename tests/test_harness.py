"""Tasks for lm-evaluation-harness, and the harness itself on them: same prompts, same likelihoods."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from builders import make_task, train_config, write_setting
from maml_en_llm.cli import main
from maml_en_llm.harness import export
from maml_en_llm.models import load_tokenizer
from maml_en_llm.prediction.in_context import InContext
from maml_en_llm.prediction.predictor import LabelledTask, LoadedModel
from maml_en_llm.prompts.demonstrations import fixed_demonstrations
from maml_en_llm.prompts.layout import PromptFormat
from maml_en_llm.prompts.style import PromptStyle
from maml_en_llm.tasks.collection import Collection, load_collection
from maml_en_llm.training.loop import train


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    folder = tmp_path_factory.mktemp("harness") / "collection"
    make_task(folder, "colour", ["red", "blue"])
    make_task(folder, "mood", ["glad", "sad", "neither of the two"])
    make_task(folder, "pick one: a, b", None)
    make_task(folder, "swap", [])
    write_setting(folder, "small", ["colour"], ["mood", "pick one: a, b", "swap"], [])
    return load_collection(folder)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("layout", ["newlines", "spaces"])
def test_what_the_harness_joins_is_our_prompt(
    layout: Any, collection: Collection, model_folder: Path, tmp_path: Path
) -> None:
    export(collection, ["mood"], tmp_path / "out", "x", demonstrations=3, seed=13, layout=layout)
    text = (tmp_path / "out" / "mood" / "task.yaml").read_text()
    config = yaml.safe_load(text.replace("!function", ""))
    tokenizer, form = load_tokenizer(model_folder), PromptFormat(layout=layout)
    shown = fixed_demonstrations(collection["mood"].train, 3, "mood", 13)
    few = lines(tmp_path / "out" / "mood" / "demonstrations.jsonl")
    assert [row["input"] for row in few] == [example.input for example in shown]
    between, before = config["fewshot_delimiter"], config["target_delimiter"]
    front = "".join(row["input"] + before + row["options"][row["label"]] + between for row in few)
    tests = lines(tmp_path / "out" / "mood" / "test.jsonl")
    assert len(tests) == len(collection["mood"].test)
    for row, example in zip(tests, collection["mood"].test, strict=True):
        assert row["options"][row["label"]] == example.output
        for option, prompt in zip(row["options"], form.encode_options(tokenizer, shown, example), strict=True):
            assert tokenizer.decode(prompt.token_ids) == front + row["input"] + before + option


def test_the_command_writes_the_target_tasks(
    collection: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tasks", "export", "--collection", str(collection.path), "--output", str(tmp_path / "out")]
    assert main([*words, "--setting", "small", "--demonstrations", "2"]) == 0
    printed = capsys.readouterr()
    assert "left out, because free-form tasks have no options: swap" in printed.err
    assert "--tasks maml_small" in printed.out
    group = yaml.safe_load((tmp_path / "out" / "collection.yaml").read_text())
    assert group["task"] == ["maml_mood", "maml_pick_one_a_b"]
    assert main([*words, "--task", "colour", "--demonstrations", "0"]) == 0  # it replaces what it made
    assert not (tmp_path / "out" / "mood").exists()
    assert not (tmp_path / "out" / "colour" / "demonstrations.jsonl").exists()
    (tmp_path / "out" / "mine.txt").write_text("x")
    assert main([*words, "--task", "colour"]) == 2
    assert "holds mine.txt, which tasks export did not write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "give --setting NAME for its target tasks, or --task NAME"),
        (["--setting", "small", "--task", "mood"], "give --setting NAME"),
        (["--task", "nowhere"], "has no task 'nowhere'"),
        (["--task", "swap"], "task swap, test example 0 has no options"),
        (["--task", "mood", "--demonstrations", "-1"], "must not be negative"),
        (["--task", "mood", "--demonstrations", "99"], "has 20 train examples, fewer than the 99"),
        (["--setting", "nowhere"], "there is no setting 'nowhere'"),
    ],
)
def test_bad_input_is_one_sentence(
    flags: list[str], words: str, collection: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--collection", str(collection.path), "--output", str(tmp_path / "out")]
    assert main(["tasks", "export", *places, *flags]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="needs lm_eval, which the extra `lm-eval` installs"
)
@pytest.mark.slow
@pytest.mark.parametrize("demonstrations", [0, 3])
def test_lm_eval_agrees(demonstrations: int, starter_folder: Path, tmp_path: Path) -> None:
    collection, names = load_collection(starter_folder), ["reviews-positive-or-negative", "home-order"]
    changes: dict[str, Any] = {"batches": 4, "max_tokens": 1024, "max_tokens_per_example": 256, "setting": "starter"}
    model = train(train_config(starter_folder, Path("starter"), tmp_path / "run", "metaicl", **changes))
    (group, *known) = export(collection, names, tmp_path / "out", "two", demonstrations, seed=100)
    words = f"--model hf --model_args pretrained={model},dtype=float32 --device cpu --tasks {group} --limit 20"
    words += f" --include_path {tmp_path / 'out'} --log_samples --output_path {tmp_path / 'scores'}"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lm_eval", *words.split()]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded, form = LoadedModel(str(model), "cpu"), PromptFormat()
    ours = InContext(loaded, PromptStyle(form, demonstrations))
    (results,) = (tmp_path / "scores").rglob("results_*.json")
    scored = json.loads(results.read_text())["results"]
    for task, name in zip(names, known, strict=True):
        (samples,) = (tmp_path / "scores").rglob(f"samples_{name}_*.jsonl")
        theirs = sorted(lines(samples), key=lambda row: int(row["doc_id"]))
        examples = collection[task].test[:20]
        scores = ours.scores(LabelledTask(task, collection[task].train), examples, seed=100)
        right = []
        for row, example, mean in zip(theirs, examples, scores, strict=True):
            targets = form.encode_targets(loaded.tokenizer, example, first=not demonstrations)
            sums = [-value * len(target.answer) for value, target in zip(mean, targets, strict=True)]
            np.testing.assert_allclose([float(response[0]) for response in row["filtered_resps"]], sums, atol=1e-4)
            lengths = {len(target.answer) for target in targets}
            assert len(lengths) == 1  # so that the highest sum and the lowest mean are one
            right.append(example.options[int(np.argmin(mean))] == example.output)
        assert scored[name]["acc,none"] == pytest.approx(np.mean(right), abs=1e-4)
