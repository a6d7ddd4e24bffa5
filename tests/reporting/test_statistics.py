from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from builders import write_results
from maml_en_llm.reporting.reading import NO_SEED, Result, read_inputs, read_result
from maml_en_llm.reporting.statistics import (
    Pair,
    Paired,
    against_baselines,
    bootstrap_interval,
    choice_and_order,
    comparisons,
    holm,
    over_runs_test,
    paired_scores,
    paired_test,
    pooled_comparisons,
    seed_spread,
)
from maml_en_llm.reporting.tables import wins


def alone(differences: np.ndarray) -> Paired:
    """Of one training run, against zeros."""
    return Paired(differences[None], np.zeros_like(differences)[None])


def test_scores_are_paired_by_task_and_seed() -> None:
    one = {"a": {"1": 5.0, "2": 7.0, "3": 1.0}, "b": {"1": 1.0}, "only": {"1": 1.0}}
    other = {"a": {"2": 4.0, "1": 1.0}, "b": {"9": 0.0}}
    paired = paired_scores([one], [other])
    assert {task: values.by_seed.tolist() for task, values in paired.items()} == {"a": [4.0, 3.0]}


def test_a_score_without_demonstrations_stands_for_every_seed() -> None:
    seeds = {"a": {"1": 5.0, "2": 7.0}}
    single = {"a": {NO_SEED: 4.0}}
    assert paired_scores([seeds], [single])["a"].by_seed.tolist() == [1.0, 3.0]
    assert paired_scores([single], [seeds])["a"].by_seed.tolist() == [-1.0, -3.0]
    assert paired_scores([single], [single])["a"].by_seed.tolist() == [0.0]


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    true, hits, rounds = 1.5, 0, 300
    for _ in range(rounds):
        effects = true + generator.normal(0, 4, size=24)
        differences = [effect + generator.normal(0, 2, size=5) for effect in effects]
        low, high = bootstrap_interval(list(map(alone, differences)), level=0.9, resamples=400)
        hits += low <= true <= high
    assert 0.85 <= hits / rounds <= 0.95


def test_the_interval_of_tasks_with_one_seed_is_the_bootstrap_over_tasks() -> None:
    values = np.random.default_rng(0).normal(2, 3, size=12)
    every = np.random.default_rng(1).choice(values, size=(20_000, 12)).mean(1)
    expected = np.quantile(every, [0.025, 0.975])
    found = bootstrap_interval([alone(np.array([v])) for v in values], resamples=20_000)
    assert found == pytest.approx(expected, abs=0.06)


def test_the_interval_of_one_task_is_the_bootstrap_over_its_seeds() -> None:
    values = np.array([1.0, 2.0, 6.0])
    every = sorted(np.mean(draw) for draw in itertools.product(values, repeat=3))
    expected = np.quantile(every, [0.025, 0.975], method="inverted_cdf")
    assert bootstrap_interval([alone(values)]) == pytest.approx(expected)


def test_unequal_numbers_of_seeds_weigh_each_task_the_same() -> None:
    low, high = bootstrap_interval([alone(np.array([3.0])), alone(np.array([3.0, 3.0, 3.0]))])
    assert (low, high) == pytest.approx((3.0, 3.0))
    two = bootstrap_interval([alone(np.array([0.0])), alone(np.array([4.0, 4.0, 4.0]))], level=0.2)
    assert two == pytest.approx((2.0, 2.0))  # 0, 2 or 4, with a quarter, a half and a quarter


def test_the_test_counts_the_sign_patterns_that_are_at_least_as_far_from_zero() -> None:
    values = np.array([1.0, 2.5, -0.5, 3.0, 0.7, 4.0])
    means = [np.mean(values * signs) for signs in itertools.product((1, -1), repeat=6)]
    expected = np.mean(np.abs(means) >= abs(values.mean()) - 1e-12)
    assert paired_test(values.tolist()) == pytest.approx(expected)
    assert paired_test([0.0, 0.0]) == 1.0
    assert paired_test([3.0]) == 1.0  # one task says nothing about others
    assert paired_test([1.0] * 20) < 1e-3  # drawn at random: 2^20 patterns are too many


