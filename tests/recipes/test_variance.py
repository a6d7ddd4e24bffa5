from __future__ import annotations

import torch

from maml_en_llm.bilevel import value_and_gradient
from maml_en_llm.experiments.inner_loops import Net, draw, squared_error
from recipes.variance import corrections, estimate, meta_gradient
from unrolled import relative_error


def test_x07_the_mean_of_the_estimates_is_the_mean_of_the_plain_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    theta = {name: p.double() for name, p in Net(generator).parameters.items()}
    supports = [(x.double(), y.double()) for (x, y), _ in (draw(generator, 10) for _ in range(5))]
    away = [{name: p + 0.1 * torch.randn(p.shape, generator=generator) for name, p in theta.items()} for _ in supports]
    each = corrections(squared_error, theta, supports)
    estimates = [estimate(squared_error, phi, s, c) for phi, s, c in zip(away, supports, each, strict=True)]
    plain = [value_and_gradient(squared_error, phi, support)[1] for phi, support in zip(away, supports, strict=True)]
    mean = {name: torch.stack([e[name] for e in estimates]).mean(dim=0) for name in theta}
    expected = {name: torch.stack([g[name] for g in plain]).mean(dim=0) for name in theta}
    assert relative_error(mean, expected) < 1e-12
    assert relative_error(estimates[0], plain[0]) > 0.1


def test_x07_at_the_start_all_tasks_have_the_mean_gradient_and_strength_0_is_first_order_maml() -> None:
    generator = torch.Generator().manual_seed(0)
    theta = Net(generator).parameters
    waves = [draw(generator, 10) for _ in range(3)]
    each = corrections(squared_error, theta, [support for support, _ in waves])
    first, *rest = [estimate(squared_error, theta, s, c) for (s, _), c in zip(waves, each, strict=True)]
    assert all(relative_error(other, first) < 1e-5 for other in rest)
    expected = {name: torch.zeros_like(p) for name, p in theta.items()}
    for support, query in waves:
        gradients = value_and_gradient(squared_error, theta, support)[1]
        adapted = {name: p - 0.01 * gradients[name] for name, p in theta.items()}
        for name, gradient in value_and_gradient(squared_error, adapted, query)[1].items():
            expected[name] += gradient / 3
    assert relative_error(meta_gradient(theta, waves, 0.0, steps=1), expected) < 1e-5
