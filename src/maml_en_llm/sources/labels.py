"""What people do to labels in spreadsheets, and how it is undone: case and space, missing-value words, near spellings.

Nothing is changed where the outputs are free text, and every change is said in a sentence.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import combinations

MISSING = ("n/a", "#n/a", "n.a.", "na", "<na>", "nan", "nil", "none", "null", "missing", "-", "--", "---", "?", ".")
RARE = 5  # a label with fewer examples is named
ALIKE = 0.85  # share of letters that two words of five letters or more have in common when they look like one
MOST_LABELS = 100
MANY = 0.1  # share of rows from which a missing-value word may well be a label


@dataclass(frozen=True)
class Cleaning:
    """How labels are cleaned; `renamed` maps a label, or "TASK/LABEL", to another (empty: its rows are left out)."""

    fold: bool = True  # spellings that differ only in case and space are one label
    missing: tuple[str, ...] = MISSING
    renamed: Mapping[str, str] = field(default_factory=dict)

    def of_task(self, task: str) -> dict[str, str]:
        """The keys of `renamed` that concern a task, by folded label; what names the task itself comes first."""
        keys = {folded(key): key for key in self.renamed}
        return keys | {folded(key.partition("/")[2]): key for key in self.renamed if key.startswith(f"{task}/")}


def folded(label: str) -> str:
    """What spellings that differ only in case, width and space have in common."""
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())


def label_set(outputs: Mapping[str, int]) -> tuple[str, ...]:
    """The label words when outputs (with their counts) look like labels (few, short, repeated), else nothing."""
    total = sum(outputs.values())
    few = len(outputs) <= MOST_LABELS and len(outputs) <= max(total // 3, 2)
    short = all(len(word) <= 60 for word in outputs)
    repeated = sum(count > 1 for count in outputs.values()) * 2 >= len(outputs) and len(outputs) < total
    return tuple(sorted(outputs)) if few and short and repeated and len(outputs) > 1 else ()


def spellings(counts: Mapping[str, int], words: Sequence[str] = ()) -> dict[str, str]:
    """Which label each spelling becomes: the one of `words` that differs only in case and space, if there is one.

    Without words: itself when no two spellings differ only so, else all in lower case, so that they look alike.
    """
    if words:
        known = {folded(word): word for word in words}
        distinct = len(known) == len(words)
        return {s: known.get(folded(s), s) if distinct and s not in words else s for s in counts}
    groups: dict[str, list[str]] = defaultdict(list)
    for spelling in counts:
        groups[folded(spelling)].append(spelling)
    if len(groups) == len(counts):
        return {spelling: spelling for spelling in counts}
    usual = (max(group, key=lambda spelling: (counts[spelling], spelling)) for group in groups.values())
    lower = (" ".join(unicodedata.normalize("NFKC", spelling).lower().split()) for spelling in usual)
    return {spelling: label for group, label in zip(groups.values(), lower, strict=True) for spelling in group}


@dataclass
class Cleaned:
    """Outputs as they become, None for rows to leave out; the labels, if they are labels; and what was done."""

    outputs: list[str | None]
    labels: tuple[str, ...]
    remarks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)  # keys of `Cleaning.renamed` that were met
    left_out: dict[str, int] = field(default_factory=dict)  # rows with missing-value words


def clean(
    task: str, outputs: Sequence[str], cleaning: Cleaning, words: Sequence[str] = (), kind: str = "auto"
) -> Cleaned:
    """The outputs of a task, renamed, without missing ones and, where they are labels, in one spelling each.

    words: the labels if the user named them; outputs that are none of them stay, for the caller to refuse.
    kind: free_form for outputs that are no labels, auto to find out, anything else for outputs that are.
    """
    counts = Counter(outputs)
    keys = cleaning.of_task(task)
    used = {keys[folded(output)] for output in counts if folded(output) in keys}
    kept = {folded(word) for word in (*words, *cleaning.renamed.values())}
    missing = {folded(word) for word in cleaning.missing} - kept
    becomes: dict[str, str | None] = {}
    for output in counts:
        key = folded(output)
        becomes[output] = cleaning.renamed[keys[key]] or None if key in keys else None if key in missing else output
    remarks: list[str] = []
    warnings: list[str] = []
    if moved := {output: new for output, new in becomes.items() if folded(output) in keys}:
        pairs = ", ".join(f"{output} -> {new or 'left out'} ({counts[output]})" for output, new in moved.items())
        remarks.append(f"labels renamed: {pairs}")

    left: Counter[str] = Counter()
    for output, new in becomes.items():
        if new is not None:
            left[new] += counts[output]
    spelled = spellings(left, words) if cleaning.fold and kind != "free_form" else {word: word for word in left}
    together: Counter[str] = Counter()
    for word, count in left.items():
        together[spelled[word]] += count
    labels = tuple(words)
    if not words and kind != "free_form":
        labels = label_set(together) if kind == "auto" else tuple(sorted(together))
    if not labels:
        return Cleaned([becomes[o] if o in moved else o for o in outputs], (), remarks, warnings, used)

    remarks += _folding(left, spelled)
    absent = {output: counts[output] for output, new in becomes.items() if new is None and output not in moved}
    left_out = {f"without a label ({', '.join(sorted(absent))})": sum(absent.values())} if absent else {}
    for output, count in absent.items():
        if count > MANY * len(outputs) and output.isalpha():
            warnings.append(
                f"{output!r} is taken for a missing value in {count} of {len(outputs)} rows; if it is a label, "
                "give --missing with other words, or --missing '' for none"
            )
    numbers = {label: together.get(label, 0) for label in labels}
    warnings += warnings_of_labels(numbers)
    becomes = {output: None if new is None else spelled[new] for output, new in becomes.items()}
    return Cleaned([becomes[output] for output in outputs], labels, remarks, warnings, used, left_out)


def _folding(counts: Mapping[str, int], spelled: Mapping[str, str]) -> Iterator[str]:
    """A sentence when spellings were made one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for word in sorted(counts):
        groups[spelled[word]].append(word)
    joined = [
        f"{', '.join(word for word in group if word != label)} -> {label}"
        for label, group in groups.items()
        if group != [label]
    ]
    if joined:
        yield f"labels in one spelling: {'; '.join(joined)}"


