"""What a user should know about results before using them, in one sentence each, with what to try."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from ..prediction.from_features import FromFeatures
from ..prediction.heads.tfidf_logistic import TfidfLogistic
from ..prediction.metrics import score
from ..prediction.predictor import LabelledTask
from ..results import Prediction
from ..tasks.collection import Example

FEWEST = 50  # predictions of a task below which nothing is said of it
Scored = tuple[Sequence[Example], Sequence[Prediction]]  # a task's examples and what was predicted for them


def one_label(tasks: Mapping[str, Scored]) -> str | None:
    """Says in which tasks nearly all examples got one label that is not nearly as common."""
    found = []
    for name, (_, rows) in tasks.items():
        label, count = Counter(row.predicted for row in rows).most_common(1)[0] if rows else ("", 0)
        right = sum(row.output == label for row in rows)
        if len(rows) >= FEWEST and count >= 0.95 * len(rows) and right <= 0.8 * len(rows):
            found.append(f"{name} ({label!r})")
    if not found:
        return None
    named = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
    return (
        f"nearly all examples got one label in {len(found)} of {len(tasks)} tasks: {named}; try --calibrate, "
        "--choose nearest or --learner logistic"
    )


def at_guessing(average: float, chance: float) -> str | None:
    """Says when the average is not above that of guessing."""
    if average > chance + 0.02:
        return None
    return (
        f"the average, {100 * average:.1f}, is no better than guessing among the options ({100 * chance:.1f}); try "
        "--learner logistic, a larger model, or more demonstrations"
    )


def length_bias(tasks: Mapping[str, Scored], length: Callable[[str], int]) -> str | None:
    """Says when the longest, or the shortest, option is predicted much more often than it is right.

    length: of an option, in tokens.
    """
    known = cache(length)
    for word, pick in (("longest", max), ("shortest", min)):
        predicted = right = total = 0
        for examples, rows in tasks.values():
            for row in rows:
                lengths = {option: known(option) for option in examples[row.index].options}
                extreme = [option for option, tokens in lengths.items() if tokens == pick(lengths.values())]
                if len(extreme) == 1:
                    total += 1
                    predicted += row.predicted == extreme[0]
                    right += row.output == extreme[0]
        if total >= FEWEST and predicted - right > 0.25 * total:
            return (
                f"the {word} option is predicted for {100 * predicted / total:.0f} % of the examples but right for "
                f"{100 * right / total:.0f} %; give the labels names of about the same length, or try --calibrate"
            )
    return None


def cheap_baseline(
    tasks: Mapping[str, LabelledTask],
    scored: Mapping[str, Scored],
    metrics: Mapping[str, str],
    labels: int,
    seed: int,
) -> str | None:
    """Says when words alone, with as many labels, do better on the same examples (of the first seed)."""
    head, ours, theirs = FromFeatures(TfidfLogistic(), labels), [], []
    for name, task in tasks.items():
        examples, rows = scored[name]
        first = [row for row in rows if row.seed == seed and row.order == 0]
        found = head.scores(task, examples, seed)
        lowest = [min(range(len(row)), key=row.__getitem__) for row in found]
        outputs = [example.output for example in examples]
        guesses = [example.options[place] for example, place in zip(examples, lowest, strict=True)]
        ours.append(score(metrics[name], outputs, [row.predicted for row in first]))
        theirs.append(score(metrics[name], outputs, guesses))
    mean, other = sum(ours) / len(ours), sum(theirs) / len(theirs)
    if other <= mean + 0.01:
        return None
    return (
        f"logistic regression on words alone scores {100 * other:.1f} with the same {labels} labels, the model "
        f"{100 * mean:.1f} (seed {seed}); compare --learner logistic and tfidf-logistic"
    )
