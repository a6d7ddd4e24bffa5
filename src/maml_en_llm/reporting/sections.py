"""What each section of the page shows; one without blocks has nothing to show."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml
from markupsafe import Markup

from . import plots, tables
from .blocks import Section
from .browser import Predictions
from .cost import cost_table
from .datasheet import data_tables
from .reading import SUBSETS, Inputs, Result, Run, Score, not_read_lines, subsets_of
from .statistics import (
    LEVEL,
    RESAMPLES,
    SIGN_PATTERNS,
    Comparison,
    after_and_before,
    comparisons,
    pooled_comparisons,
    seed_spread,
)
from .tables import Table
from .verdict import Overview, against_baseline, collapsed, not_alike, verdict


def verdict_section(view: Overview | None, found: Sequence[Comparison], inputs: Inputs) -> Section:
    section = Section("verdict", "In short")
    if view is None:
        return section
    section.blocks.append({"kind": "verdict", "text": verdict(view, found)})
    low = min([row.low for row in view.rows] + ([view.guess] if view.guess is not None else []))
    scale = plots.ticks(low, max(row.high for row in view.rows))
    scope = f"{len(view.settings)} settings" if len(view.settings) > 1 else view.settings[0]
    level = "" if view.guess is None else f" The dashed line is uniform guessing, {view.guess:.1f} %."
    caption = (
        f"Macro-F1 or accuracy in percent, mean over {view.tasks} tasks of {scope}, with {LEVEL:.0%} intervals.{level}"
    )
    names = {"trained": "meta-trained", "raw": "raw model", "other": "not in context"}
    kinds = [(kind, words) for kind, words in names.items() if any(row.kind == kind for row in view.rows)]
    chart = plots.dots(view.rows, scale, view.guess)
    section.blocks.append({"kind": "dots", "chart": chart, "caption": caption, "kinds": kinds})
    if sentences := [*against_baseline(found), *not_alike(inputs.results)]:
        section.blocks.append({"kind": "list", "items": sentences})
    if warnings := collapsed(inputs.results):
        section.blocks.append({"kind": "warnings", "items": warnings})
    return section


def summary_section(inputs: Inputs) -> Section:
    section = Section("summary", "Summary")
    scores = inputs.scores_shown
    if not scores:
        return section
    section.tables += tables.summary_tables(scores)
    section.text(
        "Macro-F1 or accuracy in percent, mean over tasks: the average over demonstration seeds, and the worst. "
        "A number leads to where it is from."
    )
    section.text(*inputs.notes)
    sources = {(result.label, result.setting): i for i, result in enumerate(inputs.results)}
    for subset in tables.subsets(scores):
        here = [score for score in scores if score.subset == subset]
        section.blocks.append(_summary_block(here, subset, sources))
    return section


def _summary_block(here: Sequence[Score], subset: str, sources: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """Measured scores, each with the published ones; published ones alone where nothing was measured."""
    main = tables.one_source(here)
    published = sorted({score.source for score in here if score not in main})
    others: dict[tuple[str, str], list[Score]] = {}
    for score in here:
        if score.source in published:
            others.setdefault((score.label, score.setting), []).append(score)
    cells = {(score.label, score.setting): score for score in main}
    settings = sorted({score.setting for score in main}, key=tables.setting_order)
    lines = []
    for label in tables.in_order((score.label, score.row) for score in main):
        keys = [(label, setting) for setting in settings]
        lines.append((label, [(cells.get(key), others.get(key, []), sources.get(key)) for key in keys]))
    return {
        "kind": "summary",
        "title": SUBSETS[subset],
        "settings": settings,
        "lines": lines,
        "best": {s: max(score.average for score in main if score.setting == s) for s in settings},
        "counts": [next((one for one in main if one.setting == s and one.tasks is not None), None) for s in settings],
        "wins": tables.wins_text(main, subset),
        "published": [
            f"{source} ({tables.wins_text(scores, subset) or 'no wins to count'})"
            for source in published
            if (scores := [score for score in here if score.source == source])
        ],
        "unmatched": sum(len(found) for key, found in others.items() if key not in cells),
    }


def comparisons_section(
    pooled: Mapping[str, Sequence[Comparison]], compared: Mapping[str, Sequence[Comparison]]
) -> Section:
    section = Section("comparisons", "Comparisons")
    for name, title, note, by_subset in (
        ("pooled", "Comparisons over all settings", POOLED_TEXT, pooled),
        ("comparisons", "Comparisons", "", compared),
    ):
        for subset, found in by_subset.items():
            heading = f"{title}: {SUBSETS[subset].lower()}"
            _comparison_table(section, f"{name}-{subset}", heading, note, "method minus baseline", found)
    if section.blocks:
        section.blocks[:0] = [{"kind": "text", "text": text} for text in COMPARISON_TEXTS]
        if any(not c.tested for found in compared.values() for c in found):
            section.blocks.insert(0, {"kind": "text", "text": UNLIKE_TEXT})
    return section


def _comparison_table(
    section: Section, name: str, title: str, note: str, sides: str, found: Sequence[Comparison]
) -> None:
    """Adds the table of `found` with its intervals drawn, if there are any; sides: which is subtracted from which."""
    if found:
        note += f"{len(found)} comparisons, corrected together. Percentage points, {sides}."
        table = tables.comparison_table(name, title, note, found)
        section.table(table, extra={"difference and interval": _intervals(found)})


POOLED_TEXT = (
    "A task counts once, however many settings have it: its difference is the mean over their seeds. Each "
    "setting has models of its own. "
)
UNLIKE_TEXT = (
    "Some rows were not scored in the same way as what they are compared with: the column \u201cunlike in\u201d says "
    "how. Their difference is not due to the methods alone, so it has no interval and no test, and is not counted over "
    "all settings. With --compare-unlike the report tests them all the same."
)
COMPARISON_TEXTS = (
    "Every meta-trained row against the raw language model, and against the baseline of its method (MetaICL for "
    "MAML-en-LLM), of the same direction, on the tasks that both were scored on.",
    f"The interval, from low to high, would hold the true mean difference in about {LEVEL:.0%} of experiments with "
    f"tasks and demonstration seeds drawn anew: it is from {RESAMPLES:,} bootstrap resamples of tasks and, within "
    "them, seeds. With fewer than about ten tasks it is too narrow.",
    "p says how often a mean difference at least as large would come about if on every task the two methods could be "
    "exchanged: a permutation test that flips the signs of tasks, exact up to 14 tasks and over "
    f"{SIGN_PATTERNS:,} random flips above. p (Holm) is corrected for the number of comparisons in the table; below "
    "0.05 a difference is called significant.",
    "Where a row was trained with several seeds, interval and p count the training runs, too: the bootstrap draws runs "
    "anew, and p is that of a t-test whose variance is the one over tasks plus the one over runs. A row of one "
    "training run says nothing about how much another run would differ.",
    "equal: whether two trained rows saw equally many batches or made equally many updates. A method with adapted "
    "copies makes fewer updates of the same batches; where rows of both kinds are there, both comparisons are made.",
)


def _intervals(found: Sequence[Comparison]) -> list[Markup]:
    tested = [c for c in found if c.tested]
    scale = plots.ticks(min([0.0, *(c.low for c in tested)]), max([0.0, *(c.high for c in tested)]))
    return [plots.interval(c.low, c.difference, c.high, scale) if c.tested else Markup("") for c in found]


def forgetting_section(compared: Mapping[str, Sequence[Comparison]]) -> Section:
    section = Section("forgetting", "Forgetting")
    for subset, found in compared.items():
        for table in tables.forgetting_tables(subset, found):
            section.table(table)
    if section.blocks:
        text = "Tasks on which a meta-trained method does worse than the raw language model it is compared with."
        section.blocks.insert(0, {"kind": "text", "text": text})
    return section


def tasks_section(inputs: Inputs) -> Section:
    section = Section("tasks", "Tasks")
    whole = [result for result in inputs.results if not result.row.adaptation]
    found = {setting: tables.task_table(setting, whole) for setting in _settings(whole)}
    found = {setting: table for setting, table in found.items() if table.rows}
    if found:
        section.text("The score of every method on every task. Dark is low, bright is high.")
    for setting, part in section.parts(found):
        part.table(found[setting], style=_heat(found[setting]))
    return section


def _settings(having: Iterable[Result | Run]) -> list[str]:
    return sorted({one.setting for one in having}, key=tables.setting_order)


def _heat(table: Table) -> Callable[[int, int], str]:
    values = [cell for row in table.rows for cell in row if isinstance(cell, float)]
    low, high = min(values), max(values)

    def style(row: int, column: int) -> str:
        cell = table.rows[row][column]
        return plots.heat((cell - low) / ((high - low) or 1)) if isinstance(cell, float) else ""

    return style


def seeds_section(inputs: Inputs) -> Section:
    section = Section("seeds", "Demonstration seeds")
    for subset, scored in subsets_of(inputs.results).items():
        whole = [result for result in scored if not result.row.adaptation]
        spreads = [spread for result in whole if (spread := seed_spread(result, subset))]
        if spreads:
            table = tables.seeds_table(subset, spreads)
            values = [list(spread.by_seed.values()) for spread in spreads]
            scale = plots.ticks(min(map(min, values)), max(map(max, values)))
            section.table(table, extra={f"{scale[0]:g} to {scale[-1]:g}": [plots.strip(v, scale) for v in values]})
    return section


def learning_section(inputs: Inputs) -> Section:
    section = Section("learning", "Learning curves")
    logged = [run for run in inputs.runs if _points(run, "loss")]
    if logged:
        section.text(
            "Losses of logged updates, which vary much from batch to batch: points are updates, lines their running "
            "means over nine. For a method with adapted copies the support loss is on the batches that copies adapt "
            "on, the query loss that of adapted copies on the other batches. The "
            "second-order share says how far the meta-gradient is from the first-order one, relative to the latter's "
            "norm."
        )
    for setting, part in section.parts(_settings(logged)):
        charts = []
        for direction in ("direct", "channel"):
            here = [r for r in logged if (r.setting, r.config.get("direction", "direct")) == (setting, direction)]
            here.sort(key=lambda run: run.label)
            for first in range(0, len(here), MOST_LINES):
                charts += _curves(here[first : first + MOST_LINES], f"{setting}, {direction}")
        part.charts(charts)
    return section


MOST_LINES = 6  # of a chart: as many as there are colours
CURVES = (
    ("loss", "query loss, or loss of a method without copies (nats)", False),
    ("support_loss", "support loss (nats)", False),
    ("validation_score", "score on validation tasks, from 0 to 1", False),
    ("second_order_share", "second-order share, logarithmic", True),
)


def _curves(runs: Sequence[Run], title: str) -> list[Markup]:
    labels = [run.label for run in runs]
    names = [
        label if labels.count(label) == 1 else f"{label} ({run.path.name})"
        for label, run in zip(labels, runs, strict=True)
    ]
    charts = []
    for key, words, log in CURVES:
        series = [
            plots.Series(name, _points(run, key), i) for i, (name, run) in enumerate(zip(names, runs, strict=True))
        ]
        charts.append(plots.line_chart(series, title, "batches seen", words, log=log, smooth=True))
    return charts


def _points(run: Run, key: str) -> list[tuple[float, float]]:
    return [(float(m["batches"]), float(m[key])) for m in run.metrics if isinstance(m.get(key), int | float)]


def exploration_section(inputs: Inputs) -> Section:
    section = Section("exploration", "Exploration")
    families = tables.exploration(inputs.scores)
    if not families:
        return section
    section.text("How the score changes with the number n of copies that adapt before an update of the model.")
    charts: dict[str, list[Markup]] = {}
    for (_, setting, subset), members in families.items():
        if len(members) > 2:
            average = plots.Series("average", [(float(n), score.average) for n, score in members])
            worst = plots.Series("worst", [(float(n), score.worst) for n, score in members if score.worst is not None])
            title = f"{tables.family_name(members)} on {setting}, {SUBSETS[subset].lower()}"
            chart = plots.line_chart([average, worst], title, "copies n", "score (%)", marks=True)
            charts.setdefault(setting, []).append(chart)
    table = tables.exploration_table(families)
    section.table(table, charts=charts)
    return section


def adaptation_section(inputs: Inputs) -> Section:
    section = Section("adaptation", "Adaptation")
    pairs = list(after_and_before(inputs.results))
    found = tables.ordered_comparisons(comparisons(pairs), inputs.results)
    if not found:
        return section
    section.text(
        "Models after a few more steps on labelled examples of each target task, against the same models before. The "
        "figures have the meaning of those under Comparisons."
    )
    pooled = tables.ordered_comparisons(pooled_comparisons(pairs), inputs.results)
    over_all, sides = "After and before, over all settings", "after minus before"
    _comparison_table(section, "adaptation-pooled", over_all, POOLED_TEXT, sides, pooled)
    _comparison_table(section, "adaptation", "After and before", "", sides, found)
    scores = tables.adaptation_scores_table(inputs.results)
    by_task = tables.adaptation_tasks_table(found, inputs.results)
    section.table(scores)
    section.table(by_task)
    return section


COSTS = (("training (s)", 60, "training time (minutes)"), ("training peak (GB)", 1, "training peak memory (GB)"))


def cost_section(inputs: Inputs) -> Section:
    section = Section("cost", "Cost against score")
    table = cost_table(inputs)
    if not table.rows:
        return section
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    charts: dict[str, list[Markup]] = {}
    for setting in _settings(inputs.results):
        for direction in ("direct", "channel"):
            here = [
                (result, row)
                for result, row in zip(inputs.results, rows, strict=True)
                if (result.setting, result.row.direction) == (setting, direction) and not result.row.adaptation
            ]
            for column, scale, words in COSTS:
                points = [
                    (str(row["method"]), cost / scale, average)
                    for _, row in here
                    if isinstance(cost := row.get(column), float) and isinstance(average := row.get("average"), float)
                ]
                free = [
                    (f"{row['method']} (not trained)", 0.0, average)
                    for result, row in here
                    if not result.row.training and isinstance(average := row.get("average"), float)
                ]
                if points:
                    points = [*free, *points] if column == "training (s)" else points
                    chart = plots.scatter(points, f"Average on {setting}, {direction}", words, "score (%)")
                    charts.setdefault(setting, []).append(chart)
    if charts:
        section.text("All axes begin at 0; what is not trained takes no training time.")
    section.table(table, charts=charts)
    return section


def labels_section(inputs: Inputs) -> Section:
    """Per-label scores and confusion, chosen on the page by setting, task and row."""
    section = Section("labels", "Labels")
    cells = [
        {"setting": result.setting, "task": task, "row": result.label, "counts": counts}
        for result in inputs.results
        for task in sorted(result.tasks())
        if (counts := result.confusion(task)) and len(counts) <= MOST_LABELS
    ]
    if cells:
        section.text(
            "How often each gold label got each answer, over all demonstration seeds and training runs; precision, "
            "recall and F1 of each label in percent."
        )
        section.blocks.append({"kind": "labels", "cells": cells})
    return section


MOST_LABELS = 30  # of a task whose confusion is shown


def data_section(inputs: Inputs, predictions: Predictions) -> Section:
    section = Section("data", "Data")
    for table in data_tables(inputs.results, predictions):
        if table.rows:
            section.table(table)
    return section


def browser_section(browser: Mapping[str, Any]) -> Section:
    section = Section("predictions", "Single predictions")
    if browser:
        section.text(
            f"A sample: at most {browser['sample']} examples of each task and setting, spread evenly over the file and "
            "the same for all methods, at the first demonstration seed. A score is the mean negative log-likelihood of "
            "an option in nats; the lowest is predicted.",
            f"Inputs are cut after {browser['characters']} characters. They are shown, with options and "
            "demonstrations, where the collection still is where it was and holds the same examples.",
        )
        section.blocks.append({"kind": "browser"})
    return section


def provenance_section(inputs: Inputs) -> Section:
    section = Section("provenance", "Configuration and provenance")
    if inputs.results:
        section.text("What is closed here is not printed.")
    for setting, part in section.parts(_settings([*inputs.results, *inputs.runs]), first_open=False):
        for number, result in enumerate(inputs.results):
            if result.setting == setting:
                for place, file in enumerate(result.runs):
                    title = f"{result.label} on {setting}: {file.path}"
                    name = f"result-{number}-{place}" if place else f"result-{number}"
                    part.blocks.append({"kind": "source", "id": name, "title": title, "lists": _lists(file)})
        for number, run in enumerate(inputs.runs):
            if run.setting == setting:
                lists = [
                    ("Training", _flat(run.config)),
                    ("What it took", _flat(asdict(run.measured) if run.measured else {})),
                ]
                title = f"Run of {run.label} on {setting}: {run.path}"
                part.blocks.append({"kind": "source", "id": f"run-{number}", "title": title, "lists": lists})
    for source in sorted({score.source for score in inputs.published}):
        count = sum(score.source == source for score in inputs.published)
        section.text(f"{source}: {count} published numbers, taken as the table has them; they were not measured here.")
    return section


def _lists(result: Result) -> list[tuple[str, list[tuple[str, str]]]]:
    content, row = result.content, asdict(result.row)
    model = asdict(content.provenance) if content.provenance else {}
    file = {"results": str(result.path), "predictions": str(result.predictions), "sha256": result.digest}
    trained = {key: value for key, value in model.items() if key not in ("config", "training_tasks", "started_from")}
    started = model.get("started_from") or {}
    return [
        ("File", _flat(file | {"setting": result.setting, "seeds": list(content.seeds)})),
        ("Row", _flat({key: value for key, value in row.items() if value is not None})),
        ("Evaluation", _flat(content.config)),
        ("What it took", _flat(asdict(content.run))),
        ("Versions", _flat(content.versions)),
        ("Model", _flat(trained)),
        ("Training", _flat(model.get("config", {}))),
        ("Training started from", _flat(started if isinstance(started, Mapping) else {"model": started})),
    ]


def _flat(values: Mapping[Any, Any], prefix: str = "", depth: int = 3) -> list[tuple[str, str]]:
    """Keys and values as text; nested keys with dots, up to a depth."""
    found = []
    for key, value in values.items():
        if isinstance(value, Mapping) and depth:
            found += _flat(value, f"{prefix}{key}.", depth - 1)
        else:
            text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10_000)
            found.append((f"{prefix}{key}", re.sub(r"\n\.\.\.\n$|\n$", "", text)))
    return found


def not_read_section(inputs: Inputs) -> Section:
    section = Section("not-read", "Not read")
    if inputs.not_read:
        section.text("These were given or found, and could not be used; the rest of the report is without them.")
        section.blocks.append({"kind": "list", "items": not_read_lines(inputs)})
    return section
