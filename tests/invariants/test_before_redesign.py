"""Short runs of every method give the parameters that they gave before methods became dataclasses (commit dbe3382).

For each tensor of the saved model the file has its sum, its norm and its eighth element.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from builders import train_config
from maml_en_llm.training.loop import train

STORED: dict[str, Any] = json.loads(Path(__file__).with_name("before_redesign.json").read_text())


@pytest.mark.parametrize("name", STORED)
def test_parameters_are_those_of_before(name: str, collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    changes = STORED[name]["changes"]
    weights = safetensors.torch.load_file(
        train(train_config(collection_folder, model_folder, tmp_path / "run", **changes)) / "model.safetensors"
    )
    found = {k: [float(v.double().sum()), float(v.double().norm()), float(v.flatten()[7])] for k, v in weights.items()}
    assert found.keys() == STORED[name]["tensors"].keys()
    for tensor, figures in STORED[name]["tensors"].items():
        assert found[tensor] == pytest.approx(figures, abs=1e-6, rel=1e-6), tensor
