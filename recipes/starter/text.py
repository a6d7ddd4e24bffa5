"""What the starter language model reads: running text that relates words to each other, and episodes.

An episode is a small task in which a few classes of words have arbitrary names, so that nothing but the examples in the
prompt tells which name belongs to what.  The words of domains that are held out stand in running text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np

from maml_en_llm.starter.drawing import NAMES, domains, facts, pick, sample
from maml_en_llm.starter.tasks import HELD_OUT_DOMAINS, TASKS, starter_examples, starter_settings
from maml_en_llm.tasks.collection import Example

Words = Sequence[str]
Pairs = list[tuple[str, str]]
NONSENSE = (
    "foo bar baz qux blick dax wug zim tove fep lop nim gip rok sud tep vix yad zot mip kel pilu dofa bimo tuka sefi "
    "goma ludi nasi rabe wote zuri hipa jelo karu"
).split()
DIGITS = "0 1 2 3 4 5 6 7 8 9".split()
LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y z".split()
FRAMES = (
    "{w}",
    "the {w}",
    "a {w}",
    "{name} thinks of {w} .",
    "this is about {w} .",
    "{name} said {w} .",
    "i read about {w} today .",
    "what about {w} ?",
    "there was something with {w} .",
    "{name} and {other} talk about {w} .",
    "{w} , said {name} .",
    "we learned the word {w} .",
    "do you know {w} ?",
    "{name} wrote {w} on the paper .",
    "in the story there is {w} .",
    "please say {w} again .",
    "my friend {name} likes the word {w} .",
    "the next one is {w} .",
)
NOUN_FRAMES = (
    "{name} sees the {w} .",
    "look at the {w} !",
    "the {w} is over there .",
    "{name} has a {w} .",
    "where is the {w} ?",
    "i want to draw a {w} .",
    "{name} showed us a {w} yesterday .",
    "the {w} was next to the {w} .",
    "there is a {w} in the picture .",
    "a {w} and nothing else .",
    "{name} did not find the {w} .",
)
MARKS = (("", ""), ("", ""), ("", ""), ("input : ", "label : "), ("", "= "), ("q : ", "a : "), ("", "-> "))
NOT_NOUNS = ("feelings", "qualities", "actions", "time")


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

    classes: fewest and most. words: most words of a class, None for all there are. plain_labels: whether label words
    are any words at all, not only letters and made-up words. frames: whether the words stand in sentences.
    rules: whether some episodes are about the place or the relation of words, or are starter tasks with other labels.
    """

    classes: tuple[int, int]
    words: int | None = None
    plain_labels: bool = True
    frames: bool = False
    rules: bool = False


def episode(generator: np.random.Generator, difficulty: Difficulty, examples: int) -> list[Example]:
    """Examples of one small task whose label words are drawn at random."""
    shapes: Sequence[Shape] = (_classes,)
    if difficulty.rules and generator.random() < 0.5:
        shapes = (_same_kind, _first_word, _has_word, _fact, _starter_task, _starter_task, _starter_task)
    pairs = pick(generator, shapes)(generator, difficulty, examples)
    kinds = list(dict.fromkeys(kind for _, kind in pairs))
    labels = dict(zip(kinds, _label_words(generator, len(kinds), difficulty.plain_labels), strict=True))
    before, after = pick(generator, MARKS) if difficulty.frames else ("", "")
    options = tuple(after + labels[kind] for kind in kinds)
    return [Example(before + text, after + labels[kind], options) for text, kind in pairs]


def running_text(generator: np.random.Generator, examples: int) -> list[Example]:
    """Passages of running text, as examples without an input."""
    source = sentences(generator)
    return [
        Example("", " ".join(next(source) for _ in range(int(generator.integers(1, 4)))), ()) for _ in range(examples)
    ]


def every_word() -> set[str]:
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
    found |= {word for frame in (*FRAMES, *NOUN_FRAMES) for word in frame.split() if "{" not in word}
    found |= set("all one of the like and belong to but does not we talk about is yes no".split())
    return {word.lower() for word in found if word.isalpha()}


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


@cache
def _noun_categories() -> set[str]:
    return {c for domain, categories in domains().items() if domain not in NOT_NOUNS for c in categories}


def _framed(generator: np.random.Generator, frames: Words, word: str) -> str:
    name, other = (str(n) for n in generator.choice(NAMES, size=2, replace=False))
    return pick(generator, frames).format(w=word, name=name, other=other)


