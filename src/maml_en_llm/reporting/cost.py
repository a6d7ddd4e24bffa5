"""What training and evaluating took, beside what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .reading import Inputs, Result, Run
from .tables import Cell, Table


def run_of(result: Result, runs: Sequence[Run]) -> Run | None:
    """The run that made the model of a result: its configuration is the one in the model folder."""
    keys = ("output", "method", "setting", "direction", "model", "batches", "copies", "inner_steps", "seed")

    def key(config: Mapping[str, object]) -> list[str]:
        return [str(config.get(name)) for name in keys]

    if not result.training:
        return None
    return next((run for run in runs if key(run.config) == key(result.training)), None)


def cost_table(inputs: Inputs) -> Table:
    columns = (
        "method",
        "setting",
        "average",
        "training (s)",
        "training peak (GB)",
        "evaluation (s)",
        "evaluation peak (GB)",
        "hardware",
    )
    rows: list[Sequence[Cell]] = []
    for result in inputs.results:
        run = run_of(result, inputs.runs)
        training = training_seconds(run) if run else None
        evaluation = result.record.get("run") or {}
        average = next((row.average for row in result.rows if row.subset == "test"), None)
        seconds = _float(evaluation.get("wall_seconds", result.record.get("seconds")))
        hardware = evaluation.get("hardware") or (run.measured.get("hardware") if run else None)
        peaks = [_gigabytes(m.get("peak_memory_bytes")) for m in (run.measured if run else {}, evaluation)]
        rows.append((result.method, result.setting, average, training, peaks[0], seconds, peaks[1], hardware or ""))
    note = (
        "Wall time and peak memory, where they are known. Training is that of the run directory among the inputs; "
        "where it has no run.json, the last figure of metrics.jsonl stands for it, which counts from the last "
        "resumption. What the model that training started from had cost is not in it."
    )
    digits = {"training (s)": 1, "evaluation (s)": 1}
    return Table("cost", "Wall time and memory", note, columns, rows, digits).without_empty_columns()


def training_seconds(run: Run) -> float | None:
    last = run.metrics[-1].get("seconds") if run.metrics else None
    return _float(run.measured.get("wall_seconds", last))


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _gigabytes(value: object) -> float | None:
    return None if (number := _float(value)) is None else number / 1e9
