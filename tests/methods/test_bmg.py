from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import random_batch, train_config
from maml_en_llm import SGD, meta_gradient
from maml_en_llm.bilevel import explore
from maml_en_llm.config import load_yaml
from maml_en_llm.methods import method_from_keys
from maml_en_llm.methods.bmg import bootstrapped
from maml_en_llm.prompts.batches import Batch
from on_tensors import NoBatches, OnTensors, network_loss, start
from unrolled import detached, relative_error

CONFIG = Path(__file__).parents[2] / "configs" / "beyond" / "bmg.yaml"


def descended(p: Mapping[str, Tensor], batches: list[Batch], lr: float, graph: bool = False) -> dict[str, Tensor]:
    """The parameters after a step of gradient descent on each batch, by autograd."""
    phi = dict(p) if graph else {name: tensor.detach().requires_grad_() for name, tensor in p.items()}
    for batch in batches:
        gradients = torch.autograd.grad(network_loss(phi, batch), list(phi.values()), create_graph=graph)
        phi = {name: tensor - lr * g for (name, tensor), g in zip(phi.items(), gradients, strict=True)}
        phi = phi if graph else {name: tensor.detach().requires_grad_() for name, tensor in phi.items()}
    return phi


@pytest.mark.parametrize(("k", "bootstrap_steps"), [(1, 0), (1, 3), (2, 3)])
def test_p013_updates_equal_autograd_of_the_distance_to_a_constant_target(k: int, bootstrap_steps: int) -> None:
    """One outer step of SGD of two copies, in float64, so that the meta-gradient can be read off."""
    generator, lr = torch.Generator().manual_seed(0), 0.3
    parameters = start(generator)
    own = {"method": "bmg", "copies": 2, "inner_steps": k, "bootstrap_steps": bootstrap_steps, "inner_lr": lr}
    own |= {"lr": 1.0, "optimizer": "sgd", "gradient_clip": None, "curvature": "exact", "batches": 1000}
    learner: Any = train_config(Path("c"), Path("m"), Path("o"), **own).learner(  # type: ignore[arg-type]
        OnTensors(network_loss, parameters), NoBatches()
    )
    before = detached(parameters)
    batches = [random_batch(generator, prompts=4) for _ in range(4 * k)]
    leaves = {name: p.clone().requires_grad_() for name, p in before.items()}
    distances = []
    for copy in (batches[: 2 * k], batches[2 * k :]):
        support, query = copy[:k], copy[k:]
        phi = descended(leaves, support, lr, graph=True)
        target = descended(phi, [*[support[i % k] for i in range(bootstrap_steps)], *query], lr)
        distances.append(torch.stack([((phi[n] - target[n].detach()) ** 2).sum() for n in phi]).sum() / (2 * lr))
    expected = dict(zip(leaves, torch.autograd.grad(torch.stack(distances).mean(), list(leaves.values())), strict=True))
    learner.update(batches, 1.0, measure=False)
    assert relative_error({n: before[n] - p for n, p in parameters.items()}, expected) < 1e-8


def test_p013_a_target_one_query_step_ahead_gives_the_meta_gradient_of_maml() -> None:
    generator = torch.Generator().manual_seed(0)
    parameters, support, query = start(generator), [random_batch(generator)], [random_batch(generator)]
    expected = meta_gradient(network_loss, parameters, [support], [query], SGD(0.3)).gradients
    found = bootstrapped(network_loss, parameters, support, query, 0.3, 0).gradients
    assert relative_error(found, expected) < 1e-10


def test_p013_without_further_steps_there_is_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    found = bootstrapped(network_loss, start(generator), [random_batch(generator)], [], 0.3, 0).gradients
    assert all(not gradient.any() for gradient in found.values())


def test_p013_a_target_is_a_constant() -> None:
    """L = c x^2 / 2, from x = 1: d (phi - target)^2 / 2 lr / dx = (phi - target) / lr * dphi / dx."""
    loss = lambda p, batch: 0.5 * batch * (p["x"] ** 2).sum()  # noqa: E731
    parameters = {"x": torch.ones(1, dtype=torch.float64)}
    found = bootstrapped(loss, parameters, [1.0], [3.0], 0.1, 2)
    phi, target = 0.9, 0.9 * 0.9 * 0.9 * 0.7
    assert float(found.gradients["x"]) == pytest.approx((phi - target) / 0.1 * 0.9, rel=1e-12)
    assert float(explore(loss, parameters, [1.0], SGD(0.1)).continue_([1.0, 1.0, 3.0])["x"]) == pytest.approx(target)


def test_distances_are_divided_by_inner_lr_which_cannot_be_0() -> None:
    with pytest.raises(ValueError, match="inner_lr is 0"):
        train_config(Path("c"), Path("m"), Path("o"), method="bmg", inner_lr=0.0)


def test_the_configuration_on_its_page_loads() -> None:
    config = method_from_keys(load_yaml(CONFIG) | {"collection": "c", "setting": "s", "output": "o"})
    assert (config.name, config.label()) == ("bmg", "BMG")
