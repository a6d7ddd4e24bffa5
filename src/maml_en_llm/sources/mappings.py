"""From rows of a source to examples: one function per shape of task, each told by a catalogue entry what to read.

A function takes rows (plain dicts) and the entry's parameters and yields an Example for each row that has one; rows
without a usable label are left out.  Texts are templates like "premise: {premise} [SEP] hypothesis: {hypothesis}";
a name in braces is a path into the row, `answers.text.0` for the first answer.  Runs of white space become one blank.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from ..tasks.collection import Example
from ..tasks.seeds import random_generator

Row = Mapping[str, Any]
Words = Sequence[str] | Mapping[Any, str]  # label words by number, or by value
FIELD = re.compile(r"\{([^{}]+)\}")


class MissingColumn(ValueError):
    """A path does not exist in the rows of a source; the message names those that do."""


def fields_of(template: str) -> list[str]:
    """The paths in a template, in order."""
    return FIELD.findall(template)


def value_at(row: Row, path: str) -> Any:
    """The value at a dotted path, None where it is null or a list ends before; MissingColumn for an unknown name."""
    value: Any = row
    for step in [path] if path in row else path.split("."):
        if value is None:
            return None
        if isinstance(value, Mapping):
            if step not in value:
                known = ", ".join(map(str, value))
                raise MissingColumn(f"there is no column {path!r}; there are: {known}")
            value = value[step]
        elif isinstance(value, (list, tuple)) and step.lstrip("-").isdigit():
            value = value[int(step)] if -len(value) <= int(step) < len(value) else None
        else:
            raise MissingColumn(f"there is no column {path!r}: {step!r} is not a part of {str(value)[:40]!r}")
    return value


def as_text(value: Any) -> str | None:
    """A value as text: true and false in words, 3.0 as 3, a list joined by blanks; None for null and NaN."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, bytes):
        raise ValueError("holds bytes, not text; decode it first")
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        return " ".join(" ".join(value).split())
    if isinstance(value, (Mapping, list, tuple)):
        raise ValueError(f"holds {str(value)[:40]!r}, which is not one text; name a part of it like `column.0`")
    return " ".join(str(value).split())


def fill(template: str, row: Row, replace: Mapping[str, str] | None = None) -> str | None:
    """The template with the row's texts in it; None when one of them is null.

    replace: pieces of the raw texts and what stands for them, before white space is cleaned.
    """
    texts = {}
    for path in fields_of(template):
        value = value_at(row, path)
        for old, new in (replace or {}).items():
            value = value.replace(old, new) if isinstance(value, str) else value
        texts[path] = as_text(value)
    if None in texts.values():
        return None
    return " ".join(FIELD.sub(lambda match: texts[match[1]] or "", template).split())


def word_of(words: Words, label: Any) -> str | None:
    """The label word, None for a label without one (like the -1 of unlabelled rows)."""
    if isinstance(words, Mapping):
        return words.get(label, words.get(str(label)))
    if isinstance(label, float) and not label.is_integer():
        return None
    try:
        number = int(label)
    except (TypeError, ValueError):
        return None
    return words[number] if 0 <= number < len(words) else None


def options_of(words: Words) -> tuple[str, ...]:
    """All label words, sorted, as every example of the task lists them."""
    return tuple(sorted(set(words.values() if isinstance(words, Mapping) else words)))


def labelled(
    rows: Iterable[Row], *, input: str, label: str, words: Words, replace: Mapping[str, str] | None = None
) -> Iterator[Example]:
    """One text (or several in a template) with one of a fixed set of labels."""
    options = options_of(words)
    for row in rows:
        text, word = fill(input, row, replace), word_of(words, value_at(row, label))
        if text and word is not None:
            yield Example(text, word, options)


def majority(rows: Iterable[Row], *, input: str, labels: str, words: Words) -> Iterator[Example]:
    """Like labelled, with the label that most annotators gave; ties are left out."""
    options = options_of(words)
    for row in rows:
        votes = Counter(value_at(row, labels) or ()).most_common(2)
        if not votes or (len(votes) == 2 and votes[0][1] == votes[1][1]):
            continue
        text, word = fill(input, row), word_of(words, votes[0][0])
        if text and word is not None:
            yield Example(text, word, options)


