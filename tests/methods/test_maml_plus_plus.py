from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import make_collection, random_batch, train_config
from maml_en_llm import SGD, AdamW
from maml_en_llm.config import load_yaml
from maml_en_llm.methods import method_from_keys
from maml_en_llm.methods.maml_plus_plus import query_weights
from maml_en_llm.training.loop import train
from on_tensors import NoBatches, OnTensors, network_loss, start
from unrolled import after_step, detached, relative_error, zero_state

CONFIG = Path(__file__).parents[2] / "configs" / "beyond" / "maml-plus-plus.yaml"
OWN = {"copies": 2, "inner_steps": 3, "curvature": "exact", "gradient_clip": None, "inner_lr": 0.3}


def learner_of(parameters: dict[str, Tensor], method: str = "maml-plus-plus", **changes: Any) -> Any:
    config = train_config(Path("c"), Path("m"), Path("o"), method=method, batches=1000, **OWN | changes)
    return config.learner(OnTensors(network_loss, parameters), NoBatches())


@pytest.mark.parametrize(("outer", "first_order"), [(SGD(0.1), 0), (AdamW(0.01), 0), (SGD(0.1), 2), (AdamW(0.01), 4)])
def test_x01_updates_equal_autograd_by_parameters_and_rates_of_each_step(outer: SGD | AdamW, first_order: int) -> None:
    """Four meta-updates of n = 2 copies with k = 3 steps, while the weights are annealed over three, in float64. In the
    first ones of `first_order` autograd takes inner gradients as constants."""
    generator = torch.Generator().manual_seed(0)
    parameters = start(generator)
    optimizer = "sgd" if isinstance(outer, SGD) else "adamw"
    learner = learner_of(
        parameters, optimizer=optimizer, lr=outer.lr, rates_lr=outer.lr, annealing=3, first_order_updates=first_order
    )
    rates = {f"rate.{n}": torch.full((3,), 0.3, dtype=torch.float64) for n in parameters}
    learned = detached(parameters) | rates
    state = zero_state(learned)
    of_updates = [1 / 3, 1 / 3, 1 / 3], [2 / 9, 2 / 9, 5 / 9], [1 / 9, 1 / 9, 7 / 9], [0.01, 0.01, 0.98]
    for update, weights in enumerate(of_updates):
        batches = [random_batch(generator, prompts=4) for _ in range(12)]
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in learned.items()}
        value = torch.zeros((), dtype=torch.float64)
        for copy in (batches[:6], batches[6:]):
            phi = {name: leaves[name] for name in parameters}
            for j, batch in enumerate(copy[:3]):
                gradients = torch.autograd.grad(
                    network_loss(phi, batch), list(phi.values()), create_graph=update >= first_order
                )
                phi = {n: p - leaves[f"rate.{n}"][j] * g for (n, p), g in zip(phi.items(), gradients, strict=True)}
                value = value + weights[j] * torch.stack([network_loss(phi, b) for b in copy[3:]]).mean() / 2
        meta = torch.autograd.grad(value, list(leaves.values()))
        learned, state = after_step(outer, learned, dict(zip(leaves, meta, strict=True)), state)
        learner.update(batches, 1.0, measure=False)
        found = parameters | {f"rate.{name}": rate for name, rate in learner.rates.items()}
        assert relative_error(found, learned) < 1e-8


def test_x01_with_weight_on_the_last_step_alone_it_is_meta_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rates do not learn, so that one of each tensor is one of each step."""
    monkeypatch.setattr("maml_en_llm.methods.maml_plus_plus.FLOOR", 0.0)
    ours, theirs = (start(torch.Generator().manual_seed(0)) for _ in range(2))
    learners = learner_of(ours, annealing=0, rates_lr=0.0), learner_of(theirs, "meta-sgd", rates_lr=0.0)
    batches = [random_batch(torch.Generator().manual_seed(n), prompts=4) for n in range(12)]
    for learner in learners:
        learner.update(batches, 1.0, measure=False)
    assert relative_error(ours, theirs) < 1e-12


def test_x01_the_weights_begin_equal_and_end_at_a_floor() -> None:
    assert query_weights(0, 5, 100) == pytest.approx([0.2] * 5)
    assert query_weights(50, 5, 100) == pytest.approx([0.1] * 4 + [0.6])
    assert query_weights(1000, 5, 100) == pytest.approx([0.006] * 4 + [0.976])
    assert query_weights(0, 5, 0) == query_weights(1000, 5, 100)
    assert query_weights(7, 1, 100) == [1.0]


def test_the_model_folder_holds_rates_of_each_tensor_and_step(model_folder: Path, tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "collection")
    config = train_config(folder, model_folder, tmp_path / "run", method="maml-plus-plus", inner_lr=0.1, inner_steps=2)
    rates = json.loads((train(config) / "inner_rates.json").read_text())
    assert len(rates["transformer.ln_f.weight"]) == 2


def test_the_configuration_on_its_page_loads() -> None:
    config = method_from_keys(load_yaml(CONFIG) | {"collection": "c", "setting": "s", "output": "o"})
    assert (config.name, config.label(), config.batches_per_update) == ("maml-plus-plus", "MAML++", 4)
