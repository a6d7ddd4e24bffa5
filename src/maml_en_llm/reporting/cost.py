"""What training and evaluating took, next to what came out."""

from __future__ import annotations

from collections.abc import Sequence

from ..results import RunRecord
from .reading import Inputs, Result, Run
from .tables import Cell, Table

FLOAT32 = 4  # bytes

NOTE = (
    "Wall time and peak memory: of tensors on a GPU, of the whole process with its libraries on a CPU. average: "
    "over all tasks that were scored. What the model that training started from had cost is not included. of "
    "baseline's: s / batch relative to that of the method's baseline (a method without one: itself) in the same "
    "setting and direction on the same hardware. weights held: by the paper's analysis, without activations, "
    "where S is the size of the weights that are trained, as float32: (n + 2) S for n explored copies (the "
    "copies, the model and the meta-gradient), for other methods 2 S (the model and its gradient). hardware: of "
    "training / of evaluation."
)


def run_of(result: Result, runs: Sequence[Run]) -> Run | None:
    """The run that made the model of a result: both have the hashes of the same configuration and data."""
    made = result.content.provenance
    hashes = {"config_hash": made.run.config_hash, "manifest_hash": made.run.manifest_hash} if made else {}
    return next((run for run in runs if hashes and run.measured and run.measured.made_from(hashes)), None)


def cost_table(inputs: Inputs) -> Table:
    trained = [training_cost(result, inputs.runs) for result in inputs.results]
    each = [_per_batch(result, cost) for result, cost in zip(inputs.results, trained, strict=True)]
    baselines = {
        (result.setting, result.row.direction, result.row.method, cost.hardware): seconds
        for result, cost, seconds in zip(inputs.results, trained, each, strict=True)
        if cost and seconds
    }
    rows = []
    for result, cost, seconds in zip(inputs.results, trained, each, strict=True):
        evaluation = result.content.run
        where = (result.setting, result.row.direction, result.row.baseline, cost.hardware if cost else "")
        own = (*where[:2], result.row.method, where[3])
        baseline = baselines.get(where if result.row.baseline else own)
        scores = sorted(result.summaries, key=lambda score: -(score.tasks or 0))
        row: dict[str, Cell] = {
            "method": result.label,
            "setting": result.setting,
            "average": next((score.average for score in scores), None),
            "batches": result.row.training.batches if result.row.training else None,
            "updates": result.row.training.updates if result.row.training else None,
            "training (s)": cost.wall_seconds if cost else None,
            "s / batch": seconds,
            "of baseline's": seconds / baseline if seconds and baseline else None,
            "training peak (GB)": cost.peak_memory_bytes / 1e9 if cost else None,
            "weights held (GB)": analysed_memory(result),
            "evaluation (s)": evaluation.wall_seconds,
            "evaluation peak (GB)": evaluation.peak_memory_bytes / 1e9,
            "hardware": " / ".join(dict.fromkeys(run.hardware for run in (cost, evaluation) if run)),
        }
        rows.append(row)
    columns = list(rows[0]) if rows else []
    digits = {"training (s)": 1, "evaluation (s)": 1, "s / batch": 4, "weights held (GB)": 3}
    cells = [list(row.values()) for row in rows]
    return Table("cost", "Wall time and memory", NOTE, columns, cells, digits).without_empty_columns()


def training_cost(result: Result, runs: Sequence[Run]) -> RunRecord | None:
    """What the training of a result's model took: as its run directory says, else as the model folder did."""
    run = run_of(result, runs)
    made = result.content.provenance
    return run.measured if run else made.run if made else None


def _per_batch(result: Result, cost: RunRecord | None) -> float | None:
    batches = result.row.training.batches if result.row.training else 0
    return cost.wall_seconds / batches if cost and batches else None


def analysed_memory(result: Result) -> float | None:
    """Weights that the paper's analysis holds at once, in gigabytes of float32."""
    made, training = result.content.provenance, result.row.training
    if made is None or training is None:
        return None
    held = 2 if training.copies is None else training.copies + 2
    return made.trained_parameters * FLOAT32 * held / 1e9
