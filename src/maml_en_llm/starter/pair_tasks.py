"""Tasks about two sentences: does the second follow (nli), do both say the same (paraphrase)?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..tasks.collection import Example
from .drawing import (
    NAMES,
    NUMBERS,
    SLOTS,
    THINGS,
    WEEKDAYS,
    StarterTask,
    facts,
    fill,
    pick,
    sample,
    templated,
    with_articles,
    words,
)

Pair = Callable[[np.random.Generator, int], str]

YES_NO = ("yes", "no")
TRUE_FALSE = ("true", "false")
SAME = ("same", "different")


def _pairs(
    name: str,
    kind: str,
    domain: str,
    instruction: str,
    labels: tuple[str, ...],
    text: Pair,
    train: int = 300,
) -> StarterTask:
    """A task whose input is made for the position of the label, which is drawn first."""

    def draw(generator: np.random.Generator) -> Example:
        position = int(generator.integers(len(labels)))
        return Example(text(generator, position), labels[position], labels)

    return StarterTask(name, kind, domain, instruction, draw, train)


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
    ("free", "cheap", "expensive", "hot"),
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
    place = pick(generator, ("is in", "stands in", "lies in", "stays in", "belongs in", "was left in"))
    said = ((thing, room), (thing, elsewhere), (other, room))[position]
    return f"the {thing} {place} the {room} . the {said[0]} {place} the {said[1]}"


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
    _pairs(
        "nli-animal-classes",
        "nli",
        "animals",
        "Say whether the second sentence follows from what kind of animal it is.",
        TRUE_FALSE,
        _animal_class,
    ),
    _pairs(
        "nli-food-qualities",
        "nli",
        "food",
        "Say whether the second sentence about the food is entailed, contradicted or neither.",
        ("entailment", "contradiction", "neutral"),
        _food_quality,
    ),
    _pairs(
        "nli-instruments",
        "nli",
        "music",
        "Say whether the second sentence is right about who and which instrument.",
        YES_NO,
        _who_plays,
        train=120,
    ),
    _pairs(
        "nli-quantifiers",
        "nli",
        "logic",
        "Say whether the second sentence is true, false or unknown, given the first.",
        ("true", "false", "unknown"),
        _quantifier,
    ),
    _pairs(
        "nli-comparisons",
        "nli",
        "qualities",
        "Say whether the second comparison follows from the first.",
        YES_NO,
        _comparison,
    ),
    _pairs(
        "nli-locations",
        "nli",
        "home",
        "Say whether the second sentence is entailed, contradicted or neither, as a thing is in one room only.",
        ("entailment", "contradiction", "neutral"),
        _location,
        train=120,
    ),
    _pairs(
        "nli-weekdays",
        "nli",
        "time",
        "Say whether the second sentence is true in a week that begins on monday.",
        TRUE_FALSE,
        _calendar,
    ),
    _pairs(
        "nli-counts",
        "nli",
        "numbers",
        "Say whether the second sentence follows from the number in the first.",
        YES_NO,
        _counted,
    ),
    _pairs(
        "nli-giving",
        "nli",
        "people",
        "Say whether the person has the thing after it was given.",
        TRUE_FALSE,
        _giving,
    ),
    _pairs(
        "nli-passive-foo",
        "nli",
        "grammar",
        "Answer foo if the passive sentence follows from the first one and bar if not.",
        ("foo", "bar"),
        _passive,
    ),
    _pairs(
        "nli-moods",
        "nli",
        "feelings",
        "Say whether the second sentence about the mood follows from the first.",
        YES_NO,
        _mood,
    ),
]


def _animal_comparison(generator: np.random.Generator, position: int) -> str:
    one, other = sample(generator, words("farm animals", "pets", "wild mammals"), 2)
    more, less = sample(generator, pick(generator, COMPARED), 2)
    by = (other, one) if position == 0 else (one, other)
    return f"the {one} is {more} than the {other} | the {by[0]} is {less} than the {by[1]}"


def _reworded(
    left: Sequence[str], right: Sequence[str], slot: str, choices: Sequence[str], **common: Sequence[str]
) -> Pair:
    """Two frames with one filling of the `common` slots; the words of `slot` are equal (position 0) or not (1)."""

    def text(generator: np.random.Generator, position: int) -> str:
        words = sample(generator, choices, 2)
        shared = {name: (pick(generator, values),) for name, values in common.items()}
        first = fill(generator, pick(generator, left), {slot: words[:1], **shared})
        second = fill(generator, pick(generator, right), {slot: words[position : position + 1], **shared})
        return f"{first} | {second}"

    return text


SYNONYMS = (
    ("happy", "glad"),
    ("sad", "unhappy"),
    ("angry", "furious"),
    ("clever", "smart"),
    ("rich", "wealthy"),
    ("beautiful", "pretty"),
    ("brave", "courageous"),
    ("famous", "renowned"),
    ("fat", "plump"),
    ("funny", "amusing"),
    ("lazy", "idle"),
    ("polite", "courteous"),
    ("strong", "mighty"),
    ("weak", "feeble"),
    ("sick", "ill"),
    ("silly", "foolish"),
    ("thin", "slim"),
    ("tired", "weary"),
    ("scared", "afraid"),
    ("lucky", "fortunate"),
)


def _synonyms(generator: np.random.Generator, position: int) -> str:
    one, other = sample(generator, SYNONYMS, 2)
    first, second = sample(generator, one, 2)
    job = pick(generator, SLOTS["job"])
    return f"the {job} is {first} | the {job} is {second if position == 0 else pick(generator, other)}"


def _who_did(generator: np.random.Generator, position: int) -> str:
    one, other = sample(generator, NAMES, 2)
    did = pick(generator, ("broke", "found", "lost", "took", "cleaned", "bought", "sold", "hid"))
    thing = pick(generator, THINGS)
    return f"it was {one} who {did} the {thing} | {(one, other)[position]} {did} the {thing}"


def _lending(generator: np.random.Generator, position: int) -> str:
    one, other = sample(generator, NAMES, 2)
    thing = pick(generator, words("school things", "things to read"))
    first, second = pick(generator, (("lent", "borrowed"), ("sold", "bought"), ("gave", "got"), ("taught", "learned")))
    what = pick(generator, words("school subjects")) if first == "taught" else f"the {thing}"
    by = (other, one) if position == 0 else (one, other)
    return f"{one} {first} {other} {what} | {by[0]} {second} {what} from {by[1]}"


def _digits(generator: np.random.Generator, position: int) -> str:
    one, other = sample(generator, range(2, 21), 2)
    things = pick(generator, tuple(facts()["singular to plural"].values())[:30])
    return f"{NUMBERS[one - 1]} {things} | {(one, other)[position]} {things}"


OPPOSITES = (
    ("clean", "dirty"),
    ("wet", "dry"),
    ("old", "new"),
    ("cheap", "expensive"),
    ("long", "short"),
    ("tight", "loose"),
    ("thick", "thin"),
    ("light", "dark"),
    ("soft", "rough"),
    ("beautiful", "ugly"),
)


def _negated_opposite(generator: np.random.Generator, position: int) -> str:
    one, other = sample(generator, pick(generator, OPPOSITES), 2)
    garment = pick(generator, SLOTS["garment"])
    return f"the {garment} is not {one} | the {garment} is {(other, one)[position]}"


PARAPHRASE = [
    _pairs(
        "paraphrase-animal-comparisons",
        "paraphrase",
        "animals",
        "Say whether both comparisons say the same of the animals.",
        SAME,
        _animal_comparison,
    ),
    _pairs(
        "paraphrase-food-requests",
        "paraphrase",
        "food",
        "Say whether both guests ask for the same thing.",
        YES_NO,
        _reworded(
            (
                "please pass the {food}",
                "i would like some {food}",
                "may i have the {food}",
                "more {food} for me",
            ),
            ("give me the {food}", "could you bring {food}", "i ask for {food}", "i want {food}"),
            "food",
            SLOTS["food"],
        ),
        train=120,
    ),
    _pairs(
        "paraphrase-synonyms",
        "paraphrase",
        "qualities",
        "Say whether both sentences mean the same.",
        YES_NO,
        _synonyms,
    ),
    _pairs("paraphrase-who-did", "paraphrase", "people", "Say whether both name the same person.", SAME, _who_did),
    _pairs(
        "paraphrase-days",
        "paraphrase",
        "time",
        "Say whether both sentences name the same day.",
        ("same", "different"),
        _reworded(
            ("on {day} {name} {did}", "it was {day} when {name} {did}", "it was on {day} that {name} {did}"),
            ("{name} {did} on {day}", "{name} {did} , and it was {day}", "that {day} {name} {did}"),
            "day",
            WEEKDAYS,
            name=NAMES,
            did=("came home", "fell ill", "called us", "went away", "lost the game", "found a job"),
        ),
    ),
    templated(
        "paraphrase-directions",
        "places",
        "Say whether both questions ask for the same.",
        {
            "yes": (
                "where is the {place} | how do i get to the {place}",
                "when does the {place} open | is the {place} open now",
                "show me the way to the {place} | which road goes to the {place}",
                "can i walk to the {place} | is the {place} near enough to walk",
            ),
            "no": (
                "where is the {place} | when does the {place} open",
                "how do i get to the {place} | who owns the {place}",
                "can i walk to the {place} | is the {place} expensive",
                "where is the {place} | where is the {place2}",
            ),
        },
        train=120,
        kind="paraphrase",
    ),
    _pairs(
        "paraphrase-digits",
        "paraphrase",
        "numbers",
        "Say whether word and digits are the same number.",
        YES_NO,
        _digits,
    ),
    _pairs(
        "paraphrase-lending",
        "paraphrase",
        "school",
        "Say whether both sentences tell the same story.",
        SAME,
        _lending,
    ),
    _pairs(
        "paraphrase-foo",
        "paraphrase",
        "clothing",
        "Answer foo if both sentences say the same of the garment and bar if not.",
        ("foo", "bar"),
        _negated_opposite,
    ),
    _pairs(
        "paraphrase-home-requests",
        "paraphrase",
        "home",
        "Say whether both ask for the same.",
        YES_NO,
        _reworded(
            (
                "could you {verb} the {thing}",
                "would you {verb} the {thing}",
                "can you {verb} the {thing} for me",
                "i would like you to {verb} the {thing}",
            ),
            (
                "please {verb} the {thing}",
                "{verb} the {thing} , please",
                "i ask you to {verb} the {thing}",
                "you should {verb} the {thing} for me",
            ),
            "thing",
            words("furniture", "parts of a building", "appliances"),
            verb=("clean", "paint", "repair", "sell", "check", "draw"),
        ),
    ),
]

PAIR_TASKS = [*NLI, *PARAPHRASE]
