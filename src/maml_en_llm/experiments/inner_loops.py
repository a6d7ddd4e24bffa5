"""The verb `reproduce inner-loops`: methods with inner loops on sine waves (Finn et al., ICML 2017, section 5.1), all
by their files in methods/, at equal batches.

OUTPUT/inner-loops/parts/    one file a learning rate that was tried and a training run of a row: it is not done again
OUTPUT/inner-loops/report/   the report

A method sees `batches` batches of K points, 2k of each of 5 new waves an update, with a k of its own: gradients are as
many, products with the curvature and BMG's steps to its target not counted. Its learning rate is the best of four,
each tried with a fifth of the batches on waves that are neither trained on nor reported, at the first K and with the
first training seed. All runs are measured on the same new waves.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vmap

from ..files import check_output, only_writer
from ..methods import method_from_keys
from ..models import TrainableModel
from ..progress import console
from ..reporting.blocks import Section
from ..reporting.report import write_study
from ..reporting.statistics import Paired, bootstrap_interval
from ..reporting.tables import Table
from .parts import distinct, once

Tensors = dict[str, Tensor]
Wave = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
WAVES, RATE, RATES = 5, 0.01, (3e-3, 1e-2, 3e-2, 1e-1)
VALIDATION, TEST = 1, 2  # seeds of waves that nothing is trained on
STEPS = 10
OF_MAML = {"method": "maml-en-llm", "inner_optimizer": "sgd", "shared_moments": False, "curvature": "exact"}
ROWS: dict[str, dict[str, Any]] = {
    "MAML": OF_MAML,
    "FOMAML": {key: value for key, value in OF_MAML.items() if key != "curvature"} | {"order": "first"},
    "Reptile": {"method": "reptile", "inner_steps": 5},  # a copy takes ten steps
    "ANIL": {"method": "anil", "head": ["w3", "b3"], "curvature": "exact"},
    "Meta-SGD": {"method": "meta-sgd", "curvature": "exact"},
    "MAML++": {"method": "maml-plus-plus", "curvature": "exact", "inner_steps": 2},
    "BMG": {"method": "bmg", "curvature": "exact"},
}
PUBLISHED = "MAML, K = 10, after 70,000 updates of 25 waves: about 0.4 to 0.7 after one step and 0.15 to 0.3 after ten"


class Waves:
    """Learners are given their batches here."""

    def batch(self, number: int) -> Any:
        raise NotImplementedError


class Net(TrainableModel):
    """A network 1-40-40-1 in place of a language model: what learners read of one."""

    device = torch.device("cpu")

    def __init__(self, generator: torch.Generator) -> None:
        self.loss: Any = squared_error
        self.parameters = {}
        for layer, (before, after) in enumerate(itertools.pairwise((1, 40, 40, 1)), start=1):
            for name, shape in ((f"w{layer}", (before, after)), (f"b{layer}", (after,))):
                self.parameters[name] = (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(before)


def squared_error(p: Tensors, batch: tuple[Tensor, ...]) -> Tensor:
    """Of that network."""
    x, y = batch
    x = torch.relu(x @ p["w1"] + p["b1"])
    x = torch.relu(x @ p["w2"] + p["b2"])
    return ((x @ p["w3"] + p["b3"] - y) ** 2).mean()


def draw(generator: torch.Generator, points: int) -> Wave:
    """`points` support and 50 query points of a wave, of which training uses `points`."""
    amplitude, phase = torch.rand(2, generator=generator) * torch.tensor([4.9, math.pi]) + torch.tensor([0.1, 0.0])
    x = torch.rand(points + 50, 1, generator=generator) * 10 - 5
    y = amplitude * torch.sin(x - phase)
    return (x[:points], y[:points]), (x[points:], y[points:])


class Training:
    """A row's learner on `points` points of each wave."""

    def __init__(self, row: str, points: int, lr: float, seed: int) -> None:
        self.row, self.points = row, points
        places = {"collection": "c", "setting": "s", "model": "m", "output": "o"}
        keys = {"inner_lr": RATE, "lr": lr, "gradient_clip": None, "copies": WAVES, "batches": 100 * WAVES}
        method = method_from_keys(places | keys | ROWS[row])
        self.generator = torch.Generator().manual_seed(seed)
        self.learner: Any = method.learner(Net(self.generator), Waves())
        self.inner_steps = int(method.inner_steps)  # type: ignore[attr-defined]

    def update(self, lr_scale: float = 1.0) -> None:
        batches: list[Any] = []
        for support, (x, y) in (draw(self.generator, self.points) for _ in range(WAVES)):
            query, k = (x[: self.points], y[: self.points]), self.inner_steps
            batches += [support, query] * k if self.row == "Reptile" else [support] * k + [query] * k
        self.learner.update(batches, lr_scale, measure=False)

    def run(self, batches: int) -> int:
        """As many updates as see `batches` batches; returns their number."""
        updates = batches // (2 * self.inner_steps * WAVES)
        for update in range(updates):
            self.update(1 - update / updates)
        return updates


