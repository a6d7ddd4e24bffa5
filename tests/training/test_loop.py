from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from builders import make_collection, train_config
from interruptions import Killed, assert_same_run, crash, ctrl_c, in_update
from maml_en_llm.cli import main
from maml_en_llm.methods import method_names
from maml_en_llm.training.checkpoint import read_metrics, read_training_config
from maml_en_llm.training.loop import train

METHODS = method_names()


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_interrupted_and_resumed_is_bitwise_the_same(
    method: str, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    whole = train_config(collection_folder, model_folder, tmp_path / "whole", method=method, log_every=2)
    assert train(whole) == tmp_path / "whole" / "model"
    cut = train_config(collection_folder, model_folder, tmp_path / "cut", method=method, log_every=2)
    with in_update(3, ctrl_c), pytest.raises(KeyboardInterrupt, match=r"add --resume"):
        train(cut)
    assert not (tmp_path / "cut" / "model").exists()
    assert len(list((tmp_path / "cut" / "checkpoints").iterdir())) == 1
    train(cut, resume=True)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    assert not (tmp_path / "cut" / "checkpoints").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "maml-en-llm", "copies": 2, "inner_steps": 2, "batches": 40, "batch_size": 2},
        {"method": "maml-en-llm", "sampling": "same_task", "inner_optimizer": "sgd", "momentum": 0.9},
        {"method": "maml-en-llm", "shared_moments": False, "order": "first"},
        {"method": "maml-en-llm", "optimizer": "sgd", "inner_optimizer": "sgd", "direction": "channel"},
        {"method": "metaicl", "optimizer": "sgd", "momentum": 0.9, "warmup": 0.5, "schedule": "constant"},
        {"method": "maml-en-llm", "label_words": "redrawn", "predicted": "answers"},
    ],
    ids=["copies", "same-task", "first-own-moments", "sgd-channel", "metaicl-sgd", "redrawn"],
)
def test_resuming_from_a_checkpoint_drops_what_came_after_it(
    changes: dict[str, Any],
    collection_folder: Path,
    model_folder: Path,
    tmp_path: Path,
) -> None:
    changes = {"batches": 10} | changes
    train(train_config(collection_folder, model_folder, tmp_path / "whole", **changes))
    group = train_config(collection_folder, model_folder, tmp_path, **changes).batches_per_update
    cut = train_config(collection_folder, model_folder, tmp_path / "cut", **changes, checkpoint_every=3 * group)

    with in_update(5, crash), pytest.raises(Killed):
        train(cut)
    (checkpoint,) = (tmp_path / "cut" / "checkpoints").iterdir()
    assert int(checkpoint.name.partition("-")[0]) == 3 * group
    assert read_metrics(tmp_path / "cut")[-1]["batches"] == 4 * group
    train(cut, resume=True)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_a_crash_before_the_first_checkpoint_starts_anew(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    config = train_config(collection_folder, model_folder, tmp_path / "cut", method="metaicl")

    with in_update(3, crash), pytest.raises(Killed):
        train(config)
    train(config, resume=True)
    train(train_config(collection_folder, model_folder, tmp_path / "whole", method="metaicl"))
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_an_error_between_updates_loses_none_of_them(
    collection_folder: Path,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The third update's batches cannot be made, as when a file has gone."""
    cut = train_config(collection_folder, model_folder, tmp_path / "cut", batches=6)
    learner_type = type(cut).learner

    def failing(self: Any, model: Any, sampler: Any) -> Any:
        learner = learner_type(self, model, sampler)
        plain = learner.batches

        def batches(update: int) -> Any:
            if update == 2:
                raise MemoryError
            return plain(update)

        learner.batches = batches  # type: ignore[method-assign]
        return learner

    with monkeypatch.context() as patch:
        patch.setattr(type(cut), "learner", failing)
        with pytest.raises(MemoryError):
            train(cut)
    seen = 2 * cut.batches_per_update
    assert f"an error after {seen} batches; they are in a checkpoint" in capsys.readouterr().err
    (checkpoint,) = (tmp_path / "cut" / "checkpoints").iterdir()
    assert int(checkpoint.name.partition("-")[0]) == seen
    train(cut, resume=True)
    train(train_config(collection_folder, model_folder, tmp_path / "whole", batches=6))
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_an_error_within_an_update_leaves_no_half_of_it(
    collection_folder: Path,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model fails at forward passes around those of the second update: before its inner step and behind it."""
    from transformers import GPT2LMHeadModel

    forward, count = GPT2LMHeadModel.forward, 0
    train(train_config(collection_folder, model_folder, tmp_path / "whole", batches=4))
    saved = []
    for passes in (4, 5, 6):
        cut, count = train_config(collection_folder, model_folder, tmp_path / f"cut {passes}", batches=4), 0

        def failing(*arguments: Any, passes: int = passes, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == passes:
                raise MemoryError
            return forward(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(GPT2LMHeadModel, "forward", failing)
            with pytest.raises(MemoryError):
                train(cut)
        saved.append(len(list((cut.output / "checkpoints").glob("*"))))
        train(cut, resume=True)
        assert_same_run(cut.output, tmp_path / "whole")
    assert 0 < sum(saved) < len(saved)  # where the inner step had begun to change the moments there is none


@pytest.mark.parametrize("method", ["metaicl", "maml-en-llm"])
@pytest.mark.slow
def test_ctrl_c_and_resume_on_the_command_line(
    method: str,
    collection_folder: Path,
    model_folder: Path,
    tmp_path: Path,
    command: Callable[..., subprocess.Popen[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "cut"
    flags = "--setting small --batches 60 --demonstrations 1 --max-tokens 48 --max-tokens-per-example 24 --log-every 1"
    words = ["train", "--collection", collection_folder, "--model", model_folder, "--method", method]
    words += [*flags.split(), "--device", "cpu", "--lr", "1e-3"]

    process = command(*words, "--output", output)
    metrics = output / "metrics.jsonl"
    until = time.monotonic() + 60
    while not (metrics.is_file() and metrics.read_bytes().count(b"\n") > 1) and process.poll() is None:
        assert time.monotonic() < until, "no update within a minute"
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1].startswith(f"maml-en-llm train: stopped after {read_metrics(output)[-1]['batches']}")
    assert "Traceback" not in errors

    assert main([str(word) for word in [*words, "--output", output, "--resume"]]) == 0
    assert capsys.readouterr().out.strip() == str(output / "model")

    changes = {"batches": 60, "demonstrations": 1, "max_tokens": 48, "checkpoint_every": 1000}
    changes |= {"inner_lr": 1e-5} if method == "maml-en-llm" else {}
    train(train_config(collection_folder, model_folder, tmp_path / "whole", method=method, **changes))
    assert_same_run(output, tmp_path / "whole")


@pytest.mark.parametrize("method", METHODS)
def test_the_result_is_a_plain_hugging_face_folder(
    method: str, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    config = train_config(collection_folder, model_folder, tmp_path / "run", method=method, seed=7)
    folder = train(config)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    started_from = AutoModelForCausalLM.from_pretrained(model_folder)
    assert model.config.to_diff_dict() == started_from.config.to_diff_dict()
    assert tokenizer("the cat")["input_ids"] == AutoTokenizer.from_pretrained(model_folder)("the cat")["input_ids"]
    moved = [
        name
        for (name, ours), (_, theirs) in zip(model.named_parameters(), started_from.named_parameters(), strict=True)
        if not torch.equal(ours, theirs)
    ]
    assert bool(moved) == ("trainable" not in config.unread())


def test_the_model_card_says_how_the_model_was_made(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    config = train_config(collection_folder, model_folder, tmp_path / "run", copies=2, seed=7, weight_decay=0.25)
    folder = train(config)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    for stated in [
        "# MAML-2-2",
        "`maml-en-llm` (direct)",
        "seed 7",
        "Setting `small` of the collection `small`, 4 of 4",
        "colour, size, pick, swap",
        "| copies | 2 |",
        "| inner_lr | 0.001 |",
        "| weight_decay | 0.25 |",
        f"| torch | {torch.__version__} |",
        "| transformers |",
        "| maml-en-llm |",
    ]:
        assert stated in card
    record = json.loads((folder / "maml_en_llm.json").read_text(encoding="utf-8"))
    assert record["label"] == "MAML-2-2"
    assert record["config"]["seed"] == 7
    assert record["config"]["order"] == "second"
    assert record["training"]["updates"] == 2
    assert record["training_tasks"] == ["colour", "size", "pick", "swap"]
    assert record["started_from"] == model_folder.name

    second = train(train_config(collection_folder, folder, tmp_path / "second", method="metaicl", batches=2))
    assert json.loads((second / "maml_en_llm.json").read_text())["started_from"]["label"] == "MAML-2-2"


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"method": "metaicl"}, "MetaICL"),
        ({"method": "metaicl", "direction": "channel"}, "Channel MetaICL"),
        ({"method": "multitask-zero-shot"}, "Multi-task zero-shot"),
        ({"method": "maml-en-llm", "copies": 4}, "MAML-2-4"),
        ({"method": "maml-en-llm", "inner_steps": 2, "direction": "channel"}, "Channel MAML-4-1"),
        ({"method": "maml-en-llm", "order": "first"}, "FOMAML-2-1"),
    ],
)
def test_names_of_methods_in_tables(
    changes: dict[str, Any], label: str, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    folder = train(train_config(collection_folder, model_folder, tmp_path / "run", **changes))
    assert json.loads((folder / "maml_en_llm.json").read_text())["label"] == label


def test_a_run_is_not_overwritten(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    config = train_config(collection_folder, model_folder, tmp_path / "run", method="metaicl", batches=2)
    folder = train(config)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"already holds a run; add --resume to continue it or choose another"):
        train(config)
    assert train(config, resume=True) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not empty and holds no run; choose another --output"):
        train(train_config(collection_folder, model_folder, tmp_path / "thesis"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 0.5}, "has lr=0.001, now it is 0.5"),
        ({"seed": 1}, "has seed=100, now it is 1"),
        ({"setting": "free"}, "has setting=small, now it is free"),
        ({"batches": 16}, "has batches=8, now it is 16"),
        ({"adam_betas": (0.5, 0.9)}, r"has adam_betas=\(0.9, 0.999\), now it is \(0.5, 0.9\)"),
    ],
)
def test_resuming_with_another_configuration_names_the_key(
    change: dict[str, Any],
    words: str,
    collection_folder: Path,
    model_folder: Path,
    tmp_path: Path,
) -> None:
    with in_update(2, ctrl_c), pytest.raises(KeyboardInterrupt):
        train(train_config(collection_folder, model_folder, tmp_path / "run"))
    with pytest.raises(ValueError, match=rf"config\.yaml: the run to resume {words}"):
        train(train_config(collection_folder, model_folder, tmp_path / "run", **change), resume=True)
    train(train_config(collection_folder, model_folder, tmp_path / "run", checkpoint_every=4), resume=True)


def test_resuming_with_other_data_is_an_error(model_folder: Path, tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "collection")
    with in_update(2, ctrl_c), pytest.raises(KeyboardInterrupt):
        train(train_config(folder, model_folder, tmp_path / "run"))
    train_file = folder / "data" / "size" / "train.jsonl"
    train_file.write_text("".join(train_file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"the training data has changed .* --data-corrected"):
        train(train_config(folder, model_folder, tmp_path / "run"), resume=True)


def test_a_run_goes_on_with_corrected_data_when_told_to_and_says_so(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_collection(tmp_path / "collection")
    config = train_config(folder, model_folder, tmp_path / "run", batches=12, checkpoint_every=2)
    with pytest.raises(ValueError, match="add --resume or leave it out"):
        train(config, data_corrected=True)
    with in_update(4, ctrl_c), pytest.raises(KeyboardInterrupt):
        train(config)
    first = json.loads((tmp_path / "run" / "run.json").read_text())
    assert first["data_changes"] == []
    train_file = folder / "data" / "size" / "train.jsonl"
    corrected = train_file.read_text().replace("red", "ant").replace("blue", "bee")  # as many bytes or not
    for text in (corrected.replace("bee", "dog"), corrected + corrected.splitlines()[0] + "\n"):
        train_file.write_text(text)
        with pytest.raises(ValueError, match=r"(run|data)\.json: the training data has changed .* --data-corrected"):
            train(config, resume=True)
        with in_update(5, crash), pytest.raises(Killed):
            train(config, resume=True, data_corrected=True)
    words = ["train", "--config", tmp_path / "run" / "config.yaml", "--resume"]
    assert main([str(word) for word in words]) == 0  # what was said holds from then on

    record = json.loads((tmp_path / "run" / "model" / "maml_en_llm.json").read_text())["run"]
    one, two = record["data_changes"]
    assert (one["batches"], two["batches"]) == (8, 8)
    assert one["before"] == first["manifest_hash"]
    assert one["after"] == two["before"] != two["after"]
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    for change in (one, two):
        assert f"After {change['batches']} batches the training data was corrected" in card
        assert change["before"][:16] in card
        assert change["after"][:16] in card

    whole = train_config(folder, model_folder, tmp_path / "whole", batches=12)
    train(whole)
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["manifest_hash"] == two["after"]
    assert record["manifest_hash"] != two["after"]  # a model of other data


def test_data_that_was_corrected_before_the_first_checkpoint_is_no_change(model_folder: Path, tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "collection")
    config = train_config(folder, model_folder, tmp_path / "run")
    with in_update(2, crash), pytest.raises(Killed):
        train(config)
    (folder / "data" / "size" / "train.jsonl").write_bytes((folder / "data" / "size" / "test.jsonl").read_bytes())
    train(config, resume=True, data_corrected=True)
    train(train_config(folder, model_folder, tmp_path / "whole"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("run", "whole")]
    assert records[0]["manifest_hash"] == records[1]["manifest_hash"]


def test_a_start_that_failed_does_not_stand_in_the_way(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="cannot load a tokenizer from"):
        train(train_config(collection_folder, tmp_path / "typo", tmp_path / "run"))
    with pytest.raises(ValueError, match=r"max_tokens is 1024 but .* reads at most 256; lower --max-tokens"):
        train(train_config(collection_folder, model_folder, tmp_path / "run", max_tokens=1024))
    assert train(train_config(collection_folder, model_folder, tmp_path / "run")).is_dir()


def test_a_training_task_without_train_examples_is_named(model_folder: Path, tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "collection")
    (folder / "data" / "size" / "train.jsonl").unlink()
    with pytest.raises(ValueError, match=r"size/train\.jsonl does not exist: the task size has no train examples"):
        train(train_config(folder, model_folder, tmp_path / "run"))


def test_metrics_and_configuration_are_saved(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    config = train_config(collection_folder, model_folder, tmp_path / "run", batches=14, log_every=3)
    train(config)
    lines = read_metrics(tmp_path / "run")
    assert [line["batches"] for line in lines] == [2, 8, 14]  # every third update of two batches, and the last
    expected = {"batches", "loss", "support_loss", "gradient_norm", "second_order_share", "lr", "seconds"}
    assert all(line.keys() - {"steep"} == expected for line in lines)
    assert [line["lr"] for line in lines] == pytest.approx([1e-3, 1e-3 * 4 / 7, 1e-3 / 7])
    assert read_training_config(tmp_path / "run" / "config.yaml") == config


def test_learning_rate_schedule() -> None:
    def scales(**changes: Any) -> list[float]:
        config = train_config(Path(), Path(), Path(), method="metaicl", **changes)
        return [config.learning_rate_scale(update, 10) for update in range(10)]

    assert scales(schedule="constant") == [1.0] * 10
    assert scales() == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert scales(warmup=0.3)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert scales(warmup=0.3)[-1] == pytest.approx(1 / 7)
    assert scales(warmup=0.3, schedule="constant")[3:] == [1.0] * 7
