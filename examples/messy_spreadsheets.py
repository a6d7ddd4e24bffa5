"""Twelve CSV files as people send them, to try `tasks import` with: python examples/messy_spreadsheets.py my-tasks

Columns have other names in each file, labels come as NO, No and no, as n/a or misspelled; delimiters and encodings
differ; rows are blank, repeated or contradict each other. The texts are made by templates, so that a model can learn
the labels. The same seed gives the same files.
"""

from __future__ import annotations

import csv
import io
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NAMES = "Ana Ben Carla Deniz Emre Fatma Georg Hana Ivo José Karin Liam Noël Olga Petra Quentin Rosa Søren Tanja".split()
THINGS = "kettle lamp chair backpack printer headset blender jacket router tent watch keyboard mirror bicycle".split()
PLACES = "Berlin Lyon Porto Graz Malmö Gent Split Turin Bern Cork Ghent Oslo".split()
ENDS = [" No. {number}.", " Regards, {name}", " Ref. {number}, {place}", " ({when}, {place})", " Phone {number}."]
NOT = ["not that {other}, but {phrase}", "{phrase}; I do not say that {other}", "no longer {other}, now {phrase}"]
WHEN = ["yesterday", "last week", "on Monday", "this morning", "two days ago", "in May", "at noon", "on the weekend"]


@dataclass(frozen=True)
class Sheet:
    """One file: its form, its columns, and for each label the phrases that show it."""

    name: str
    text: str
    label: str
    frames: Sequence[str]
    phrases: Mapping[str, Sequence[str]]
    delimiter: str = ","
    encoding: str = "utf-8"
    rows: int = 300
    spellings: Mapping[str, Sequence[str]] = field(default_factory=dict)  # how a label is misspelled
    rare: Mapping[str, int] = field(default_factory=dict)  # examples of labels that hardly occur
    spare_columns: int = 0  # empty ones at the right


