"""Classification that needs a reader: the label depends on the order of words, on what is repeated, compared or denied.

Which words an input has does not tell its label: the same words in another order have another one, or the label is the
exclusive or of two of them. A linear classifier of mean word vectors is left with guessing.

A family is a rule with a text function; a task is a family with two categories of words of one domain.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from .drawing import NAMES, StarterTask, domains, labelled, pick, sample, shuffled, with_articles, words

# Words that turn a comparison round.
OPPOSITE = {"bigger": "smaller", "older": "younger"}
Rule = Callable[[np.random.Generator, int, str, str, str], str]  # label's position, two categories, frame


def _order(generator: np.random.Generator, position: int, one: str, other: str, frame: str) -> str:
    """Which category comes first?"""
    both = (pick(generator, words(one)), pick(generator, words(other)))
    return frame.format(both[position], both[1 - position])


def _place(generator: np.random.Generator, position: int, one: str, other: str, frame: str) -> str:
    """Where among words of the other category is the one of the first?"""
    found = sample(generator, words(other), frame.count("{}"))
    found[position] = pick(generator, words(one))
    return frame.format(*found)


def _repetition(generator: np.random.Generator, position: int, one: str, other: str, frame: str) -> str:
    """Is a word repeated?"""
    found = sample(generator, words(*domains()[_domain_of(one)]), frame.count("{}"))
    if position == 0:
        found[0] = found[1]
    return frame.format(*shuffled(generator, found))


def _ends(generator: np.random.Generator, position: int, one: str, other: str, frame: str) -> str:
    """Is the first word repeated at the end, or before?"""
    found = sample(generator, words(*domains()[_domain_of(one)]), frame.count("{}") - 1)
    found.insert(len(found) if position == 0 else int(generator.integers(1, len(found))), found[0])
    return frame.format(*found)


def _middle(generator: np.random.Generator, position: int, one: str, other: str, frame: str) -> str:
    """Which category is in the middle, with the other one and a name around it?"""
    both = (pick(generator, words(one)), pick(generator, words(other)))
    around = shuffled(generator, (both[1 - position], pick(generator, NAMES)))
    return frame.format(around[0], both[position], around[1])


def _turn(generator: np.random.Generator, position: int, one: str, other: str, frame: str) -> str:
    """Which category is said to be the bigger, also where the other one is said to be the smaller?"""
    turned = bool(generator.integers(2))
    text = _order(generator, position ^ turned, one, other, frame)
    return " ".join(OPPOSITE.get(word, word) if turned else word for word in text.split())


@cache
def _domain_of(category: str) -> str:
    return next(domain for domain, categories in domains().items() if category in categories)


# Rule, what the instruction says of the labels {0}, {1}, ... for the categories {one} and {other}, and two frames.
# In the first four the order of the two categories decides; they differ in what the order means.
FAMILIES: dict[str, tuple[Rule, str, tuple[str, str]]] = {
    "order": (
        _order,
        "Answer {0} if the first is of {one} and {1} if it is of {other}.",
        ("{} then {}", "first {} and {} after it"),
    ),
    "comparison": (
        _order,
        "Answer {0} if {one} are said to be the bigger or older and {1} if {other} are.",
        ("{} is bigger than {}", "the {} is older than the {}"),
    ),
    "negation": (
        _order,
        "Answer {0} if it is of {one} and not of {other}, and {1} if the other way round.",
        ("{} , not {}", "{} but no {}"),
    ),
    "relation": (
        _order,
        "Answer {0} if the one of {one} has or holds the other, and {1} if the one of {other} does.",
        ("{} has {}", "the {} holds the {}"),
    ),
    "place": (
        _place,
        "Say with {0}, {1} or {2} where among {other} the one of {one} is.",
        ("{} {} {}", "{} , {} , {}"),
    ),
    "repetition": (
        _repetition,
        "Answer {0} if a word is repeated and {1} if not.",
        ("{} {} {}", "{} and {} and {}"),
    ),
    "middle": (
        _middle,
        "Answer {0} if the one of {one} is in the middle and {1} if the one of {other} is.",
        ("{} {} {}", "{} , {} , {}"),
    ),
    "turn": (
        _turn,
        "Answer {0} if {one} are said to be the bigger or older and {1} if {other} are.",
        ("{} is bigger than {}", "the {} is older than the {}"),
    ),
    "ends": (
        _ends,
        "Answer {0} if the first word is repeated at the end and {1} if before.",
        ("{} {} {} {}", "{} and {} and {} and {}"),
    ),
}
UNSEEN_FAMILIES = ("middle", "turn", "ends")  # those of no training task

NATURAL = {
    "place": ("first", "second", "third"),
    "repetition": ("again", "once"),
    "ends": ("end", "before"),
}
MADE_UP = ("foo", "bar", "wug", "zup", "dax", "blick", "fep", "mib")
# Two categories of a domain, with a word for each that serves as a label.
CATEGORIES: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "animals": (
        ("birds", "fish", "bird", "fish"),
        ("insects", "farm animals", "insect", "farm"),
        ("wild mammals", "sea animals", "land", "sea"),
    ),
    "food": (
        ("fruit", "meat", "fruit", "meat"),
        ("drinks", "sweets", "drink", "sweet"),
        ("vegetables", "grains and bread", "green", "grain"),
    ),
    "music": (
        ("string instruments", "music styles", "instrument", "style"),
        ("wind instruments", "percussion instruments", "wind", "percussion"),
        ("words about music", "art things", "music", "art"),
    ),
    "home": (("furniture", "kitchenware", "room", "kitchen"), ("hand tools", "rooms", "tool", "room")),
    "clothing": (("footwear", "jewellery", "foot", "hand"), ("headwear", "fabrics", "head", "cloth")),
    "body": (("limbs", "illnesses", "body", "ill"), ("inner organs", "medical things", "inside", "doctor")),
    "nature": (("trees", "weather", "tree", "weather"), ("flowers", "waters", "flower", "water")),
    "people": (("family", "makers and builders", "family", "job"), ("artists", "bad people", "good", "bad")),
    "places": (("countries", "shops", "country", "shop"), ("cities", "streets and roads", "city", "road")),
    "transport": (("boats", "road vehicles", "sea", "road"), ("aircraft", "travel things", "air", "case")),
    "school": (("school subjects", "school things", "subject", "thing"), ("shapes", "things to read", "shape", "book")),
    "sport": (
        ("ball games", "sport equipment", "game", "ball"),
        ("people in sport", "toys and indoor games", "man", "toy"),
    ),
    "work": (("money words", "computer words", "money", "computer"), ("weapons", "office things", "weapon", "office")),
    "materials": (
        ("metals", "liquids and gases", "iron", "oil"),
        ("building materials", "containers", "wall", "box"),
    ),
    "qualities": (("colours", "big sizes", "colour", "big"), ("good character", "textures", "good", "touch")),
    "actions": (("motion verbs", "speech verbs", "move", "say"), ("cooking verbs", "harm verbs", "cook", "hurt")),
}


def _task(family: str, domain: str, number: int) -> StarterTask:
    """The task of a family in a domain; `number` chooses frame, categories and labels."""
    rule, instruction, frames = FAMILIES[family]
    one, other, *named = CATEGORIES[domain][number % len(CATEGORIES[domain])]
    frame = frames[number % len(frames)]
    natural = NATURAL.get(family, tuple(named))
    start = 3 * number % len(MADE_UP)
    labels = natural if number // 2 % 2 else (MADE_UP * 2)[start : start + len(natural)]

    def text(generator: np.random.Generator, position: int) -> str:
        return with_articles(rule(generator, position, one, other, frame))

    said = instruction.format(*labels, one=one, other=other)
    return labelled(f"{domain}-{family}", "classification", domain, said, labels, text)


READER = [
    _task(family, domain, row + column)
    for row, family in enumerate(FAMILIES)
    for column, domain in enumerate(CATEGORIES)
    if family not in UNSEEN_FAMILIES or domain in ("animals", "food", "music")
]
