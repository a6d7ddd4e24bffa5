"""A placeholder collection: small tasks made by rules, the same files on every machine.

Twelve classification tasks over words and short sentences, enough to run the real pipeline without a download.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..files import write_text
from ..tasks.seeds import random_generator

ANIMALS = (
    "cat dog horse sheep goat lion tiger wolf bear mouse rabbit fox deer eagle hawk crow duck goose frog snake".split()
)
FOODS = "bread rice soup cheese apple pear plum grape carrot onion bean cake honey butter salt pepper tea fish".split()
TOOLS = "hammer saw drill wrench shovel rake knife spoon needle brush ladder rope bucket axe chisel file lamp".split()
PLACES = (
    "river lake forest desert island valley hill beach city village harbour bridge market school castle tower".split()
)
GOOD = "wonderful lovely excellent delightful superb pleasant charming brilliant fine splendid".split()
BAD = "terrible awful dreadful horrible nasty dull poor boring sad rotten".split()
PAST = "walked jumped looked played called opened closed carried watched painted".split()
PRESENT = "walks jumps looks plays calls opens closes carries watches paints".split()
NAMES = "Anna Ben Clara David Eva Frank Grace Henry Ida Jack Karin Leo Maria Nils Olga Paul".split()

Draw = Callable[[np.random.Generator], tuple[str, str]]


def _category(labels: dict[str, list[str]], template: str) -> Draw:
    def draw(generator: np.random.Generator) -> tuple[str, str]:
        label = list(labels)[int(generator.integers(len(labels)))]
        words = labels[label]
        fill = {"word": words[int(generator.integers(len(words)))], "name": str(generator.choice(NAMES))}
        fill |= {"place": str(generator.choice(PLACES)), "thing": str(generator.choice(FOODS + TOOLS))}
        return template.format(**fill), label

    return draw


def _order(first: str, second: str) -> Draw:
    def draw(generator: np.random.Generator) -> tuple[str, str]:
        a, b = (int(n) for n in generator.choice(900, size=2, replace=False) + 100)
        return f"{a} and {b}", first if a > b else second

    return draw


def _rule(question: str, test: Callable[[str], bool], words: list[str]) -> Draw:
    def draw(generator: np.random.Generator) -> tuple[str, str]:
        chosen = [str(w) for w in generator.choice(words, size=3, replace=False)]
        return " ".join(chosen), "yes" if test(question and chosen[0]) else "no"

    return draw


EVERYTHING = ANIMALS + FOODS + TOOLS + PLACES
TASKS: dict[str, tuple[str, tuple[str, ...], Draw]] = {
    "sentiment": (
        "classification",
        ("good", "bad"),
        _category({"good": GOOD, "bad": BAD}, "{name} thought the {place} was {word}."),
    ),
    "review": (
        "classification",
        ("positive", "negative"),
        _category({"positive": GOOD, "negative": BAD}, "The {thing} from {name} is {word}."),
    ),
    "tense": (
        "classification",
        ("past", "present"),
        _category({"past": PAST, "present": PRESENT}, "{name} {word} near the {place}."),
    ),
    "animal-or-food": (
        "classification",
        ("animal", "food"),
        _category({"animal": ANIMALS, "food": FOODS}, "{name} sees the {word}."),
    ),
    "tool-or-place": (
        "classification",
        ("tool", "place"),
        _category({"tool": TOOLS, "place": PLACES}, "{name} draws a {word}."),
    ),
    "larger-first": ("classification", ("descending", "ascending"), _order("descending", "ascending")),
    "first-word-long": ("classification", ("yes", "no"), _rule("long", lambda word: len(word) > 4, EVERYTHING)),
    "first-word-living": (
        "classification",
        ("yes", "no"),
        _rule("living", lambda word: word in ANIMALS, ANIMALS + TOOLS),
    ),
    "food-or-tool": (
        "classification",
        ("eat", "use"),
        _category({"eat": FOODS, "use": TOOLS}, "{name} bought a {word}."),
    ),
    "place-or-animal": (
        "classification",
        ("where", "who"),
        _category({"where": PLACES, "who": ANIMALS}, "Think of a {word}, {name}."),
    ),
    "animal-foo": (
        "classification",
        ("foo", "bar"),
        _category({"foo": ANIMALS, "bar": PLACES}, "{name} likes this {word}."),
    ),
    "opinion-foo": (
        "classification",
        ("foo", "bar"),
        _category({"foo": GOOD, "bar": BAD}, "What a {word} {place}, said {name}."),
    ),
}
TARGETS = ("food-or-tool", "place-or-animal", "animal-foo", "opinion-foo")
UNSEEN = ("food-or-tool", "place-or-animal")


def write_starter_collection(folder: Path, seed: int = 0) -> None:
    """Writes the collection to `folder`: 160 train and 80 test examples a task, all distinct."""
    for name, (_, options, draw) in TASKS.items():
        generator = random_generator("starter", name, seed)
        found: dict[str, str] = {}
        while len(found) < 240:
            text, label = draw(generator)
            found.setdefault(text, label)
        lines = [
            json.dumps({"task": name, "input": text, "output": label, "options": list(options)})
            for text, label in found.items()
        ]
        target = folder / "data" / name
        target.mkdir(parents=True, exist_ok=True)
        write_text(target / "train.jsonl", "\n".join(lines[:160]) + "\n")
        write_text(target / "test.jsonl", "\n".join(lines[160:]) + "\n")
    (folder / "settings").mkdir(exist_ok=True)
    setting = {"train": [t for t in TASKS if t not in TARGETS], "test": TARGETS, "unseen_domain_test": UNSEEN}
    write_text(folder / "settings" / "starter.json", json.dumps(setting, indent=1) + "\n")
    manifest = {"tasks": [{"name": name, "kind": kind} for name, (kind, _, _) in TASKS.items()], "missing": []}
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
