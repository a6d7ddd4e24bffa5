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
from .reading import NO_SEED, Result, RunScores

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
    runs: tuple[int, int] = (1, 1)
    """Training runs of the method and of the baseline."""
    with_raw: bool = False
    """Whether the baseline is a raw model."""
    equal: str = ""
    """Of two trained rows: whether both saw equally many batches, or made equally many updates."""
    unlike: str = ""
    """In what the two were scored differently, so that the difference is not that of the methods alone."""
    tested: bool = True
    """Whether interval and p-value are meant to be read: not of unlike rows, unless that was asked for."""
    p_holm: float = 1.0

    @property
    def below(self) -> dict[str, float]:
        """The tasks where the method is below the baseline, the lowest first."""
        return dict(sorted(((t, d) for t, d in self.differences.items() if d < 0), key=lambda item: item[1]))


@dataclass(frozen=True)
class Paired:
    """Scores of a task on the demonstration seeds that both sides have, in percent."""

    method: np.ndarray  # float64 [training runs, seeds]
    baseline: np.ndarray  # float64 [training runs, seeds]

    @property
    def by_seed(self) -> np.ndarray:
        """Differences float64 [seeds], means over training runs."""
        return np.round(self.method.mean(0) - self.baseline.mean(0), 9)  # equal scores are equal to their last bit


def paired_scores(method: RunScores, baseline: RunScores) -> dict[str, Paired]:
    """By the tasks that every run of both sides has; without demonstrations a score is every seed's."""
    paired = {}
    everything = [*method, *baseline]
    for task in sorted(set.intersection(*(set(run) for run in everything))):
        drawn = [set(run[task]) for run in everything if NO_SEED not in run[task]]
        if seeds := sorted(set.intersection(*drawn)) if drawn else [NO_SEED]:
            one, other = (
                np.array([[run[task].get(s, run[task].get(NO_SEED, 0.0)) for s in seeds] for run in side])
                for side in (method, baseline)
            )
            paired[task] = Paired(one, other)
    return paired


