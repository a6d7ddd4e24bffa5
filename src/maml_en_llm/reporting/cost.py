"""What training and evaluating took, beside what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .reading import Inputs, Result, Run
from .tables import Cell, Table

FLOAT32 = 4  # bytes

NOTE = (
    "Wall time and peak memory, where they are known: tensors on a GPU, the whole process with its libraries on a CPU. "
    "average: over all tasks that were scored. Training is that of the run directory among the inputs; where it has no "
    "run.json, the last figure of metrics.jsonl stands for it, which counts from the last resumption. What the model "
    "that training started from had cost is not in it. of MetaICL's: s / batch relative to MetaICL's of the same "
    "setting and direction on the same hardware. weights held: by the paper's analysis, beside activations, where S is "
    "the size of the weights that are trained, as float32: (n + 2) S for n explored copies (the copies, the model and "
    "the meta-gradient), for other methods 2 S (the model and its gradient). hardware: of training / of evaluation."
)


def run_of(result: Result, runs: Sequence[Run]) -> Run | None:
    """The run that made the model of a result: its configuration is the one in the model folder."""
    keys = ("output", "method", "setting", "direction", "model", "batches", "copies", "inner_steps", "seed")

    def key(config: Mapping[str, object]) -> list[str]:
        return [str(config.get(name)) for name in keys]

    if not result.training:
        return None
    return next((run for run in runs if key(run.config) == key(result.training)), None)


def cost_table(inputs: Inputs) -> Table:
    trained = [run_of(result, inputs.runs) for result in inputs.results]
    baselines: dict[tuple[str, str, object], float] = {}
    for result, run in zip(inputs.results, trained, strict=True):
        if run and result.training.get("method") == "metaicl" and (seconds := seconds_per_batch(run)):
            baselines.setdefault((result.setting, result.prefix, run.measured.get("hardware")), seconds)
    rows = []
    for result, run in zip(inputs.results, trained, strict=True):
        evaluation = result.record.get("run") or {}
        measured: Mapping[str, Any] = run.measured if run else {}
        each = seconds_per_batch(run) if run else None
        baseline = baselines.get((result.setting, result.prefix, measured.get("hardware")))
        row: dict[str, Cell] = {
            "method": result.method,
            "setting": result.setting,
            "average": next((r.average for r in sorted(result.rows, key=lambda row: -(row.tasks or 0))), None),
            "batches": int(result.training["batches"]) if "batches" in result.training else None,
            "training (s)": training_seconds(run) if run else None,
            "s / batch": each,
            "of MetaICL's": each / baseline if each and baseline else None,
            "training peak (GB)": _gigabytes(measured.get("peak_memory_bytes")),
            "weights held (GB)": analysed_memory(result),
            "evaluation (s)": _float(evaluation.get("wall_seconds", result.record.get("seconds"))),
            "evaluation peak (GB)": _gigabytes(evaluation.get("peak_memory_bytes")),
            "hardware": " / ".join(
                dict.fromkeys(str(m["hardware"]) for m in (measured, evaluation) if m.get("hardware"))
            ),
        }
        rows.append(row)
    columns = list(rows[0]) if rows else []
    digits = {"training (s)": 1, "evaluation (s)": 1, "s / batch": 4, "weights held (GB)": 3}
    cells = [list(row.values()) for row in rows]
    return Table("cost", "Wall time and memory", NOTE, columns, cells, digits).without_empty_columns()


def training_seconds(run: Run) -> float | None:
    last = run.metrics[-1].get("seconds") if run.metrics else None
    return _float(run.measured.get("wall_seconds", last))


def seconds_per_batch(run: Run) -> float | None:
    """Over all batches seen so far, with all continuations; None where run.json does not say."""
    batches = max((int(line["batches"]) for line in run.metrics), default=0)
    seconds = _float(run.measured.get("wall_seconds"))
    return seconds / batches if seconds and batches else None


def analysed_memory(result: Result) -> float | None:
    """Weights that the paper's analysis holds at once, in gigabytes of float32."""
    trained = _float((result.record.get("model") or {}).get("trained_parameters"))
    held = result.training.get("copies", 1) + 2 if result.training.get("method") == "maml-en-llm" else 2
    return trained * FLOAT32 * held / 1e9 if trained else None


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _gigabytes(value: object) -> float | None:
    return None if (number := _float(value)) is None else number / 1e9
