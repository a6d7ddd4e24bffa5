"""What the report's tables leave out: scores by demonstration seed, before and after adaptation, time and memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..config import TrainConfig
from ..progress import duration
from .rows import Row

SCORING = ("scoring", "peak of scoring")
COSTS = """
## Time and memory

Measured by the runs themselves (`run.json` of a training, `run` in results). Peak memory is that of the tensors on a
GPU; on a CPU it is that of the whole process, libraries included. S is the size of the trained model on disk, which is
that of its float32 weights. (n + 2) S is what the paper's analysis needs for n explored copies beside activations:
the copies, the model and the meta-gradient; for other methods 2 S, the model and its gradient.
"""


def details(rows: Sequence[Row]) -> str:
    """Markdown about finished rows."""
    results = [json.loads(row.score.output.read_text(encoding="utf-8")) for row in rows]
    parts = ["# Details\n", _by_seed(rows, results)]
    if any("adaptation" in result for result in results):
        parts.append(_adaptation(rows, results))
    return "".join([*parts, COSTS, _costs(rows, results)])


def _by_seed(rows: Sequence[Row], results: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row, result in zip(rows, results, strict=True):
        for seed in result["seeds"]:
            scores = [task["scores"][str(seed)] for task in result["tasks"].values()]
            lines.append([row.setting, result["label"], str(seed), f"{100 * sum(scores) / len(scores):.2f}"])
    title = "\n## By demonstration seed\n\nMean over all tasks that were scored, in percent.\n"
    return title + markdown_table(["setting", "method", "seed", "score"], lines)


def _adaptation(rows: Sequence[Row], results: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row, result in zip(rows, results, strict=True):
        if "adaptation" not in result:
            continue
        for subset, after in result["summary"].items():
            before = result["adaptation"]["before"][subset]
            if after["tasks"]:
                scores = [f"{100 * s['average']:.2f} / {100 * s['worst']:.2f}" for s in (before, after)]
                lines.append([row.setting, result["label"], subset, *scores])
    title = "\n## Before and after adaptation\n\nAverage / worst over seeds in percent, mean over tasks.\n"
    return title + markdown_table(["setting", "method", "tasks", "before", "after"], lines)


def _costs(rows: Sequence[Row], results: Sequence[dict[str, Any]]) -> str:
    baselines: dict[tuple[str, str], float] = {}
    for row in rows:
        if row.train is not None and row.train.method == "metaicl" and (record := record_of(row.train)):
            key = (row.setting, row.train.direction)
            baselines.setdefault(key, record["wall_seconds"] / row.train.batches)
    head = [
        "setting",
        "row",
        "batches",
        "training",
        "s / batch",
        "of MetaICL's",
        "peak",
        "(n + 2) S",
        "scoring",
        "peak",
    ]
    lines = []
    for row, result in zip(rows, results, strict=True):
        scoring = [duration(result["run"]["wall_seconds"]), gibibytes(result["run"]["peak_memory_bytes"])]
        lines.append([row.setting, row.name, *_training(row.train, baselines, row.setting), *scoring])
    return markdown_table(head, lines)


def _training(config: TrainConfig | None, baselines: dict[tuple[str, str], float], setting: str) -> list[str]:
    record = record_of(config) if config is not None else {}
    if config is None or not record:
        return [""] * 6
    seconds, baseline = record["wall_seconds"] / config.batches, baselines.get((setting, config.direction))
    size = sum(path.stat().st_size for path in (config.output / "model").glob("*.safetensors"))
    held = config.copies + 2 if config.method == "maml-en-llm" else 2
    return [
        f"{config.batches:,}",
        duration(record["wall_seconds"]),
        f"{seconds:.3g}",
        f"{seconds / baseline:.2f}" if baseline else "",
        gibibytes(record["peak_memory_bytes"]),
        gibibytes(held * size),
    ]


def record_of(config: TrainConfig) -> dict[str, Any]:
    """What a training measured; empty when its directory is not there any more."""
    path = config.output / "run.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", "---", *["---:"] * (len(head) - 2)]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines))


def gibibytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
