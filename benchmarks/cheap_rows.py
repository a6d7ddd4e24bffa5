"""Rows that cost next to nothing, from the same labelled examples that a prompt would show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from maml_en_llm.models import load_model, load_tokenizer
from maml_en_llm.prediction.metrics import metric_of, score
from maml_en_llm.prompts.demonstrations import fixed_demonstrations
from maml_en_llm.tasks.collection import Example, load_collection
from maml_en_llm.tasks.seeds import random_generator

# Chosen on `starter-validation` among 1, 10, 100 and 1000 (docs/starter-model.md).
C_OF_VECTORS, C_OF_WORDS = 1000.0, 100.0
Predict = Callable[[Sequence[Example], Sequence[Example], np.random.Generator], list[str]]


def baselines(
    collection: Path,
    setting: str,
    model: Path,
    seeds: Sequence[int],
    max_examples: int,
    c_of_vectors: float = C_OF_VECTORS,
    c_of_words: float = C_OF_WORDS,
) -> dict[str, dict[str, float]]:
    """Score by row and target task: guessing, and logistic regression on mean word vectors of `model` and on TF-IDF.

    The labelled examples of (task, seed) are the demonstrations that `evaluate` shows.
    """
    tokenizer = load_tokenizer(model)
    weight = load_model(model).get_input_embeddings().weight.detach().numpy()

    def mean_vectors(examples: Sequence[Example]) -> np.ndarray:
        ids = tokenizer([example.input for example in examples], add_special_tokens=False)["input_ids"]
        return np.stack([weight[row].mean(axis=0) for row in ids])

    def guess(shown: Sequence[Example], asked: Sequence[Example], generator: np.random.Generator) -> list[str]:
        return [str(generator.choice(example.options)) for example in asked]

    def of_vectors(shown: Sequence[Example], asked: Sequence[Example], generator: np.random.Generator) -> list[str]:
        return _regression(mean_vectors(shown), shown, mean_vectors(asked), c_of_vectors)

    def of_words(shown: Sequence[Example], asked: Sequence[Example], generator: np.random.Generator) -> list[str]:
        bag = TfidfVectorizer(token_pattern=r"\S+")
        known = bag.fit_transform([example.input for example in shown])
        return _regression(known, shown, bag.transform([example.input for example in asked]), c_of_words)

    rows: dict[str, Predict] = {
        "Uniform guess": guess,
        "Logistic regression, word vectors": of_vectors,
        "Logistic regression, TF-IDF": of_words,
    }
    opened = load_collection(collection)
    found: dict[str, dict[str, float]] = {label: {} for label in rows}
    for name in opened.setting(setting).test:
        task = opened[name]
        asked = task.test[:max_examples]
        gold = [example.output for example in asked]
        for label, row in rows.items():
            scores = []
            for seed in seeds:
                shown = fixed_demonstrations(task.train, 16, name, seed)
                answers = row(shown, asked, random_generator("guess", name, seed))
                scores.append(score(metric_of(task.kind), gold, answers))
            found[label][name] = mean(scores)
    return found


def _regression(known: Any, shown: Sequence[Example], asked: Any, c: float) -> list[str]:
    """Labels of the rows of `asked` by a regression fitted to the rows of `known`; both may be sparse."""
    labels = [example.output for example in shown]
    if len(set(labels)) == 1:
        return labels[:1] * asked.shape[0]
    return [str(label) for label in LogisticRegression(C=c, max_iter=1000).fit(known, labels).predict(asked)]
