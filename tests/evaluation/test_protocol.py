from __future__ import annotations

import json
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import evaluate_config, make_collection, train_config
from maml_en_llm.config import EvaluateConfig
from maml_en_llm.evaluation import protocol
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.models import load_model, load_tokenizer
from maml_en_llm.prediction import in_context, predictor
from maml_en_llm.prediction.metrics import score
from maml_en_llm.prompts.demonstrations import fixed_demonstrations
from maml_en_llm.prompts.layout import EncodedPrompt, PromptFormat
from maml_en_llm.results import read_results, to_json
from maml_en_llm.tasks.collection import load_collection
from maml_en_llm.training.loop import train


def read_predictions(output: Path) -> list[dict[str, Any]]:
    lines = output.with_suffix(".predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def negative_log_likelihood(model: Any, prompt: EncodedPrompt) -> float:
    """Mean over the answer tokens of one prompt, encoded on its own."""
    token_ids = torch.tensor([prompt.token_ids])
    with torch.no_grad():
        log_probabilities = model(token_ids).logits[0].log_softmax(dim=-1)
    places = [i for i, answered in enumerate(prompt.answer_mask) if answered and i > 0]
    return -sum(float(log_probabilities[i - 1, token_ids[0, i]]) for i in places) / len(places)


@pytest.mark.parametrize("direction", ["direct", "channel"])
@pytest.mark.parametrize(
    ("demonstrations", "overflow", "max_tokens"),
    [(4, "fit", 128), (4, "left", 128), (8, "fit", 64), (8, "left", 64), (0, "fit", 128), (0, "left", 128)],
)
def test_predictions_are_those_of_plain_encoding(
    direction: Any,
    demonstrations: int,
    overflow: Any,
    max_tokens: int,
    collection_folder: Path,
    model_folder: Path,
    tmp_path: Path,
) -> None:
    config = evaluate_config(
        collection_folder,
        model_folder,
        tmp_path / "r.json",
        direction=direction,
        demonstrations=demonstrations,
        overflow=overflow,
        max_tokens=max_tokens,
        tokens_per_forward=100,
    )
    evaluate(config)

    model, tokenizer, collection = (
        load_model(model_folder),
        load_tokenizer(model_folder),
        load_collection(collection_folder),
    )
    form = PromptFormat(direction, "newlines", max_tokens, 24, overflow)
    seeds = (100, 13) if demonstrations else (100,)
    rows = iter(read_predictions(tmp_path / "r.json"))
    cut = 0
    for name in ("mood", "choice"):
        task = collection[name]
        targets = [form.encode_targets(tokenizer, example, first=not demonstrations) for example in task.test]
        longest = max(len(target) for options in targets for target in options)
        for seed in seeds:
            shown = fixed_demonstrations(task.train, demonstrations, name, seed) if demonstrations else []
            cut += len(form.encode_demonstrations(tokenizer, shown)) + longest > max_tokens
            for index, example in enumerate(task.test):
                row = next(rows)
                prompts = form.encode_options(tokenizer, shown, example, longest)
                expected = [negative_log_likelihood(model, prompt) for prompt in prompts]
                assert (row["task"], row["seed"], row["index"]) == (name, seed, index)
                assert row["scores"] == pytest.approx(expected, abs=1e-5)
                assert row["output"] == example.output
                assert row["predicted"] == example.options[row["scores"].index(min(row["scores"]))]
    assert next(rows, None) is None
    assert bool(cut) == (max_tokens == 64)


def test_results_are_the_averages_and_worsts_of_the_predictions(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    seeds = (100, 13, 21)
    results = evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "r.json", seeds=seeds))
    rows = read_predictions(tmp_path / "r.json")
    assert len(rows) == 2 * 3 * 8
    metrics = {"mood": "macro_f1", "choice": "accuracy"}
    by_task: dict[str, list[float]] = {}
    for task, metric in metrics.items():
        for seed in seeds:
            mine = [row for row in rows if (row["task"], row["seed"]) == (task, seed)]
            by_task.setdefault(task, []).append(
                score(metric, [row["output"] for row in mine], [row["predicted"] for row in mine])
            )
        found = results.tasks[task]
        assert found.metric == metric
        assert found.examples == 8
        assert found.scores == dict(zip(map(str, seeds), by_task[task], strict=True))
        assert found.average == pytest.approx(sum(by_task[task]) / 3)
        assert found.worst == min(by_task[task])
        assert found.unseen_domain == (task == "choice")
    counts = results.tasks["mood"].confusion
    assert counts is not None
    assert results.tasks["choice"].confusion is None
    pairs = Counter((row["output"], row["predicted"]) for row in rows if row["task"] == "mood")
    assert {(gold, option): n for gold, by_option in counts.items() for option, n in by_option.items()} == pairs
    test, unseen = results.summary["test"], results.summary["unseen_domain_test"]
    mood, choice = by_task["mood"], by_task["choice"]
    assert test.average == pytest.approx((sum(mood) / 3 + sum(choice) / 3) / 2)
    assert test.worst == pytest.approx((min(mood) + min(choice)) / 2)
    assert (test.tasks, test.tasks_named, test.examples) == (2, 2, 16)
    assert unseen.average == pytest.approx(sum(choice) / 3)
    assert unseen.worst == min(choice)
    assert to_json(read_results(tmp_path / "r.json")) == to_json(results)


