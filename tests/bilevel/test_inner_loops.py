from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import maml_en_llm
from benchmarks import inner_loops

BENCHMARK = Path(inner_loops.__file__)


def test_a_step_moves_what_its_method_moves_at_the_rate_that_it_learned() -> None:
    """Untrained: MAML moves all by 0.01, ANIL the head alone, MAML++ by the rate of the step, at most the last."""
    learners = {name: inner_loops.train(name, 0, 5) for name in inner_loops.METHODS}
    assert {inner_loops.rate(learners["MAML"], name, 0) for name in learners["MAML"].parameters} == {0.01}
    anil = {name for name in learners["ANIL"].parameters if inner_loops.rate(learners["ANIL"], name, 0)}
    assert anil == {"w3", "b3"}
    learners["MAML++"].rates["w1"] = torch.tensor([0.1, 0.2, 0.3])
    assert [float(inner_loops.rate(learners["MAML++"], "w1", j)) for j in (0, 2, 9)] == pytest.approx([0.1, 0.3, 0.3])


def test_waves_are_the_published_ones() -> None:
    """Amplitude in 0.1 to 5, phase in 0 to pi, x in -5 to 5: the squared values have the mean 1/2 E[amplitude^2]."""
    generator = torch.Generator().manual_seed(0)
    waves = [inner_loops.draw(generator, 10) for _ in range(2000)]
    (x, _), (far, _) = waves[0]
    assert (x.shape, far.shape) == ((10, 1), (50, 1))
    values = torch.stack([query[1] for _, query in waves])
    assert float(values.abs().max()) <= 5
    assert float(values.square().mean()) == pytest.approx((5**3 - 0.1**3) / 4.9 / 3 / 2, rel=0.05)


def test_a_step_on_support_points_helps_on_query_points() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(maml_en_llm.__file__).parents[1])}
    words = [sys.executable, str(BENCHMARK), "--updates", "30", "--waves", "200", "--shots", "10"]
    run = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    rows = {line.split("|")[1].strip(): re.findall(r"(\d+\.\d+) ±", line) for line in run.stdout.splitlines()[2:]}
    assert list(rows) == list(inner_loops.METHODS)
    for before, one, _ in rows.values():
        assert float(one) < float(before)