def test_under_no_difference_p_is_below_a_level_as_often_as_the_level() -> None:
    generator = np.random.default_rng(5)
    small = [paired_test(generator.normal(size=8).tolist()) <= 0.1 for _ in range(400)]
    assert 0.06 <= np.mean(small) <= 0.14


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(probabilities, st.randoms(use_true_random=False))
def test_holm_keeps_order_and_never_lowers(p_values: list[float], random: object) -> None:
    corrected = holm(p_values)
    for p, q in zip(p_values, corrected, strict=True):
        assert p <= q <= min(1.0, len(p_values) * p + 1e-12) or q == max(corrected)
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(corrected)[order]) >= 0)
    shuffled = list(range(len(p_values)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert holm([p_values[i] for i in shuffled]) == pytest.approx([corrected[i] for i in shuffled])


score_tables = st.dictionaries(
    st.sampled_from("abcdef"),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=3, max_size=3),
    min_size=2,
)


def by_seed(table: Mapping[str, list[tuple[int, int]]], side: int, shift: float = 0.0) -> dict[str, dict[str, float]]:
    return {task: {str(i): pair[side] + shift for i, pair in enumerate(rows)} for task, rows in table.items()}


@settings(max_examples=20)
@given(score_tables)
def test_what_a_comparison_does_not_depend_on(table: dict[str, list[tuple[int, int]]]) -> None:
    def run(one: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]]) -> tuple[float, ...]:
        (c,) = comparisons([Pair("one", "other", "s", [one], [other])])
        assert c is not None
        return c.difference, c.low, c.high, c.p

    forward = run(by_seed(table, 0), by_seed(table, 1))
    difference, low, high, p = run(by_seed(table, 1), by_seed(table, 0))
    assert forward == pytest.approx((-difference, -high, -low, p), abs=1e-9)  # the sides exchanged
    assert forward == run(by_seed(dict(reversed(table.items())), 0), by_seed(table, 1))  # tasks in another order
    assert forward == pytest.approx(run(by_seed(table, 0, 7.0), by_seed(table, 1, 7.0)), abs=1e-6)  # both higher
    assert low - 1e-9 <= difference <= high + 1e-9 or len(table) < 4


def test_who_is_compared_with_whom(tmp_path: Path) -> None:
    scores = {"a": [0.5, 0.6], "b": [0.2, 0.4]}
    lower = {"a": [0.4, 0.5], "b": [0.3, 0.2]}
    channel = {"direction": "channel"}
    write_results(tmp_path / "raw.json", "Raw LM", scores)
    write_results(tmp_path / "no-icl.json", "No ICL", scores, row={"demonstrations": 0})
    write_results(tmp_path / "metaicl.json", "MetaICL", lower, method="metaicl", unseen=["b"])
    write_results(tmp_path / "maml.json", "MAML-2-1", lower, method="maml-en-llm")
    write_results(tmp_path / "channel.json", "Channel MAML-2-1", lower, method="maml-en-llm", row=channel)
    write_results(tmp_path / "channel-raw.json", "Channel Raw LM", scores, row=channel)
    write_results(tmp_path / "elsewhere.json", "MetaICT", lower, method="metaict", setting="other")
    results = read_inputs([tmp_path]).results
    found = {(c.method, c.baseline): c for c in comparisons(against_baselines(results, "test"))}
    assert set(found) == {
        ("MetaICL", "Raw LM"),
        ("MAML-2-1", "Raw LM"),
        ("MAML-2-1", "MetaICL"),
        ("Channel MAML-2-1", "Channel Raw LM"),
    }
    worse = found["MetaICL", "Raw LM"]
    assert worse.difference == pytest.approx(-7.5)  # a: -10 in both seeds; b: +10 and -20
    assert worse.below == pytest.approx({"a": -10.0, "b": -5.0})
    assert worse.below_in_every_seed == ("a",)
    assert worse.p_holm == min(1.0, 4 * worse.p)
    assert found["MAML-2-1", "MetaICL"].below == {}
    assert comparisons(against_baselines(results, "unseen_domain_test")) == []  # the raw LM has no unseen tasks here


def test_over_all_settings_a_task_counts_once(tmp_path: Path) -> None:
    scores = {"one": ({"a": [0.5, 0.7], "b": [0.5, 0.5]}, 0.1), "two": ({"a": [0.1, 0.1], "c": [0.2, 0.4]}, 0.3)}
    paths = []
    for setting, (raw, gain) in scores.items():
        better = {task: [score + gain for score in by_seed] for task, by_seed in raw.items()}
        paths.append(write_results(tmp_path / f"{setting}-raw.json", "Raw LM", raw, setting=setting))
        place = tmp_path / f"{setting}-metaicl.json"
        paths.append(write_results(place, "MetaICL", better, method="metaicl", setting=setting))
    results = read_inputs(paths).results
    (found,) = pooled_comparisons(against_baselines(results, "test"))
    assert (found.method, found.baseline, found.setting) == ("MetaICL", "Raw LM", "2 settings")
    assert found.differences == pytest.approx({"a": 20.0, "b": 10.0, "c": 30.0})
    assert found.difference == pytest.approx(20.0)
    assert found.p == paired_test([20.0, 10.0, 30.0])
    assert pooled_comparisons(against_baselines(results[:2], "test")) == []


