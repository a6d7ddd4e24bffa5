from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest
import torch

import maml_en_llm
from maml_en_llm.experiments import inner_loops
from maml_en_llm.experiments.inner_loops import ROWS, Training, draw, errors, lowest, over_runs, rate


def test_a_step_moves_what_its_method_moves_at_the_rate_that_it_learned() -> None:
    """Untrained: MAML moves all by 0.01, ANIL the head alone, MAML++ by the rate of the step, at most the last."""
    learners = {row: Training(row, 5, 1e-3, 0).learner for row in ROWS}
    for row in ("MAML", "FOMAML", "Reptile", "BMG"):
        assert {rate(learners[row], name, 0) for name in learners[row].parameters} == {0.01}
    assert {name for name in learners["ANIL"].parameters if rate(learners["ANIL"], name, 0)} == {"w3", "b3"}
    learners["MAML++"].rates["w1"] = torch.tensor([0.1, 0.2])
    assert [float(rate(learners["MAML++"], "w1", j)) for j in (0, 1, 9)] == pytest.approx([0.1, 0.2, 0.2])


def test_waves_are_the_published_ones() -> None:
    """Amplitude in 0.1 to 5, phase in 0 to pi, x in -5 to 5: the squared values have the mean 1/2 E[amplitude^2]."""
    generator = torch.Generator().manual_seed(0)
    waves = [draw(generator, 10) for _ in range(2000)]
    (x, _), (far, _) = waves[0]
    assert (x.shape, far.shape) == ((10, 1), (50, 1))
    values = torch.stack([query[1] for _, query in waves])
    assert float(values.abs().max()) <= 5
    assert float(values.square().mean()) == pytest.approx((5**3 - 0.1**3) / 4.9 / 3 / 2, rel=0.05)


def test_all_rows_see_as_many_batches() -> None:
    for row in ROWS:
        training, seen = Training(row, 5, 1e-3, 0), []
        training.learner.update = lambda batches, lr_scale, measure, seen=seen: seen.append(len(batches))
        assert training.run(300) == len(seen)
        assert sum(seen) == 300


def test_errors_are_those_of_plain_steps() -> None:
    """Of one wave, by hand: a step of gradient descent at 0.01, scored on the other points."""
    learner = Training("MAML", 5, 1e-3, 0).learner
    found = errors(learner, 5, 3, seed=7)
    generator = torch.Generator().manual_seed(7)
    (support, query), *_ = [draw(generator, 5) for _ in range(3)]
    leaves = {name: p.clone().requires_grad_() for name, p in learner.parameters.items()}
    gradients = torch.autograd.grad(inner_loops.squared_error(leaves, support), list(leaves.values()))
    moved = {name: p - 0.01 * g for (name, p), g in zip(leaves.items(), gradients, strict=True)}
    assert float(found[0][0]) == pytest.approx(float(inner_loops.squared_error(learner.parameters, query)), rel=1e-5)
    assert float(found[1][0]) == pytest.approx(float(inner_loops.squared_error(moved, query).detach()), rel=1e-5)


def test_p046_the_search_is_the_minimum_of_the_grid() -> None:
    assert lowest({1e-3: 3.0, 1e-2: 1.0, 3e-2: 2.0, 1e-1: None}) == 1e-2
    assert lowest({1e-3: None, 1e-2: 5.0}) == 1e-2


def test_x01_the_interval_is_over_waves_and_runs() -> None:
    """Of two runs without spread over waves, 1 and 3: means of two draws, deviations widened by sqrt(2)."""
    assert over_runs([[1.0] * 50, [3.0] * 50]) == ("2.00 (0.59 to 3.41)", pytest.approx(2**0.5))
    waves = torch.rand(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    text, spread = over_runs([waves.tolist()] * 3)
    error = 1.96 * float(waves.std()) / 20
    expected = [float(waves.mean()) + sign * error for sign in (0, -1, 1)]
    assert [float(word) for word in re.findall(r"[\d.]+", text)] == pytest.approx(expected, abs=0.011)
    assert spread == pytest.approx(0, abs=1e-12)
    assert over_runs([waves.tolist()]) == (text, None)
    assert over_runs([[1.0, math.inf]]) == ("diverges", None)


def run(*words: str) -> str:
    """The standard output of the verb, in a process of its own: waves are no batches of prompts, which types are
    checked for in this one."""
    environment = os.environ | {"PYTHONPATH": str(Path(maml_en_llm.__file__).parents[1])}
    command = [sys.executable, "-m", "maml_en_llm", "reproduce", "inner-loops", *words]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_the_verb_does_what_is_not_done_and_reports_all(tmp_path: Path) -> None:
    words = [
        "--training-seeds",
        "100",
        "13",
        "--output",
        str(tmp_path),
        "--batches",
        "500",
        "--shots",
        "5",
        "--waves",
        "20",
        "--rows",
        "MAML",
    ]
    run(*words)
    of_maml = sorted((tmp_path / "inner-loops" / "parts").iterdir())
    assert len(of_maml) == 6  # four learning rates, then the best with each seed
    before = [path.stat().st_mtime_ns for path in of_maml]
    page = tmp_path / "inner-loops" / "report" / "report.html"
    assert run(*words, "FOMAML").splitlines()[-1] == str(page)
    assert [path.stat().st_mtime_ns for path in of_maml] == before
    assert "reproduce inner-loops" in page.read_text(encoding="utf-8")
    with (page.parent / "tables" / "inner-loops.csv").open(encoding="utf-8") as file:
        maml, fomaml = csv.DictReader(file)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in of_maml]
    tries = {record["about"]["lr"]: record["found"]["error"] for record in records if "error" in record["found"]}
    assert len(tries) == 4
    assert float(maml["lr"]) == min(tries, key=lambda lr: float(tries[lr]))
    runs = [record["found"]["errors"]["1"] for record in records if "errors" in record["found"]]
    assert float(maml["SD, 1 step"]) == pytest.approx(abs(mean(runs[0]) - mean(runs[1])) / 2**0.5)
    assert maml["1 step"].startswith(f"{(mean(runs[0]) + mean(runs[1])) / 2:.2f} (")
    assert float(fomaml["KiB"]) < float(maml["KiB"])  # no graph of the support gradient
