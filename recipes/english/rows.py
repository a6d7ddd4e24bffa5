"""The rows of docs/english.md: meta-training on real tasks from the base model, and what costs less.

    python -m recipes.english.rows --collection DIR --setting class_to_class --base runs/english/run/model --output rows

trains every row, scores it on the setting's targets of fixed labels, and prints the table. With `--validation` some
training tasks are the targets, are kept out of training, and no target is read. What is finished in OUTPUT is not
done again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from maml_en_llm.config import EvaluateConfig
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.methods import method_type
from maml_en_llm.methods.method import Method
from maml_en_llm.tasks.collection import Collection, load_collection
from maml_en_llm.training.loop import train

from .circuit import LAYERS

VALIDATION = (
    "trec glue-sst2 sms_spam hatexplain tweet_eval-emotion ethos-directed_vs_generalized scitail glue-mrpc "
    "ade_corpus_v2-classification tweet_eval-stance_climate glue-rte google_wellformed_query"
).split()
TWINS = {"glue-rte": "superglue-rte"}  # the same pairs
CHEAP = ("majority", "prototype", "logistic", "tfidf-logistic")
METHODS = ("metaicl", "maml-en-llm")


@dataclass
class Options:
    collection: Path
    """Folder of tasks."""
    setting: str
    """Its name."""
    base: Path
    """Model to start from."""
    output: Path
    """Folder for runs and results."""
    validation: bool = False
    """Score training tasks that are kept out of training, not the targets."""
    methods: tuple[str, ...] = METHODS
    """Which are trained."""
    batches: int = 96
    """Training length, the same for every method."""
    prompts: int = 8
    """Prompts of a batch."""
    lrs: tuple[float, ...] = (3e-4,)
    """Learning rates; MAML-en-LLM's inner one is the same."""
    training_seeds: tuple[int, ...] = (100,)
    """Each method is trained once with each."""
    seeds: tuple[int, ...] = (100, 13, 21, 42, 87)
    """Draws of the labelled examples."""
    predicted: Literal["last_answer", "answers"] = "last_answer"
    """What counts in the loss; the first answers of a prompt have labels that nothing tells."""
    pmi: bool = False
    """Score language models less the scores behind the input N/A, too."""
    max_examples: int = 50
    """Scored examples of a task."""
    max_tokens_per_example: int = 40
    """So that all demonstrations fit into a prompt."""


def main(options: Options) -> None:
    view = write_view(options)
    rows: dict[str, dict[str, list[float]]] = {"uniform": {}}
    rows |= {learner: score(options, view, options.base, learner, learner=learner) for learner in CHEAP}
    rows["raw"] = score(options, view, options.base, "raw")
    if options.pmi:
        rows["raw + PMI"] = score(options, view, options.base, "raw-pmi", calibrate=True)
    for method in options.methods:
        for lr in options.lrs:
            for seed in options.training_seeds:
                name = f"{method}-{lr:g}-{seed}"
                changed = {"lr": lr} | ({"inner_lr": lr} if method == "maml-en-llm" else {})
                model = train(training(options, view, method, options.output / name, seed, changed), resume=True)
                # The draw at random, as for every other row: balanced demonstrations know more of a task's labels.
                rows[name] = score(options, view, model, name, choose="random")
                if options.pmi:
                    rows[f"{name} + PMI"] = score(options, view, model, f"{name}-pmi", choose="random", calibrate=True)
    guesses = json.loads((options.output / "results" / "majority.json").read_text(encoding="utf-8"))["tasks"]
    rows["uniform"] = {name: [100 * task["guess"]] * len(options.seeds) for name, task in guesses.items()}
    print_table(rows)


def training(options: Options, view: Path, method: str, output: Path, seed: int, keys: dict[str, Any]) -> Method:
    """A run on balanced demonstrations whose labels have new names in every prompt."""
    shared: dict[str, Any] = {
        "collection": view,
        "setting": "rows",
        "model": str(options.base),
        "output": output,
        "batches": options.batches,
        "batch_size": options.prompts,
        "max_tokens_per_example": options.max_tokens_per_example,
        "label_words": "redrawn",
        "predicted": options.predicted,
        "choose": "balanced",
        "warmup": 0.1,
        "trainable": "last_blocks",
        "last_blocks": LAYERS,
        "seed": seed,
        "log_every": 4,
        "checkpoint_every": 16,
        "device": "cpu",
    }
    return method_type(method)(**shared, **keys)


def write_view(options: Options) -> Path:
    """A collection with the same tasks and one setting, `rows`, whose targets have at most eight fixed labels."""
    folder = options.output / "collection"
    (folder / "settings").mkdir(parents=True, exist_ok=True)
    for name in ("data", "manifest.json"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to((options.collection / name).resolve())
    collection = load_collection(options.collection)
    setting = collection.setting(options.setting)
    training, targets = list(setting.train), [name for name in setting.test if _labels(collection, name) <= 8]
    if options.validation:
        targets = [name for name in VALIDATION if name in training]
        kept_out = {*targets, *(TWINS[name] for name in targets if name in TWINS)}
        training = [name for name in training if name not in kept_out]
    lists = {"train": training, "test": targets, "unseen_domain_test": []}
    (folder / "settings" / "rows.json").write_text(json.dumps(lists, indent=1), encoding="utf-8")
    return folder


def _labels(collection: Collection, name: str) -> int:
    """Labels of a task; too many when its examples do not share them."""
    task = collection[name]
    return len(task.train[0].options) if task.kind in ("classification", "nli", "paraphrase") else 1000


def score(options: Options, view: Path, model: Path, name: str, **keys: Any) -> dict[str, list[float]]:
    """By target the score of each draw, in percent."""
    path = options.output / "results" / f"{name}.json"
    if not path.is_file():
        evaluate(
            EvaluateConfig(
                model=str(model),
                collection=view,
                setting="rows",
                output=path,
                demonstrations=16,
                seeds=options.seeds,
                max_examples=options.max_examples,
                max_tokens_per_example=options.max_tokens_per_example if "learner" not in keys else None,
                device="cpu",
                **keys,
            )
        )
    tasks = json.loads(path.read_text(encoding="utf-8"))["tasks"]
    return {task: [100 * value for value in entry["scores"].values()] for task, entry in tasks.items()}


def print_table(rows: dict[str, dict[str, list[float]]]) -> None:
    """Means, and what a row has more than the prototype, with 95 % of a bootstrap over tasks and draws."""
    reference = np.array(list(rows["prototype"].values()))  # [tasks, draws]
    print("| row | macro-F1 | less prototype | 95 % |\n|---|---:|---:|---:|")
    for name, by_task in rows.items():
        values = np.array([by_task[task] for task in rows["prototype"]])
        gain = values - reference
        low, high = interval(gain)
        print(f"| {name} | {values.mean():.1f} | {gain.mean():+.1f} | {low:+.1f} to {high:+.1f} |")
    for name, by_task in rows.items():
        print(f"{name}: " + ", ".join(f"{task} {np.mean(values):.0f}" for task, values in by_task.items()))


def interval(values: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % of the means when tasks and draws are drawn again, each on its own."""
    generator = np.random.default_rng(0)
    means = []
    for _ in range(draws):
        tasks, seeds = (generator.integers(size, size=size) for size in values.shape)
        means.append(values[np.ix_(tasks, seeds)].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main(tyro.cli(Options))