def rated(
    rows: Iterable[Row], *, input: str, rating: str, below: float, above: float, words: Sequence[str]
) -> Iterator[Example]:
    """A rating becomes words[0] below `below` and words[1] above `above`; what lies between is left out."""
    for row in rows:
        text, number = fill(input, row), value_at(row, rating)
        if text and number is not None and not below <= number <= above:
            yield Example(text, words[number > above], options_of(words))


def ordered_pair(rows: Iterable[Row], *, right: str, wrong: str) -> Iterator[Example]:
    """Two sentences in an order drawn from their text; the answer says which one is `right`."""
    options = ("sentence 1", "sentence 2")
    for row in rows:
        pair = fill(f"{{{right}}}", row), fill(f"{{{wrong}}}", row)
        if not pair[0] or not pair[1]:
            continue
        swapped = int(random_generator("ordered_pair", *map(str, pair)).integers(2))
        first, second = (pair[1], pair[0]) if swapped else pair
        yield Example(f"sentence 1: {first} [SEP] sentence 2: {second}", options[swapped], options)


def choice(
    rows: Iterable[Row],
    *,
    input: str,
    options: str | Sequence[str],
    answer: str | None = None,
    answer_text: str | None = None,
    names: str | Sequence[str] | None = None,
    base: int = 0,
    required: Sequence[str] = (),
    listed: bool = False,
) -> Iterator[Example]:
    """A question with its own options.

    options: path of a list, or templates.  answer: path of the right option's name or number; answer_text: of its text.
    names: the options' names (like A, B, C), a path or a list; without them a number counts from `base`.
    required: columns that must hold text.  listed: put the options, named (A), (B) ..., into the input where it says
    <options> and leave the example free-form, as UnifiedQA does.
    """
    for row in rows:
        if not all(as_text(value_at(row, path)) for path in required):
            continue
        texts = value_at(row, options) if isinstance(options, str) else [fill(option, row) for option in options]
        found = [as_text(text) or "" for text in texts or ()]
        text = fill(input, row)
        if answer_text is not None:
            right = as_text(value_at(row, answer_text)) or ""
            place = found.index(right) if right in found else -1
        else:
            place = _place(value_at(row, str(answer)), value_at(row, names) if isinstance(names, str) else names, base)
        if text is None or "" in found or not 0 <= place < len(found) or not 2 <= len(found) == len(set(found)):
            continue
        if listed:
            shown = " ".join(f"({chr(ord('A') + number)}) {option}" for number, option in enumerate(found))
            yield Example(text.replace("<options>", shown), found[place])
        else:
            yield Example(text, found[place], tuple(found))


def _place(answer: Any, names: Sequence[Any] | None, base: int = 0) -> int:
    """Which option an answer means, -1 when none."""
    if names is not None:
        return list(names).index(answer) if answer in names else -1
    try:
        return int(answer) - base
    except (TypeError, ValueError):
        return -1


def text(rows: Iterable[Row], *, input: str, output: str, otherwise: str | None = None) -> Iterator[Example]:
    """Text to text; free-form. otherwise: the output of rows that have none."""
    for row in rows:
        read, written = fill(input, row), fill(output, row) or otherwise
        if read and written:
            yield Example(read, written)


