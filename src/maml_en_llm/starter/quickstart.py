"""The quick start: the whole job with the built-in model on the built-in tasks, in a few minutes on a CPU."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from ..config import EvaluateConfig
from ..evaluation.prediction import predict, read_demonstrations
from ..evaluation.protocol import evaluate
from ..files import write_text
from ..methods import method_type
from ..methods.method import Method
from ..progress import console
from ..reporting.report import report
from ..results import read_results
from ..training.loop import train
from . import starter_model
from .drawing import words
from .reader_tasks import READER, UNSEEN_FAMILIES
from .tasks import write_starter_collection

SETTING = "starter"
SEEDS = (100, 13, 21, 42, 87)
MAX_EXAMPLES = 50
LABELS = ("blick", "dax")  # of the prediction that is shown
BATCHES = 128
# Chosen on `starter-validation`, whose targets are training tasks of the quick start (docs/starter-model.md).
META: dict[str, Any] = {
    "batch_size": 16,
    "lr": 1e-3,
    "adam_betas": (0.9, 0.98),
    "warmup": 0.05,
    "predicted": "answers",
    "label_words": "redrawn",
    "trainable": "last_blocks",
    "last_blocks": 4,
}
METHODS: dict[str, dict[str, Any]] = {
    "metaicl": {"method": "metaicl"},
    "maml-2-1": {"method": "maml-en-llm", "inner_lr": 1e-3},
}
CHEAP = ("majority", "logistic", "nearest", "tfidf-logistic")  # learners of the same 16 labels
GROUPS = ("a bag of words tells", "a reader tells", "unseen rule")


def quickstart(output: Path = Path("quickstart"), model: Path | None = None, batches: int = BATCHES) -> Path:
    """Meta-trains a small language model in two ways, scores it on tasks of unseen domains and writes a report.

    Everything is in `output`; what is finished there is not done again. Returns the report's path.
    model: a Hugging Face folder, by default the built-in one. batches: training length of each method.
    """
    collection = output / "collection"
    if not (collection / "manifest.json").is_file():
        write_starter_collection(collection)
    base = starter_model() if model is None else model

    console.rule(f"{' and '.join(METHODS)}, at once")
    configs = {
        name: meta_training(collection, SETTING, base, output / name, batches, keys) for name, keys in METHODS.items()
    }
    models = {"raw-lm": base} | dict(zip(configs, train_all(list(configs.values())), strict=True))

    console.rule("evaluation")
    rows: dict[str, dict[str, Any]] = {name: {"learner": name, "model": str(base)} for name in CHEAP}
    rows |= {name: {"model": str(trained)} for name, trained in models.items()}
    rows["raw-lm"]["label"] = "Raw LM"
    results = {output / "results" / f"{name}.json": keys for name, keys in rows.items()}
    for path, keys in results.items():
        if not path.is_file():
            evaluate(
                EvaluateConfig(
                    collection=collection,
                    setting=SETTING,
                    output=path,
                    demonstrations=16,
                    seeds=SEEDS,
                    max_examples=MAX_EXAMPLES,
                    device="cpu",
                    **keys,
                )
            )
    page = report([*results, *(output / name for name in METHODS)], output / "report")
    found = [read_results(path) for path in results]
    console.print(table_of({r.row.label: {name: task.average for name, task in r.tasks.items()} for r in found}))
    show_prediction(models["maml-2-1"], output / "examples.jsonl")
    return page


def meta_training(
    collection: Path, setting: str, model: Path, output: Path, batches: int, keys: Mapping[str, Any]
) -> Method:
    """META with the `keys` of a method."""
    own = META | dict(keys)
    return method_type(own.pop("method"))(
        collection=collection,
        setting=setting,
        model=str(model),
        output=output,
        batches=batches,
        device="cpu",
        checkpoint_every=200,
        **own,
    )


def train_all(configs: list[Method]) -> list[Path]:
    """The model folder of each run; as many as torch has threads go on side by side, with one thread each.

    A small model makes little use of a second thread, and with one the result does not depend on the number of cores.
    """
    if all((config.output / "model").is_dir() for config in configs):  # nothing to share
        return [train(config, resume=True) for config in configs]
    processes = min(len(configs), torch.get_num_threads())
    context = multiprocessing.get_context("spawn")  # threads that torch has started do not survive a fork
    with ProcessPoolExecutor(processes, context, initializer=_plain_lines_and_one_thread) as pool:
        return list(pool.map(partial(train, resume=True), configs))


def _plain_lines_and_one_thread() -> None:
    os.environ["TTY_COMPATIBLE"] = "0"  # two progress bars would write over each other
    torch.set_num_threads(1)


def group_of(task: str) -> str:
    """Which of GROUPS a target task belongs to."""
    if task not in {reader.name for reader in READER}:
        return GROUPS[0]
    return GROUPS[2] if task.rpartition("-")[2] in UNSEEN_FAMILIES else GROUPS[1]


def table_of(rows: Mapping[str, Mapping[str, float]]) -> Table:
    """Mean scores of rows (scores by task, from 0 to 1) over the groups of tasks that they have, in percent."""
    tasks = list(next(iter(rows.values())))
    groups = {name: [task for task in tasks if group_of(task) == name] for name in GROUPS}
    table = Table("16 labelled examples, macro-F1 in %", title="Tasks of unseen domains")
    groups = {name: members for name, members in groups.items() if members}
    for name, members in groups.items():
        table.add_column(f"{name}\n({len(members)} tasks)", justify="right")
    for label, scores in rows.items():
        means = [sum(scores[task] for task in members) / len(members) for members in groups.values()]
        table.add_row(label, *(f"{100 * mean:.1f}" for mean in means))
    return table


def show_prediction(model: Path, path: Path) -> None:
    """Predicts one input behind the examples in `path`, which the user can edit, and says how to ask again."""
    if not path.is_file():
        pairs = zip(words("fruit")[:8], words("insects")[:8], strict=True)
        rows = [{"input": word, "output": name} for pair in pairs for word, name in zip(pair, LABELS, strict=True)]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    text, examples = words("fruit")[-1], read_demonstrations(path)
    answer, *_ = predict(str(model), examples, list(dict.fromkeys(e.output for e in examples)), text, "cpu")
    console.rule("a prediction")
    console.print(
        f"The {len(examples)} examples in {path} name fruit {LABELS[0]} and insects {LABELS[1]}.", markup=False
    )
    console.print(f"What is {text!r}? The model says {answer!r}. Edit the examples, or ask:", markup=False)
    console.print(f"  maml-en-llm predict --model {model} --demonstrations {path} --input {text}", markup=False)
