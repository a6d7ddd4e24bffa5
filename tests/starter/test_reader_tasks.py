"""The tasks that need a reader: their labels follow their rules, and no bag of words tells them."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from maml_en_llm.starter.drawing import words
from maml_en_llm.starter.reader_tasks import CATEGORIES, FAMILIES, OPPOSITE, READER, UNSEEN_FAMILIES
from maml_en_llm.starter.tasks import HELD_OUT_DOMAINS, StarterTask, starter_examples, starter_settings


def family(task: StarterTask) -> str:
    return task.name.rpartition("-")[2]


# The label's position as an independent reading of the input finds it. a, b: places of words of the first and of the
# second category; w: all words.
READINGS: dict[str, Callable[[list[int], list[int], list[str]], int]] = {
    "order": lambda a, b, w: int(b[0] < a[0]),
    "comparison": lambda a, b, w: int(b[0] < a[0]),
    "negation": lambda a, b, w: int(b[0] < a[0]),
    "relation": lambda a, b, w: int(b[0] < a[0]),
    "place": lambda a, b, w: sorted(a + b).index(a[0]),
    "repetition": lambda a, b, w: int(len(set(w) - {"and"}) == 3),
    "middle": lambda a, b, w: int(b[0] == 1),
    "turn": lambda a, b, w: int((b[0] < a[0]) != bool(set(w) & set(OPPOSITE.values()))),
    "ends": lambda a, b, w: int(w[0] != w[-1]),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_labels_follow_the_rule(name: str) -> None:
    tasks = [task for task in READER if family(task) == name]
    assert len(tasks) >= 3
    for task in tasks:
        generator = np.random.default_rng(0)
        draws = [task.draw(generator) for _ in range(40)]
        assert any(reads(draws, set(words(one)), set(words(other)), name) for one, other, *_ in CATEGORIES[task.domain])


def reads(draws: list, one: set[str], other: set[str], name: str) -> bool:
    """Whether the reading with these categories gives the label of every draw."""
    for example in draws:
        w = [word for word in example.input.split() if word not in (",", ".", ":", "?")]
        a, b = ([i for i, word in enumerate(w) if word in side] for side in (one, other))
        try:
            if READINGS[name](a, b, w) != example.options.index(example.output):
                return False
        except (IndexError, ValueError):
            return False
    return True


def test_families_of_the_targets() -> None:
    tasks = {task.name: task for task in READER}
    settings = starter_settings()
    for name, unseen in (("starter", False), ("starter-families", True)):
        targets = [tasks[target] for target in settings[name]["test"] if target in tasks]
        assert targets
        assert all((family(task) in UNSEEN_FAMILIES) is unseen and task.domain in HELD_OUT_DOMAINS for task in targets)
        trained = [tasks[task] for task in settings[name]["train"] if task in tasks]
        assert {family(task) for task in trained} == set(FAMILIES) - set(UNSEEN_FAMILIES)
    assert len(settings["starter"]["test"]) <= 2 * sum(name in tasks for name in settings["starter"]["test"])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_bag_of_words_is_left_with_guessing_even_with_300_labels(name: str) -> None:
    gains = []
    for task in READER:
        if family(task) != name or task.domain not in HELD_OUT_DOMAINS:
            continue
        splits = starter_examples(task)
        bag = CountVectorizer(token_pattern=r"\S+")
        known = bag.fit_transform([example.input for example in splits["train"]])
        model = LogisticRegression().fit(known, [example.output for example in splits["train"]])
        gold = [example.output for example in splits["test"]]
        found = model.predict(bag.transform([example.input for example in splits["test"]]))
        gains.append(
            100 * f1_score(gold, found, average="macro") - 100 / len(task.draw(np.random.default_rng(0)).options)
        )
    assert len(gains) == 3
    assert statistics.mean(gains) < 8
