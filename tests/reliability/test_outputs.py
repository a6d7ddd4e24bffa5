"""Outputs are tried before the work, have one writer, and hold no figures that are none."""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import evaluate_config, train_config
from maml_en_llm.cli import main
from maml_en_llm.config import AdaptConfig, EvaluateConfig
from maml_en_llm.evaluation.adaptation import adapt
from maml_en_llm.evaluation.prediction import predict
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.files import only_writer
from maml_en_llm.models import load_model, load_tokenizer, save_model
from maml_en_llm.reporting.report import report
from maml_en_llm.tasks.collection import Example
from maml_en_llm.training.loop import train


def test_a_second_command_on_an_output_says_who_has_it(tmp_path: Path) -> None:
    """Before anything is read: neither the collection nor the model is there."""
    nothing = tmp_path / "nothing"
    run, results = tmp_path / "run", tmp_path / "results.json"
    scored = evaluate_config(nothing, nothing, results)
    with only_writer(run), only_writer(results):
        for command, config in [
            (train, train_config(nothing, nothing, run)),
            (evaluate, scored),
            (adapt, AdaptConfig(**vars(scored))),
        ]:
            with pytest.raises(ValueError, match=f"is being written by process {os.getpid()} on "):
                command(config)  # type: ignore[operator]


def test_outputs_are_tried_before_anything_is_read(tmp_path: Path) -> None:
    nothing, folder, file = tmp_path / "nothing", tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    file.touch()
    with pytest.raises(ValueError, match="folder is a folder; give the name of a file"):
        evaluate(evaluate_config(nothing, nothing, folder))
    with pytest.raises(ValueError, match=r"a\.v1 must end in \.json"):
        adapt(AdaptConfig(**vars(evaluate_config(nothing, nothing, tmp_path / "a.v1"))))
    with pytest.raises(ValueError, match="file is a file; give the name of a folder"):
        train(train_config(nothing, nothing, file))
    with pytest.raises(ValueError, match="file is a file; give the name of a folder"):
        report([nothing], file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.fixture
def broken_model(model_folder: Path, tmp_path: Path) -> Path:
    model = load_model(model_folder)
    with torch.no_grad():
        model.transformer.ln_f.weight[3] = float("nan")
    save_model(model, load_tokenizer(model_folder), tmp_path / "broken")
    return tmp_path / "broken"


def test_scores_that_are_no_numbers_end_an_evaluation(
    collection_folder: Path, broken_model: Path, tmp_path: Path
) -> None:
    config = evaluate_config(collection_folder, broken_model, tmp_path / "results.json")
    with pytest.raises(ValueError, match=r"task mood, seed 100, example 0: a score is nan"):
        evaluate(config)
    assert not config.output.exists()
    shown: Any = [Example("good", "yes"), Example("bad", "no")]
    with pytest.raises(ValueError, match="the input 'fine', example 0: a score is nan"):
        predict(str(broken_model), shown, ["yes", "no"], "fine", "cpu")


def test_a_full_disk_names_the_model_and_leaves_the_one_before(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    save_model(model, tokenizer, tmp_path / "model", {"note.txt": "before"})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*model'"):
            save_model(model, tokenizer, tmp_path / "model", {"note.txt": "after"})
    assert (tmp_path / "model" / "note.txt").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_names_the_file_in_every_verb(
    collection_folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of this process may have more than 300 bytes; the verbs that try their output first refuse that."""
    rows, shown = tmp_path / "in.csv", tmp_path / "shown.jsonl"
    rows.write_text("text,label\n" + "".join(f"ant number {n},{'ab'[n % 2]}\n" for n in range(40)))
    shown.write_text('{"input": "ant", "output": "a"}\n{"input": "bee", "output": "b"}\n')
    table = ["--source", rows, "--input", "text", "--output", "label", "--yes"]
    predict = ["--model", model_folder, "--demonstrations", shown, "--input-file", rows, "--text-column", "text"]
    scored = ["--collection", collection_folder, "--setting", "small", "--model", model_folder]
    verbs: list[list[str | Path]] = [
        ["tasks", "import", *table, "--collection"],
        ["tasks", "limit", "--collection", collection_folder, "--output"],
        ["tasks", "check", "--collection", collection_folder, "--report"],
        ["tasks", "choose", "--input", rows, "--column", "text", "--by", "random", "--count", "30", "--output"],
        ["predict", *predict, "--output"],
        ["train", *scored, "--output"],
        ["evaluate", *scored, "--output"],
        ["quickstart", "--output"],
    ]
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for number, words in enumerate(verbs):
        ending = {"predict": ".csv", "evaluate": ".json"}.get(str(words[0]), "")
        words.append(tmp_path / f"out{number}{ending}")
        monkeypatch.setattr("sys.stderr", said := io.StringIO())
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, limit[1]))
        try:
            assert main([str(word) for word in words]) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        last = said.getvalue().splitlines()[-1]
        assert "File too large" in last, words
        assert f"out{number}" in last, words
    signal.signal(signal.SIGXFSZ, handler)


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    """Nor are those that a verb writes next to its output; and this is said before anything is read."""
    nothing = tmp_path / "nothing"
    rows, shown = tmp_path / "in.csv", tmp_path / "shown.jsonl"
    rows.write_text("text\nant\n")
    shown.write_text('{"input": "ant", "output": "a"}\n{"input": "bee", "output": "b"}\n')

    def scored(output: Path) -> EvaluateConfig:
        return evaluate_config(nothing, nothing, output)

    def predicted(output: Path) -> None:
        words = [
            "predict",
            "--model",
            "starter",
            "--demonstrations",
            shown,
            "--input-file",
            rows,
            "--text-column",
            "text",
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stderr", said := io.StringIO())
            assert main([str(word) for word in (*words, "--output", output)]) == 2
        raise ValueError(said.getvalue())

    verbs: list[tuple[Callable[[Path], Any], str, list[str]]] = [
        (lambda output: evaluate(scored(output)), "a.json", ["json", "predictions.jsonl", "unfinished.jsonl"]),
        (lambda output: adapt(AdaptConfig(**vars(scored(output)))), "b.json", ["json", "before.predictions.jsonl"]),
        (predicted, "c.csv", ["csv", "csv.bad-rows.jsonl", "csv.unfinished.jsonl"]),
    ]
    for verb, output, endings in verbs:
        for ending in endings:
            path = tmp_path / f"{output[0]}.{ending}"
            path.write_text("mine")
            with pytest.raises(ValueError, match=r"exists (already|and was not .* this command); choose another"):
                verb(tmp_path / output)
            assert path.read_text() == "mine"
            path.unlink()
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "shown.jsonl"}


def test_what_is_no_name_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nothing = Path("nothing")
    for output in (Path(), Path(".."), Path("/")):
        for verb in (train_config(nothing, nothing, output), evaluate_config(nothing, nothing, output)):
            with pytest.raises(ValueError, match=r"is no name of a new (file|folder); give one"):
                evaluate(verb) if isinstance(verb, EvaluateConfig) else train(verb)
        with pytest.raises(ValueError, match="is no name of a new folder"):
            report([nothing], output)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("label", ["", " ", "a\nb", "\x1b[31mred", "x" * 201, "\u202eabc"])
def test_labels_can_be_shown(label: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without control characters"):
        evaluate_config(tmp_path, tmp_path, tmp_path, label=label)
    evaluate_config(tmp_path, tmp_path, tmp_path, label="MetaICL / 日本 [red]")