def errors(learner: Any, points: int, waves: int, seed: int) -> dict[int, Tensor]:
    """By number of steps 0, 1 and STEPS the query error of each new wave [waves]; steps as the method takes them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [draw(generator, points) for _ in range(waves)]
    support, query = (tuple(map(torch.stack, zip(*part, strict=True))) for part in zip(*drawn, strict=True))
    adapted = {name: p.expand(waves, *p.shape) for name, p in learner.parameters.items()}
    found = {}
    for step in range(STEPS + 1):
        if step in (0, 1, STEPS):
            found[step] = vmap(squared_error)(adapted, query)
        gradients = vmap(grad(squared_error))(adapted, support)
        adapted = {name: p - rate(learner, name, step) * gradients[name] for name, p in adapted.items()}
    return found


def rate(learner: Any, name: str, step: int) -> Any:
    """Of a tensor in a step: the learned one (later steps are as the last), 0 for what ANIL leaves alone, or RATE."""
    if (rates := getattr(learner, "rates", None)) is not None:
        return rates[name] if rates[name].dim() == 0 else rates[name][min(step, len(rates[name]) - 1)]
    inner = getattr(learner, "inner", None)
    return RATE if inner is None or inner.of(name) is not None else 0.0


def peak_memory(training: Training) -> int:
    """Most bytes of tensors that an update holds at once, besides what is there between updates."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes to standard error
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        training.update(0.0)
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(itertools.accumulate((change for _, change in changes), initial=0))


def tried(row: str, points: int, lr: float, batches: int, waves: int, seed: int) -> dict[str, Any]:
    """The mean error after one step on validation waves, nothing where training went wrong."""
    training = Training(row, points, lr, seed)
    try:
        training.run(batches)
        error = float(errors(training.learner, points, waves, VALIDATION)[1].mean())
    except ValueError:  # a loss that is not finite
        error = math.inf
    return {"error": error if math.isfinite(error) else None}


def lowest(tries: Mapping[float, float | None]) -> float:
    """The learning rate with the lowest error; those with none went wrong."""
    return min(tries, key=lambda lr: math.inf if (error := tries[lr]) is None else error)


def trained(row: str, points: int, lr: float, batches: int, waves: int, seed: int) -> dict[str, Any]:
    """Errors on the test waves by number of steps [waves], and what it took."""
    training = Training(row, points, lr, seed)
    started = time.perf_counter()
    updates = training.run(batches)
    seconds = time.perf_counter() - started
    by_steps = {str(steps): e.tolist() for steps, e in errors(training.learner, points, waves, TEST).items()}
    return {"errors": by_steps, "seconds": seconds, "updates": updates, "peak_memory_bytes": peak_memory(training)}