def test_only_the_unseen_domains(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    results = evaluate(
        evaluate_config(collection_folder, model_folder, tmp_path / "r.json", subset="unseen_domain_test")
    )
    assert list(results.tasks) == ["choice"]
    assert list(results.summary) == ["unseen_domain_test"]


def test_only_the_first_examples(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "few.json", max_examples=3))
    evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "all.json"))
    few, everything = read_predictions(tmp_path / "few.json"), read_predictions(tmp_path / "all.json")
    keys = [(row["task"], row["seed"], row["index"]) for row in few]
    assert len(few) == 2 * 2 * 3
    assert keys == [(r["task"], r["seed"], r["index"]) for r in everything if r["index"] < 3]


def test_several_orders_leave_the_scores_of_the_first(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    one = evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "one.json"))
    three = evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "three.json", orders=3))
    assert three.summary == one.summary
    rows = read_predictions(tmp_path / "three.json")
    first = [row for row in rows if not row["order"]]
    assert first == read_predictions(tmp_path / "one.json")
    assert len(rows) == 3 * len(first)
    for name, task in three.tasks.items():
        by_order = task.scores_by_order or {}
        assert replace(task, scores_by_order=None) == one.tasks[name]
        assert {seed: scores[0] for seed, scores in by_order.items()} == task.scores
        for order in (1, 2):
            shuffled = [row for row in rows if (row["task"], row["seed"], row["order"]) == (name, 13, order)]
            assert [row["scores"] for row in shuffled] != [
                row["scores"] for row in first if (row["task"], row["seed"]) == (name, 13)
            ]
            gold, predicted = ([row[key] for row in shuffled] for key in ("output", "predicted"))
            assert by_order["13"][order] == score(task.metric, gold, predicted)


def test_without_demonstrations_there_is_one_order(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    config = evaluate_config(collection_folder, model_folder, tmp_path / "r.json", orders=3, demonstrations=0)
    assert all(task.scores_by_order is None for task in evaluate(config).tasks.values())


def test_free_form_tasks_are_left_out_and_named(
    collection_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "r.json", setting="free"))
    assert list(results.tasks) == ["mood"]
    assert results.summary["test"].tasks == 1
    assert results.summary["test"].tasks_named == 2
    assert results.summary["unseen_domain_test"].average is None
    assert "left out, because free-form tasks have no options to score: turn" in capsys.readouterr().err


def test_evaluating_changes_no_weight(
    collection_folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []

    def remember(*arguments: Any) -> Any:
        loaded.append(load_model(*arguments))
        return loaded[-1]

    monkeypatch.setattr(predictor, "load_model", remember)
    files = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "r.json"))
    assert {path.name: path.read_bytes() for path in model_folder.iterdir()} == files
    fresh = dict(load_model(model_folder).named_parameters())
    assert all(torch.equal(p, fresh[name]) for name, p in loaded[0].named_parameters())


def stop_in_task_seed(monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
    """The user presses Ctrl-C in the scoring of that (task, seed), counted from 1; returns what gets scored."""
    scored: list[str] = []

    def counting(*arguments: Any) -> Any:
        scored.append("")
        if len(scored) == number:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments)

    original = in_context.score_targets
    monkeypatch.setattr(in_context, "score_targets", counting)
    return scored


