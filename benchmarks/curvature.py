"""How close finite-difference curvature is to exact curvature, on a trained model and real prompts.

    python benchmarks/curvature.py --model DIR --collection DIR --setting NAME

For each precision and step size: the relative error and the cosine of the whole meta-gradient (MAML-2-1, AdamW with
shared moments) against `exact` in float32, median and worst over pairs of batches; the same of `exact` and of the
first-order gradient in that precision, which the error can be held against.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from maml_en_llm.bilevel import AdamW, Moments, curvature, meta_gradient, update_all_, value_and_gradient
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
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
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
    for number in range(arguments.warm_up):
        _, gradients = value_and_gradient(PromptLoss(model), parameters, sampler.batch(number))
        update_all_(step, parameters, gradients, moments)

    pairs = [(sampler.batch(1000 + 2 * i), sampler.batch(1001 + 2 * i)) for i in range(arguments.pairs)]
    plain = PromptLoss(model)
    exact = [gradient(plain, parameters, pair, step, moments, "exact") for pair in pairs]
    for precision in (getattr(torch, name) for name in arguments.precisions):
        loss = PromptLoss(model, autocast=None if precision == torch.float32 else precision)
        print(f"\n{precision}, {len(pairs)} pairs")
        print(f"{'':12}{'step':>8}{'error, median':>16}{'worst':>12}{'cosine, worst':>16}")

        def show(kind: str, size: float | None = None, order: str = "second", loss: PromptLoss = loss) -> None:
            found = [gradient(loss, parameters, pair, step, moments, kind, order) for pair in pairs]
            errors = [relative_error(f, e) for f, e in zip(found, exact, strict=True)]
            worst = min(cosine(f, e) for f, e in zip(found, exact, strict=True))
            first = f"{kind if order == 'second' else 'first order':12}{'' if size is None else f'{size:.0e}':>8}"
            print(f"{first}{statistics.median(errors):16.2e}{max(errors):12.2e}{worst:16.6f}", flush=True)

        show("exact")
        show("exact", order="first")
        for kind in arguments.kinds:
            for size in arguments.steps:
                curvature.RELATIVE_STEP[precision] = size
                show(kind, size)


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