YES_NO = {"yes": ["YES", "Yes", "yes ", " yes"], "no": ["NO", "No", "no "]}
CUSTOMER = ["Hello, {p}. My order is from {when}.", "{p}! {name}, {place}", "A {thing}, bought {when}: {p}.", "{p}"]
SHEETS = [
    Sheet(
        "support tickets",
        "message",
        "Category",
        CUSTOMER,
        {
            "refund": ["I want my money back", "please pay back the price", "the refund has not arrived on my card"],
            "delivery": ["the parcel has not come", "where is my package", "the courier left it with nobody"],
            "defect": ["it stopped working", "it arrived broken", "the screen has a crack and it will not turn on"],
            "invoice": ["I need a bill with our tax number", "the invoice shows the wrong address", "send the receipt"],
        },
        ";",
        "cp1252",
        400,
        {"refund": ["refunds", "Refund", "REFUND"], "delivery": ["delivary", "Delivery"]},
        spare_columns=2,
    ),
    Sheet(
        "urgent",
        "Text",
        "urgent?",
        CUSTOMER,
        {
            "yes": ["we cannot work until this is solved", "this is an emergency", "call back at once, all is down"],
            "no": ["there is no hurry", "whenever you have time", "just a question for later"],
        },
        spellings=YES_NO,
    ),
    Sheet(
        "restaurant-reviews",
        "review",
        "sentiment",
        ["{p}. We went {when}.", "{place}: {p}.", "{p}, said {name}."],
        {
            "positive": [
                "the soup was wonderful",
                "friendly waiters and great bread",
                "best dinner in years, we loved it",
            ],
            "negative": ["the fish was cold and bland", "rude waiters and dirty tables", "terrible food, never again"],
        },
        "\t",
        "utf-16",
        spellings={"positive": ["Positive", "POSITIVE", "positiv"], "negative": ["Negative ", "NEGATIVE"]},
    ),
    Sheet(
        "spam",
        "email body",
        "Label",
        ["{p}. {name}", "Dear {name}, {p}.", "Subject: {thing}. {p}."],
        {
            "spam": [
                "you have won a prize, click here now",
                "cheap pills without prescription",
                "claim your free cash today",
            ],
            "ham": [
                "the meeting moves to room four",
                "please find the minutes attached",
                "shall we have lunch together",
            ],
        },
        "|",
        "utf-8-sig",
        250,
        {"spam": ["SPAM", "Spam"], "ham": ["Ham"]},
    ),
    Sheet(
        "product stars",
        "comment",
        "rating",
        ["{thing}: {p}.", "{p}. The {thing} was a present for {name}.", "{p}"],
        {
            "good": ["works perfectly and looks lovely", "would buy it again", "excellent quality for the price"],
            "medium": ["it is okay, nothing special", "average, does its job", "neither good nor bad"],
            "poor": ["fell apart after a day", "a waste of money", "awful quality, I sent it back"],
        },
        rows=360,
        spellings={"good": ["Good", "GOOD "], "medium": ["Medium"], "poor": ["Poor", "poor  "]},
    ),
    Sheet(
        "Bug Reports",
        "description",
        "component",
        ["{p} {when}.", "{name} says that {p}.", "Version 2: {p}."],
        {
            "login": ["the password is refused", "signing in shows an error", "the account is locked after sign-in"],
            "payment": ["the credit card is charged twice", "checkout hangs at the payment step", "paypal fails"],
            "search": [
                "the search finds nothing",
                "filters show the wrong results",
                "sorting the results does nothing",
            ],
        },
        ";",
        spellings={"login": ["log-in", "Login"], "payment": ["payments", "Payment"]},
        rare={"e-mail": 2},
    ),
    Sheet(
        "return-requests",
        "Kundentext",
        "accepted",
        CUSTOMER,
        {
            "yes": ["it is unused and in its box", "I have the receipt and never opened it", "the seal is not broken"],
            "no": ["I have used it for a year", "I lost the receipt and the box", "my dog chewed it"],
        },
        ";",
        "cp1252",
        220,
        YES_NO,
    ),
    Sheet(
        "meeting notes",
        "note",
        "type",
        ["{name}: {p}.", "{p} ({when})", "{place}, {p}."],
        {
            "decision": [
                "we agreed to change the supplier",
                "it was decided to hire two people",
                "the board approved it",
            ],
            "task": [
                "Mia will write the draft until Friday",
                "somebody has to book the hall",
                "please prepare the slides",
            ],
            "question": ["who pays for the stand?", "do we need a permit?", "how many guests will come?"],
        },
        rows=240,
        spellings={"decision": ["Decision", "decisions"], "task": ["TASK", "tasks"], "question": ["Question"]},
    ),
    Sheet(
        "expenses",
        "line item",
        "cost type",
        ["{p}, {place}", "{p} ({name}, {when})", "{name}: {p}"],
        {
            "travel": ["train ticket", "taxi to the airport", "flight and seat", "parking at the station"],
            "food": ["lunch with customers", "coffee and cake", "dinner for four", "sandwiches"],
            "office": ["paper and pens", "toner for the printer", "desk lamp", "folders and labels"],
        },
        "\t",
        rows=280,
        spellings={"travel": ["Travel", "travell"], "food": ["FOOD"], "office": ["Office", "Office "]},
    ),
    Sheet(
        "appointments",
        "Request",
        "Intent",
        ["{p}, {name}.", "Hello, {p}.", "{p} please, it was {when}."],
        {
            "book": [
                "I would like to make an appointment",
                "is there a free slot for a new patient",
                "can I come in soon",
            ],
            "cancel": ["I have to call off my appointment", "I cannot come, please cancel", "please strike my slot"],
            "move": ["can we shift it to another day", "a later hour would be better", "please reschedule me"],
        },
        ",",
        "utf-8",
        330,
        {"book": ["Book", "booking"], "cancel": ["Cancel", "cancell"], "move": ["Move ", "MOVE"]},
    ),
    Sheet(
        "complaint",
        "body",
        "is_complaint",
        CUSTOMER,
        {
            "yes": ["I am very angry about your service", "this is unacceptable", "nobody answers, I am disappointed"],
            "no": ["thank you for the quick help", "all is fine, I only want to say thanks", "great service as always"],
        },
        "|",
        rows=260,
        spellings=YES_NO,
    ),
    Sheet(
        "news",
        "headline",
        "Section",
        ["{p} in {place}", "{place}: {p}", "{p}, says {name}"],
        {
            "sports": ["home team wins the final", "goalkeeper injured before the match", "runner breaks the record"],
            "politics": ["parliament votes on the budget", "minister resigns", "mayor loses the election"],
            "weather": ["heavy rain floods the streets", "snow and frost expected", "hottest day of the year"],
        },
        rows=390,
        spellings={"sports": ["sport", "Sports"], "politics": ["Politics"], "weather": ["Weather", "wheather"]},
    ),
]
EMPTY = ["n/a", "N/A", "", "-", "null"]


