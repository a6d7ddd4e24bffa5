from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from maml_en_llm.models import TrainableModel, load_model, load_tokenizer
from maml_en_llm.starter.tasks import TASKS
from maml_en_llm.tasks.seeds import random_generator
from recipes.dynamic_lm import LENGTH, Moved, constant, learned, read, texts


def squared_error(p: Mapping[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return ((torch.tanh(x @ p["w"]) @ p["v"] - y) ** 2).mean()


@pytest.fixture
def starter() -> TrainableModel:
    return TrainableModel(load_model("starter"), load_tokenizer("starter"))


def test_p075_at_rate_0_it_is_the_static_model_bit_by_bit(starter: TrainableModel) -> None:
    stream = list(itertools.islice(texts(TASKS[:9], starter.tokenizer, random_generator("test")), 6))
    moved = Moved(starter)
    with torch.no_grad():
        static = [float(starter.loss(starter.parameters, batch)) for batch in stream]
    assert read(moved, moved.nowhere(), stream, constant(moved.start, 0.0)) == static
    assert read(moved, moved.nowhere(), stream, constant(moved.start, 0.1))[1:] != static[1:]


@pytest.mark.parametrize("decay", [0.0, 2.0])
def test_p075_constant_rates_are_dynamic_evaluation(decay: float) -> None:
    """A plain loop, that moves weights instead of what is added to them."""
    generator = torch.Generator().manual_seed(0)
    theta = {"w": torch.randn(3, 4, generator=generator).double(), "v": torch.randn(4, generator=generator).double()}
    stream = [(torch.randn(5, 3).double(), torch.randn(5).double()) for _ in range(6)]
    expected, phi = [], {name: p.clone() for name, p in theta.items()}
    for batch in stream:
        leaves = {name: p.clone().requires_grad_() for name, p in phi.items()}
        value = squared_error(leaves, batch)
        expected.append(value.item())
        for name, gradient in zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True):
            phi[name] = theta[name] + (1 - 0.1 * decay) * (phi[name] - theta[name]) - 0.1 * gradient
    options = {n: numbers | {"weight_decay": torch.tensor(decay)} for n, numbers in constant(theta, 0.1).items()}
    nowhere = {name: torch.zeros_like(p) for name, p in theta.items()}
    loss = lambda moved, batch: squared_error({n: p + moved[n] for n, p in theta.items()}, batch)  # noqa: E731
    assert read(loss, nowhere, stream, options) == pytest.approx(expected, rel=1e-6)  # rates are float32


def test_p075_what_helps_with_the_next_text_learns_faster() -> None:
    """Steps in x lower the loss of what follows; steps in y chase a sign that is drawn anew for every text."""
    generator = torch.Generator().manual_seed(0)

    def loss(p: Mapping[str, Tensor], sign: Tensor) -> Tensor:
        return (p["x"] - 1).square().sum() + (p["y"] - sign).square().sum()

    signs = (torch.randint(2, (1,), generator=generator) * 2.0 - 1 for _ in itertools.count())
    start = {name: torch.zeros(1) for name in ("x", "y")}
    options = learned(loss, start, signs, 0.05, 10, 0)
    assert float(options["y"]["lr"]) < 0.05 < float(options["x"]["lr"])
    assert float(options["x"]["weight_decay"]) < float(options["y"]["weight_decay"])


def test_the_topic_switches_after_as_many_texts(starter: TrainableModel) -> None:
    class Topic:
        def __init__(self, word: str) -> None:
            self.word = word

        def draw(self, generator: object) -> object:
            return type("Example", (), {"input": self.word, "output": self.word})

    topics = [Topic(word) for word in ("dog", "cat", "bird")]
    stream = itertools.islice(texts(topics, starter.tokenizer, random_generator("test")), 6 * LENGTH)
    firsts = [int(batch.token_ids[0, 0]) for batch in stream]
    runs = [len(list(same)) for _, same in itertools.groupby(firsts)]
    assert all(run % LENGTH == 0 for run in runs)
    assert len(runs) > 1