def test_a_stopped_evaluation_continues_without_computing_again(
    collection_folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "whole.json"))
    config = evaluate_config(collection_folder, model_folder, tmp_path / "cut.json")
    scored = stop_in_task_seed(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt, match="the same command continues"):
        evaluate(config)
    assert len(scored) == 3
    assert not (tmp_path / "cut.json").exists()
    with (tmp_path / "cut.unfinished.jsonl").open("a") as file:
        file.write('{"task": "choice", "se')  # as if the machine had gone down while writing

    results = evaluate(config)
    assert len(scored) == 4
    assert results.tasks == whole.tasks
    assert results.summary == whole.summary
    assert read_predictions(tmp_path / "cut.json") == read_predictions(tmp_path / "whole.json")
    assert not (tmp_path / "cut.unfinished.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "again"),
    [({"max_examples": 5}, 4), ({"overflow": "left"}, 4), ({"seeds": (100, 21)}, 4), ({"tokens_per_forward": 50}, 2)],
)
def test_another_evaluation_does_not_continue_a_stopped_one(
    change: dict[str, Any],
    again: int,
    collection_folder: Path,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unless it computes the same."""
    scored = stop_in_task_seed(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "r.json"))
    scored.clear()
    monkeypatch.undo()
    scored = stop_in_task_seed(monkeypatch, 99)
    evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "r.json", **change))
    assert len(scored) == again


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "Raw LM"),
        ({"demonstrations": 0}, "No ICL"),
        ({"direction": "channel"}, "Channel Raw LM"),
        ({"direction": "channel", "demonstrations": 0}, "Channel No ICL"),
        ({"calibrate": True}, "Raw LM + PMI"),
        ({"label": "mine"}, "mine"),
    ],
)
def test_labels_of_an_untrained_model(
    changes: dict[str, Any], label: str, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    config = evaluate_config(collection_folder, model_folder, tmp_path / "r.json", max_examples=1, **changes)
    assert evaluate(config).row.label == label


def plain_config(collection: Path, model: Path, output: Path, **changes: Any) -> EvaluateConfig:
    """With everything about prompts left to how the model was trained."""
    return EvaluateConfig(
        collection=collection,
        model=str(model),
        output=output,
        setting="small",
        seeds=(100, 13),
        max_examples=1,
        device="cpu",
        **changes,
    )


@pytest.mark.parametrize(
    ("trained", "label", "shown"),
    [
        ({"method": "maml-en-llm", "copies": 2, "direction": "channel"}, "Channel MAML-2-2", 3),
        ({"method": "metaicl", "layout": "metaicl"}, "MetaICL", 3),
        ({"method": "multitask-zero-shot"}, "Multi-task zero-shot", 0),
    ],
)
def test_a_trained_model_is_evaluated_as_it_was_trained(
    trained: dict[str, Any], label: str, shown: int, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    model = train(train_config(collection_folder, model_folder, tmp_path / "run", **trained))
    results = evaluate(plain_config(collection_folder, model, tmp_path / "r.json"))
    assert results.row.label == label
    assert (results.row.demonstrations, results.row.labels_used) == (shown, shown)
    assert results.row.direction == trained.get("direction", "direct")
    assert results.row.layout == trained.get("layout", "newlines")
    assert (results.row.max_tokens, results.row.max_tokens_per_example) == (96, 24)
    assert results.seeds == ((100, 13) if shown else (100,))
    assert results.row.method == trained["method"]
    assert results.row.baseline == (None if trained["method"] == "metaicl" else "metaicl")
    assert results.row.training is not None
    assert results.row.training.copies == trained.get("copies")
    assert results.row.training.updates == 8 // (4 if "copies" in trained else 1)
    assert results.row.model == model_folder.name


def test_calibration_subtracts_the_score_of_no_input(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    for calibrate in (False, True):
        output = tmp_path / f"{calibrate}.json"
        evaluate(evaluate_config(collection_folder, model_folder, output, calibrate=calibrate, seeds=(100,)))
    raw, calibrated = read_predictions(tmp_path / "False.json"), read_predictions(tmp_path / "True.json")
    model, tokenizer, collection = (
        load_model(model_folder),
        load_tokenizer(model_folder),
        load_collection(collection_folder),
    )
    form = PromptFormat("direct", "newlines", 128, 24)
    for before, after in zip(raw, calibrated, strict=True):
        task = collection[before["task"]]
        shown = fixed_demonstrations(task.train, 4, task.name, 100)
        example = task.test[before["index"]]
        neutral = type(example)("N/A", example.output, example.options)
        base = [negative_log_likelihood(model, prompt) for prompt in form.encode_options(tokenizer, shown, neutral)]
        difference = [s - c for s, c in zip(before["scores"], after["scores"], strict=True)]
        assert difference == pytest.approx(base, abs=1e-5)


def test_calibration_of_a_channel_model_is_refused(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    config = evaluate_config(collection_folder, model_folder, tmp_path / "r.json", calibrate=True, direction="channel")
    with pytest.raises(ValueError, match="calibrate is read in the direct direction only"):
        evaluate(config)


def test_what_is_not_there_is_found_before_any_scoring(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_collection(tmp_path / "collection")
    scored = stop_in_task_seed(monkeypatch, 99)
    with pytest.raises(ValueError, match=r"mood/dev\.jsonl does not exist: the task mood has no dev examples"):
        evaluate(evaluate_config(folder, model_folder, tmp_path / "r.json", split="dev"))
    (folder / "data" / "choice" / "test.jsonl").unlink()
    with pytest.raises(ValueError, match=r"choice/test\.jsonl does not exist"):
        evaluate(evaluate_config(folder, model_folder, tmp_path / "r.json"))
    folder = make_collection(tmp_path / "again")
    train_file = folder / "data" / "choice" / "train.jsonl"
    train_file.write_text(train_file.read_text().splitlines(keepends=True)[0])
    with pytest.raises(ValueError, match="the task choice has 1 train examples, fewer than the 4 demonstrations"):
        evaluate(evaluate_config(folder, model_folder, tmp_path / "r.json"))
    assert scored == []


def test_prompts_longer_than_the_context_are_refused(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"max_tokens is 512 but .* reads at most 256; lower --max-tokens"):
        evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "r.json", max_tokens=512))


@pytest.mark.parametrize("overflow", ["fit", "left"])
def test_instructions_are_read_before_the_demonstrations(
    collection_folder: Path, model_folder: Path, tmp_path: Path, overflow: Any
) -> None:
    """Scores equal those of whole prompts, each encoded on its own; a task without an instruction is as ever."""
    room: dict[str, Any] = {"max_tokens": 96, "demonstrations": 6, "overflow": overflow}
    config = evaluate_config(collection_folder, model_folder, tmp_path / "i.json", instructions=True, **room)
    evaluate(config)
    evaluate(replace(config, output=tmp_path / "p.json", instructions=None))
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    collection = load_collection(collection_folder)
    form = PromptFormat("direct", "newlines", 96, 24)
    task, head = collection["mood"], tokenizer("Say how it feels.")["input_ids"]
    targets = [form.encode_targets(tokenizer, example, first=False) for example in task.test]
    longest = max(len(target) for options in targets for target in options)
    plain = {(r["task"], r["seed"], r["index"]): r for r in read_predictions(tmp_path / "p.json")}
    for row in read_predictions(tmp_path / "i.json"):
        before = plain[row["task"], row["seed"], row["index"]]
        if row["task"] == "choice":
            assert row == before
            continue
        assert row["scores"] != before["scores"]
        shown = fixed_demonstrations(task.train, 6, "mood", row["seed"])
        behind = form.encode_demonstrations(tokenizer, shown, first=False)
        for value, target in zip(row["scores"], targets[row["index"]], strict=True):
            room_left = 96 - len(head) - (longest if overflow == "fit" else len(target))
            ids = [*head, *behind[-room_left:], *target.context, *target.answer]
            mask = [False] * (len(ids) - len(target.answer)) + [True] * len(target.answer)
            assert value == pytest.approx(negative_log_likelihood(model, EncodedPrompt(ids, mask)), abs=1e-5)


def test_a_model_trained_with_instructions_is_scored_with_them(
    collection_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = train(train_config(collection_folder, model_folder, tmp_path / "run", method="metaict"))
    assert "left out, because the manifest has no instruction for them: size, swap" in capsys.readouterr().err
    assert json.loads((model / "maml_en_llm.json").read_text())["training_tasks"] == ["colour", "pick"]
    results = evaluate(evaluate_config(collection_folder, model, tmp_path / "r.json"))
    assert "scored without an instruction, because the manifest has none: choice" in capsys.readouterr().err
    assert (results.row.label, results.row.instructions) == ("MetaICT", True)


def test_validation_scores_held_out_train_examples_behind_others(
    collection_folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: dict[str, set[str]] = {}
    original = in_context.InContext.scores

    def scoring(self: Any, task: Any, *rest: Any) -> Any:
        pools[task.name] = {example.input for example in task.bank}
        return original(self, task, *rest)

    monkeypatch.setattr(in_context.InContext, "scores", scoring)
    config = evaluate_config(collection_folder, model_folder, tmp_path / "v.json", split="validation")
    assert all(task.examples == 4 for task in evaluate(config).tasks.values())  # a fifth of 20
    collection = load_collection(collection_folder)
    for name in ("mood", "choice"):
        held_out = {example.input for example in protocol.scored_examples(config, collection[name])}
        assert len(held_out) == 4
        assert pools[name] | held_out == {example.input for example in collection[name].train}
        assert not pools[name] & held_out


def test_limited_data_scores_a_tenth(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    config = evaluate_config(collection_folder, model_folder, tmp_path / "l.json", data_amount="limited")
    assert all(task.examples == 1 for task in evaluate(config).tasks.values())  # of 8
