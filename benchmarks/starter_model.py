"""What meta-training adds to the starter language model, with several training seeds.

    .venv/bin/python benchmarks/starter_model.py --output runs/starter-model --training-seeds 100 13 21

trains the rows of the quick start once for each seed, scores them and the cheap rows on the settings `starter` and
`starter-families`, and prints the table of docs/starter-model.md. What is finished in OUTPUT is not done again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from cheap_rows import baselines
from maml_en_llm.config import EvaluateConfig
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.starter import starter_model
from maml_en_llm.starter.quickstart import BATCHES, GROUPS, METHODS, SEEDS, SETTING, group_of, meta_training, train_all
from maml_en_llm.starter.tasks import write_starter_collection

SETTINGS = (SETTING, "starter-families")

BUILT_IN = starter_model()


@dataclass
class Options:
    output: Path = Path("runs/starter-model")
    """Folder for the runs."""
    model: Path = BUILT_IN
    """Hugging Face folder to start from."""
    training_seeds: tuple[int, ...] = (100, 13, 21)
    """Each method is trained once with each."""
    batches: int = BATCHES
    """Training length."""
    max_examples: int = 50
    """Scored examples of a task."""


def main(options: Options) -> None:
    collection = options.output / "collection"
    if not (collection / "manifest.json").is_file():
        write_starter_collection(collection)
    configs = {
        (name, seed): meta_training(
            collection,
            SETTING,
            options.model,
            options.output / f"{name}-{seed}",
            options.batches,
            keys | {"seed": seed},
        )
        for name, keys in METHODS.items()
        for seed in options.training_seeds
    }
    models = dict(zip(configs, train_all(list(configs.values())), strict=True))
    rows: dict[str, list[dict[str, list[float]]]] = {}
    for setting in SETTINGS:
        for label, by_task in baselines(collection, setting, options.model, SEEDS, options.max_examples).items():
            rows.setdefault(label, [{}])[0].update({task: [score] for task, score in by_task.items()})
    rows["Raw LM"] = [scores(options, options.model, "raw-lm")]
    for name in METHODS:
        rows[name] = [scores(options, models[name, seed], f"{name}-{seed}") for seed in options.training_seeds]
    print_table(rows)


def scores(options: Options, model: Path, name: str) -> dict[str, list[float]]:
    """By target task of both settings the score of each demonstration seed, in percent."""
    found: dict[str, list[float]] = {}
    for setting in SETTINGS:
        path = options.output / "results" / f"{name}-{setting}.json"
        if not path.is_file():
            evaluate(
                EvaluateConfig(
                    model=str(model),
                    collection=options.output / "collection",
                    setting=setting,
                    output=path,
                    demonstrations=16,
                    seeds=SEEDS,
                    max_examples=options.max_examples,
                    device="cpu",
                )
            )
        for task, entry in json.loads(path.read_text(encoding="utf-8"))["tasks"].items():
            found[task] = list(entry["scores"].values())
    return found


def print_table(rows: dict[str, list[dict[str, list[float]]]]) -> None:
    """Means in percent, and gains over the raw model with 95 % intervals of a bootstrap over training runs, tasks and
    demonstration seeds."""
    tasks = list(rows["Raw LM"][0])
    groups = {group: [task for task in tasks if group_of(task) == group] for group in GROUPS}
    print(f"| row | {' | '.join(f'{group} ({len(members)})' for group, members in groups.items())} |")
    print(f"|---|{'---:|' * len(groups)}")
    raw = {group: array(rows["Raw LM"], members) for group, members in groups.items()}
    for label, runs in rows.items():
        cells = []
        for group, members in groups.items():
            values = array(runs, members)
            cells.append(f"{values.mean():.1f}")
            if label in METHODS:
                gain = values - raw[group]
                cells[-1] += "; {:+.1f} ({:+.1f} to {:+.1f})".format(gain.mean(), *interval(gain))
        print(f"| {label} | {' | '.join(cells)} |")
    for label, runs in rows.items():
        if len(runs) > 1:
            by_run = [[f"{array([run], members).mean():.1f}" for members in groups.values()] for run in runs]
            print(f"{label}, by training seed: {by_run}")


def array(runs: list[dict[str, list[float]]], tasks: list[str]) -> np.ndarray:
    """[runs, tasks, demonstration seeds], in percent."""
    return 100 * np.array([[run[task] for task in tasks] for run in runs])


def interval(values: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % of the means when runs, tasks and demonstration seeds are drawn again, each on its own."""
    generator = np.random.default_rng(0)
    means = []
    for _ in range(draws):
        chosen = [generator.integers(size, size=size) for size in values.shape]
        means.append(values[np.ix_(*chosen)].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main(tyro.cli(Options))
