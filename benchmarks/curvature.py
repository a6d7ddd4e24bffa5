"""How close finite-difference curvature is to exact curvature, on a trained model and real prompts.

    python benchmarks/curvature.py --model DIR --collection DIR --setting NAME
    python benchmarks/curvature.py --model DIR --collection DIR --setting NAME --updates 100 --lr 1e-5

For each step size: the relative error and the cosine of the whole meta-gradient (MAML-2-1, AdamW with shared moments)
against `exact` in float32, median and worst over pairs of batches; the same of the first-order gradient, which the
error can be held against. With `--updates`, the same along the first updates of a run from zero moments whose loss
computes in bfloat16: of the engine's way, of differences of gradients in bfloat16, and of first order; and the share of
the second order in each.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Iterator
from copy import copy
from unittest import mock

import torch

from maml_en_llm.bilevel import (
    AdamW,
    Moments,
    clip_by_global_norm_,
    curvature,
    meta_gradient,
    update_all_,
    value_and_gradient,
)
from maml_en_llm.bilevel.steps import Tensors, global_norm
from maml_en_llm.models import PromptLoss, load_model, load_tokenizer, trainable_parameters
from maml_en_llm.prompts.batches import MixtureSampler
from maml_en_llm.prompts.layout import PromptFormat
from maml_en_llm.tasks.collection import load_collection

STEPS = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--collection", required=True)
    parser.add_argument("--setting", required=True)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=10, help="AdamW updates before measuring, to fill the moments")
    parser.add_argument("--updates", type=int, default=0, help="follow that many updates of a run in bfloat16")
    parser.add_argument("--kinds", nargs="+", default=["difference", "central"])
    parser.add_argument("--steps", nargs="+", type=float, default=STEPS)
    parser.add_argument("--max-tokens", type=int, default=1024, help="of a prompt; low precision is slow on most CPUs")
    arguments = parser.parse_args()

    collection = load_collection(arguments.collection)
    tasks = {name: collection[name].train for name in collection.setting(arguments.setting).train}
    tokenizer, model = load_tokenizer(arguments.model), load_model(arguments.model)
    sampler = MixtureSampler(tasks, PromptFormat(max_tokens=arguments.max_tokens), tokenizer, seed=1)
    parameters = {name: p.detach() for name, p in trainable_parameters(model).items()}
    step = AdamW(lr=arguments.lr)
    moments = step.init(parameters)
    if arguments.updates:
        follow(PromptLoss(model), PromptLoss(model, torch.bfloat16), parameters, sampler, step, arguments.updates)
        return
    for number in range(arguments.warm_up):
        _, gradients = value_and_gradient(PromptLoss(model), parameters, sampler.batch(number))
        update_all_(step, parameters, gradients, moments)

    pairs = [(sampler.batch(1000 + 2 * i), sampler.batch(1001 + 2 * i)) for i in range(arguments.pairs)]
    loss = PromptLoss(model)
    exact = [gradient(loss, parameters, pair, step, moments, "exact") for pair in pairs]
    print(f"{len(pairs)} pairs\n{'':12}{'step':>8}{'error, median':>16}{'worst':>12}{'cosine, worst':>16}")

    def show(kind: str, size: float | None = None, order: str = "second") -> None:
        found = [gradient(loss, parameters, pair, step, moments, kind, order) for pair in pairs]
        errors = [relative_error(f, e) for f, e in zip(found, exact, strict=True)]
        worst = min(cosine(f, e) for f, e in zip(found, exact, strict=True))
        first = f"{kind if order == 'second' else 'first order':12}{'' if size is None else f'{size:.0e}':>8}"
        print(f"{first}{statistics.median(errors):16.2e}{max(errors):12.2e}{worst:16.6f}", flush=True)

    show("exact", order="first")
    for kind in arguments.kinds:
        for size in arguments.steps:
            curvature.RELATIVE_STEP[torch.float32] = size
            show(kind, size)


def follow(
    precise: PromptLoss, coarse: PromptLoss, parameters: Tensors, sampler: MixtureSampler, step: AdamW, updates: int
) -> None:
    """Errors and shares along a run in bfloat16."""
    state, rows = step.init(parameters), []
    for number in range(updates):
        pair = sampler.batch(2 * number), sampler.batch(2 * number + 1)
        exact = gradient(precise, parameters, pair, step, state, "exact")
        first_32, first = (
            gradient(loss, parameters, pair, step, state, "exact", "first") for loss in (precise, coarse)
        )
        with differences_of_bfloat16():
            noisy = gradient(coarse, parameters, pair, step, state, "central")
        result = meta_gradient(coarse, parameters, [pair[:1]], [pair[1:]], step, state, curvature="difference")
        errors = [relative_error(found, exact) for found in (first, noisy, result.gradients)]
        shares = [relative_error(exact, first_32), *(relative_error(f, first) for f in (noisy, result.gradients))]
        rows.append([*errors, *shares, result.steep])
        clip_by_global_norm_(result.gradients, 1.0)
        assert result.state is not None
        state = result.state
        update_all_(step, parameters, result.gradients, state)
    print(f"lr {step.lr:g}; medians over updates: error against float32 exact; share of the second order; left out")
    print("| updates | first order | bfloat16 | engine | share, float32 | bfloat16 | engine | left out |")
    print("|---|---|---|---|---|---|---|---|")
    for start, end in ((0, 1), (1, updates // 10), (updates // 10, updates // 2), (updates // 2, updates)):
        medians = [statistics.median(column) for column in zip(*rows[start:end], strict=True)]
        print(f"| {start + 1}-{end} | {' | '.join(f'{m:.1e}' for m in medians)} |", flush=True)


@contextlib.contextmanager
def differences_of_bfloat16() -> Iterator[None]:
    """Within this context the engine takes differences of gradients in bfloat16, which it otherwise never does."""
    steps = {torch.float32: 3e-3}
    with (
        mock.patch("maml_en_llm.bilevel.exploration.in_full_precision", copy),
        mock.patch.dict(curvature.RELATIVE_STEP, steps),
    ):
        yield


def gradient(
    loss: PromptLoss, parameters: Tensors, pair: tuple, step: AdamW, moments: Moments, kind: str, order: str = "second"
) -> Tensors:
    support, query = pair
    found = meta_gradient(loss, parameters, [[support]], [[query]], step, moments, order, kind)  # type: ignore[arg-type]
    return found.gradients


def relative_error(found: Tensors, expected: Tensors) -> float:
    return float(global_norm({n: found[n] - expected[n] for n in expected}) / global_norm(expected))


def cosine(a: Tensors, b: Tensors) -> float:
    product = sum(float((a[n].double() * b[n].double()).sum()) for n in a)
    return product / (squared_norm(a) * squared_norm(b)) ** 0.5


def squared_norm(tensors: Tensors) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors.values())


if __name__ == "__main__":
    main()
