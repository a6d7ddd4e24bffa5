from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import make_collection, random_batch, train_config
from maml_en_llm import SGD, AdamW
from maml_en_llm.config import load_yaml
from maml_en_llm.methods import method_from_keys
from maml_en_llm.prompts.batches import Batch
from maml_en_llm.training.loop import train
from on_tensors import NoBatches, OnTensors, network_loss
from unrolled import after_step, detached, relative_error, zero_state

CONFIG = Path(__file__).parents[2] / "configs" / "beyond" / "meta-sgd.yaml"
SUPPORT, QUERY = (Batch(torch.tensor([[number]]), torch.tensor([[True]])) for number in range(2))
PLACES = {"collection": "c", "setting": "s", "output": "o"}


def config_of(**changes: Any) -> Any:
    return train_config(Path("c"), Path("m"), Path("o"), method="meta-sgd", batches=1000, **changes)


def test_one_update_of_a_quadratic_is_its_closed_form() -> None:
    """L = x^2 / 2 and one step: phi = (1 - a) x, so dq/dx = (1 - a)^2 x and dq/da = -(1 - a) x^2."""
    parameters = {"x": torch.tensor(2.0, dtype=torch.float64)}
    changes = {"optimizer": "sgd", "gradient_clip": None, "curvature": "exact"}
    config = config_of(inner_lr=0.25, lr=0.1, rates_lr=0.01, **changes)
    learner = config.learner(OnTensors(lambda p, batch: p["x"] ** 2 / 2, parameters), NoBatches())
    learner.update([SUPPORT, QUERY], 0.5, measure=False)
    assert float(parameters["x"]) == pytest.approx(2 - 0.05 * 0.75**2 * 2, abs=1e-12)
    assert float(learner.rates["x"]) == pytest.approx(0.25 + 0.005 * 0.75 * 4, abs=1e-12)


@pytest.mark.parametrize("outer", [SGD(0.1), AdamW(0.01)])
def test_updates_equal_autograd_by_parameters_and_rates(outer: SGD | AdamW) -> None:
    """Three meta-updates of n = 2 copies with k = 2 steps, in float64."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"body": (40, 6), "head": (6, 3)}
    parameters = {name: torch.randn(s, generator=generator, dtype=torch.float64) * 0.3 for name, s in shapes.items()}
    optimizer = "sgd" if isinstance(outer, SGD) else "adamw"
    own = {"copies": 2, "inner_steps": 2, "curvature": "exact", "gradient_clip": None, "inner_lr": 0.3}
    config = config_of(optimizer=optimizer, lr=outer.lr, rates_lr=outer.lr, **own)
    learner = config.learner(OnTensors(network_loss, parameters), NoBatches())
    learned = detached(parameters) | {f"rate.{n}": torch.tensor(0.3, dtype=torch.float64) for n in parameters}
    state = zero_state(learned)
    for _ in range(3):
        batches = [random_batch(generator, prompts=4) for _ in range(8)]
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in learned.items()}
        losses = []
        for copy in (batches[:4], batches[4:]):
            phi = {name: leaves[name] for name in parameters}
            for batch in copy[:2]:
                gradients = torch.autograd.grad(network_loss(phi, batch), list(phi.values()), create_graph=True)
                phi = {n: p - leaves[f"rate.{n}"] * g for (n, p), g in zip(phi.items(), gradients, strict=True)}
            losses += [network_loss(phi, batch) for batch in copy[2:]]
        meta = torch.autograd.grad(torch.stack(losses).mean(), list(leaves.values()))
        learned, state = after_step(outer, learned, dict(zip(leaves, meta, strict=True)), state)
        learner.update(batches, 1.0, measure=False)
        found = parameters | {f"rate.{name}": rate for name, rate in learner.rates.items()}
        assert relative_error(found, learned) < 1e-8


def test_a_useless_rate_falls_and_a_useful_one_rises() -> None:
    """Steps in x lower the query loss and steps in y raise it."""
    parameters = {name: torch.ones(3) for name in ("x", "y")}

    def loss(p: Mapping[str, Tensor], batch: Batch) -> Tensor:
        sign = 1 if batch is SUPPORT else -1
        return (p["x"] ** 2).sum() + sign * (p["y"] ** 2).sum()

    learner = config_of(inner_lr=0.1, lr=0.0).learner(OnTensors(loss, parameters), NoBatches())
    for _ in range(20):
        learner.update([SUPPORT, QUERY], 1.0, measure=False)
    assert float(learner.rates["y"]) < 0.1 < float(learner.rates["x"])


def test_the_model_folder_holds_a_rate_of_each_tensor(model_folder: Path, tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "collection")
    config = train_config(folder, model_folder, tmp_path / "run", method="meta-sgd", inner_lr=0.1, batches=4)
    rates = json.loads((train(config) / "inner_rates.json").read_text())
    assert "transformer.ln_f.weight" in rates
    assert any(rate != pytest.approx(0.1, abs=1e-9) for rate in rates.values())


def test_the_configuration_on_its_page_loads() -> None:
    config = method_from_keys(load_yaml(CONFIG) | PLACES)
    assert (config.name, config.label()) == ("meta-sgd", "Meta-SGD")
