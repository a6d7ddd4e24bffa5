"""Classification of words, short lists of words and numbers: which category, which order, which pattern."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..tasks.collection import Example
from .drawing import FRAMES, THINGS, StarterTask, domains, facts, labelled, pick, sample, words


def _by_fact(relation: str) -> dict[str, list[str]]:
    """The first words of a relation by the word that they go with."""
    found: dict[str, list[str]] = {}
    for first, second in facts()[relation].items():
        found.setdefault(second, []).append(first)
    return found


def _all(domain: str) -> tuple[str, ...]:
    return words(*domains()[domain])


def _fixed(
    name: str,
    domain: str,
    instruction: str,
    labels: tuple[str, ...],
    text: Callable[[np.random.Generator, str], str],
    train: int = 300,
) -> StarterTask:
    """A task whose input is made for a label that is drawn first."""

    def draw(generator: np.random.Generator) -> Example:
        label = pick(generator, labels)
        return Example(text(generator, label), label, labels)

    return StarterTask(name, "classification", domain, instruction, draw, train)


ANIMALS = [
    labelled(
        "animals-tame-or-wild",
        "animals",
        "Say whether the animals live with people or in the wild.",
        {"tame": words("farm animals", "pets"), "wild": words("wild mammals", "reptiles and amphibians")},
        count=2,
    ),
    labelled(
        "animals-land-or-water",
        "animals",
        "Say whether the animal lives on land or in water.",
        {"land": words("farm animals", "wild mammals"), "water": words("fish", "sea animals")},
        frames=FRAMES,
    ),
    labelled(
        "animals-legs",
        "animals",
        "Say how many legs such animals have.",
        {
            "none": words("fish"),
            "two": words("birds"),
            "four": words("wild mammals"),
            "six": [w for w in words("insects") if w != "caterpillar"],
        },
        count=2,
    ),
    labelled(
        "animals-foo",
        "animals",
        "Answer foo for birds and bar for mammals.",
        {"foo": words("birds"), "bar": words("wild mammals")},
        count=2,
    ),
    labelled(
        "animals-dax",
        "animals",
        "Answer dax for an insect, blick for a farm animal and wug for a fish.",
        {"dax": words("insects"), "blick": words("farm animals"), "wug": words("fish")},
        frames=FRAMES,
        train=120,
    ),
]
FOOD = [
    labelled(
        "food-eat-or-drink",
        "food",
        "Say whether one eats it or drinks it.",
        {"eat": words("fruit", "vegetables", "meat", "grains and bread"), "drink": words("drinks")},
        frames=(
            "{name} wants some {word}",
            "we have no {word} left",
            "a little {word} for {name}",
            "who bought the {word} ?",
            "{name} brought {word} to the party",
            "is there any {word} ?",
            "the {word} is for you",
            "more {word} please",
            "{name} ordered the {word}",
        ),
    ),
    labelled(
        "food-sweet-or-savoury",
        "food",
        "Say whether the foods are sweet or savoury.",
        {"sweet": words("sweets", "fruit"), "savoury": words("meat", "vegetables")},
        count=3,
    ),
    labelled(
        "food-foo",
        "food",
        "Answer foo for vegetables and bar for fruit.",
        {"foo": words("vegetables"), "bar": words("fruit")},
        count=2,
        train=120,
    ),
    labelled(
        "food-zup",
        "food",
        "Answer zup for meat, mib for drinks and fep for herbs.",
        {"zup": words("meat"), "mib": words("drinks"), "fep": words("herbs and spices")},
        count=2,
    ),
]
MUSIC = [
    labelled(
        "music-instruments",
        "music",
        "Say what kind of instruments these are.",
        {
            "string": words("string instruments"),
            "wind": words("wind instruments"),
            "percussion": words("percussion instruments"),
        },
        count=2,
    ),
    labelled(
        "music-blick",
        "music",
        "Answer blick for a kind of music and dax for an instrument.",
        {"blick": words("music styles"), "dax": words("string instruments", "wind instruments")},
        frames=(
            "{name} loves the {word}",
            "do you know {word} ?",
            "{word} is what {name} wants to hear",
            "a night of {word}",
            "{name} teaches {word}",
            "nothing sounds like {word}",
            "my {relative} likes {word}",
            "a book about {word}",
        ),
    ),
]
THINGS_AND_PLACES = [
    labelled(
        "home-room-or-furniture",
        "home",
        "Say whether it is a room or a piece of furniture.",
        {"room": words("rooms"), "furniture": words("furniture")},
        frames=FRAMES,
    ),
    labelled(
        "home-kitchen-or-garden",
        "home",
        "Say where the things are kept.",
        {"kitchen": words("kitchenware"), "garden": words("garden tools")},
        count=3,
    ),
    labelled(
        "home-foo",
        "home",
        "Answer foo for electric appliances and bar for parts of a building.",
        {"foo": words("appliances"), "bar": words("parts of a building")},
        count=2,
    ),
    labelled(
        "clothing-head-or-feet",
        "clothing",
        "Say where the things are worn.",
        {"head": words("headwear"), "feet": words("footwear")},
        count=2,
        train=120,
    ),
    labelled(
        "clothing-dax",
        "clothing",
        "Answer dax for jewellery, blick for cloth and wug for clothes.",
        {"dax": words("jewellery"), "blick": words("fabrics"), "wug": words("tops", "bottoms")},
        count=2,
    ),
    labelled(
        "body-inside-or-outside",
        "body",
        "Say whether the parts of the body are inside or outside.",
        {"inside": words("inner organs"), "outside": words("parts of the head", "limbs")},
        count=3,
    ),
    labelled(
        "body-illness-or-cure",
        "body",
        "Say whether it makes one ill or well.",
        {"ill": words("illnesses"), "well": words("medical things")},
        frames=(
            "the doctor spoke of {word}",
            "{name} read about {word}",
            "is it {word} ?",
            "{word} , said the nurse",
            "the hospital wrote {word}",
            "my {relative} asked about {word}",
            "a day with {word}",
            "{name} thinks of {word}",
        ),
    ),
    labelled(
        "nature-tree-or-flower",
        "nature",
        "Say whether it is a tree or a flower.",
        {"tree": words("trees"), "flower": [w for w in words("flowers") if w != "violet"]},
        frames=FRAMES,
    ),
    labelled(
        "nature-bar",
        "nature",
        "Answer bar for land and foo for water.",
        {"bar": words("landforms"), "foo": words("waters")},
        count=3,
    ),
    labelled(
        "nature-three-kinds",
        "nature",
        "Say whether the words are about the weather, the sky or plants.",
        {"weather": words("weather"), "sky": words("sky and space"), "plants": words("parts of plants")},
        count=2,
    ),
    labelled(
        "people-family-or-job",
        "people",
        "Say whether the person is named by family or by job.",
        {"family": words("family"), "job": words("health workers", "makers and builders")},
        frames=FRAMES,
    ),
    labelled(
        "people-male-or-female",
        "people",
        "Say whether the two are male or female.",
        {
            "male": tuple(facts()["masculine to feminine"]),
            "female": tuple(facts()["masculine to feminine"].values()),
        },
        count=2,
    ),
    labelled(
        "people-jobs",
        "people",
        "Say what kind of work these people do.",
        {
            "art": words("artists"),
            "outdoors": words("outdoor workers"),
            "office": words("office and law"),
            "shop": words("shop and food workers"),
        },
        count=2,
    ),
    labelled(
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
    labelled(
        "places-continents",
        "places",
        "Say in which continent the two countries are.",
        _by_fact("country to continent"),
        count=2,
    ),
    labelled(
        "places-foo",
        "places",
        "Answer foo for homes and bar for shops.",
        {"foo": words("homes"), "bar": words("shops")},
        count=2,
        train=120,
    ),
    labelled(
        "transport-land-air-sea",
        "transport",
        "Say where such vehicles move.",
        {"land": words("road vehicles", "rail and cycles"), "air": words("aircraft"), "sea": words("boats")},
        count=2,
    ),
    labelled(
        "school-subject-or-thing",
        "school",
        "Say whether it is a subject or a thing at school.",
        {"subject": words("school subjects"), "thing": words("school things")},
        frames=FRAMES,
    ),
    labelled(
        "sport-zup",
        "sport",
        "Answer zup for ball games and mib for other sports.",
        {"zup": words("ball games"), "mib": words("other sports")},
        count=3,
    ),
    labelled(
        "work-money-or-computer",
        "work",
        "Say whether the words are about money or about computers.",
        {"money": words("money words"), "computer": words("computer words")},
        count=3,
    ),
    labelled(
        "materials-solid-or-flowing",
        "materials",
        "Say whether the materials are solid or flow.",
        {"solid": words("metals", "building materials"), "flowing": words("liquids and gases")},
        count=3,
    ),
]
QUALITIES_AND_ACTIONS = [
    labelled(
        "qualities-big-or-small",
        "qualities",
        "Say whether the size is big or small.",
        {"big": words("big sizes"), "small": words("small sizes")},
        frames=(
            "a {word} {thing}",
            "the {thing} is {word}",
            "{name} has a {word} {thing}",
            "what a {word} {thing} !",
            "this {thing} looks {word}",
            "{name} wants something {word}",
            "not so {word} , please",
            "one {word} {thing} for {name}",
        ),
    ),
    labelled(
        "qualities-blick",
        "qualities",
        "Answer blick for good character and dax for bad character.",
        {"blick": words("good character"), "dax": words("bad character")},
        count=3,
    ),
    labelled(
        "qualities-four-kinds",
        "qualities",
        "Say what the two words describe.",
        {
            "colour": words("colours"),
            "touch": words("textures"),
            "sound": words("loud and quiet"),
            "taste": words("tastes"),
        },
        count=2,
        train=120,
    ),
    labelled(
        "actions-moving-or-speaking",
        "actions",
        "Say whether they move or speak.",
        {"moving": words("motion verbs"), "speaking": words("speech verbs")},
        count=3,
    ),
    labelled(
        "actions-foo",
        "actions",
        "Answer foo for thinking and bar for work with the hands.",
        {"foo": words("thinking verbs"), "bar": words("hand actions")},
        frames=(
            "{name} will {word}",
            "we {word} together",
            "do they {word} ?",
            "please {word}",
            "i can not {word}",
            "{name} and {name2} {word}",
            "you must {word} now",
            "why do you {word} ?",
            "let us {word}",
        ),
    ),
    labelled(
        "actions-kind-or-cruel",
        "actions",
        "Say whether the actions help or hurt.",
        {"kind": words("kind verbs"), "cruel": words("harm verbs")},
        count=3,
    ),
    labelled(
        "feelings-good-or-bad",
        "feelings",
        "Say whether the feelings are good or bad.",
        {"good": words("good feelings"), "bad": words("bad feelings")},
        count=3,
    ),
    labelled(
        "time-often-or-when",
        "time",
        "Say whether the words tell how often or when.",
        {"often": words("adverbs of frequency"), "when": words("adverbs of time")},
        count=3,
    ),
    labelled(
        "grammar-word-classes",
        "grammar",
        "Say what class of words these are.",
        {
            "noun": words("furniture", "footwear", "trees", "boats"),
            "verb": words("cleaning and repair verbs", "giving and taking verbs", "face verbs"),
            "adjective": words("good character", "old and new", "strong and weak"),
        },
        count=2,
    ),
]


def _numbers(wanted: Callable[[list[int], str], bool], count: int) -> Callable[[np.random.Generator, str], str]:
    """Draws `count` different numbers from 1 to 99 until they are as the label wants them."""

    def text(generator: np.random.Generator, label: str) -> str:
        while True:
            found = [int(n) + 1 for n in sample(generator, range(99), count)]
            if wanted(found, label):
                return " ".join(map(str, found))

    return text


def _pattern(generator: np.random.Generator, label: str) -> str:
    first, second = sample(generator, THINGS, 2)
    return " ".join({"a": first, "b": second}[letter] for letter in label)


def _place_of_colour(generator: np.random.Generator, label: str) -> str:
    found = sample(generator, words("furniture", "rooms"), 3)
    found[("first", "second", "third").index(label)] = pick(generator, words("colours"))
    return " ".join(found)


def _same_category(generator: np.random.Generator, label: str) -> str:
    one, other = sample(generator, ("footwear", "hand tools", "trees", "family", "boats", "metals", "homes"), 2)
    return " ".join(
        sample(generator, words(one), 2)
        if label == "same"
        else (pick(generator, words(one)), pick(generator, words(other)))
    )


def _repeated(generator: np.random.Generator, label: str) -> str:
    found = sample(generator, _all("clothing"), 4)
    if label == "foo":
        one, other = sample(generator, range(4), 2)
        found[one] = found[other]
    return " ".join(found)


RULES = [
    _fixed(
        "numbers-up-or-down",
        "numbers",
        "Say whether the numbers go up or down.",
        ("up", "down"),
        _numbers(lambda n, label: n == sorted(n, reverse=label == "down"), 3),
    ),
    _fixed(
        "numbers-even-or-odd",
        "numbers",
        "Say whether the two numbers are even or odd.",
        ("even", "odd"),
        _numbers(lambda n, label: all(m % 2 == (label == "odd") for m in n), 2),
    ),
    _fixed(
        "numbers-foo",
        "numbers",
        "Answer foo if the larger number is first and bar if it is last.",
        ("foo", "bar"),
        _numbers(lambda n, label: (n[0] > n[1]) == (label == "foo"), 2),
    ),
    _fixed(
        "numbers-low-or-high",
        "numbers",
        "Say whether the numbers are all below fifty (low) or all above (high).",
        ("low", "high"),
        _numbers(lambda n, label: max(n) < 50 if label == "low" else min(n) > 50, 2),
        train=120,
    ),
    _fixed("patterns-aba", "patterns", "Name the pattern of equal words.", ("aba", "aab", "abb"), _pattern),
    _fixed(
        "patterns-place-of-colour",
        "patterns",
        "Say at which place the colour stands.",
        ("first", "second", "third"),
        _place_of_colour,
    ),
    _fixed(
        "patterns-same-kind",
        "patterns",
        "Say whether the two words are of the same kind.",
        ("same", "different"),
        _same_category,
    ),
    _fixed(
        "patterns-foo",
        "patterns",
        "Answer foo if a word stands twice, otherwise bar.",
        ("foo", "bar"),
        _repeated,
    ),
]

WORD_TASKS = [*ANIMALS, *FOOD, *MUSIC, *THINGS_AND_PLACES, *QUALITIES_AND_ACTIONS, *RULES]