def span(
    rows: Iterable[Row],
    *,
    question: str,
    context: str,
    answer: str,
    options: str | None = None,
    most_words: int,
) -> Iterator[Example]:
    """A question about a text that holds the answer; free-form.

    Of a text longer than `most_words` (with the question) a window that holds the answer is kept, drawn from the row
    itself; rows whose text does not hold the answer are left out.  context: a path, or a template.
    options: path of a list of which `answer` is the letter.
    """
    for row in rows:
        asked = fill(question, row)
        passage = fill(context if "{" in context else f"{{{context}}}", row)
        if options is None:
            wanted = fill(answer, row)
        else:
            listed, place = value_at(row, options), _place(value_at(row, answer), "ABCDEFGH")
            wanted = as_text(listed[place]) if 0 <= place < len(listed) else None
        if not asked or not passage or not wanted or _plain(wanted) not in _plain(passage):
            continue
        words, room = passage.split(" "), most_words - asked.count(" ") - 2
        if len(words) > max(room, 1):
            starts = random_generator("span", asked, wanted).permutation(len(words) - room + 1)
            windows = (" ".join(words[start : start + room]) for start in starts)
            found = next((window for window in windows if _plain(wanted) in _plain(window)), None)
            if found is None:
                continue
            passage = found
        yield Example(f"{asked} \\n {passage}", wanted)


def _plain(text: str) -> str:
    """Lower case without punctuation, for looking an answer up in a text."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


def cause_or_effect(
    rows: Iterable[Row], *, premise: str, question: str, options: Sequence[str], label: str
) -> Iterator[Example]:
    """COPA: the side that is asked for is named in front of the premise and of each option."""
    sides = {"cause": ("Effect: ", "Cause: "), "effect": ("Cause: ", "Effect: ")}
    for row in rows:
        given, asked = sides.get(value_at(row, question), ("", ""))
        found = tuple(asked + (as_text(value_at(row, option)) or "") for option in options)
        place = value_at(row, label)
        if asked and place in (0, 1) and found[0] != found[1]:
            yield Example(given + (as_text(value_at(row, premise)) or ""), found[place], found)


def grouped_choice(
    rows: Iterable[Row], *, group: Sequence[str], input: str, option: str, label: str
) -> Iterator[Example]:
    """Consecutive rows with equal `group` hold one option each of one question; the answer is the first right one."""
    for _, members in groupby(rows, key=lambda row: [value_at(row, path) for path in group]):
        question: str | None = None
        found: dict[str, bool] = {}
        for row in members:
            question = question or fill(input, row)
            found.setdefault(as_text(value_at(row, option)) or "", value_at(row, label) == 1)
        right = [text for text, good in found.items() if good]
        if question and right and len(found) >= 2 and "" not in found:
            yield Example(question, right[0], tuple(found))


def supported_answer(rows: Iterable[Row]) -> Iterator[Example]:
    """HotpotQA: the question in front of those paragraphs only that hold the supporting facts."""
    for row in rows:
        titles = set(value_at(row, "supporting_facts.title"))
        paragraphs = zip(value_at(row, "context.title"), value_at(row, "context.sentences"), strict=True)
        context = " ".join("".join(sentences) for title, sentences in paragraphs if title in titles)
        yield Example(
            " ".join(f"question: {row['question']} context: {context}".split()), " ".join(row["answer"].split())
        )


def options_in_text(rows: Iterable[Row], *, input: str, index: str) -> Iterator[Example]:
    """A question that spells its two options out: "... (A) this (B) that"."""
    for row in rows:
        whole = fill(input, row) or ""
        parts = re.split(r"\s*\([AB]\)\s*", whole)
        place = value_at(row, index)
        if len(parts) != 3 or place not in (0, 1):
            continue
        found = tuple(re.sub(r"(,?\s+or|\.)$", "", part.strip()).strip() for part in parts[1:])
        if all(found) and found[0] != found[1]:
            yield Example(parts[0].strip(), found[place], found)


def cloze(rows: Iterable[Row], *, template: str, subject: str, output: str) -> Iterator[Example]:
    """LAMA: a template in the row itself, [X] the subject and [Y] the blank."""
    for row in rows:
        pattern, name, answer = (as_text(value_at(row, path)) for path in (template, subject, output))
        if pattern and name and answer:
            yield Example(pattern.replace("[X]", name).replace("[Y]", "[MASK]"), answer)


MAPPINGS: dict[str, Callable[..., Iterator[Example]]] = {
    function.__name__: function
    for function in (
        labelled,
        majority,
        rated,
        ordered_pair,
        choice,
        text,
        span,
        cause_or_effect,
        grouped_choice,
        supported_answer,
        options_in_text,
        cloze,
    )
}