def test_the_spread_over_seeds(tmp_path: Path) -> None:
    path = write_results(tmp_path / "a.json", "MetaICL", {"a": [0.5, 0.7], "b": [0.1, 0.1]})
    spread = seed_spread(read_inputs([path]).results[0], "test")
    assert spread is not None
    assert spread.by_seed == pytest.approx({"13": 40.0, "100": 30.0})
    assert spread.deviation == pytest.approx(np.std([30, 40], ddof=1))
    assert spread.within_tasks == pytest.approx(np.std([50, 70], ddof=1) / 2)
    one = write_results(tmp_path / "b.json", "No ICL", {"a": [0.5]}, seeds=[100])
    assert seed_spread(read_inputs([one]).results[0], "test") is None


def test_choice_and_order_are_told_apart(tmp_path: Path) -> None:
    def spread(by_order: list[list[float]]) -> tuple[float | None, float | None]:
        path = write_results(tmp_path / "a.json", "MetaICL", {"a": [scores[0] for scores in by_order]})
        whole = read_result(path).content
        orders = dict(zip(("100", "13"), map(tuple, by_order), strict=True))
        tasks = {"a": replace(whole.tasks["a"], scores_by_order=orders)}
        found = seed_spread(Result(path, replace(whole, tasks=tasks), ""), "test")
        assert found is not None
        return found.choice, found.order

    assert spread([[0.5, 0.5], [0.7, 0.7]]) == pytest.approx((np.std([50, 70], ddof=1), 0.0))
    assert spread([[0.5, 0.7], [0.7, 0.5]]) == pytest.approx((0.0, np.std([50, 70], ddof=1)))
    assert spread([[0.5], [0.7]]) == (None, None)


def test_components_of_variance_are_those_that_scores_were_drawn_with(tmp_path: Path) -> None:
    path = write_results(tmp_path / "a.json", "MetaICL", {"a": [0.5, 0.5]})
    plain = read_result(path).content
    generator = np.random.default_rng(0)
    choice, order = 3.0, 5.0
    tasks = {}
    for task in range(400):
        means = generator.normal(50, choice, 6)
        scores = (means[:, None] + generator.normal(0, order, (6, 5))) / 100
        orders = {str(seed): tuple(map(float, row)) for seed, row in enumerate(scores)}
        tasks[str(task)] = replace(plain.tasks["a"], scores_by_order=orders)
    result = Result(path, replace(plain, tasks=tasks), "")
    found = choice_and_order(result, "test")
    assert found == (pytest.approx(choice, rel=0.1), pytest.approx(order, rel=0.05))


def test_a_label_changes_nothing_but_the_label(tmp_path: Path) -> None:
    scores = {"raw": [0.5, 0.6, 0.2], "metaicl": [0.4, 0.7, 0.3], "maml-en-llm": [0.7, 0.6, 0.6]}

    def table(names: Mapping[str, str]) -> list[tuple[object, ...]]:
        folder = tmp_path / "-".join(names.values())
        for method, values in scores.items():
            tasks = {str(i): [value, value / 2] for i, value in enumerate(values)}
            trained = None if method == "raw" else method
            write_results(folder / f"{method}.json", names[method], tasks, method=trained, setting="s / t")
        results = read_inputs([folder]).results
        back = {name: method for method, name in names.items()}
        found = comparisons(against_baselines(results, "test"))
        won = wins([score for result in results for score in result.summaries], "test", "direct")
        return [*sorted((back[c.method], back[c.baseline], c.difference, c.low, c.p) for c in found), *won]

    plain = table({"raw": "Raw LM", "metaicl": "MetaICL", "maml-en-llm": "MAML-2-1"})
    assert len(plain) == 4
    # These names once had a meaning.
    assert table({"raw": "MAML-2-9", "metaicl": "Channel Raw LM", "maml-en-llm": "MetaICL / 8"}) == plain


def test_with_training_runs_the_interval_covers_as_often_as_it_says() -> None:
    """The true difference is of methods: over runs, tasks and seeds drawn anew, of which there are 4, 16 and 3."""
    generator = np.random.default_rng(4)
    hits, rejected, rounds = 0, 0, 300
    for _ in range(rounds):
        effects = generator.normal(0, 3, size=16)
        runs = generator.normal(0, 2, size=4)
        paired = []
        for effect in effects:
            noise = generator.normal(0, 1, size=(4, 3))
            paired.append(Paired(effect + runs[:, None] + noise, np.zeros((1, 3))))
        low, high = bootstrap_interval(paired, level=0.9, resamples=300)
        hits += low <= 0 <= high
        rejected += over_runs_test(paired) <= 0.1
    assert 0.82 <= hits / rounds <= 0.96
    assert rejected / rounds <= 0.13


