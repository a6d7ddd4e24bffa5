"""Dynamic evaluation of a language model with learned rates and decay, on text that switches topic.

    python -m recipes.dynamic_lm                     # six minutes on one core

A model reads texts one after the other, each first predicted and then learned in one step of SGD, and what was learned
decays (dynamic evaluation, Krause et al., ICML 2018; theta is the model before the stream):

    phi <- theta + (1 - rate_p decay_p) (phi - theta) - rate_p grad L(phi; text)      for each tensor p

Rates and decays of the tensors are learned by the loss of the text that follows some steps, on streams of topics that
the model was not trained on and is not measured on; the single rate to compare with is the best of seven on the same.
Dynamical language models learn a network that makes the update; numbers of the update are learned here instead.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from maml_en_llm.bilevel import SGD, AdamW, Groups, meta_gradient, update_all_, value_and_gradient
from maml_en_llm.evaluation.stream.documents import Document
from maml_en_llm.evaluation.stream.reader import as_batch, whole_texts
from maml_en_llm.models import TrainableModel, load_model, load_tokenizer
from maml_en_llm.starter.tasks import TASKS
from maml_en_llm.tasks.seeds import random_generator

Tensors = dict[str, Tensor]
Options = Mapping[str, Mapping[str, Tensor]]
RATES = (0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3)
DECAY = 0.03  # with what the learned ones begin
LENGTH = 8  # texts of a topic before it switches
TOPICS = 20  # of a stream that is measured


class Moved:
    """The loss as a function of by how much the parameters have moved; embeddings stay."""

    def __init__(self, model: Any) -> None:
        self.loss = model.loss
        self.start = {name: p.detach().clone() for name, p in model.parameters.items() if "embed" not in name}

    def __call__(self, moved: Mapping[str, Tensor], batch: Any) -> Tensor:
        loss: Tensor = self.loss({name: p + moved[name] for name, p in self.start.items()}, batch)
        return loss

    def nowhere(self) -> Tensors:
        return {name: torch.zeros_like(p) for name, p in self.start.items()}


def texts(tasks: Sequence[Any], tokenizer: Any, generator: np.random.Generator) -> Iterator[Any]:
    """Texts without end, a batch each: four solved examples of a task, which switches after LENGTH texts."""
    while True:
        task = tasks[int(generator.integers(len(tasks)))]
        for _ in range(LENGTH):
            four = "\n\n\n".join(f"{e.input}\n{e.output}" for e in (task.draw(generator) for _ in range(4)))
            yield as_batch(whole_texts([Document(four)], tokenizer, 1024, None), torch.device("cpu"))


def read(loss: Any, start: Tensors, stream: Sequence[Any], options: Options) -> list[float]:
    """The loss of each text before the step on it; options: `lr` and `weight_decay` of each tensor."""
    moved = {name: p.clone() for name, p in start.items()}
    step = Groups({name: SGD(**{key: float(x) for key, x in numbers.items()}) for name, numbers in options.items()})
    moments, losses = step.init(moved), []
    for batch in stream:
        value, gradients = value_and_gradient(loss, moved, batch)
        update_all_(step, moved, gradients, moments)
        losses.append(float(value))
    return losses


def constant(names: Mapping[str, Any], rate: float) -> Options:
    return {name: {"lr": torch.tensor(rate), "weight_decay": torch.tensor(0.0)} for name in names}


def learned(loss: Any, start: Tensors, stream: Iterator[Any], rate: float, updates: int, seed: int) -> Options:
    """Their logarithms learn, by AdamW, from windows of a stream: 1 to 4 LENGTH steps, and the text behind them."""
    begin = {"lr": rate, "weight_decay": DECAY}
    logs = {f"{name} {key}": torch.tensor(x).log() for name in start for key, x in begin.items()}
    generator, moments = random_generator("dynamic", seed), AdamW().init(logs)
    for update in range(updates):
        options = {name: {key: logs[f"{name} {key}"].exp() for key in begin} for name in start}
        *window, behind = itertools.islice(stream, int(generator.integers(1, 4 * LENGTH + 1)) + 1)
        how: dict[str, Any] = {"rates": options, "curvature": "difference", "trajectory": "replay"}
        found = meta_gradient(loss, start, [window], [[behind]], SGD(), **how).rates
        assert found is not None
        by_logs = {f"{n} {key}": g * options[n][key] for n, of in found.items() for key, g in of.items()}
        update_all_(AdamW(lr=0.05 * (1 - update / updates)), logs, by_logs, moments)
    return {name: {key: logs[f"{name} {key}"].exp() for key in begin} for name in start}


def language_model(tasks: Sequence[Any], updates: int, seed: int) -> TrainableModel:
    """The starter model after ordinary training on texts of `tasks`, eight an update."""
    model = TrainableModel(load_model("starter"), load_tokenizer("starter"))
    moved, generator = Moved(model), random_generator("texts", seed)
    streams = [texts(tasks, model.tokenizer, generator) for _ in range(8)]
    parameters, optimizer = moved.nowhere(), AdamW(lr=1e-3)
    moments = optimizer.init(parameters)
    for _ in range(updates):
        found = [value_and_gradient(moved, parameters, next(stream))[1] for stream in streams]
        mean = {name: torch.stack([g[name] for g in found]).mean(dim=0) for name in parameters}
        update_all_(optimizer, parameters, mean, moments)
    with torch.no_grad():
        for name, p in parameters.items():
            model.parameters[name].add_(p)
    return model


def measured(seed: int) -> dict[str, float]:
    """By row the mean loss of a stream, in nats a token."""
    order = random_generator("topics", seed).permutation(len(TASKS))
    parts = [[TASKS[i] for i in part] for part in np.split(order, [130, 180])]  # to train, to choose, to measure
    model = language_model(parts[0], 150, seed)
    loss = Moved(model)
    nowhere = loss.nowhere()
    chosen_on, learned_on, measured_on = (
        texts(part, model.tokenizer, random_generator("stream", seed, number))
        for number, part in enumerate((parts[1], parts[1], parts[2]))
    )
    few = list(itertools.islice(chosen_on, LENGTH * TOPICS // 2))
    rate = min(RATES, key=lambda r: statistics.mean(read(loss, nowhere, few, constant(nowhere, r))))
    options = {
        "static": constant(nowhere, 0.0),
        "dynamic": constant(nowhere, rate),
        "learned": learned(loss, nowhere, learned_on, rate, 40, seed),
    }
    many = list(itertools.islice(measured_on, LENGTH * TOPICS))
    found = {row: statistics.mean(read(loss, nowhere, many, of)) for row, of in options.items()}
    print(f"seed {seed}: rate {rate:g}; " + ", ".join(f"{row} {mean:.3f}" for row, mean in found.items()))
    return found


def main() -> None:
    torch.set_num_threads(1)
    summary([measured(seed) for seed in (100, 13, 21)])


def summary(runs: Sequence[Mapping[str, float]]) -> None:
    """Means over seeds, and differences between rows with t-intervals."""
    for row in runs[0]:
        means = [run[row] for run in runs]
        print(f"{row}: {statistics.mean(means):.3f}, standard deviation over seeds {statistics.stdev(means):.3f}")
    for row, other in (("dynamic", "static"), ("learned", "static"), ("learned", "dynamic")):
        differences = [run[row] - run[other] for run in runs]
        mean, error = statistics.mean(differences), stats.sem(differences)
        low, high = stats.t.interval(0.95, len(runs) - 1, mean, error)
        print(f"{row} less {other}: {mean:+.3f} ({low:+.3f} to {high:+.3f})")


if __name__ == "__main__":
    main()