def warnings_of_labels(counts: Mapping[str, int]) -> Iterator[str]:
    """What to look at in the labels of a task: pairs that look like one, and rare ones."""
    if pairs := [f"{one!r} and {other!r}" for one, other in look_alikes(counts)]:
        yield f"labels that look alike: {', '.join(pairs)}"
    if rare := [f"{label!r} {count}" for label, count in counts.items() if count < RARE]:
        yield f"labels with fewer than {RARE} examples: {', '.join(rare)}"


def look_alikes(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pairs of labels that may be one, the rarer first: equal but for accents, hyphens or a plural, or misspelled."""
    return [
        (one, other)
        for one, other in combinations(sorted(counts, key=lambda label: (counts[label], label)), 2)
        if _bare(one) == _bare(other) or _misspelled(folded(one).split(), folded(other).split())
    ]


def _bare(label: str) -> str:
    """A label without accents, hyphens and plural; a number without its zeros."""
    try:
        return f"{float(label):g}"
    except ValueError:
        pass
    plain = "".join(c for c in unicodedata.normalize("NFKD", folded(label)) if not unicodedata.combining(c))
    plain = re.sub(r"(?<=\w)[\s_./'-]+(?=\w)", "", plain.rstrip(". "))
    return plain[:-1] if len(plain) > 3 and plain.endswith("s") and not plain.endswith("ss") else plain


def _misspelled(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two texts of equally many words differ in one long word, and there little."""
    pairs = [(a, b) for a, b in zip(one, other, strict=False) if a != b]
    if len(one) != len(other) or len(pairs) != 1 or min(map(len, pairs[0])) < 5:
        return False
    a, b = pairs[0]
    if a.endswith(b) or b.endswith(a) or [c for c in a if c.isdigit()] != [c for c in b if c.isdigit()]:
        return False  # un- and dis- are meant, and so are numbers
    return SequenceMatcher(None, a, b, autojunk=False).ratio() >= ALIKE
