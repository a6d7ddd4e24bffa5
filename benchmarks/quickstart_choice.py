"""The quick start's hyper-parameters, compared on training tasks alone (the setting `starter-validation`).

    .venv/bin/python benchmarks/quickstart_choice.py --output runs/choice --batches 400

prints the mean macro-F1 over the validation tasks for each method and learning rate; the starter tasks that the quick
start reports on are not touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from maml_en_llm.config import EvaluateConfig
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.starter import starter_model
from maml_en_llm.starter.quickstart import BATCHES, METHODS, meta_training
from maml_en_llm.starter.tasks import write_starter_collection
from maml_en_llm.training.loop import train

BUILT_IN = starter_model()
SETTING = "starter-validation"


@dataclass
class Options:
    output: Path = Path("runs/choice")
    """Folder for the runs."""
    model: Path = BUILT_IN
    """Hugging Face folder to start from."""
    batches: int = BATCHES
    """Training length."""
    lrs: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    """Learning rates; MAML-en-LLM's inner one is the same times each of `inner`."""
    inner: tuple[float, ...] = (1.0, 3.0)
    """Inner learning rate over outer learning rate."""
    methods: tuple[str, ...] = ("metaicl", "maml-2-1")
    """Methods of the quick start."""
    max_examples: int = 50
    """Scored examples of a task."""


def main(options: Options) -> None:
    collection = options.output / "collection"
    if not (collection / "manifest.json").is_file():
        write_starter_collection(collection)
    print("| method | lr | inner lr | macro-F1, % |\n|---|---|---|---|")
    print(f"| Raw LM | | | {score(options, options.model):.1f} |", flush=True)
    for method in options.methods:
        for lr in options.lrs:
            for inner in options.inner if method != "metaicl" else (None,):
                name = f"{method}-{lr:g}" + (f"-{inner:g}" if inner else "")
                keys = METHODS[method] | {"lr": lr} | ({"inner_lr": lr * inner} if inner else {})
                place = options.output / name
                config = meta_training(collection, SETTING, options.model, place, options.batches, keys)
                found = score(options, train(config))
                print(f"| {method} | {lr:g} | {lr * inner if inner else '':} | {found:.1f} |", flush=True)


def score(options: Options, model: Path) -> float:
    """Mean over validation tasks, three seeds, in percent."""
    results = evaluate(
        EvaluateConfig(
            model=str(model),
            collection=options.output / "collection",
            setting=SETTING,
            output=options.output / "results" / f"{model.parent.name}.json",
            demonstrations=16,
            seeds=(100, 13, 21),
            max_examples=options.max_examples,
            device="cpu",
        )
    )
    return 100 * results["summary"]["test"]["average"]


if __name__ == "__main__":
    main(tyro.cli(Options))
