"""P016: what other libraries for meta-learning compute. learn2learn and higher do not build with today's Python, and
what they do is written out here; TorchOpt is compared where it is installed (`pip install torchopt`)."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maml_en_llm import SGD, AdamW, meta_gradient
from maml_en_llm.bilevel.steps import Tensors
from unrolled import relative_error

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.zeros(4, 5)), nn.Parameter(torch.zeros(5, 3))
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.w1) @ self.w2


def batches(count: int, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(6, 4, generator=generator, dtype=torch.float64), torch.randint(3, (6,), generator=generator))
        for _ in range(count)
    ]


def loss_of(network: Any, batch: Batch) -> Tensor:
    return torch.nn.functional.cross_entropy(network(batch[0]), batch[1])


def loss(parameters: Tensors, batch: Batch) -> Tensor:
    return loss_of(lambda x: torch.tanh(x @ parameters["w1"]) @ parameters["w2"], batch)


def parameters_of(network: nn.Module) -> Tensors:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("order", ["second", "first"])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (3, 4)])
def test_p016_maml_and_first_order_are_clone_and_adapt(k: int, n: int, order: Any) -> None:
    """A clone is a module whose parameters are tensors of the graph; adapting it replaces them."""
    network = Net()
    support, query = [batches(k, i) for i in range(n)], [batches(1, 100 + i) for i in range(n)]
    total = torch.zeros((), dtype=torch.float64)
    for some, (asked,) in zip(support, query, strict=True):
        clone = copy.copy(network)
        clone._parameters = {name: p.clone() for name, p in network.named_parameters()}  # type: ignore[misc]
        for batch in some:
            weights = list(clone._parameters.values())
            gradients = torch.autograd.grad(loss_of(clone, batch), weights, create_graph=order == "second")
            for name, gradient in zip(clone._parameters, gradients, strict=True):
                clone._parameters[name] = clone._parameters[name] - 0.1 * gradient  # type: ignore[operator]
        total = total + loss_of(clone, asked) / n
    total.backward()
    expected = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    found = meta_gradient(loss, parameters_of(network), support, query, SGD(lr=0.1), order=order)
    assert relative_error(found.gradients, expected) < 1e-10
    assert float(found.query_loss) == pytest.approx(total.item(), rel=1e-12)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(
    ("name", "step", "options"),
    [
        ("MetaSGD", SGD(lr=0.1), {}),
        ("MetaSGD", SGD(lr=0.1, momentum=0.9), {"momentum": 0.9}),
        ("MetaAdamW", AdamW(lr=0.01, eps=1e-6), {"eps": 1e-6, "weight_decay": 0.0}),
        ("MetaAdamW", AdamW(lr=0.01, eps=1e-6, weight_decay=0.1), {"eps": 1e-6, "weight_decay": 0.1}),
    ],
    ids=["sgd", "momentum", "adam", "adamw"],
)
def test_p016_torchopt(name: str, step: Any, options: dict[str, Any], k: int) -> None:
    try:
        torchopt = importlib.import_module("torchopt")
    except ImportError:
        pytest.skip("torchopt is not installed")
    network = Net()
    start, (support, query) = dict(network.named_parameters()), (batches(k), batches(1, 1))
    optimizer = getattr(torchopt, name)(network, lr=step.lr, **options)
    for batch in support:
        optimizer.step(loss_of(network, batch))
    gradients = torch.autograd.grad(loss_of(network, query[0]), list(start.values()))
    parameters = {n: p.detach() for n, p in start.items()}
    found = meta_gradient(loss, parameters, [support], [query], step).gradients
    limit = 1e-6 if name == "MetaAdamW" else 1e-10  # it corrects the bias of moments in float32
    assert relative_error(found, dict(zip(start, gradients, strict=True))) < limit
