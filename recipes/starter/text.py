"""What the starter language model reads: running text that relates words to each other, and episodes.

An episode is a small task in which a few classes of words have arbitrary names, so that nothing but the examples in the
prompt tells which name belongs to what. It is about words alone, in no order: what the starter tasks ask for is left to
meta-training. The words of domains that are held out are in running text alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np

from maml_en_llm.starter.drawing import NAMES, domains, facts, sample
from maml_en_llm.starter.tasks import HELD_OUT_DOMAINS, TASKS, starter_examples
from maml_en_llm.tasks.collection import Example

Words = Sequence[str]
NONSENSE = (
    "foo bar baz qux blick dax wug zim tove fep lop nim gip rok sud tep vix yad zot mip kel pilu dofa bimo tuka sefi "
    "goma ludi nasi rabe wote zuri hipa jelo karu"
).split()
DIGITS = "0 1 2 3 4 5 6 7 8 9".split()
LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y z".split()


def sentences(generator: np.random.Generator) -> Iterator[str]:
    """Running text without end: what belongs together, and facts."""
    groups = [(domain, name, words) for domain, cats in domains().items() for name, words in cats.items()]
    relations = list(facts().items())
    while True:
        domain, name, words = groups[generator.integers(len(groups))]
        w = [str(word) for word in generator.permutation(words)]
        other = [str(word) for word in generator.permutation(groups[generator.integers(len(groups))][2])]
        relation, pairs = relations[generator.integers(len(relations))]
        keys = list(pairs)
        one, two = (keys[i] for i in generator.permutation(len(keys))[:2])
        left, right = relation.split(" to ", 1) if " to " in relation else ("word", relation.rstrip("s"))
        forms = (
            f"{w[0]} , {w[1]} , {w[2]} and {w[3]} are all {name} .",
            f"{w[0]} is one of the {name} , like {w[1]} and {w[2]} .",
            f"{name} : {' '.join(w[:7])}",
            " ".join(w[:8]),
            f"{w[0]} and {w[1]} belong to {name} , but {other[0]} does not .",
            f"{name} belong to {domain} . {w[0]} and {w[1]} are about {domain} .",
            f"we talk about {domain} : {w[0]} , {w[1]} and {w[2]} .",
            f"is {w[0]} like {w[1]} ? yes . is {w[0]} like {other[0]} ? no .",
            f"the {right} of {one} is {pairs[one]} . the {right} of {two} is {pairs[two]} .",
            f"{left} {one} , {right} {pairs[one]} .",
        )
        yield forms[generator.integers(len(forms))]


@dataclass(frozen=True)
class Difficulty:
    """How hard the episodes of a stage are.

    classes: fewest and most. words: most words of a class; None: an input is one to three of all words of a category.
    plain_labels: whether label words are any words at all, not only letters and made-up words."""

    classes: tuple[int, int]
    words: int | None = None
    plain_labels: bool = True


def episode(generator: np.random.Generator, difficulty: Difficulty, examples: int) -> list[Example]:
    """Examples of one small task whose label words are drawn at random: to which class does the word belong?"""
    low, high = difficulty.classes
    count = int(generator.integers(low, high + 1))
    groups = _categories()
    pools = []
    for index in generator.permutation(len(groups))[:count]:
        words = groups[index][1]
        size = len(words) if difficulty.words is None else int(generator.integers(1, difficulty.words + 1))
        pools.append([str(word) for word in generator.permutation(words)[:size]])
    together = 1 if difficulty.words is not None else int(generator.choice([1, 1, 2, 3]))
    labels = _label_words(generator, count, difficulty.plain_labels)
    found = []
    for _ in range(examples):
        kind = int(generator.integers(count))
        text = " ".join(str(word) for word in generator.permutation(pools[kind])[:together])
        found.append(Example(text, labels[kind], tuple(labels)))
    return found


@cache
def every_word() -> frozenset[str]:
    """All words of the starter tasks, of running text and of episodes."""
    found = {*NONSENSE, *NAMES}
    for category, words in _categories(held_out=()):
        found |= {*category.split(), *words}
    found |= {word for domain in domains() for word in domain.split()}
    for relation, pairs in facts().items():
        found |= {*relation.split(), *pairs, *pairs.values()}
    for task in TASKS:
        for example in chain.from_iterable(starter_examples(task).values()):
            found |= {word for text in (example.input, *example.options, example.output) for word in text.split()}
    found |= set("all one of the like and belong to but does not we talk about is yes no".split())
    return frozenset(word.lower() for word in found if word.isalpha())


@cache
def _categories(held_out: Words = HELD_OUT_DOMAINS) -> list[tuple[str, list[str]]]:
    """Category and words; of domains that are not held out unless told otherwise."""
    return [
        (category, words)
        for domain, categories in domains().items()
        if not any(name in domain.split() for name in held_out)
        for category, words in categories.items()
    ]


@cache
def _plain_words() -> list[str]:
    return [word for _, words in _categories() for word in words]


def _label_words(generator: np.random.Generator, count: int, plain: bool) -> list[str]:
    """`count` different words of one sort: made-up words, letters, digits, or any words at all."""
    sort = generator.random() * (1.0 if plain else 0.5)
    pool = NONSENSE if sort < 0.3 else LETTERS if sort < 0.5 else DIGITS if sort < 0.55 else _plain_words()
    labels = sample(generator, pool, count)
    while len(set(labels)) < count:  # some words stand in several categories
        labels = sample(generator, pool, count)
    return labels
