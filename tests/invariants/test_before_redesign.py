"""Short runs of every method give the parameters that they gave before methods became dataclasses (commit dbe3382).

For each tensor of the saved model the file has its sum, its norm and its eighth element; compared are mean, root mean
square and that element. Batches hold one prompt, since several are computed in groups now, which rounds differently.
MAML runs have an epsilon of 1e-3: with a smaller one, derivatives of steps from zero moments, which used to be noise,
are left out now (docs/bilevel.md).
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
    assert weights.keys() == STORED[name]["tensors"].keys()
    for tensor, (total, norm, eighth) in STORED[name]["tensors"].items():
        found, count = weights[tensor].double(), weights[tensor].numel()
        figures = [float(found.mean()), float(found.norm()) / count**0.5, float(found.flatten()[7])]
        assert figures == pytest.approx([total / count, norm / count**0.5, eighth], abs=1e-6), tensor
