"""What a table's rows will take: each row's state, and estimates of time, memory and disk of what is left."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from ..evaluation.protocol import scored_examples, style_of
from ..methods import method_of_model
from ..models import pick_device
from ..prediction.predictor import LoadedModel
from ..prediction.scoring import packed_length
from ..progress import duration, track
from ..prompts.layout import EncodedTarget
from ..training.plan import Plan, size_of
from ..training.plan import plan as plan_training
from .rows import RowRun
from .run import Reproduction

SAMPLED_EXAMPLES = 16


def plan(runs: Reproduction) -> str:
    """The rows with their state and what is left of them to do, and the sums; estimates are for this machine.

    Reads the collection and the model's shape and tokenizer; without them there are no estimates. Writes nothing.
    """
    estimate, why = _estimator(runs)
    lines = [["setting", "row", "training", "scoring", "status", "time", "memory"]]
    seconds = memory = disk = 0.0
    statuses = []
    with track("plan", len(runs.rows), "rows") as progress:
        for row in runs.rows:
            status = runs.status(row)
            statuses.append(status)
            batches = f"{row.train.batches:,} batches" if row.train is not None else "none"
            cells = [row.setting, row.name, batches, scoring(runs, row), status, "", ""]
            if estimate is not None and status != "finished":
                try:
                    time, peak, space = estimate(row)
                    seconds, memory, disk = seconds + time, max(memory, peak), disk + space
                    cells[5:] = duration(time), f"{peak / 2**30:.2f} GiB" if peak else ""
                except ValueError as error:
                    cells[5] = f"will fail: {error}"
            lines.append(cells)
            progress.advance(figures=str(row))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in ("finished", "partial", "to do"))
    last = f"{len(runs.rows)} rows: {counts}; " + (why and f"no estimates: {why}")
    if estimate is not None:
        last += f"about {duration(seconds)}, {memory / 2**30:.2f} GiB of memory, {disk / 2**30:.2f} GiB of disk"
    return "\n".join([*padded, last])


def scoring(runs: Reproduction, row: RowRun) -> str:
    """What is scored, in words."""
    seeds = 1 if row.score.demonstrations == 0 else len(row.score.seeds)
    if runs.opened is None:
        return f"{seeds} seeds"
    tasks = [runs.opened[name] for name in getattr(runs.opened.setting(row.setting), row.score.subset)]
    return f"{sum(task.kind != 'free_form' for task in tasks)} tasks x {seeds} seeds"


def _estimator(runs: Reproduction) -> tuple[Any, str]:
    """A function from a row to the seconds, bytes of memory and bytes of disk that it will take; else None and why."""
    if runs.opened is None:
        return None, f"{runs.rows[0].score.collection} is not a collection; give --collection"
    base = next((row.train.model for row in runs.rows if row.train is not None), runs.rows[0].score.model)
    try:
        model = LoadedModel(base, pick_device(runs.rows[0].score.device))
    except ValueError as error:
        return None, str(error)
    weights, per_token = size_of(model.network.parameters()), seconds_per_token(model)
    trainings: dict[str, Plan] = {}
    counted: set[Path] = set()  # runs that an earlier row trains
    lengths: dict[tuple[Any, ...], float] = {}

    def estimate(row: RowRun) -> tuple[float, float, float]:
        seconds = per_token * _tokens(runs, row, model.tokenizer, lengths)
        if row.train is None or row.train.output in counted or runs.is_trained(row):
            return seconds, 0.0, 0.0
        name = row.train.output.name
        if name not in trainings:  # alike in every setting
            trainings[name] = plan_training(row.train)
        found = trainings[name]
        counted.add(row.train.output)
        return found.seconds + seconds, found.memory, weights

    return estimate, ""


def seconds_per_token(model: LoadedModel) -> float:
    """Of scoring, timed on a pack of random tokens behind a prefix."""
    ids = [i % len(model.tokenizer) for i in range(64)]
    targets = [[EncodedTarget(ids[:24], ids[24 + o : 28 + o]) for o in range(4)] for _ in range(8)]
    model.scorer.score(ids, targets)
    started = time.perf_counter()
    model.scorer.score(ids, targets)
    return (time.perf_counter() - started) / (len(ids) + sum(map(packed_length, targets)))


def _tokens(runs: Reproduction, row: RowRun, tokenizer: Any, lengths: dict[tuple[Any, ...], float]) -> float:
    """Tokens that scoring a row computes: demonstrations once per task and seed, then what follows them."""
    assert runs.opened is not None
    score = row.score
    style = style_of(score, row.train or method_of_model(None))
    form, shown = style.format, style.demonstrations
    seeds = len(score.seeds) if shown else 1
    total = 0.0
    for name in getattr(runs.opened.setting(row.setting), score.subset):
        task = runs.opened[name]
        key = (name, form, score.split, score.data_amount, score.max_examples)
        if task.kind == "free_form":
            continue
        if key not in lengths:
            examples = scored_examples(score, task)
            targets = form.encode_all_targets(tokenizer, examples[:SAMPLED_EXAMPLES], first=False)
            lengths[key] = len(examples) * statistics.mean(map(packed_length, targets))
        total += seeds * (lengths[key] + (form.max_tokens if shown else 0))
    return total
