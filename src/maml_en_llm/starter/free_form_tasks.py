"""Free-form tasks, which have no options: what goes with two words, copies, the next number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..tasks.collection import Example
from .drawing import StarterTask, facts, sample, words


def _free(
    name: str, domain: str, instruction: str, make: Callable[[np.random.Generator], tuple[str, str]], train: int = 300
) -> StarterTask:
    def draw(generator: np.random.Generator) -> Example:
        return Example(*make(generator))

    return StarterTask(name, "free_form", domain, instruction, draw, train)


def _two_of(relation: str) -> Callable[[np.random.Generator], tuple[str, str]]:
    """Two words of a relation, and what goes with each."""
    pairs = tuple(facts()[relation].items())

    def make(generator: np.random.Generator) -> tuple[str, str]:
        (first, one), (second, two) = sample(generator, pairs, 2)
        return f"{first} {second}", f"{one} {two}"

    return make


def _copied(places: Sequence[int]) -> Callable[[np.random.Generator], tuple[str, str]]:
    """Three words, and those of them at `places`."""

    def make(generator: np.random.Generator) -> tuple[str, str]:
        found = sample(generator, words("furniture", "homes", "boats"), 3)
        return " ".join(found), " ".join(found[place] for place in places)

    return make


def _counting(generator: np.random.Generator) -> tuple[str, str]:
    start, step = int(generator.integers(1, 60)), int(generator.integers(1, 8))
    return " ".join(str(start + step * n) for n in range(3)), str(start + step * 3)


FREE_FORM = [
    _free("write-plurals", "grammar", "Write the two words in the plural.", _two_of("singular to plural")),
    _free("write-past-tense", "grammar", "Write the two verbs in the past tense.", _two_of("present to past")),
    _free("write-capitals", "places", "Write the capitals of the two countries.", _two_of("country to capital")),
    _free("write-comparatives", "qualities", "Write the two comparatives.", _two_of("adjective to comparative")),
    _free("write-opposites", "qualities", "Write the opposites of the two words.", _two_of("antonyms")),
    _free("write-feminine", "people", "Write the words for women.", _two_of("masculine to feminine")),
    _free("write-doers", "work", "Write who does it.", _two_of("verb to doer")),
    _free("write-reversed", "patterns", "Write the three words in reverse order.", _copied((2, 1, 0))),
    _free("write-last", "patterns", "Write the last of the three words.", _copied((2,))),
    _free("write-next-number", "numbers", "Write the number that comes next.", _counting),
]
