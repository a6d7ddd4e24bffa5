"""What a report says first: one sentence, and every row's score with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..results import Row
from .reading import NO_SEED, Result
from .statistics import LEVEL, PROMPT_KEYS, Comparison, Paired, bootstrap_interval, joined, paired_scores
from .tables import in_order

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class RowScore:
    """A row over all tasks of the settings that are shown, in percent; a task counts once."""

    label: str
    row: Row
    average: float
    low: float
    high: float

    @property
    def kind(self) -> str:
        """trained, raw, or other: predictions that no language model made in its context."""
        return "other" if self.row.learner != "in-context" else "trained" if self.row.training else "raw"


@dataclass(frozen=True)
class Overview:
    rows: list[RowScore]
    settings: list[str]
    tasks: int
    guess: float | None
    """Score of guessing uniformly among the options, where results say it."""


def overview(results: Sequence[Result], subset: str) -> Overview | None:
    """Every row over the settings that all rows have; where there are none, over the setting with the most rows."""
    whole = [result for result in results if not result.row.adaptation]
    by_label: dict[str, dict[str, Result]] = {}
    for result in whole:
        by_label.setdefault(result.label, {})[result.setting] = result
    settings = list(dict.fromkeys(result.setting for result in whole))
    shown = [s for s in settings if all(s in having for having in by_label.values())]
    if not shown and settings:
        shown = [max(settings, key=lambda s: sum(s in having for having in by_label.values()))]
    rows = []
    for label in in_order((result.label, result.row) for result in whole):
        having = by_label[label]
        if not set(shown) <= having.keys():
            continue
        paired = list(_over_settings([having[setting] for setting in shown], subset).values())
        if paired:
            average = float(np.mean([one.by_seed.mean() for one in paired]))
            rows.append(RowScore(label, having[shown[0]].row, average, *bootstrap_interval(paired)))
    guesses = {
        (name, setting): task.guess
        for setting in shown
        for result in whole
        if result.setting == setting
        for name, task in result.tasks(subset).items()
    }
    known = [guess for guess in guesses.values() if guess is not None]
    guess = 100 * sum(known) / len(known) if known and len(known) == len(guesses) else None
    return Overview(rows, shown, len({name for name, _ in guesses}), guess) if rows else None


def _over_settings(results: Iterable[Result], subset: str) -> dict[str, Paired]:
    """A row's scores by task, against nothing; a task of several settings has all their seeds."""
    found: dict[str, list[Paired]] = {}
    for result in results:
        scores = result.scores(subset)
        nothing = {task: {NO_SEED: 0.0} for task in scores[0]}
        for task, one in paired_scores(scores, [nothing]).items():
            found.setdefault(task, []).append(one)
    return {task: joined(several) for task, several in found.items()}


def verdict(view: Overview, comparisons: Sequence[Comparison]) -> str:
    """What came out, in one sentence. comparisons: over all settings, or in the one that there is."""
    models = [row for row in view.rows if row.kind != "other"]
    others = [row for row in view.rows if row.kind == "other"]
    best = max(models, key=_average, default=None)
    if others and (best is None or max(map(_average, others)) > best.average):
        top = max(others, key=_average)
        against = f" ({best.average:.1f} % for the best of them, {best.label})" if best else ""
        reached = f"{top.label}, which needs no prompt, has {top.average:.1f} %"
        return f"{reached}: above every language-model row{against}."
    trained = max((row for row in models if row.kind == "trained"), key=_average, default=None)
    if trained is None:
        top = best or view.rows[0]
        return f"{top.label} has the highest average, {top.average:.1f} %; no row was meta-trained."
    found = next((c for c in comparisons if c.with_raw and c.method == trained.label), None)
    score = f"the best meta-trained row, {trained.label}, has {trained.average:.1f} %"
    if found is None:
        return f"{score[0].upper()}{score[1:]}; there is no raw model of its direction to compare it with."
    raw = f"{found.baseline} {trained.average - found.difference:.1f} %"
    if not found.tested:
        return f"There is no verdict: {score} and {raw}, but the two were not scored alike ({found.unlike})."
    interval = f"{_signed(found.difference)} points, {LEVEL:.0%} interval {_signed(found.low)} to {_signed(found.high)}"
    figures = f"{score} and {raw} ({interval})"
    if found.p_holm >= SIGNIFICANT:
        return f"Meta-training made no difference that stands out from chance: {figures}."
    return f"Meta-training {'helped' if found.difference > 0 else 'did harm'}: {figures}."


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def _average(row: RowScore) -> float:
    return row.average


def against_baseline(comparisons: Sequence[Comparison]) -> list[str]:
    """A sentence for each comparison of a method with its baseline."""
    return [
        f"{c.method} against {c.baseline}{f' (equal {c.equal})' if c.equal not in ('', 'neither') else ''}: "
        f"{_signed(c.difference)} points ({_signed(c.low)} to {_signed(c.high)}), "
        f"{'' if c.p_holm < SIGNIFICANT else 'not '}significant."
        for c in comparisons
        if not c.with_raw and c.tested
    ]


def not_alike(results: Sequence[Result]) -> list[str]:
    """Sentences on what rows of one setting were scored differently in."""
    found = []
    rows = [result.row for result in results if result.row.learner == "in-context" and not result.row.adaptation]
    for key in ("demonstrations", *PROMPT_KEYS, "split", "data_amount", "max_examples"):
        labels: dict[object, list[str]] = {}
        for row in rows:
            if row.demonstrations:
                labels.setdefault(getattr(row, key), [])
                if row.label not in labels[getattr(row, key)]:
                    labels[getattr(row, key)].append(row.label)
        if len(labels) > 1:
            parts = "; ".join(f"{value} for {', '.join(names)}" for value, names in labels.items())
            found.append(f"Rows differ in {key.replace('_', ' ')}: {parts}.")
    return found


def collapsed(results: Sequence[Result]) -> list[str]:
    """A sentence for each row that has nearly one answer for everything on some task, unlike the gold labels."""
    found = []
    for result in sorted(results, key=lambda result: result.row.demonstrations == 0):
        tasks = {}  # share of the most frequent answer, and the answer
        for task in result.tasks():
            golds, answers = _totals(result.confusion(task))
            count = sum(golds.values())
            answer = max(answers, key=lambda name: answers[name], default="")
            if count and answers[answer] >= MOSTLY * count and golds.get(answer, 0) <= PLAUSIBLE * count:
                tasks[task] = (answers[answer] / count, answer)
        if tasks:
            worst = max(tasks, key=lambda task: tasks[task][0])
            share, answer = tasks[worst]
            others = f" (and {len(tasks) - 1} more like it)" if len(tasks) > 1 else ""
            ways = [] if result.row.calibrated or result.row.direction == "channel" else ["--calibrate"]
            ways += [] if result.row.direction == "channel" else ["channel"]
            advice = f"; try {' or '.join(ways)}" if ways and result.row.learner == "in-context" else ""
            where = f"{result.label}, {worst} of {result.setting}{others}"
            found.append(f"{where}: {100 * share:.0f} % of the answers are \u201c{answer}\u201d{advice}.")
    return found


MOSTLY = 0.9
PLAUSIBLE = 0.75


def _totals(confusion: Mapping[str, Mapping[str, int]]) -> tuple[dict[str, int], dict[str, int]]:
    """How often each label is the gold output, and how often the answer."""
    answers: dict[str, int] = {}
    for row in confusion.values():
        for option, count in row.items():
            answers[option] = answers.get(option, 0) + count
    return {gold: sum(row.values()) for gold, row in confusion.items()}, answers
