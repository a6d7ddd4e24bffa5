"""Regression on sinusoids, the first experiment of MAML (Finn et al., ICML 2017), with the bilevel engine.

    python examples/sinusoid.py [UPDATES]

Every task is a sine wave of its own amplitude and phase.  A network is meta-trained so that one gradient step on 10
points of a new wave fits it; another is trained on all waves at once, and has learned little but their average.
"""

from __future__ import annotations

import itertools
import math
import sys

import torch
from torch import Tensor

from maml_en_llm.bilevel import SGD, AdamW, meta_gradient, update_all_, value_and_gradient

SHOTS, INNER, OUTER = 10, SGD(lr=0.01), AdamW(lr=3e-3)
Tensors = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


def loss(parameters: Tensors, batch: Batch) -> Tensor:
    """Mean squared error of a network 1-40-40-1."""
    x, y = batch
    x = torch.relu(x @ parameters["w1"] + parameters["b1"])
    x = torch.relu(x @ parameters["w2"] + parameters["b2"])
    return ((x @ parameters["w3"] + parameters["b3"] - y) ** 2).mean()


def start(generator: torch.Generator, widths: tuple[int, ...] = (1, 40, 40, 1)) -> Tensors:
    parameters: Tensors = {}
    for layer, (before, after) in enumerate(itertools.pairwise(widths), start=1):
        for name, shape in ((f"w{layer}", (before, after)), (f"b{layer}", (after,))):
            parameters[name] = (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(before)
    return parameters


def draw(generator: torch.Generator) -> tuple[Batch, Batch]:
    """Support and query points of one wave."""
    amplitude, phase = torch.rand(2, generator=generator) * torch.tensor([4.9, math.pi]) + torch.tensor([0.1, 0.0])
    x = torch.rand(2, SHOTS, 1, generator=generator) * 10 - 5
    y = amplitude * torch.sin(x - phase)
    return (x[0], y[0]), (x[1], y[1])


def train(updates: int, meta: bool, tasks: int = 5, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    parameters = start(generator)
    moments = OUTER.init(parameters)
    for _ in range(updates):
        support, query = zip(*(draw(generator) for _ in range(tasks)), strict=True)
        if meta:
            gradients = meta_gradient(loss, parameters, [[s] for s in support], [[q] for q in query], INNER).gradients
        else:  # all points of all waves in one batch
            x, y = (torch.cat(parts) for parts in zip(*support, *query, strict=True))
            _, gradients = value_and_gradient(loss, parameters, (x, y))
        update_all_(OUTER, parameters, gradients, moments)
    return parameters


def errors(parameters: Tensors, tasks: int = 200, seed: int = 1) -> tuple[float, float]:
    """Mean query error on new waves after 0 and 1 gradient step."""
    generator, before, after = torch.Generator().manual_seed(seed), 0.0, 0.0
    for support, query in (draw(generator) for _ in range(tasks)):
        adapted = {name: p.clone() for name, p in parameters.items()}
        update_all_(INNER, adapted, value_and_gradient(loss, adapted, support)[1], INNER.init(adapted))
        before, after = before + float(loss(parameters, query)), after + float(loss(adapted, query))
    return before / tasks, after / tasks


if __name__ == "__main__":
    torch.set_num_threads(1)  # the network is tiny
    updates = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
    for name, meta in (("meta-trained", True), ("jointly trained", False)):
        print("{}: error {:.2f} before, {:.2f} after one gradient step".format(name, *errors(train(updates, meta))))
