"""What choosing the rows to label is worth: macro-F1 on the quick start's target tasks with 16 labels.

    python benchmarks/what_to_label.py                       # all ways, five seeds, a few minutes

Every task's train split is the pool, its labels unknown until a row is chosen; its test split is scored, by in-context
learning with the rows in a random order and by logistic regression.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from maml_en_llm import InContextClassifier, load_collection
from maml_en_llm.models import load_model, load_tokenizer
from maml_en_llm.prediction.features import Features
from maml_en_llm.prediction.metrics import score
from maml_en_llm.prediction.to_label import to_label
from maml_en_llm.starter.tasks import write_starter_collection
from maml_en_llm.tasks.seeds import random_generator

WAYS, LEARNERS, SEEDS = ("random", "centres", "mixture"), ("in-context", "logistic"), (100, 13, 21, 42, 87)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--max-examples", type=int, default=100)
    arguments = parser.parse_args()
    features = Features(load_model("starter"), load_tokenizer("starter"))
    found: dict[tuple[str, str], list[list[float]]] = {(way, learner): [] for way in WAYS for learner in LEARNERS}
    with tempfile.TemporaryDirectory() as folder:
        write_starter_collection(Path(folder))
        collection = load_collection(folder)
        for name in collection.setting("starter").test:
            pool, test = list(collection[name].train), collection[name].test[: arguments.max_examples]
            texts = [example.input for example in pool]
            vectors = features.vectors(texts)
            for way, learner in found:
                scores = []
                for seed in SEEDS:
                    rows = [row.index for row in to_label(texts, arguments.count, way, vectors, seed=seed)]
                    rows = list(random_generator("order", name, seed).permutation(rows))
                    model = InContextClassifier(learner=learner, choose="given", device="cpu")
                    classes = list(pool[0].options)
                    model.partial_fit([texts[i] for i in rows], [pool[i].output for i in rows], classes=classes)
                    predicted = model.classes_[model.scores([e.input for e in test]).argmin(axis=1)]
                    scores.append(score("macro_f1", [e.output for e in test], [str(label) for label in predicted]))
                found[way, learner].append(scores)
            print(f"{name} done", flush=True)
    print("| rows chosen by | learner | average | worst seed |\n|---|---|---:|---:|")
    for (way, learner), tasks in found.items():
        scores = 100 * np.array(tasks)  # [tasks, seeds]
        print(f"| {way} | {learner} | {scores.mean():.1f} | {scores.min(axis=1).mean():.1f} |")


if __name__ == "__main__":
    main()
