"""What the starter tasks are drawn with: words, facts, templates with slots, and the task itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from ..tasks.collection import Example

Item = TypeVar("Item")
Draw = Callable[[np.random.Generator], Example]


@dataclass(frozen=True)
class StarterTask:
    """A task made by rule; `draw` gives a random example, `train` says how many training examples are written."""

    name: str
    kind: str
    domain: str
    instruction: str
    draw: Draw
    train: int = 300


@cache
def domains() -> dict[str, dict[str, list[str]]]:
    """Words by domain and category."""
    found: dict[str, dict[str, list[str]]] = read("words.yaml")["domains"]
    return found


@cache
def facts() -> dict[str, dict[str, str]]:
    """Pairs of words by relation, such as "country to capital"."""
    found: dict[str, dict[str, str]] = read("facts.yaml")
    return found


def read(name: str) -> Any:
    """A YAML file of this package."""
    return yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))


@cache
def words(*categories: str) -> tuple[str, ...]:
    """The words of the categories, each once; a category's name is unique among all domains."""
    named = {category: found for domain in domains().values() for category, found in domain.items()}
    return tuple(dict.fromkeys(word for category in categories for word in named[category]))


def pick(generator: np.random.Generator, items: Sequence[Item]) -> Item:
    return items[int(generator.integers(len(items)))]


def sample(generator: np.random.Generator, items: Sequence[Item], count: int) -> list[Item]:
    """`count` different items in random order."""
    chosen: list[int] = []
    while len(chosen) < count:
        index = int(generator.integers(len(items)))
        if index not in chosen:
            chosen.append(index)
    return [items[index] for index in chosen]


def shuffled(generator: np.random.Generator, items: Sequence[Item]) -> list[Item]:
    return sample(generator, items, len(items))


NAMES = tuple(
    "anna ben clara david emma frank grace henry ida jack kate leo maria nick olga paul rosa sam tina victor".split()
)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
NUMBERS = words("numbers")[:20]  # one to twenty
PLURAL_ONLY = ("pliers", "scissors")
THINGS = tuple(w for w in words("kitchenware", "hand tools", "containers", "school things") if w not in PLURAL_ONLY)
EVENTS = tuple("wedding party meeting exam concert match funeral festival lesson trip race parade picnic feast".split())
SAME_PLACES = ("store", "mall", "grocery", "butchery", "cathedral")  # other words for places that are there
PLACES = tuple(place for place in words("city buildings", "shops") if place not in SAME_PLACES)
# Verbs that go with a person as their object.
VERBS = tuple("see find know tell teach catch meet lose hear help call ask love visit follow thank watch push".split())

# What a slot of a template may hold. {name2} is a slot as {name}, with a different filling.
SLOTS: dict[str, Sequence[str]] = {
    "name": NAMES,
    "day": WEEKDAYS,
    "number": NUMBERS[1:],
    "thing": THINGS,
    "garment": words("tops", "footwear"),
    "room": words("rooms"),
    "place": PLACES,
    "building": words("city buildings"),
    "city": words("cities"),
    "country": words("countries"),
    "vehicle": words("road vehicles"),
    "job": words("health workers", "makers and builders", "office and law", "artists"),
    "relative": words("family"),
    "colour": words("colours"),
    "sport": words("ball games", "other sports"),
    "subject": words("school subjects"),
    "good": words("praise"),
    "bad": words("blame"),
    "animal": words("farm animals", "pets", "wild mammals", "birds"),
    "food": words("fruit", "vegetables", "meat", "grains and bread", "sweets"),
    "drink": words("drinks"),
    "instrument": words("string instruments", "wind instruments", "percussion instruments"),
    "style": words("music styles"),
    "event": EVENTS,
    "period": ("day", "week", "month"),
    "person": words("family", "artists", "health workers", "shop and food workers"),
    "verb": VERBS,
    "past": tuple(facts()["present to past"][verb] for verb in VERBS),
    "one": tuple(facts()["singular to plural"]),
    "many": tuple(facts()["singular to plural"].values()),
}
_SLOT = re.compile(r"\{([a-z]+)\d?\}")


def fill(generator: np.random.Generator, template: str, more: Mapping[str, Sequence[str]] | None = None) -> str:
    """The template with a random word in each slot, from `more` or SLOTS; no word is used twice."""
    used: dict[str, str] = {}
    for match in _SLOT.finditer(template):
        while match[0] not in used:
            word = pick(generator, (more or {}).get(match[1]) or SLOTS[match[1]])
            if word not in used.values():
                used[match[0]] = word
    return with_articles(_SLOT.sub(lambda match: used[match[0]], template))


def with_articles(text: str) -> str:
    """The text with "an" for "a" before a vowel that is spoken."""
    return re.sub(r"\ba (?=[aeio]|u(?!k|ni[cftv]))", "an ", text)


def labelled(
    name: str,
    kind: str,
    domain: str,
    instruction: str,
    labels: tuple[str, ...],
    text: Callable[[np.random.Generator, int], str],
    train: int = 300,
) -> StarterTask:
    """A task with fixed labels: one is drawn, then `text` makes an input for its position in `labels`."""

    def draw(generator: np.random.Generator) -> Example:
        position = int(generator.integers(len(labels)))
        return Example(text(generator, position), labels[position], labels)

    return StarterTask(name, kind, domain, instruction, draw, train)


def of_pools(
    name: str,
    domain: str,
    instruction: str,
    pools: Mapping[str, Sequence[str]],
    count: int = 1,
    frames: Sequence[str] = (),
    train: int = 300,
) -> StarterTask:
    """Classification by the pool that the input is from: `count` words of it, or one in a frame's slot {word}."""
    choices = tuple(pools.values())

    def text(generator: np.random.Generator, position: int) -> str:
        if frames:
            return fill(generator, pick(generator, frames), {"word": choices[position]})
        return " ".join(sample(generator, choices[position], count))

    return labelled(name, "classification", domain, instruction, tuple(pools), text, train)


def of_templates(
    name: str,
    domain: str,
    instruction: str,
    templates: Mapping[str, Sequence[str]],
    train: int = 300,
    kind: str = "classification",
) -> StarterTask:
    """A task whose label says which list the template of the input is from."""
    choices = tuple(templates.values())

    def text(generator: np.random.Generator, position: int) -> str:
        return fill(generator, pick(generator, choices[position]))

    return labelled(name, kind, domain, instruction, tuple(templates), text, train)
