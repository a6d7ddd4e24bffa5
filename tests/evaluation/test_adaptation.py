from __future__ import annotations

import json
import signal
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import evaluate_config
from maml_en_llm.cli import main
from maml_en_llm.config import AdaptConfig
from maml_en_llm.evaluation import adaptation
from maml_en_llm.evaluation.adaptation import adapt, adaptation_prompts
from maml_en_llm.evaluation.protocol import Evaluation, evaluate
from maml_en_llm.models import load_model
from maml_en_llm.prediction import in_context
from maml_en_llm.results import Adaptation, TaskScores, read_results, to_json


def adapt_config(collection: Path, model: Path, output: Path, **changes: Any) -> AdaptConfig:
    plain = vars(evaluate_config(collection, model, output))
    return AdaptConfig(**(plain | {"lr": 1e-2, "adaptation_examples": 6, "adaptation_tokens": 48} | changes))


def predictions(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_task_is_learned_by_plain_steps_from_the_same_start(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    config = adapt_config(collection_folder, model_folder, tmp_path / "a.json")
    results = adapt(config)
    plain = evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "e.json"))
    assert results.tasks.keys() == plain.tasks.keys()
    for name, task in results.tasks.items():
        scores = plain.tasks[name]
        assert task.before == TaskScores(**{f.name: getattr(scores, f.name) for f in fields(TaskScores)})
    assert results.before == plain.summary
    assert results.row.adaptation == Adaptation(examples=6, steps=6, lr=1e-2)
    assert (results.row.labels_used, results.row.model) == (4 + 6, model_folder.name)
    assert to_json(read_results(tmp_path / "a.json")) == to_json(results)
    assert predictions(tmp_path / "a.before.predictions.jsonl") == predictions(tmp_path / "e.predictions.jsonl")

    job = Evaluation(config)
    after = predictions(tmp_path / "a.predictions.jsonl")
    for task in job.tasks:
        model = load_model(model_folder)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
        for prompt in adaptation_prompts(job, config, task):
            ids = torch.tensor([prompt.token_ids])
            places = torch.tensor(prompt.answer_mask).nonzero().squeeze(1)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(ids).logits[0, places - 1], ids[0, places]).backward()
            optimizer.step()
        model.save_pretrained(tmp_path / task.name)
        job.model.scorer.model.load_state_dict(model.state_dict())
        expected = {seed: job.predict(task, seed) for seed in job.seeds}
        for row in (row for row in after if row["task"] == task.name):
            assert row["scores"] == pytest.approx(expected[row["seed"]][row["index"]].scores, abs=1e-4)
    assert [row["scores"] for row in after] != [row["scores"] for row in predictions(tmp_path / "e.predictions.jsonl")]


def test_a_learning_rate_of_zero_changes_nothing(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    results = adapt(adapt_config(collection_folder, model_folder, tmp_path / "a.json", lr=0.0))
    assert results.summary == results.before
    assert predictions(tmp_path / "a.predictions.jsonl") == predictions(tmp_path / "a.before.predictions.jsonl")


@pytest.mark.parametrize("instructions", [False, True])
def test_prompts_hold_other_examples_that_fit_and_never_the_target(
    collection_folder: Path, model_folder: Path, tmp_path: Path, instructions: bool
) -> None:
    room: dict[str, Any] = {"max_tokens_per_example": 64, "adaptation_tokens": 96, "instructions": instructions}
    config = adapt_config(collection_folder, model_folder, tmp_path / "a.json", **room)
    job = Evaluation(config)
    mood = next(task for task in job.tasks if task.name == "mood")
    prompts = adaptation_prompts(job, config, mood)
    assert prompts == adaptation_prompts(job, config, mood)
    assert prompts != adaptation_prompts(job, replace(config, adaptation_seed=1), mood)
    inputs = {example.input: example.output for example in mood.train}
    drawn = []
    for prompt in prompts:
        assert len(prompt.token_ids) <= 96
        text = job.model.tokenizer.decode(prompt.token_ids)
        assert text.startswith("Say how it feels.\n\n\n") == instructions
        *shown, target = text.removeprefix("Say how it feels.\n\n\n").split("\n\n\n")
        pairs = [example.split("\n") for example in (*shown, target)]
        assert all(inputs[question] == answer for question, answer in pairs)
        assert len({question for question, _ in pairs}) == len(pairs)
        drawn.append(pairs[-1][0])
        answer = [token for token, is_answer in zip(prompt.token_ids, prompt.answer_mask, strict=True) if is_answer]
        assert job.model.tokenizer.decode(answer) == f"\n{pairs[-1][1]}"
    assert len(set(drawn)) == 6
    lengths = [len(adaptation_prompts(job, replace(config, adaptation_tokens=n), mood)[0].token_ids) for n in (64, 160)]
    assert lengths[0] <= 64 < lengths[1] <= 160


def test_a_stopped_adaptation_continues_with_the_next_task_seed(
    collection_folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = adapt(adapt_config(collection_folder, model_folder, tmp_path / "whole.json"))
    original, scored, learned = in_context.score_targets, [], []

    def counting(*arguments: Any) -> Any:
        scored.append("")
        if len(scored) == 4:  # of the first task: before and after, two seeds each
            signal.raise_signal(signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(in_context, "score_targets", counting)
    config = adapt_config(collection_folder, model_folder, tmp_path / "cut.json")
    with pytest.raises(KeyboardInterrupt, match="the same command continues"):
        adapt(config)
    assert not config.output.exists()
    learn = adaptation.learn
    monkeypatch.setattr(adaptation, "learn", lambda *a: learned.append("") or learn(*a))
    resumed = adapt(config)
    assert len(scored) == 8
    assert len(learned) == 1  # the second task alone
    assert (resumed.tasks, resumed.summary) == (whole.tasks, whole.summary)
    assert predictions(tmp_path / "cut.predictions.jsonl") == predictions(tmp_path / "whole.predictions.jsonl")
    assert not list(tmp_path.glob("*.unfinished*"))


def test_the_command_prints_before_and_after(
    collection_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"adapt --model {model_folder} --collection {collection_folder} --setting small --device cpu"
    small = f"--demonstrations 3 --max-tokens 96 --max-tokens-per-example 24 --seeds 100 --output {tmp_path}/a.json"
    assert main([*words.split(), *small.split(), "--adaptation-examples", "2"]) == 0
    before, after, path = capsys.readouterr().out.splitlines()
    assert before.startswith("test: ")
    assert after.startswith("unseen_domain_test: ")
    assert path == f"{tmp_path}/a.json"
    assert json.loads(Path(path).read_text())["row"]["label"] == "Raw LM + adaptation"
    assert main([*words.split(), *small.split(), "--adaptation-examples", "21"]) == 2
    assert "mood has 20 train examples, fewer than the 21 to adapt to" in capsys.readouterr().err
    assert main([*words.split(), *small.split(), "--lr", "-1"]) == 2
    assert "lr is -1.0; it must not be negative" in capsys.readouterr().err