def bootstrap_interval(
    paired: Sequence[Paired], level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean difference over tasks.

    Each resample draws tasks with replacement, then within each drawn task as many demonstration seeds as it has, with
    replacement, and as many training runs of each side as it has (a hierarchical bootstrap; Davison and Hinkley 1997,
    section 3.8). Deviations of runs from their mean are widened by sqrt(R / (R - 1)), since R runs are few.
    """
    generator = np.random.default_rng(seed)
    counts = np.array([one.method.shape[1] for one in paired])
    tasks = generator.integers(len(counts), size=(resamples, len(counts)))
    drawn = counts[tasks][..., None]  # [resamples, tasks, 1]
    seeds = (generator.random((*tasks.shape, counts.max())) * drawn).astype(np.int64)
    used = np.arange(counts.max()) < drawn
    total = np.zeros(resamples)
    for sign, sides in ((1, [one.method for one in paired]), (-1, [one.baseline for one in paired])):
        runs = min(len(side) for side in sides)
        padded = np.zeros((runs, len(sides), counts.max()))
        for number, side in enumerate(sides):
            padded[:, number, : side.shape[1]] = side[:runs]
        means = np.stack([((run[tasks[..., None], seeds] * used).sum(2) / drawn[..., 0]).mean(1) for run in padded])
        if runs > 1:
            means = means.mean(0) + (means - means.mean(0)) * np.sqrt(runs / (runs - 1))
            weights = generator.multinomial(runs, [1 / runs] * runs, size=resamples).T / runs
            total += sign * (weights * means).sum(0)
        else:
            total += sign * means[0]
    low, high = np.quantile(total, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def over_runs_test(paired: Sequence[Paired]) -> float:
    """Two-sided p-value that the mean difference is zero over tasks and training runs, both drawn anew.

    A t-test with the variance of the mean over tasks plus that over the training runs of each side that was trained
    several times, and degrees of freedom by Satterthwaite (1946). What varies from run to run and task to task is in
    both, so it is conservative. A single task gives 1.
    """
    differences = np.array([one.by_seed.mean() for one in paired])
    sides = [np.mean([getattr(one, side).mean(1) for one in paired], axis=0) for side in SIDES]  # by run, over tasks
    samples = [sample for sample in (differences, *sides) if len(sample) > 1]
    variances = [float(sample.var(ddof=1)) / len(sample) for sample in samples]
    if len(differences) < 2 or not any(variances):
        return 1.0
    freedom = sum(variances) ** 2 / sum(v**2 / (len(s) - 1) for v, s in zip(variances, samples, strict=True))
    return float(2 * stats.t.sf(abs(differences.mean()) / np.sqrt(sum(variances)), freedom))


SIDES = ("method", "baseline")


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
    scores: RunScores
    baseline_scores: RunScores
    with_raw: bool = False
    unlike: str = ""
    tested: bool = True
    equal: str = ""


def compare(method: str, baseline: str, setting: str, paired: Mapping[str, Paired]) -> Comparison:
    """p is of the permutation test over tasks; where there are several training runs, of the t-test over both.

    Of tasks with unlike numbers of runs, as a table has while it is being made, the first runs that all have count.
    """
    least = [min(len(getattr(one, side)) for one in paired.values()) for side in SIDES]
    paired = {task: Paired(one.method[: least[0]], one.baseline[: least[1]]) for task, one in paired.items()}
    means = {task: round(float(one.by_seed.mean()), 9) for task, one in paired.items()}
    low, high = bootstrap_interval(list(paired.values()))
    everywhere = tuple(task for task, one in paired.items() if (one.by_seed < 0).all())
    average = float(np.mean(list(means.values())))
    runs = (least[0], least[1])
    p = paired_test(list(means.values())) if runs == (1, 1) else over_runs_test(list(paired.values()))
    return Comparison(method, baseline, setting, means, average, low, high, p, everywhere, runs)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one table, with Holm's correction over all of them."""
    p_values = iter(holm([c.p for c in comparisons if c.tested]))
    return [replace(c, p_holm=next(p_values)) if c.tested else c for c in comparisons]


def comparisons(pairs: Iterable[Pair]) -> list[Comparison]:
    """Each pair that has a task and a seed in common."""
    found = []
    for pair in pairs:
        if paired := paired_scores(pair.scores, pair.baseline_scores):
            compared = compare(*pair[:3], paired)
            found.append(
                replace(compared, with_raw=pair.with_raw, unlike=pair.unlike, tested=pair.tested, equal=pair.equal)
            )
    return corrected(found)


def pooled_comparisons(pairs: Iterable[Pair]) -> list[Comparison]:
    """Over all settings at once, those that are compared in several.

    A task counts once, however many settings have it: its difference is the mean over their seeds. Unlike rows are left
    out, unless their comparison was asked for.
    """
    pooled: dict[tuple[str, str], list[tuple[Pair, dict[str, Paired]]]] = {}  # by both names
    for pair in pairs:
        if pair.tested and (paired := paired_scores(pair.scores, pair.baseline_scores)):
            pooled.setdefault(pair[:2], []).append((pair, paired))
    found = []
    for names, several in pooled.items():
        settings = {pair.setting for pair, _ in several}
        if len(settings) > 1:
            tasks = dict.fromkeys(task for _, paired in several for task in paired)
            over_all = {task: joined([paired[task] for _, paired in several if task in paired]) for task in tasks}
            whole = compare(*names, f"{len(settings)} settings", over_all)
            unlike, equal = (
                "; ".join(filter(None, dict.fromkeys(getattr(pair, key) for pair, _ in several)))
                for key in ("unlike", "equal")
            )
            found.append(replace(whole, with_raw=several[0][0].with_raw, unlike=unlike, equal=equal))
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
            others = candidates(result, method, whole)
            # Against another method at equal batches and at equal updates, where there are rows of both.
            for key in ("batches", "updates") if method else ("",):
                if not others:
                    continue
                alike = [(_same(key, result, one), _likeness(result.row, one.row)) for one in others]
                other = others[alike.index(max(alike))]
                others.remove(other)
                differ, equal = unlike(result, other), equal_in(result, other)
                sides = result.scores(subset), other.scores(subset)
                tested = compare_unlike or not differ
                yield Pair(result.label, other.label, result.setting, *sides, method is None, differ, tested, equal)
                if key == "batches" and not any(_same("updates", result, one) for one in others):
                    break


def _same(key: str, result: Result, other: Result) -> bool:
    one, another = result.row.training, other.row.training
    return bool(key and one and another and getattr(one, key) == getattr(another, key))


def equal_in(result: Result, other: Result) -> str:
    """What two trained rows have in common: batches seen, updates made."""
    if other.row.training is None:
        return ""
    return " and ".join(key for key in ("batches", "updates") if _same(key, result, other)) or "neither"


def joined(several: Sequence[Paired]) -> Paired:
    """A task in several settings: their seeds one behind the other, with as many training runs as each has."""
    method, baseline = (
        np.concatenate([getattr(one, side)[: min(len(getattr(o, side)) for o in several)] for one in several], axis=1)
        for side in SIDES
    )
    return Paired(method, baseline)


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


def candidates(result: Result, method: str | None, results: Sequence[Result]) -> list[Result]:
    """The results in the same setting and direction that `method` trained (None: of a raw model)."""
    return [
        other
        for other in results
        if (other.setting, other.row.direction, other.row.method) == (result.setting, result.row.direction, method)
        and other.row.learner == "in-context"
        and (other.row.demonstrations > 0 or result.row.demonstrations == 0)
    ]


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
    """How much a method's scores depend on which demonstrations are drawn, in which order, and on the training run."""

    method: str
    setting: str
    by_seed: Mapping[str, float]  # mean over tasks and training runs
    deviation: float  # standard deviation of `by_seed`
    within_tasks: float  # mean over tasks of the standard deviation over seeds
    choice: float | None = None  # of within_tasks, what comes from which examples are shown
    order: float | None = None  # and from their order; None where each seed was scored in one order
    runs: int = 1
    by_run: float | None = None  # standard deviation over training runs of the mean over tasks and seeds


def seed_spread(result: Result, subset: str) -> SeedSpread | None:
    """None where there are fewer than two demonstration seeds."""
    scores = result.scores(subset)
    seeds = sorted({seed for by_seed in scores[0].values() for seed in by_seed}, key=lambda s: (len(s), s))
    tasks = scores[0].keys()
    if len(seeds) < 2 or any(run.keys() != tasks or set(run[t]) != set(seeds) for run in scores for t in tasks):
        return None
    every = np.array([[[run[task][seed] for seed in seeds] for task in tasks] for run in scores])
    table = every.mean(0)
    means = dict(zip(seeds, map(float, table.mean(0)), strict=True))
    within = float(table.std(1, ddof=1).mean())
    by_run = float(every.mean((1, 2)).std(ddof=1)) if len(every) > 1 else None
    choice, order = choice_and_order(result, subset)
    return SeedSpread(
        method=result.label,
        setting=result.setting,
        by_seed=means,
        deviation=float(table.mean(0).std(ddof=1)),
        within_tasks=within,
        choice=choice,
        order=order,
        runs=len(every),
        by_run=by_run,
    )


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
