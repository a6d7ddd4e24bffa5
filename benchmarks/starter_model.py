"""Accuracy of the starter language model against the number of demonstrations, on tasks of unseen domains.

    .venv/bin/python benchmarks/starter_model.py --output docs/starter-model

writes OUTPUT.svg and prints the table of docs/starter-model.md. Nothing is trained.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from maml_en_llm import load_collection
from maml_en_llm.config import EvaluateConfig
from maml_en_llm.evaluation.metrics import score
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.starter import starter_model
from maml_en_llm.starter.tasks import write_starter_collection

BUILT_IN = starter_model()
NUMBERS = (0, 1, 2, 4, 8, 16)
MADE_UP = ("foo", "dax", "zup", "wug", "blick")


@dataclass
class Options:
    output: Path
    """File name without ending."""
    model: Path = BUILT_IN
    """Hugging Face folder."""
    runs: Path | None = None
    """The folder in which `make starter-model` worked, for the loss of each stage."""
    max_examples: int = 100
    """Test examples of a task."""


def main(options: Options) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    with tempfile.TemporaryDirectory() as folder:
        collection = Path(folder) / "collection"
        write_starter_collection(collection)
        results = [
            evaluate(
                EvaluateConfig(
                    model=str(options.model),
                    collection=collection,
                    setting="starter",
                    output=Path(folder) / f"{number}.json",
                    demonstrations=number,
                    max_examples=options.max_examples,
                    device="cpu",
                )
            )["tasks"]
            for number in NUMBERS
        ]
        opened = load_collection(collection)
        labels = {task: opened[task].train[0].options for task in results[0]}
        majority = {task: majority_score(opened, task, options.max_examples) for task in labels}
    groups = {
        "made-up label words": [task for task in labels if set(labels[task]) & set(MADE_UP)],
        "natural label words": [task for task in labels if not set(labels[task]) & set(MADE_UP)],
    }
    print(f"| demonstrations | {' | '.join(map(str, NUMBERS))} | always the same label |\n|---|" + "---|" * 7)
    for task in labels:
        cells = [f"{100 * found[task]['average']:.0f}" for found in results]
        print(f"| `{task}` ({', '.join(labels[task])}) | {' | '.join(cells)} | {100 * majority[task]:.0f} |")
    figure, grid = plt.subplots(1, 1 if options.runs is None else 2, figsize=(9, 3.5), squeeze=False)
    axes = grid[0, 0]
    if options.runs is not None:
        plot_losses(grid[0, 1], options.runs)
    for (name, tasks), colour in zip(groups.items(), ("#0072b2", "#d55e00"), strict=True):
        line = [100 * statistics.mean(found[task]["average"] for task in tasks) for found in results]
        base = 100 * statistics.mean(majority[task] for task in tasks)
        print(f"| **mean, {len(tasks)} tasks with {name}** | {' | '.join(f'{v:.1f}' for v in line)} | {base:.1f} |")
        axes.plot(range(len(NUMBERS)), line, "o-", color=colour, label=name)
        axes.axhline(base, color=colour, linestyle=":", label=f"always the same label ({name.split()[0]})")
    axes.set_xticks(range(len(NUMBERS)), [str(number) for number in NUMBERS])
    axes.set(xlabel="demonstrations", ylabel="macro-F1, %", ylim=(0, 100))
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(options.output.with_suffix(".svg"), metadata={"Date": None})
    print(json.dumps({name: len(tasks) for name, tasks in groups.items()}))


def plot_losses(axes: Any, runs: Path) -> None:
    """Mean loss of the labels by update, over all stages."""
    passed = 0
    for path in sorted(runs.glob("*/run/metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        axes.plot([passed + line["batches"] for line in lines], [line["loss"] for line in lines], label=path.parts[-3])
        passed += lines[-1]["batches"]
    axes.set(xlabel="updates", ylabel="loss of the labels, nats", ylim=(0, None))
    axes.legend(fontsize="small")


def majority_score(collection: Any, task: str, examples: int) -> float:
    """Macro-F1 of predicting the most frequent test label everywhere."""
    gold = [example.output for example in collection[task].test[:examples]]
    return score("macro_f1", gold, [Counter(gold).most_common(1)[0][0]] * len(gold))


if __name__ == "__main__":
    main(tyro.cli(Options))
