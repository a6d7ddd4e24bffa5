from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import random_batch, train_config
from maml_en_llm import SGD, AdamW
from maml_en_llm.bilevel import value_and_gradient
from maml_en_llm.config import load_yaml
from maml_en_llm.methods import method_from_keys
from maml_en_llm.prompts.batches import Batch
from on_tensors import NoBatches, OnTensors, network_loss, start
from unrolled import after_step, detached, relative_error, zero_state

CONFIG = Path(__file__).parents[2] / "configs" / "beyond" / "reptile.yaml"


def learner_of(parameters: dict[str, Tensor], **changes: Any) -> Any:
    own = {"method": "reptile", "batches": 1000, "gradient_clip": None}
    return train_config(Path("c"), Path("m"), Path("o"), **own | changes).learner(  # type: ignore[arg-type]
        OnTensors(network_loss, parameters), NoBatches()
    )


@pytest.mark.parametrize("inner", [SGD(0.3), AdamW(0.05)])
@pytest.mark.parametrize("outer", [SGD(0.1), AdamW(0.01)])
def test_p046_updates_equal_copies_that_learn_by_autograd(inner: SGD | AdamW, outer: SGD | AdamW) -> None:
    """Three updates of n = 2 copies with 2k = 4 steps, in float64."""
    generator = torch.Generator().manual_seed(0)
    parameters = start(generator)
    names = {SGD: "sgd", AdamW: "adamw"}
    own = {"copies": 2, "inner_steps": 2, "inner_lr": inner.lr, "inner_optimizer": names[type(inner)]}
    learner = learner_of(parameters, **own, lr=outer.lr, optimizer=names[type(outer)])
    learned = detached(parameters)
    state = zero_state(learned)
    for _ in range(3):
        batches = [random_batch(generator, prompts=4) for _ in range(8)]
        ways = {name: torch.zeros_like(p) for name, p in learned.items()}
        for copy in (batches[:4], batches[4:]):
            phi, moments = learned, zero_state(learned)
            for batch in copy:
                leaves = {name: p.detach().requires_grad_() for name, p in phi.items()}
                gradients = torch.autograd.grad(network_loss(leaves, batch), list(leaves.values()))
                phi, moments = after_step(inner, phi, dict(zip(leaves, gradients, strict=True)), moments)
            ways = {name: way + (learned[name] - phi[name]) / inner.lr / 2 for name, way in ways.items()}
        learned, state = after_step(outer, learned, ways, state)
        learner.update(batches, 1.0, measure=False)
        assert relative_error(parameters, learned) < 1e-10


def test_p046_reptile_with_one_step_is_the_first_order_gradient() -> None:
    """Where all but one of its 2k gradients are zero, the way over inner_lr is that gradient."""
    generator = torch.Generator().manual_seed(0)
    parameters = start(generator)
    batch = random_batch(generator, prompts=4)
    expected = value_and_gradient(network_loss, parameters, batch)[1]

    def only_first(p: Mapping[str, Tensor], given: Batch) -> Tensor:
        return network_loss(p, given) * (given is batch)

    before = detached(parameters)
    learner = learner_of(parameters, inner_lr=0.2, lr=1.0, optimizer="sgd")
    learner.loss = only_first
    learner.update([batch, random_batch(generator)], 1.0, measure=False)
    assert relative_error({n: before[n] - p for n, p in parameters.items()}, expected) < 1e-10


def test_it_moves_to_the_mean_of_where_copies_get_when_lr_is_inner_lr() -> None:
    """L = (x - c)^2 / 2: two steps of 0.5 get three quarters of the way from x to the c of each copy."""
    parameters = {"x": torch.tensor(0.0, dtype=torch.float64)}
    learner = learner_of(parameters, copies=2, inner_lr=0.5, lr=0.5, optimizer="sgd")
    learner.loss = lambda p, batch: (p["x"] - batch.token_ids.sum()) ** 2 / 2
    one, three = (Batch(torch.tensor([[c]]), torch.tensor([[True]])) for c in (1, 3))
    learner.update([one, one, three, three], 1.0, measure=False)
    assert float(parameters["x"]) == pytest.approx(0.75 * 2, abs=1e-12)


def test_the_way_is_divided_by_inner_lr_which_cannot_be_0() -> None:
    with pytest.raises(ValueError, match="inner_lr is 0"):
        learner_of({}, inner_lr=0.0)


def test_the_configuration_on_its_page_loads() -> None:
    config = method_from_keys(load_yaml(CONFIG) | {"collection": "c", "setting": "s", "output": "o"})
    assert (config.name, config.label()) == ("reptile", "Reptile")
