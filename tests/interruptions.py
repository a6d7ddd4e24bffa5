"""Runs that are cut short, and when two runs are the same."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from maml_en_llm.methods.method import GradientMethod, Method
from maml_en_llm.training.checkpoint import read_metrics


def weights(model: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(model / "model.safetensors")


def without_seconds(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read_metrics(run)]


def assert_same_run(ours: Path, theirs: Path) -> None:
    found, expected = weights(ours / "model"), weights(theirs / "model")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert without_seconds(ours) == without_seconds(theirs)


@contextlib.contextmanager
def in_update(number: int, what: Callable[[], None]) -> Iterator[None]:
    """Lets `what` happen during the update of that number, counted from 1."""

    with pytest.MonkeyPatch.context() as patch:
        for kind in (Method, GradientMethod):

            def scale(config: Method, update: int, updates: int, original: Any = kind.learning_rate_scale) -> float:
                if update == number - 1:
                    what()
                return float(original(config, update, updates))

            patch.setattr(kind, "learning_rate_scale", scale)
        yield


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


class Killed(BaseException):
    """What nothing catches, as a kill."""


def crash() -> None:
    raise Killed
