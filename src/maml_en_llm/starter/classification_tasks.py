"""Classification: the tasks of tasks.yaml, and those whose inputs are made by a rule from numbers, words or facts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .drawing import (
    THINGS,
    StarterTask,
    domains,
    facts,
    labelled,
    of_pools,
    of_templates,
    pick,
    read,
    sample,
    words,
)


def _listed() -> list[StarterTask]:
    """The tasks of tasks.yaml, which says what its keys mean."""
    tasks = []
    for name, entry in read("tasks.yaml").items():
        if pools := entry.pop("words", None):
            entry["pools"] = {label: words(*categories) for label, categories in pools.items()}
        tasks.append(of_pools(name, **entry) if pools else of_templates(name, **entry))
    return tasks


def _continents() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for country, continent in facts()["country to continent"].items():
        found.setdefault(continent, []).append(country)
    return found


FACTS = [
    of_pools(
        "people-male-or-female",
        "people",
        "Say whether the two are male or female.",
        {"male": tuple(facts()["masculine to feminine"]), "female": tuple(facts()["masculine to feminine"].values())},
        count=2,
    ),
    of_pools(
        "places-country-or-city",
        "places",
        "Say whether it is a country or a city.",
        {"country": tuple(facts()["country to capital"]), "city": tuple(facts()["country to capital"].values())},
        frames=(
            "{name} lives in {word}",
            "a letter from {word}",
            "we flew to {word}",
            "have you been to {word} ?",
            "{name} was born in {word}",
            "the weather in {word}",
            "a map of {word}",
            "{word} is beautiful",
        ),
    ),
    of_pools("places-continents", "places", "Say in which continent the two countries are.", _continents(), count=2),
]


def _rule(
    name: str,
    domain: str,
    instruction: str,
    labels: tuple[str, ...],
    text: Callable[[np.random.Generator, int], str],
    train: int = 300,
) -> StarterTask:
    return labelled(name, "classification", domain, instruction, labels, text, train)


def _numbers(wanted: Callable[[list[int], int], bool], count: int) -> Callable[[np.random.Generator, int], str]:
    """Draws `count` different numbers from 1 to 99 until they are as wanted for the label's position."""

    def text(generator: np.random.Generator, position: int) -> str:
        while True:
            found = sample(generator, range(1, 100), count)
            if wanted(found, position):
                return " ".join(map(str, found))

    return text


PATTERNS = ("aba", "aab", "abb")


def _pattern(generator: np.random.Generator, position: int) -> str:
    first, second = sample(generator, THINGS, 2)
    return " ".join({"a": first, "b": second}[letter] for letter in PATTERNS[position])


def _place_of_colour(generator: np.random.Generator, position: int) -> str:
    found = sample(generator, words("furniture", "rooms"), 3)
    found[position] = pick(generator, words("colours"))
    return " ".join(found)


def _same_category(generator: np.random.Generator, position: int) -> str:
    one, other = sample(generator, ("footwear", "hand tools", "trees", "family", "boats", "metals", "homes"), 2)
    if position == 0:
        return " ".join(sample(generator, words(one), 2))
    return f"{pick(generator, words(one))} {pick(generator, words(other))}"


def _repeated(generator: np.random.Generator, position: int) -> str:
    found = sample(generator, words(*domains()["clothing"]), 4)
    if position == 0:
        one, other = sample(generator, range(4), 2)
        found[one] = found[other]
    return " ".join(found)


RULES = [
    _rule(
        "numbers-up-or-down",
        "numbers",
        "Say whether the numbers go up or down.",
        ("up", "down"),
        _numbers(lambda numbers, down: numbers == sorted(numbers, reverse=bool(down)), 3),
    ),
    _rule(
        "numbers-even-or-odd",
        "numbers",
        "Say whether the two numbers are even or odd.",
        ("even", "odd"),
        _numbers(lambda numbers, odd: all(number % 2 == odd for number in numbers), 2),
    ),
    _rule(
        "numbers-foo",
        "numbers",
        "Answer foo if the larger number is first and bar if it is last.",
        ("foo", "bar"),
        _numbers(lambda numbers, last: (numbers[1] > numbers[0]) == last, 2),
    ),
    _rule(
        "numbers-low-or-high",
        "numbers",
        "Say whether the two numbers are below fifty (low) or above (high).",
        ("low", "high"),
        _numbers(lambda numbers, high: min(numbers) > 50 if high else max(numbers) < 50, 2),
        train=120,
    ),
    _rule("patterns-aba", "patterns", "Name the pattern of equal words.", PATTERNS, _pattern),
    _rule(
        "patterns-place-of-colour",
        "patterns",
        "Say at which place the colour stands.",
        ("first", "second", "third"),
        _place_of_colour,
    ),
    _rule(
        "patterns-same-kind",
        "patterns",
        "Say whether the two words are of the same kind.",
        ("same", "different"),
        _same_category,
    ),
    _rule("patterns-foo", "patterns", "Answer foo if a word stands twice, otherwise bar.", ("foo", "bar"), _repeated),
]

CLASSIFICATION = [*_listed(), *FACTS, *RULES]
