from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def sinusoid() -> Any:
    path = Path(__file__).parents[2] / "examples" / "sinusoid.py"
    spec = importlib.util.spec_from_file_location("sinusoid", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_step_from_the_meta_trained_start_beats_one_from_the_jointly_trained(sinusoid: Any) -> None:
    (meta_before, meta_after), (_, joint_after) = (
        sinusoid.errors(sinusoid.train(500, meta=meta, tasks=4), tasks=100) for meta in (True, False)
    )
    assert meta_after < 0.85 * joint_after
    assert meta_after < 0.85 * meta_before
