from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import maml_en_llm


def test_one_step_from_the_meta_trained_start_beats_one_from_the_jointly_trained() -> None:
    example = Path(__file__).parents[2] / "examples" / "sinusoid.py"
    environment = os.environ | {"PYTHONPATH": str(Path(maml_en_llm.__file__).parents[1])}
    words = [sys.executable, str(example), "500"]  # in a process of its own, where types are not checked at every call
    printed = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    meta_before, meta_after, _, joint_after = map(float, re.findall(r"\d+\.\d+", printed))
    assert meta_after < 0.85 * joint_after
    assert meta_after < 0.85 * meta_before
