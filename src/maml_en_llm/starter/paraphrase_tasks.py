"""Paraphrase: do both sentences say the same?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .drawing import NAMES, NUMBERS, SLOTS, THINGS, WEEKDAYS, facts, fill, labelled, of_templates, pick, sample, words
from .nli_tasks import COMPARED, YES_NO

SAME = ("same", "different")


def _animal_comparison(generator: np.random.Generator, position: int) -> str:
    one, other = sample(generator, words("farm animals", "pets", "wild mammals"), 2)
    more, less = sample(generator, pick(generator, COMPARED), 2)
    by = (other, one) if position == 0 else (one, other)
    return f"the {one} is {more} than the {other} | the {by[0]} is {less} than the {by[1]}"


def _reworded(
    left: Sequence[str], right: Sequence[str], slot: str, choices: Sequence[str], **common: Sequence[str]
) -> Callable[[np.random.Generator, int], str]:
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
    labelled(
        "paraphrase-animal-comparisons",
        "paraphrase",
        "animals",
        "Say whether both comparisons say the same of the animals.",
        SAME,
        _animal_comparison,
    ),
    labelled(
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
            words("fruit", "vegetables", "meat"),
        ),
        train=120,
    ),
    labelled(
        "paraphrase-synonyms",
        "paraphrase",
        "qualities",
        "Say whether both sentences mean the same.",
        YES_NO,
        _synonyms,
    ),
    labelled("paraphrase-who-did", "paraphrase", "people", "Say whether both name the same person.", SAME, _who_did),
    labelled(
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
    of_templates(
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
    labelled(
        "paraphrase-digits",
        "paraphrase",
        "numbers",
        "Say whether word and digits are the same number.",
        YES_NO,
        _digits,
    ),
    labelled(
        "paraphrase-lending",
        "paraphrase",
        "school",
        "Say whether both sentences tell the same story.",
        SAME,
        _lending,
    ),
    labelled(
        "paraphrase-foo",
        "paraphrase",
        "clothing",
        "Answer foo if both sentences say the same of the garment and bar if not.",
        ("foo", "bar"),
        _negated_opposite,
    ),
    labelled(
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
            words("parts of a building", "appliances"),
            verb=("clean", "paint", "repair", "sell", "check", "draw"),
        ),
    ),
]
