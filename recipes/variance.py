"""Variance-reduced first-order meta-learning (Wang et al., NAACL 2021) on sine waves.

    python -m recipes.variance                       # half a minute on one core

Tasks that differ much pull their copies far apart. Here the gradient of a task in an inner step is corrected by how the
task's gradient at the start differs from the mean of all tasks of the batch:

    v_i(phi) = grad L_i(phi) - c_i,    c_i = strength * (grad L_i(theta) - mean over j of grad L_j(theta))

Corrections sum to zero, so the mean of the estimates is the mean of the plain gradients. Printed is how much the
first-order meta-gradient differs from batch to batch at the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from maml_en_llm.bilevel import value_and_gradient
from maml_en_llm.experiments.inner_loops import RATE, TEST, WAVES, Training, Wave, draw, errors, squared_error

Tensors = dict[str, Tensor]
STRENGTHS = (0.0, 0.5, 1.0)


def corrections(
    loss: Any, theta: Mapping[str, Tensor], supports: Sequence[Any], strength: float = 1.0
) -> list[Tensors]:
    """c_i of each task; they sum to zero."""
    gradients = [value_and_gradient(loss, theta, support)[1] for support in supports]
    mean = {name: torch.stack([g[name] for g in gradients]).mean(dim=0) for name in theta}
    return [{name: strength * (g[name] - mean[name]) for name in theta} for g in gradients]


def estimate(loss: Any, phi: Mapping[str, Tensor], support: Any, correction: Mapping[str, Tensor]) -> Tensors:
    """v_i(phi)."""
    return {name: g - correction[name] for name, g in value_and_gradient(loss, phi, support)[1].items()}


def meta_gradient(theta: Tensors, waves: Sequence[Wave], strength: float, steps: int = 5) -> Tensors:
    """The first-order meta-gradient of copies that take `steps` corrected steps."""
    total = {name: torch.zeros_like(p) for name, p in theta.items()}
    for (support, query), correction in zip(
        waves, corrections(squared_error, theta, [support for support, _ in waves], strength), strict=True
    ):
        phi = dict(theta)
        for _ in range(steps):
            phi = {n: phi[n] - RATE * v for n, v in estimate(squared_error, phi, support, correction).items()}
        for name, gradient in value_and_gradient(squared_error, phi, query)[1].items():
            total[name] += gradient / len(waves)
    return total


def variance(theta: Tensors, strength: float, batches: int = 50) -> float:
    """The sum over coordinates of the variance of the meta-gradient over batches of waves, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(batches):
        gradient = meta_gradient(theta, [draw(generator, 10) for _ in range(WAVES)], strength)
        found.append(torch.cat([part.flatten() for part in gradient.values()]))
    return float(torch.stack(found).var(dim=0).sum())


def main() -> None:
    torch.set_num_threads(1)
    training = Training("FOMAML", 10, 1e-2, 0)
    training.run(10_000)
    theta = training.learner.parameters
    print(f"error after one step {float(errors(training.learner, 10, 600, TEST)[1].mean()):.2f}")
    for strength in STRENGTHS:
        print(f"strength {strength:g}: variance {variance(theta, strength):.3g}")


if __name__ == "__main__":
    main()
