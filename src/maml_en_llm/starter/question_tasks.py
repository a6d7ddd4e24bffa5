"""Multiple-choice questions about facts, categories, numbers and two-sentence stories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..tasks.collection import Example
from .drawing import NAMES, THINGS, StarterTask, domains, facts, pick, sample, shuffled, with_articles, words

QUESTION = "multiple_choice_qa"
ANIMALS_AND_FOOD = frozenset(
    word for domain in ("animals", "food") for category in domains()[domain].values() for word in category
)


def _question(
    name: str,
    domain: str,
    instruction: str,
    ask: Callable[[np.random.Generator], tuple[str, str, list[str]]],
    train: int = 300,
) -> StarterTask:
    """A task whose `ask` gives a question, its answer and the wrong options."""

    def draw(generator: np.random.Generator) -> Example:
        text, answer, wrong = ask(generator)
        return Example(text, answer, tuple(shuffled(generator, [answer, *wrong])))

    return StarterTask(name, QUESTION, domain, instruction, draw, train)


def _looked_up(
    name: str,
    domain: str,
    instruction: str,
    pairs: Mapping[str, str],
    frames: Sequence[str],
    options: int = 3,
    train: int = 300,
) -> StarterTask:
    """Asks for what goes with a word, among what goes with other words."""
    asked, answers = tuple(pairs), tuple(dict.fromkeys(pairs.values()))

    def ask(generator: np.random.Generator) -> tuple[str, str, list[str]]:
        word = pick(generator, asked)
        others = [answer for answer in sample(generator, answers, options) if answer != pairs[word]]
        return with_articles(pick(generator, frames).format(word)), pairs[word], others[: options - 1]

    return _question(name, domain, instruction, ask, train)


def _which_is(
    name: str,
    domain: str,
    instruction: str,
    kinds: Mapping[str, Sequence[str]],
    frames: Sequence[str],
    train: int = 300,
) -> StarterTask:
    """Asks which of three words, each of another kind, is of the kind that is named; the input shows them."""

    def ask(generator: np.random.Generator) -> tuple[str, str, list[str]]:
        chosen = sample(generator, tuple(kinds), 3)
        found = [pick(generator, kinds[kind]) for kind in chosen]
        text = with_articles(pick(generator, frames).format(chosen[0]))
        return f"{text} {' '.join(shuffled(generator, found))}", found[0], found[1:]

    return _question(name, domain, instruction, ask, train)


def _odd_one_out(generator: np.random.Generator) -> tuple[str, str, list[str]]:
    kinds = ("trees", "footwear", "metals", "boats", "family", "rooms", "illnesses", "ball games", "school things")
    one, other = sample(generator, kinds, 2)
    same, odd = sample(generator, words(one), 3), pick(generator, words(other))
    return " ".join(shuffled(generator, [*same, odd])), odd, same


def _sum(generator: np.random.Generator) -> tuple[str, str, list[str]]:
    one, other = (int(generator.integers(1, 21)) for _ in range(2))
    frames = ("{} plus {}", "what is {} plus {} ?", "add {} and {}", "the sum of {} and {}")
    wrong = sample(generator, [n for n in range(max(one + other - 5, 1), one + other + 6) if n != one + other], 2)
    return pick(generator, frames).format(one, other), str(one + other), [str(n) for n in wrong]


def _largest(generator: np.random.Generator) -> tuple[str, str, list[str]]:
    found = sample(generator, range(1, 100), 3)
    largest = max(found)
    frame = pick(generator, ("the largest of", "which is the largest ?", "find the largest :", "most of all :"))
    return f"{frame} {' '.join(map(str, found))}", str(largest), [str(n) for n in found if n != largest]


def _who_has(generator: np.random.Generator) -> tuple[str, str, list[str]]:
    people, things = sample(generator, NAMES, 3), sample(generator, THINGS, 3)
    verb = pick(generator, ("has", "wants", "took", "found", "sold", "drew", "lost", "bought"))
    asked = int(generator.integers(3))
    story = " , ".join(f"{who} {verb} the {what}" for who, what in zip(people, things, strict=True))
    return f"{story} . who {verb} the {things[asked]} ?", people[asked], [p for p in people if p != people[asked]]


def _where_is(generator: np.random.Generator) -> tuple[str, str, list[str]]:
    things, rooms = sample(generator, THINGS, 2), sample(generator, words("rooms"), 3)
    asked = int(generator.integers(2))
    verb = pick(generator, ("is", "stands", "lies", "was left"))
    story = f"the {things[0]} {verb} in the {rooms[0]} , the {things[1]} in the {rooms[1]}"
    return f"{story} . where is the {things[asked]} ?", rooms[asked], [r for r in rooms if r != rooms[asked]]


def _stands_twice(generator: np.random.Generator) -> tuple[str, str, list[str]]:
    found = sample(generator, words("furniture", "bottoms", "weather", "limbs"), 3)
    return " ".join(shuffled(generator, [found[0], *found])), found[0], found[1:]


CATEGORIES = {
    "colour": "colours",
    "tree": "trees",
    "job": "makers and builders",
    "boat": "boats",
    "metal": "metals",
    "sport": "other sports",
    "room": "rooms",
    "relative": "family",
    "illness": "illnesses",
    "number": "numbers",
}
NEXT = {**facts()["next month"], **facts()["next weekday"]}
COLOURS = {thing: colour for thing, colour in facts()["thing to colour"].items() if thing not in ANIMALS_AND_FOOD}

QUESTIONS = [
    _looked_up(
        "question-animal-sounds",
        "animals",
        "Choose the sound that the animal makes.",
        facts()["animal to sound"],
        (
            "what does a {} do ?",
            "which sound does a {} make ?",
            "the {} can",
            "listen , the {} will",
            "how does the {} sound ?",
            "the voice of a {}",
            "a loud {} will",
            "every {} can",
        ),
    ),
    _looked_up(
        "question-animal-young",
        "animals",
        "Choose the name of the animal's young.",
        facts()["animal to young"],
        (
            "a young {} is a",
            "what is a baby {} called ?",
            "the {} and her",
            "the little one of the {}",
            "a {} was once a",
            "the {} has a",
            "the child of a {}",
            "how do you call a small {} ?",
            "mother {} looks for her",
        ),
        train=120,
    ),
    _which_is(
        "question-food-kinds",
        "food",
        "Choose the food of the kind that is asked for.",
        {
            "fruit": words("fruit"),
            "vegetable": words("vegetables"),
            "drink": words("drinks"),
            "meat": words("meat"),
            "spice": words("herbs and spices"),
            "sweet": words("sweets"),
        },
        ("find the {} :", "which one is a {} ?", "take the {} :", "the {} is"),
    ),
    _which_is(
        "question-music-kinds",
        "music",
        "Choose the word of the kind that is asked for.",
        {
            "string": words("string instruments"),
            "wind": words("wind instruments"),
            "percussion": words("percussion instruments"),
            "style": words("music styles"),
        },
        ("find the {} :", "which one is of the kind {} ?", "the {} among these :", "{} :"),
    ),
    _looked_up(
        "question-capitals",
        "places",
        "Choose the capital of the country.",
        facts()["country to capital"],
        (
            "the capital of {}",
            "what is the capital of {} ?",
            "the president of {} lives in",
            "a flight to the capital of {}",
            "{} is ruled from",
            "the main city of {}",
            "capital city : {}",
            "{} has the capital",
        ),
    ),
    _looked_up(
        "question-languages",
        "places",
        "Choose the language that is spoken in the country.",
        facts()["country to language"],
        (
            "in {} they speak",
            "the language of {}",
            "what do they speak in {} ?",
            "people in {} speak",
            "a book from {} is written in",
            "a letter from {} is in",
            "radio in {} is in",
            "the schools of {} teach in",
        ),
        train=120,
    ),
    _looked_up(
        "question-opposites",
        "qualities",
        "Choose the opposite of the word.",
        facts()["antonyms"],
        ("the opposite of {}", "what is the opposite of {} ?", "not {} but", "{} and its opposite", "{} against"),
    ),
    _looked_up(
        "question-past-tense",
        "grammar",
        "Choose the past tense of the verb.",
        facts()["present to past"],
        ("today i {} , yesterday i", "the past of {}", "we {} now , we once", "they {} and they"),
    ),
    _looked_up(
        "question-colours",
        "nature",
        "Choose the colour of the thing.",
        COLOURS,
        (
            "what colour is the {} ?",
            "the {} is",
            "paint the {} in",
            "the colour of {}",
            "{} is usually",
            "draw the {} in",
            "a {} is mostly",
            "i see {} and it is",
            "as the {} , so",
        ),
    ),
    _looked_up(
        "question-materials",
        "materials",
        "Choose what the thing is made of.",
        facts()["thing to material"],
        ("the {} is made of", "what is a {} made of ?", "to make a {} take", "the material of a {}"),
    ),
    _looked_up(
        "question-workplaces",
        "work",
        "Choose the place where the person works.",
        facts()["profession to workplace"],
        (
            "where does a {} work ?",
            "the {} works at the",
            "you find the {} at the",
            "the {} goes to the",
            "the workplace of a {}",
            "the {} spends the day at the",
            "meet the {} at the",
            "every {} knows the",
        ),
    ),
    _looked_up(
        "question-tools",
        "work",
        "Choose what the person works with.",
        facts()["profession to tool"],
        (
            "what does a {} use ?",
            "the {} works with a",
            "a {} needs a",
            "the tool of a {}",
            "no {} without a",
            "the {} lost the",
            "buy this for a {}",
        ),
    ),
    _looked_up(
        "question-units",
        "school",
        "Choose what is measured in the unit.",
        facts()["unit to quantity"],
        (
            "what is measured in {} ?",
            "{} is a unit of",
            "one {} of",
            "the {} measures",
            "count the {} to know the",
            "you need the {} for",
            "with the {} we tell",
            "{} stands for",
        ),
    ),
    _looked_up(
        "question-next",
        "time",
        "Choose the day or month that comes next.",
        NEXT,
        (
            "after {} comes",
            "what comes after {} ?",
            "{} and then",
            "{} is over , now it is",
            "first {} , next",
            "{} is followed by",
            "the one after {}",
            "{} ends and here is",
            "we wait from {} to",
            "{} today , later",
            "when {} is past it is",
            "if now is {} , soon it is",
            "{} , then",
            "{} goes , what comes ?",
        ),
        train=120,
    ),
    _question("question-sums", "numbers", "Choose the sum of the two numbers.", _sum),
    _question("question-largest", "numbers", "Choose the largest number.", _largest),
    _question("question-who-has", "people", "Choose the person whom the story names.", _who_has),
    _question("question-where-is", "home", "Choose the room in which the thing is.", _where_is),
    _question("question-odd-one-out", "patterns", "Choose the word that does not belong.", _odd_one_out),
    _question("question-stands-twice", "patterns", "Choose the word that stands twice.", _stands_twice),
    _which_is(
        "question-kinds",
        "words",
        "Choose the word of the kind that is named.",
        {kind: words(category) for kind, category in CATEGORIES.items()},
        ("find the {} :", "which is a {} ?", "{} :", "take the {} :"),
    ),
]
