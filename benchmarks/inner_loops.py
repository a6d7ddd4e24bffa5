"""Methods with inner loops on sine waves (Finn et al., ICML 2017, section 5.1), all by their files in methods/.

    python benchmarks/inner_loops.py --updates 1500          # six methods, K = 10 and 5: some minutes on one core

Every method sees the same waves: 5 new ones an update, K support and K query points of each. Printed is the mean
squared error on new waves after 0, 1 and 10 steps on K points, with twice the standard error. Published for MAML,
K = 10, after 70,000 updates of 25 waves: about 0.4 to 0.7 after one step, 0.15 to 0.3 after ten.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

sys.path.insert(0, str(Path(__file__).parent))
from common import table
from maml_en_llm.methods import method_from_keys
from maml_en_llm.models import TrainableModel

Tensors = dict[str, Tensor]
Wave = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
WAVES, RATE = 5, 0.01
OF_MAML = {"method": "maml-en-llm", "inner_optimizer": "sgd", "shared_moments": False, "curvature": "exact"}
METHODS: dict[str, dict[str, Any]] = {
    "MAML": OF_MAML,
    "FOMAML": {key: value for key, value in OF_MAML.items() if key != "curvature"} | {"order": "first"},
    "ANIL": {"method": "anil", "head": ["w3", "b3"], "curvature": "exact"},
    "Meta-SGD": {"method": "meta-sgd", "curvature": "exact"},
    "MAML++": {"method": "maml-plus-plus", "curvature": "exact", "inner_steps": 3},
    "Reptile": {"method": "reptile", "inner_steps": 5},  # a copy takes ten steps
}


class Waves:
    """Learners are given their batches here."""

    def batch(self, number: int) -> Any:
        raise NotImplementedError


class Net(TrainableModel):
    """A network 1-40-40-1 in place of a language model: what learners read of one."""

    device = torch.device("cpu")  # type: ignore[assignment]

    def __init__(self, generator: torch.Generator) -> None:
        self.parameters = {}
        for layer, (before, after) in enumerate(itertools.pairwise((1, 40, 40, 1)), start=1):
            for name, shape in ((f"w{layer}", (before, after)), (f"b{layer}", (after,))):
                self.parameters[name] = (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(before)

    @staticmethod
    def loss(p: Tensors, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        x = torch.relu(x @ p["w1"] + p["b1"])
        x = torch.relu(x @ p["w2"] + p["b2"])
        return ((x @ p["w3"] + p["b3"] - y) ** 2).mean()


def draw(generator: torch.Generator, points: int) -> Wave:
    """`points` support and 50 query points of a wave, of which training uses `points`."""
    amplitude, phase = torch.rand(2, generator=generator) * torch.tensor([4.9, math.pi]) + torch.tensor([0.1, 0.0])
    x = torch.rand(points + 50, 1, generator=generator) * 10 - 5
    y = amplitude * torch.sin(x - phase)
    return (x[:points], y[:points]), (x[points:], y[points:])


def train(name: str, updates: int, points: int, seed: int = 0, lr: float = 3e-3) -> Any:
    """The learner of method `name` after that many updates."""
    places = {"collection": "c", "setting": "s", "model": "m", "output": "o"}
    keys = {"inner_lr": RATE, "lr": lr, "gradient_clip": None, "copies": WAVES, "batches": 100 * WAVES}
    method = method_from_keys(places | keys | METHODS[name])
    generator = torch.Generator().manual_seed(seed)
    learner: Any = method.learner(Net(generator), Waves())
    k = method.inner_steps  # type: ignore[attr-defined]
    for update in range(updates):
        batches = []
        for support, (x, y) in (draw(generator, points) for _ in range(WAVES)):
            query = x[:points], y[:points]
            batches += [support, query] * k if name == "Reptile" else [support] * k + [query] * k
        learner.update(batches, 1 - update / updates, measure=False)
    return learner


def errors(learner: Any, points: int, steps: int, waves: int = 600, seed: int = 1) -> dict[int, Tensor]:
    """By number of steps 0, 1 and `steps` the query error of each new wave [waves]; steps as the method takes them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [draw(generator, points) for _ in range(waves)]
    support, query = (tuple(map(torch.stack, zip(*part, strict=True))) for part in zip(*drawn, strict=True))
    adapted = {name: p.expand(waves, *p.shape) for name, p in learner.parameters.items()}
    found = {}
    for step in range(steps + 1):
        if step in (0, 1, steps):
            found[step] = vmap(Net.loss)(adapted, query)
        gradients = vmap(grad(Net.loss))(adapted, support)
        adapted = {name: p - rate(learner, name, step) * gradients[name] for name, p in adapted.items()}
    return found


def rate(learner: Any, name: str, step: int) -> Any:
    """Of a tensor in a step: the learned one (later steps are as the last), 0 for what ANIL leaves alone, or RATE."""
    if (rates := getattr(learner, "rates", None)) is not None:
        return rates[name] if rates[name].dim() == 0 else rates[name][min(step, len(rates[name]) - 1)]
    inner = getattr(learner, "inner", None)
    return RATE if inner is None or inner.of(name) is not None else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--waves", type=int, default=600, help="new waves that are scored")
    parser.add_argument("--shots", type=int, nargs="+", default=[10, 5], help="K")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the network is tiny
    lines = []
    for points, name in itertools.product(arguments.shots, arguments.methods):
        started = time.perf_counter()
        learner = train(name, arguments.updates, points, arguments.seed)
        cost = 1000 * (time.perf_counter() - started) / arguments.updates
        found = errors(learner, points, 10, arguments.waves)
        cells = [f"{e.mean():.2f} ± {2 * e.std() / math.sqrt(len(e)):.2f}" for e in found.values()]
        lines.append([name, str(points), *cells, f"{cost:.1f}"])
        print(f"{name}, K = {points}: {', '.join(cells)}", file=sys.stderr, flush=True)
    print(table(["method", "K", "before", "1 step", "10 steps", "ms an update"], lines))


if __name__ == "__main__":
    main()
