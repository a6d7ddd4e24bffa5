"""How sure a difference between two methods is, over tasks and demonstration seeds.

All scores are in percent, all differences in percentage points: method minus baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from ..results import Row
from .reading import NO_SEED, Result, SeedScores

RESAMPLES = 4000  # of the bootstrap
SIGN_PATTERNS = 1 << 14  # of the test: all of them up to 14 tasks, that many drawn at random above
LEVEL = 0.95


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline in one setting, over the tasks that both were scored on."""

    method: str
    baseline: str
    setting: str
    differences: Mapping[str, float]  # by task: the mean over seeds
    difference: float  # mean over tasks
    low: float
    high: float
    p: float
    below_in_every_seed: tuple[str, ...]
    with_raw: bool = False
    """Whether the baseline is a raw model."""
    unlike: str = ""
    """In what the two were scored differently, so that the difference is not that of the methods alone."""
    tested: bool = True
    """Whether interval and p-value are meant to be read: not of unlike rows, unless that was asked for."""
    p_holm: float = 1.0

    @property
    def below(self) -> dict[str, float]:
        """The tasks where the method is below the baseline, the lowest first."""
        return dict(sorted(((t, d) for t, d in self.differences.items() if d < 0), key=lambda item: item[1]))


def paired_differences(method: SeedScores, baseline: SeedScores) -> dict[str, np.ndarray]:
    """Per common task the differences float64 [seeds], seed by seed; without demonstrations a score is every seed's."""
    paired = {}
    for task in sorted(set(method) & set(baseline)):
        one, other = method[task], baseline[task]
        if NO_SEED in one or NO_SEED in other:
            seeds = sorted((set(one) | set(other)) - {NO_SEED}) or [NO_SEED]
        else:
            seeds = sorted(set(one) & set(other))
        if seeds:
            values = [one.get(s, one.get(NO_SEED, 0.0)) - other.get(s, other.get(NO_SEED, 0.0)) for s in seeds]
            paired[task] = np.round(values, 9)  # equal scores are equal, whatever their last bits say
    return paired