def over_runs(by_run: Sequence[Sequence[float]]) -> tuple[str, float | None]:
    """Of errors [training runs, waves] the mean with an interval over both, and the spread of the runs' means."""
    values = np.array(by_run)
    if not np.isfinite(values).all():
        return "diverges", None
    # A wave is in the place of a task with a single draw, compared with nothing.
    low, high = bootstrap_interval([Paired(wave[:, None], np.zeros((1, 1))) for wave in values.T])
    spread = float(values.mean(axis=1).std(ddof=1)) if len(values) > 1 else None
    return f"{values.mean():.2f} ({low:.2f} to {high:.2f})", spread


def inner_loops(
    output: Path,
    *,
    batches: int = 30_000,
    shots: Sequence[int] = (10, 5),
    rows: Sequence[str] = (),
    waves: int = 600,
    training_seeds: Sequence[int] = (100, 13, 21),
) -> Path:
    """Does what is not there and returns the path of the report. Raises ValueError for bad input."""
    if unknown := [row for row in rows if row not in ROWS]:
        raise ValueError(f"inner-loops has no row {unknown[0]!r}; its rows are {', '.join(ROWS)}")
    least = max(2 * 5 * int(keys.get("inner_steps", 1)) * WAVES for keys in ROWS.values())
    for name, value, limit in (("batches", batches, least), ("waves", waves, 2), *(("shots", k, 1) for k in shots)):
        if value < limit:
            raise ValueError(f"{name} is {value}; it must be at least {limit}")
    seeds = distinct(training_seeds)
    folder = output / "inner-loops"
    check_output(folder, folder=True)
    lines: list[list[Any]] = []
    with only_writer(folder):
        for points, row in itertools.product(shots, rows or ROWS):
            about = {"row": row, "keys": ROWS[row], "waves": waves}
            tries: dict[float, float | None] = {}
            for lr in RATES:
                a_try = about | {"seed": seeds[0], "points": shots[0], "lr": lr, "batches": batches // 5}
                compute = lambda lr=lr: tried(row, shots[0], lr, batches // 5, waves, seeds[0])  # noqa: B023, E731
                tries[lr] = once(folder / "parts", f"{row} lr {lr:g}", a_try, compute)["error"]
            best = lowest(tries)
            runs = []
            for seed in seeds:
                a_run = about | {"seed": seed, "points": points, "lr": best, "batches": batches}
                compute = lambda seed=seed: trained(row, points, best, batches, waves, seed)  # noqa: B023, E731
                runs.append(once(folder / "parts", f"{row} K {points} on waves", a_run, compute))
            by_steps = [over_runs([run["errors"][steps] for run in runs]) for steps in runs[0]["errors"]]
            cells, spreads = zip(*by_steps, strict=True)
            console.print(f"{row}, K = {points}: {', '.join(cells)}", markup=False)
            seconds, most = (mean([run[key] for run in runs]) for key in ("seconds", "peak_memory_bytes"))
            lines.append([row, points, best, *cells, *spreads[1:], runs[0]["updates"], seconds, most / 1024])
        steps = ("1 step", f"{STEPS} steps")
        table = Table(
            "inner-loops",
            "Inner loops on sine waves",
            f"Mean squared error on {waves} new waves, of {len(seeds)} training runs for each row, with 95 % intervals "
            f"over waves and runs, after 0, 1 and {STEPS} steps on K points, and the standard deviation of the runs' "
            f"means. {batches:,} batches of K points for every run; the learning rate is the best of {len(RATES)} on "
            f"other waves, at K = {shots[0]} in the first run. KiB: most memory for tensors in an update. Published "
            f"for {PUBLISHED}.",
            ["method", "K", "lr", "before", *steps, *(f"SD, {name}" for name in steps), "updates", "seconds", "KiB"],
            lines,
            digits={"lr": 3, "seconds": 0, "KiB": 0},
        )
        section = Section("inner-loops", "Inner loops")
        section.table(table)
        return write_study([section], folder / "report", "reproduce inner-loops")