def test_over_runs_is_the_t_test_of_runs_where_tasks_agree() -> None:
    runs, baseline = np.random.default_rng(0).normal(1, 1, (3, 1, 2)), np.random.default_rng(1).normal(0, 1, (5, 1, 2))
    paired = [Paired(runs[:, 0], baseline[:, 0])] * 4
    expected = stats.ttest_ind(runs.mean((1, 2)), baseline.mean((1, 2)), equal_var=False).pvalue
    assert over_runs_test(paired) == pytest.approx(expected)
    against_one = [Paired(runs[:, 0], baseline[:1, 0])] * 4
    expected = stats.ttest_1samp(runs.mean((1, 2)), baseline[0].mean()).pvalue
    assert over_runs_test(against_one) == pytest.approx(expected)
    assert over_runs_test(paired[:1]) == 1.0


def test_training_runs_are_one_row_and_count_in_its_comparison(tmp_path: Path) -> None:
    scores = {"a": [0.5, 0.6], "b": [0.2, 0.4], "c": [0.3, 0.3], "d": [0.6, 0.6], "e": [0.4, 0.4], "f": [0.1, 0.2]}
    write_results(tmp_path / "raw.json", "Raw LM", scores)
    for seed, gain in ((100, 0.3), (101, -0.1), (102, 0.25)):
        better = {task: [score + gain for score in values] for task, values in scores.items()}
        write_results(tmp_path / f"{seed}.json", "MetaICL", better, method="metaicl", training={"seed": seed})
    found = read_inputs([tmp_path])
    assert not found.not_read
    row = next(result for result in found.results if result.row.method)
    assert len(row.runs) == 3
    (score, *_) = row.summaries
    assert score.average == pytest.approx(np.mean([np.mean(v) for v in scores.values()]) * 100 + 15)
    (c,) = comparisons(against_baselines(found.results, "test"))
    assert c.runs == (3, 1)
    assert c.difference == pytest.approx(15.0)
    assert c.low < 0 < c.high  # every task gains, but one of three runs lost
    assert c.p > 0.2 > paired_test(list(c.differences.values()))
    spread = seed_spread(row, "test")
    assert spread is not None
    assert spread.by_run == pytest.approx(np.std([30, -10, 25], ddof=1))


def test_a_second_run_with_the_same_seed_or_another_recipe_is_no_run_of_the_row(tmp_path: Path) -> None:
    for name, training in (("a", {}), ("b", {}), ("c", {"seed": 1, "recipe_hash": "other"}), ("d", {"seed": 2})):
        write_results(tmp_path / f"{name}.json", "MetaICL", {"t": [0.5, 0.6]}, method="metaicl", training=training)
    found = read_inputs([tmp_path])
    assert [[run.path.stem for run in result.runs] for result in found.results] == [["a", "d"]]
    assert [path.stem for path, _ in found.not_read] == ["b", "c"]


def test_equal_batches_and_equal_updates_are_both_compared(tmp_path: Path) -> None:
    scores = {"a": [0.5, 0.6], "b": [0.2, 0.4]}
    for name, training in (("MetaICL", {}), ("MetaICL, few", {"updates": 4, "batches": 4}), ("other", {"updates": 2})):
        write_results(tmp_path / f"{name}.json", name, scores, method="metaicl", training=training)
    write_results(tmp_path / "maml.json", "MAML-2-1", scores, method="maml-en-llm", training={"updates": 4})
    found = comparisons(against_baselines(read_inputs([tmp_path]).results, "test"))
    assert {(c.baseline, c.equal) for c in found} == {("MetaICL", "batches"), ("MetaICL, few", "updates")}


def test_settings_with_unlike_numbers_of_training_runs_are_pooled_over_the_runs_that_all_have() -> None:
    """As they are while a table is being made."""
    one = {task: {"1": 0.5 + 0.1 * place} for place, task in enumerate("abc")}
    other = {task: {"1": 0.2} for task in "def"}
    third = {task: {"1": 0.9} for task in "abc"}
    pairs = [
        Pair("M", "B", "first", [one, third, third], [one, one]),
        Pair("M", "B", "second", [other], [other, other]),
    ]
    (found,) = pooled_comparisons(pairs)
    assert found.runs == (1, 2)
    assert found.difference == 0  # the second run of the method does not count
    assert 0 <= found.p <= 1
