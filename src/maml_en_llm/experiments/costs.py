"""What rows took: measured time and memory of training and scoring, beside the paper's analysis of memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..config import TrainConfig
from ..progress import duration
from .rows import Row

COLUMNS = (
    "row",
    "setting",
    "batches",
    "training",
    "s / batch",
    "of MetaICL's",
    "peak",
    "(n + 2) S",
    "scoring",
    "peak of scoring",
)
HEAD = f"""# Time and memory

Measured by the runs themselves (`run.json` of a training, `run` in results). Peak memory is that of the tensors on a
GPU; on a CPU it is that of the whole process, libraries included. S is the size of the trained model on disk, which is
that of its float32 weights. (n + 2) S is what the paper's analysis needs for n explored copies beside activations:
the copies, the model and the meta-gradient; for other methods 2 S, the model and its gradient.

| {" | ".join(COLUMNS)} |
|---|---|{"---:|" * (len(COLUMNS) - 2)}
"""


def costs(rows: Sequence[Row]) -> str:
    """A Markdown table of the rows' costs."""
    baselines: dict[tuple[str, str], float] = {}
    for row in rows:
        if row.train is not None and row.train.method == "metaicl" and (seconds := per_batch(row.train)) is not None:
            baselines.setdefault((row.setting, row.train.direction), seconds)
    return HEAD + "".join(f"| {' | '.join(_cells(row, baselines))} |\n" for row in rows)


def per_batch(config: TrainConfig) -> float | None:
    """Seconds of a batch, measured; None when the run is not there."""
    record = config.output / "run.json"
    if not record.is_file():
        return None
    return float(json.loads(record.read_text())["wall_seconds"] / config.batches)


def _cells(row: Row, baselines: dict[tuple[str, str], float]) -> list[str]:
    scoring = json.loads(row.score.output.read_text(encoding="utf-8"))["run"]
    scored = [duration(scoring["wall_seconds"]), gibibytes(scoring["peak_memory_bytes"])]
    seconds = per_batch(row.train) if row.train is not None else None
    if row.train is None or seconds is None:
        return [row.name, row.setting, *[""] * 6, *scored]
    record = json.loads((row.train.output / "run.json").read_text())
    baseline = baselines.get((row.setting, row.train.direction))
    size = sum(path.stat().st_size for path in Path(row.train.output / "model").glob("*.safetensors"))
    held = row.train.copies + 2 if row.train.method == "maml-en-llm" else 2
    return [
        row.name,
        row.setting,
        f"{row.train.batches:,}",
        duration(record["wall_seconds"]),
        f"{seconds:.3g}",
        f"{seconds / baseline:.2f}" if baseline else "",
        gibibytes(record["peak_memory_bytes"]),
        f"{gibibytes(held * size)} ({held} S)" if size else f"{held} S",
        *scored,
    ]


def gibibytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
