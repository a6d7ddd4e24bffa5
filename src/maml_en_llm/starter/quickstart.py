"""The quick start: the whole job with the built-in model on the built-in tasks, in a few minutes on a CPU."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import EvaluateConfig
from ..evaluation.prediction import predict, read_demonstrations
from ..evaluation.protocol import evaluate
from ..files import write_text
from ..methods import method_type
from ..methods.method import Method
from ..progress import console, duration
from ..reporting.report import report
from ..training.loop import train
from . import starter_model
from .drawing import words
from .tasks import write_starter_collection

SETTING = "starter"
SEEDS = (100, 13, 21, 42, 87)
MAX_EXAMPLES = 50
LABELS = ("blick", "dax")  # of the prediction that is shown
BATCHES = 320
# Chosen on `starter-validation`, whose targets are training tasks of the quick start (docs/starter-model.md).
META: dict[str, Any] = {"batch_size": 4, "lr": 1e-4, "trainable": "last_blocks", "last_blocks": 4}
INNER_LR = 1e-4
METHODS: dict[str, dict[str, Any]] = {
    "metaicl": {"method": "metaicl"},
    "maml-2-1": {"method": "maml-en-llm", "inner_lr": INNER_LR},
    "maml-2-4": {"method": "maml-en-llm", "inner_lr": INNER_LR, "copies": 4},
}
# What part of the whole time each part takes, as measured; for the time left.
SHARES = {"metaicl": 0.25, "maml-2-1": 0.32, "maml-2-4": 0.32, "evaluation": 0.11}
EXPECTED_SECONDS = 150.0


def quickstart(output: Path = Path("quickstart"), model: Path | None = None, batches: int = BATCHES) -> Path:
    """Meta-trains a small language model in three ways, scores it on tasks of unseen domains and writes a report.

    Everything stands in `output`; what is finished there is not done again. Returns the report's path.
    model: a Hugging Face folder, by default the built-in one. batches: training length of each method.
    """
    collection = output / "collection"
    if not (collection / "manifest.json").is_file():
        write_starter_collection(collection)
    base = starter_model() if model is None else model
    clock = time_left()

    models = {"no-icl": base, "raw-lm": base}
    for name, keys in METHODS.items():
        console.rule(f"{name} ({next(clock)})")
        models[name] = train(meta_training(collection, SETTING, base, output / name, batches, keys), resume=True)

    console.rule(f"evaluation ({next(clock)})")
    results = []
    for name, trained in models.items():
        results.append(output / "results" / f"{name}.json")
        if not results[-1].is_file():
            evaluate(
                EvaluateConfig(
                    model=str(trained),
                    collection=collection,
                    setting=SETTING,
                    output=results[-1],
                    demonstrations=0 if name == "no-icl" else 16,
                    seeds=SEEDS,
                    max_examples=MAX_EXAMPLES,
                    label={"no-icl": "No ICL", "raw-lm": "Raw LM"}.get(name),
                    device="cpu",
                )
            )
    path = report([*results, *(output / name for name in METHODS)], output / "report")
    show_prediction(models["maml-2-1"], output / "examples.jsonl")
    return path


def meta_training(
    collection: Path, setting: str, model: Path, output: Path, batches: int, keys: dict[str, Any]
) -> Method:
    """META with the `keys` of a method."""
    own = META | keys
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


def time_left() -> Iterator[str]:
    """Before each part of SHARES how long all that is left will take, judged by what is done."""
    started, done = time.monotonic(), 0.0
    for share in SHARES.values():
        passed = time.monotonic() - started
        expected = passed / done if done else EXPECTED_SECONDS
        yield f"about {duration(expected * (1 - done))} left in all"
        done += share
