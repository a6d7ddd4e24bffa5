"""Natural language inference: does the second sentence follow from the first?"""

from __future__ import annotations

import numpy as np

from .drawing import NAMES, NUMBERS, SLOTS, THINGS, WEEKDAYS, facts, fill, labelled, pick, sample, with_articles, words

YES_NO = ("yes", "no")
TRUE_FALSE = ("true", "false")

CLASSES = {
    "bird": words("birds"),
    "fish": words("fish"),
    "insect": words("insects"),
    "mammal": words("wild mammals"),
}


def _animal_class(generator: np.random.Generator, position: int) -> str:
    right, wrong = sample(generator, tuple(CLASSES), 2)
    verb = pick(generator, ("saw", "has", "found", "likes", "drew", "lost", "feeds", "fears"))
    name, animal, kind = pick(generator, NAMES), pick(generator, CLASSES[right]), (right, wrong)[position]
    return with_articles(f"{name} {verb} the {animal} . so {name} {verb} a {kind}")


# Of each, the second word follows from the first, the third contradicts it, the fourth is another matter.
FOOD_QUALITIES = (
    ("boiling", "hot", "cold", "salty"),
    ("frozen", "cold", "hot", "expensive"),
    ("delicious", "tasty", "awful", "cheap"),
    ("rotten", "bad", "fresh", "green"),
    ("raw", "uncooked", "cooked", "red"),
    ("tiny", "small", "large", "sweet"),
    ("enormous", "large", "small", "sour"),
    ("soaked", "wet", "dry", "yellow"),
    ("sugary", "sweet", "bitter", "warm"),
    ("icy", "cold", "warm", "brown"),
)


def _food_quality(generator: np.random.Generator, position: int) -> str:
    qualities = pick(generator, FOOD_QUALITIES)
    frame = pick(
        generator,
        (
            "the {food} is",
            "this {food} was",
            "my {food} is",
            "the {food} here was",
            "{name} says the {food} is",
            "the {food} of {name} is",
            "all this {food} is",
            "our {food} was",
        ),
    )
    said = fill(generator, frame)
    return f"{said} {qualities[0]} . {said} {qualities[1 + position]}"


def _who_plays(generator: np.random.Generator, position: int) -> str:
    name, other = sample(generator, NAMES, 2)
    one, two = sample(generator, SLOTS["instrument"], 2)
    verb = pick(generator, ("plays", "teaches", "hears", "bought", "likes", "practised", "tunes", "carries"))
    who, what = ((name, one), (other, two), (name, two), (other, one))[2 * position + int(generator.integers(2))]
    return f"{name} {verb} the {one} and {other} the {two} . {who} {verb} the {what}"


# Premise and hypothesis by label: true, false, unknown.
QUANTIFIED = (
    (("all", "some"), ("no", "some"), ("some", "all")),
    (("all", "most"), ("all", "no"), ("some", "most")),
    (("most", "some"), ("no", "most"), ("most", "all")),
)


def _quantifier(generator: np.random.Generator, position: int) -> str:
    first, second = pick(generator, QUANTIFIED)[position]
    things = pick(generator, tuple(facts()["singular to plural"].values())[:60])
    rest = pick(generator, ("old", "new", "wet", "dry", "big", "small", "clean", "dirty", "here", "red", "black"))
    return f"{first} {things} are {rest} . {second} {things} are {rest}"


COMPARED = (
    ("bigger", "smaller"),
    ("taller", "shorter"),
    ("older", "younger"),
    ("faster", "slower"),
    ("richer", "poorer"),
    ("stronger", "weaker"),
    ("louder", "quieter"),
    ("fatter", "thinner"),
)


def _comparison(generator: np.random.Generator, position: int) -> str:
    one, other = sample(generator, NAMES, 2)
    more, less = sample(generator, pick(generator, COMPARED), 2)
    second = ((other, less, one), (one, less, other), (other, more, one))[position * (1 + int(generator.integers(2)))]
    return f"{one} is {more} than {other} . {second[0]} is {second[1]} than {second[2]}"


def _location(generator: np.random.Generator, position: int) -> str:
    thing, other = sample(generator, THINGS, 2)
    room, elsewhere = sample(generator, words("rooms"), 2)
    place = pick(generator, ("stands in", "lies in", "stays in", "can be found in", "is still in", "is now in"))
    said = ((thing, room), (thing, elsewhere), (other, room))[position]
    return f"the {thing} {place} the {room} . the {said[0]} is in the {said[1]}"


