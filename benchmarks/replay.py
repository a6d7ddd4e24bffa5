"""What exact gradients through many optimizer steps cost with `trajectory="replay"`, next to taking the steps alone.

    python benchmarks/replay.py --steps 50 200          # two minutes on one core

A GPT-2 of 2 blocks and AdamW with shared moments. `states` are sets of parameters and moments that are alive at once;
`time` is in units of the same steps without derivatives.
"""

from __future__ import annotations

import argparse
import math
import sys
import weakref
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import make_model, seconds, table
from maml_en_llm.bilevel import AdamW, Moments, meta_gradient, update_all_, value_and_gradient
from maml_en_llm.bilevel.exploration import LEAF
from maml_en_llm.models import PromptLoss
from maml_en_llm.prompts.batches import Batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = make_model(layers=2, width=arguments.width)
    loss, step = PromptLoss(model), AdamW(lr=1e-4)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)

    def batch() -> Batch:
        ids = torch.randint(1000, (2, arguments.tokens), generator=generator)
        return Batch(ids, torch.arange(arguments.tokens).expand_as(ids) >= arguments.tokens - 8)

    alive: list[weakref.ref[Moments]] = []
    most, original = 0, Moments.__init__

    def counted(self: Moments, *given: Any, **named: Any) -> None:
        nonlocal most
        original(self, *given, **named)
        alive[:] = [*(reference for reference in alive if reference() is not None), weakref.ref(self)]
        most = max(most, len(alive))

    Moments.__init__ = counted  # type: ignore[method-assign]
    lines = []
    for steps in arguments.steps:
        support = [batch() for _ in range(steps)]
        state = step.init(parameters)
        _, gradients = value_and_gradient(loss, parameters, batch())
        update_all_(step, {name: p.clone() for name, p in parameters.items()}, gradients, state)

        def train(support: list[Batch] = support, state: Moments = state) -> None:
            moved, moments = {name: p.clone() for name, p in parameters.items()}, state.clone()
            for some in support:
                update_all_(step, moved, value_and_gradient(loss, moved, some)[1], moments)

        plain = seconds(train)
        for curvature in ("difference", "central", "exact"):
            most, job = 0, ([support], [[batch()]], step, state, "second", curvature)
            took = seconds(lambda job=job: meta_gradient(loss, parameters, *job, trajectory="replay"))  # type: ignore[misc]
            bound = f"{math.floor(math.log2(steps)) + LEAF}"
            lines.append([str(steps), curvature, f"{took / plain:.1f}", str(most), bound, f"{plain:.1f}"])
    print(table(["steps", "curvature", "time", "states", "log2 T + leaf", "s of the steps"], lines))


if __name__ == "__main__":
    main()
