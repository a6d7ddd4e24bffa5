"""A short run of the faults; `make faults` runs long (docs/reliability.md)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import maml_en_llm


@pytest.mark.skipif(not hasattr(os, "fork"), reason="cases are forked processes")
@pytest.mark.slow
def test_whatever_happens_the_same_command_ends_with_the_same() -> None:
    """One case of every kind, in a process of their own: forks of one that has computed gradients may not compute."""
    words = [sys.executable, str(Path(__file__).with_name("faults.py")), "--cases", "9", "--seed", "7"]
    environment = os.environ | {"PYTHONPATH": str(Path(maml_en_llm.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.returncode == 0, ended.stdout
    assert "9 cases in" in ended.stdout