def _calendar(generator: np.random.Generator, position: int) -> str:
    one, other = sample(generator, range(7), 2)
    relation = "before" if (one < other) == (position == 0) else "after"
    event = pick(generator, SLOTS["event"])
    return f"the {event} is on {WEEKDAYS[one]} . it is {relation} {WEEKDAYS[other]}"


def _counted(generator: np.random.Generator, position: int) -> str:
    one, other = sample(generator, range(len(NUMBERS) - 1), 2)
    relation = "more" if (one > other) == (position == 0) else "fewer"
    things = pick(generator, tuple(facts()["singular to plural"].values())[:30])
    return f"there are {NUMBERS[one + 1]} {things} . there are {relation} than {NUMBERS[other + 1]} {things}"


GIVING = ("gave", "sent", "sold", "brought", "handed", "threw", "passed", "lent")


def _giving(generator: np.random.Generator, position: int) -> str:
    one, other = sample(generator, NAMES, 2)
    thing = pick(generator, THINGS)
    now = (other, one)[position]
    return f"{one} {pick(generator, GIVING)} the {thing} to {other} . now {now} has the {thing}"


DONE = ("seen", "found", "told", "taught", "caught", "met", "heard", "helped", "called", "asked", "loved", "visited")
DID = ("saw", "found", "told", "taught", "caught", "met", "heard", "helped", "called", "asked", "loved", "visited")


def _passive(generator: np.random.Generator, position: int) -> str:
    one, other = sample(generator, SLOTS["job"], 2)
    verb = int(generator.integers(len(DID)))
    by = (one, other) if position == 0 else (other, one)
    return f"the {one} {DID[verb]} the {other} . the {by[1]} was {DONE[verb]} by the {by[0]}"


def _mood(generator: np.random.Generator, position: int) -> str:
    moods = words("words of a happy mood"), words("words of a bad mood")
    mine = int(generator.integers(2))
    now = pick(generator, moods[mine])
    negated = int(generator.integers(2))
    # "not" with the other mood and the plain word of the same mood both follow.
    word = ("happy", "unhappy")[mine if (negated == position) else 1 - mine]
    who = pick(generator, (*NAMES, *("my " + relative for relative in words("family"))))
    return f"{who} feels {now} . {who} is {'not ' if negated else ''}{word}"


NLI = [
    labelled(
        "nli-animal-classes",
        "nli",
        "animals",
        "Say whether the second sentence follows from what kind of animal it is.",
        TRUE_FALSE,
        _animal_class,
    ),
    labelled(
        "nli-food-qualities",
        "nli",
        "food",
        "Say whether the second sentence about the food is entailed, contradicted or neither.",
        ("entailment", "contradiction", "neutral"),
        _food_quality,
    ),
    labelled(
        "nli-instruments",
        "nli",
        "music",
        "Say whether the second sentence is right about who and which instrument.",
        YES_NO,
        _who_plays,
        train=120,
    ),
    labelled(
        "nli-quantifiers",
        "nli",
        "logic",
        "Say whether the second sentence is true, false or unknown, given the first.",
        ("true", "false", "unknown"),
        _quantifier,
    ),
    labelled(
        "nli-comparisons",
        "nli",
        "qualities",
        "Say whether the second comparison follows from the first.",
        YES_NO,
        _comparison,
    ),
    labelled(
        "nli-locations",
        "nli",
        "home",
        "Say whether the second sentence is entailed, contradicted or neither, as a thing is in one room only.",
        ("entailment", "contradiction", "neutral"),
        _location,
        train=120,
    ),
    labelled(
        "nli-weekdays",
        "nli",
        "time",
        "Say whether the second sentence is true in a week that begins on monday.",
        TRUE_FALSE,
        _calendar,
    ),
    labelled(
        "nli-counts",
        "nli",
        "numbers",
        "Say whether the second sentence follows from the number in the first.",
        YES_NO,
        _counted,
    ),
    labelled(
        "nli-giving",
        "nli",
        "people",
        "Say whether the person has the thing after it was given.",
        TRUE_FALSE,
        _giving,
    ),
    labelled(
        "nli-passive-foo",
        "nli",
        "grammar",
        "Answer foo if the passive sentence follows from the first one and bar if not.",
        ("foo", "bar"),
        _passive,
    ),
    labelled(
        "nli-moods",
        "nli",
        "feelings",
        "Say whether the second sentence about the mood follows from the first.",
        YES_NO,
        _mood,
    ),
]