def rows_of(sheet: Sheet, generator: random.Random) -> list[tuple[str, str]]:
    """Texts and labels of a sheet, with all that is wrong with them."""

    def text(phrase: str) -> str:
        frame = generator.choice(sheet.frames) + (generator.choice(ENDS) if generator.random() < 0.8 else "")
        return frame.format(
            p=phrase,
            name=generator.choice(NAMES),
            thing=generator.choice(THINGS),
            place=generator.choice(PLACES),
            when=generator.choice(WHEN),
            number=generator.randrange(100, 9999),
        )

    def spelled(label: str) -> str:
        other = sheet.spellings.get(label, ())
        return generator.choice(other) if other and generator.random() < 0.3 else label

    rows = []
    for _ in range(sheet.rows):
        label, other = generator.sample(list(sheet.phrases), 2)
        phrase = generator.choice(sheet.phrases[label])
        if generator.random() < 0.15:
            phrase = generator.choice(NOT).format(phrase=phrase, other=generator.choice(sheet.phrases[other]))
        if generator.random() < 0.03:
            label = other  # somebody was tired
        rows.append((text(phrase), generator.choice(EMPTY) if generator.random() < 0.05 else spelled(label)))
    for label, count in sheet.rare.items():
        rows += [(text("no mail comes from the system"), label) for _ in range(count)]
    first, second, *_ = sheet.phrases
    rows += [(f"same text, {sheet.name}", first), (f"same text, {sheet.name}", second)]  # which is it?
    rows += [("n/a", first), ("", second), ("", "")]
    rows += [(text.upper(), label) for text, label in generator.sample(rows[: sheet.rows], 8)]  # repeated
    generator.shuffle(rows)
    return rows


def write_sheet(sheet: Sheet, folder: Path, seed: int) -> Path:
    """Writes NAME.csv: a number, the text, a date, the label, and empty columns."""
    generator = random.Random(f"{sheet.name} {seed}")
    written = io.StringIO()
    writer = csv.writer(written, delimiter=sheet.delimiter, lineterminator="\r\n")
    spare = [""] * sheet.spare_columns
    writer.writerow(["Nr", sheet.text, "date", sheet.label, *spare])
    for number, (text, label) in enumerate(rows_of(sheet, generator), start=1):
        date = f"{generator.randrange(1, 29):02}.{generator.randrange(1, 13):02}.2025"
        writer.writerow([number, text, date, label, *spare] if text or label else ["", "", "", "", *spare])
    path = folder / f"{sheet.name}.csv"
    path.write_bytes(written.getvalue().encode(sheet.encoding))
    return path


def main(folder: Path, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for sheet in SHEETS:
        print(write_sheet(sheet, folder, seed))


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: python examples/messy_spreadsheets.py FOLDER [SEED]")
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 0)