def bootstrap_interval(
    differences: Sequence[np.ndarray], level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean over tasks of the mean over seeds; differences: per task float64 [seeds].

    Each resample draws tasks with replacement, then within each drawn task as many seeds as it has, with replacement
    (a hierarchical bootstrap; Davison and Hinkley 1997, section 3.8).
    """
    generator = np.random.default_rng(seed)
    counts = np.array([len(d) for d in differences])
    padded = np.zeros((len(differences), counts.max()))
    for row, values in zip(padded, differences, strict=True):
        row[: len(values)] = values
    tasks = generator.integers(len(counts), size=(resamples, len(counts)))
    drawn = counts[tasks][..., None]  # [resamples, tasks, 1]
    seeds = (generator.random((*tasks.shape, padded.shape[1])) * drawn).astype(np.int64)
    used = np.arange(padded.shape[1]) < drawn
    means = (padded[tasks[..., None], seeds] * used).sum(2) / drawn[..., 0]
    low, high = np.quantile(means.mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test(differences: Sequence[float]) -> float:
    """Two-sided p-value that the mean difference over tasks is zero, by flipping signs task by task.

    Exact up to 14 tasks; above, over 2^14 random flips. A single task gives 1.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or not values.any():
        return 1.0
    test = stats.permutation_test(
        (values, np.zeros_like(values)),
        lambda one, other, axis: np.mean(one - other, axis=axis),
        permutation_type="samples",
        n_resamples=SIGN_PATTERNS,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several (Holm 1979), in the same order."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.minimum(np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * factors), 1.0)
    result = np.empty(len(p_values))
    result[order] = corrected
    return [float(p) for p in result]


class Pair(NamedTuple):
    """What is compared in a setting: a method with a baseline."""

    method: str
    baseline: str
    setting: str
    scores: SeedScores
    baseline_scores: SeedScores
    with_raw: bool = False
    unlike: str = ""
    tested: bool = True


def compare(method: str, baseline: str, setting: str, paired: Mapping[str, np.ndarray]) -> Comparison:
    """paired: per task the differences float64 [seeds]."""
    means = {task: round(float(values.mean()), 9) for task, values in paired.items()}
    low, high = bootstrap_interval(list(paired.values()))
    everywhere = tuple(task for task, values in paired.items() if (values < 0).all())
    average = float(np.mean(list(means.values())))
    p = paired_test(list(means.values()))
    return Comparison(method, baseline, setting, means, average, low, high, p, everywhere)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one table, with Holm's correction over all of them."""
    p_values = iter(holm([c.p for c in comparisons if c.tested]))
    return [replace(c, p_holm=next(p_values)) if c.tested else c for c in comparisons]


def comparisons(pairs: Iterable[Pair]) -> list[Comparison]:
    """Each pair that has a task and a seed in common."""
    found = []
    for pair in pairs:
        if paired := paired_differences(pair.scores, pair.baseline_scores):
            compared = compare(*pair[:3], paired)
            found.append(replace(compared, with_raw=pair.with_raw, unlike=pair.unlike, tested=pair.tested))
    return corrected(found)


def pooled_comparisons(pairs: Iterable[Pair]) -> list[Comparison]:
    """Over all settings at once, those that are compared in several.

    A task counts once, however many settings have it: its difference is the mean over their seeds. Unlike rows are left
    out, unless their comparison was asked for.
    """
    pooled: dict[tuple[str, str], dict[str, dict[str, np.ndarray]]] = {}  # names -> task -> setting -> by seed
    for pair in pairs:
        if not pair.tested:
            continue
        for task, values in paired_differences(pair.scores, pair.baseline_scores).items():
            pooled.setdefault(pair[:2], {}).setdefault(task, {})[pair.setting] = values
    found = []
    for names, tasks in pooled.items():
        settings = {setting for by_setting in tasks.values() for setting in by_setting}
        if len(settings) > 1:
            paired = {task: np.concatenate(list(by_setting.values())) for task, by_setting in tasks.items()}
            found.append(compare(*names, f"{len(settings)} settings", paired))
    return corrected(found)


PROMPT_KEYS = ("layout", "max_tokens", "max_tokens_per_example", "overflow", "instructions")
LIKENESS = (
    "learner",
    "demonstrations",
    "choose",
    "calibrated",
    "layout",
    "max_tokens",
    "max_tokens_per_example",
    "model",
    "split",
)


def against_baselines(results: Sequence[Result], subset: str, compare_unlike: bool = False) -> Iterator[Pair]:
    """Every meta-trained row with the raw model, and with its method's baseline, of the same direction.

    compare_unlike: whether rows that were not scored in the same way are tested against each other, too.
    """
    whole = [result for result in results if not result.row.adaptation]
    for result in whole:
        if result.row.training is None:
            continue
        for method in (None, *filter(None, [result.row.baseline])):
            if other := baseline_of(result, method, whole):
                sides = result.scores(subset), other.scores(subset)
                differ = unlike(result, other)
                tested = compare_unlike or not differ
                yield Pair(result.label, other.label, result.setting, *sides, method is None, differ, tested)


def unlike(result: Result, other: Result) -> str:
    """In what two results were scored differently, in words; empty when only models differ."""
    row, base = result.row, other.row
    keys = ["labels_used", "split", "data_amount"]
    if row.learner == base.learner == "in-context":
        keys += ["demonstrations", "choose", "calibrated", *PROMPT_KEYS]
    found = [
        f"{key.replace('_', ' ')} {one} and {another}"
        for key in keys
        if (one := getattr(row, key)) != (another := getattr(base, key))
    ]
    tasks, others = result.content.tasks, other.content.tasks
    if any(tasks[name].examples != others[name].examples for name in tasks.keys() & others.keys()):
        found.append("numbers of examples")
    if tasks.keys() == others.keys() and result.content.run.manifest_hash != other.content.run.manifest_hash:
        found.append("data")
    return ", ".join(found)


def baseline_of(result: Result, method: str | None, results: Sequence[Result]) -> Result | None:
    """The result in the same setting and direction that `method` trained (None: the raw model) and that is most like
    `result` in how it was scored."""
    found = [
        other
        for other in results
        if (other.setting, other.row.direction, other.row.method) == (result.setting, result.row.direction, method)
        and other.row.learner == "in-context"
        and (other.row.demonstrations > 0 or result.row.demonstrations == 0)
    ]
    return max(found, key=lambda other: _likeness(result.row, other.row), default=None)


def _likeness(row: Row, other: Row) -> int:
    return sum(getattr(row, name) == getattr(other, name) for name in LIKENESS)


def after_and_before(results: Sequence[Result]) -> Iterator[Pair]:
    """Every adapted model with itself before, on all target tasks that were scored."""
    for result in results:
        if result.row.adaptation:
            before = next((score.label for score in result.summaries_before), "before")
            yield Pair(result.label, before, result.setting, result.scores(), result.scores(before=True))


@dataclass(frozen=True)
class SeedSpread:
    """How much a method's scores depend on which demonstrations are drawn, and in which order they stand."""

    method: str
    setting: str
    by_seed: Mapping[str, float]  # mean over tasks
    deviation: float  # standard deviation of `by_seed`
    within_tasks: float  # mean over tasks of the standard deviation over seeds
    choice: float | None = None  # of within_tasks, what comes from which examples are shown
    order: float | None = None  # and from their order; None where each seed was scored in one order


def seed_spread(result: Result, subset: str) -> SeedSpread | None:
    """None where there are fewer than two seeds."""
    scores = result.scores(subset)
    seeds = sorted({seed for by_seed in scores.values() for seed in by_seed}, key=lambda s: (len(s), s))
    if len(seeds) < 2 or any(set(by_seed) != set(seeds) for by_seed in scores.values()):
        return None
    table = np.array([[by_seed[seed] for seed in seeds] for by_seed in scores.values()])
    means = dict(zip(seeds, map(float, table.mean(0)), strict=True))
    within = float(table.std(1, ddof=1).mean())
    parts = choice_and_order(result, subset)
    return SeedSpread(result.label, result.setting, means, float(table.mean(0).std(ddof=1)), within, *parts)


def choice_and_order(result: Result, subset: str) -> tuple[float, float] | tuple[None, None]:
    """Standard deviations of a task's score that the choice of the demonstrations and their order bring about: roots of
    the components of variance, mean over tasks, of scores [seeds, orders] (one-way, seeds being random effects; Searle,
    Casella and McCulloch 1992, section 3.6). None where seeds were not scored in several orders."""
    by_choice, by_order = [], []
    for task in result.tasks(subset).values():
        by_seed = list((task.scores_by_order or {}).values())
        if len(by_seed) < 2 or len({len(scores) for scores in by_seed}) != 1 or len(by_seed[0]) < 2:
            return None, None
        scores = 100 * np.array(by_seed, dtype=np.float64)
        by_order.append(scores.var(1, ddof=1).mean())
        by_choice.append(scores.mean(1).var(ddof=1) - by_order[-1] / scores.shape[1])
    return float(np.sqrt(max(0.0, np.mean(by_choice)))), float(np.sqrt(np.mean(by_order)))
