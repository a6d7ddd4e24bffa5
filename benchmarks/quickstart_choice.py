"""The quick start's hyper-parameters, compared on training tasks alone (the setting `starter-validation`).

    .venv/bin/python benchmarks/quickstart_choice.py --output runs/choice

prints the mean macro-F1 over the validation tasks for each method and learning rate, as many for each method; the
targets that the quick start reports on are not touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from cheap_rows import baselines
from maml_en_llm.config import EvaluateConfig
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.starter import starter_model
from maml_en_llm.starter.quickstart import BATCHES, GROUPS, METHODS, group_of, meta_training, train_all
from maml_en_llm.starter.tasks import write_starter_collection

SETTING = "starter-validation"
SEEDS = (100, 13)

BUILT_IN = starter_model()


@dataclass
class Options:
    output: Path = Path("runs/choice")
    """Folder for the runs."""
    model: Path = BUILT_IN
    """Hugging Face folder to start from."""
    batches: int = BATCHES
    """Training length."""
    lrs: tuple[float, ...] = (1e-3, 2e-3)
    """Learning rates; MAML-en-LLM's inner one is the same."""
    max_examples: int = 40
    """Scored examples of a task."""


def main(options: Options) -> None:
    collection = options.output / "collection"
    if not (collection / "manifest.json").is_file():
        write_starter_collection(collection)
    print(f"| row | lr or C | {' | '.join(GROUPS[:2])} |\n|---|---|---:|---:|")
    for c in (1.0, 10.0, 100.0, 1000.0):
        for row, by_task in baselines(collection, SETTING, options.model, SEEDS, options.max_examples, c, c).items():
            print_row(row, f"{c:g}", by_task)
    print_row("Raw LM", "", score(options, options.model, "raw-lm"))
    configs = {}
    for method, keys in METHODS.items():
        for lr in options.lrs:
            changed = keys | {"lr": lr} | ({"inner_lr": lr} if "inner_lr" in keys else {})
            place = options.output / f"{method}-{lr:g}"
            configs[method, lr] = meta_training(collection, SETTING, options.model, place, options.batches, changed)
    for (method, lr), model in zip(configs, train_all(list(configs.values())), strict=True):
        print_row(method, f"{lr:g}", score(options, model, f"{method}-{lr:g}"))


def print_row(row: str, choice: str, by_task: dict[str, float]) -> None:
    cells = []
    for group in GROUPS[:2]:
        values = [value for task, value in by_task.items() if group_of(task) == group]
        cells.append(f"{100 * sum(values) / len(values):.1f}")
    print(f"| {row} | {choice} | {' | '.join(cells)} |", flush=True)


def score(options: Options, model: Path, name: str) -> dict[str, float]:
    """By validation task the mean over two demonstration seeds, from 0 to 1."""
    results = evaluate(
        EvaluateConfig(
            model=str(model),
            collection=options.output / "collection",
            setting=SETTING,
            output=options.output / "results" / f"{name}.json",
            demonstrations=16,
            seeds=SEEDS,
            max_examples=options.max_examples,
            device="cpu",
        )
    )
    return {task: entry["average"] for task, entry in results["tasks"].items()}


if __name__ == "__main__":
    main(tyro.cli(Options))