def _classes(generator: np.random.Generator, difficulty: Difficulty, examples: int) -> Pairs:
    """Which class does the word, or do the words, belong to?"""
    low, high = difficulty.classes
    count = int(generator.integers(low, high + 1))
    groups = _categories()
    chosen = [groups[i] for i in generator.permutation(len(groups))[:count]]
    pools = []
    for _, words in chosen:
        size = len(words) if difficulty.words is None else int(generator.integers(1, difficulty.words + 1))
        pools.append([str(word) for word in generator.permutation(words)[:size]])
    together = 1 if difficulty.words is not None else int(generator.choice([1, 1, 2, 3]))
    nouns = all(category in _noun_categories() for category, _ in chosen)
    frames: Words = ("{w}",)
    if difficulty.frames and generator.random() < 0.7:
        together = 1
        every = FRAMES + NOUN_FRAMES if nouns else FRAMES
        frames = [every[i] for i in generator.permutation(len(every))[: int(generator.integers(1, 9))]]
    found = []
    for _ in range(examples):
        kind = int(generator.integers(count))
        words = generator.permutation(pools[kind])[:together]
        found.append((_framed(generator, frames, " ".join(map(str, words))), str(kind)))
    return found


def _mixed(generator: np.random.Generator, groups: Sequence[tuple[str, list[str]]], count: int) -> list[str]:
    """One word of each of `count` categories."""
    chosen = generator.permutation(len(groups))[:count]
    return [str(generator.choice(groups[i][1])) for i in chosen]


def _same_kind(generator: np.random.Generator, difficulty: Difficulty, examples: int) -> Pairs:
    """Do the two words belong to one category?"""
    groups = _categories()
    between = str(generator.choice(["", "and ", ", ", "like "]))
    found = []
    for _ in range(examples):
        same = generator.random() < 0.5
        if same:
            one, two = (str(w) for w in generator.choice(groups[generator.integers(len(groups))][1], 2, replace=False))
        else:
            one, two = _mixed(generator, groups, 2)
        found.append((f"{one} {between}{two}", str(same)))
    return found


def _first_word(generator: np.random.Generator, difficulty: Difficulty, examples: int) -> Pairs:
    """Which class does the word in a certain place belong to?"""
    groups = _categories()
    chosen = [groups[i][1] for i in generator.permutation(len(groups))[:2]]
    place, length = int(generator.choice([0, -1])), int(generator.integers(2, 5))
    found = []
    for _ in range(examples):
        kind = int(generator.integers(2))
        words = _mixed(generator, groups, length)
        words[place] = str(generator.choice(chosen[kind]))
        found.append((" ".join(words), str(kind)))
    return found


def _has_word(generator: np.random.Generator, difficulty: Difficulty, examples: int) -> Pairs:
    """Which of two words stands in the text?"""
    groups = _categories()
    marks, length = _mixed(generator, groups, 2), int(generator.integers(2, 6))
    found = []
    for _ in range(examples):
        kind = int(generator.integers(2))
        words = _mixed(generator, groups, length)
        words[generator.integers(length)] = marks[kind]
        found.append((" ".join(words), str(kind)))
    return found


def _fact(generator: np.random.Generator, difficulty: Difficulty, examples: int) -> Pairs:
    """Does the second word stand in a certain relation to the first?"""
    relations = list(facts().values())
    pairs = relations[generator.integers(len(relations))]
    keys, values = list(pairs), list(pairs.values())
    between = str(generator.choice(["", "and ", ", ", ": "]))
    found = []
    for _ in range(examples):
        holds = generator.random() < 0.5
        key = keys[generator.integers(len(keys))]
        value = pairs[key] if holds else str(generator.choice([v for v in values if v != pairs[key]]))
        found.append((f"{key} {between}{value}", str(holds)))
    return found


@cache
def _starter_training() -> list[list[Example]]:
    """The training side of the classification tasks that the quick start trains on."""
    names = starter_settings()["starter"]["train"]
    return [
        starter_examples(t)["train"]
        for t in TASKS
        if t.name in names and t.kind in ("classification", "nli", "paraphrase")
    ]


def _starter_task(generator: np.random.Generator, difficulty: Difficulty, examples: int) -> Pairs:
    """A starter task that is trained on, whose labels will be others."""
    chosen = sample(generator, pick(generator, _starter_training()), examples)
    return [(example.input, example.output) for example in chosen]


Shape = Callable[[np.random.Generator, Difficulty, int], Pairs]
