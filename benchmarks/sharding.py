"""Memory of a meta-update with `--shard`, for each of two processes against one, on a CPU.

    python benchmarks/sharding.py [--bfloat16]

The peak of two updates of MAML-2-1 with difference curvature, less what the process holds before it makes the model.
All give freed memory back at once, so that what counts is what is held and not how memory was cut up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from maml_en_llm.methods.maml_en_llm import MAMLenLLM
from maml_en_llm.models import ShardedModel, TrainableModel, give_back_freed_memory, join
from maml_en_llm.prompts.batches import Batch
from maml_en_llm.training.record import forget_peak, peak_memory

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 4096,
    "n_positions": 128,
    "n_embd": 512,
    "n_layer": 10,
    "n_head": 8,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


class Batches:
    def batch(self, number: int) -> Batch:
        ids = torch.randint(4096, (2, 64), generator=torch.Generator().manual_seed(number))
        return Batch(ids, torch.arange(64).expand(2, 64) >= 60)


def measure(words: list[str]) -> dict[str, float]:
    """Of this process: bytes above the start, the parameters' bytes, and what the parameters came to."""
    torch.set_num_threads(1)
    processes = join(CPU)
    give_back_freed_memory()
    forget_peak(CPU)
    start = peak_memory(CPU)
    torch.manual_seed(0)
    network: Any = GPT2LMHeadModel(GPT2Config(**SIZES, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).eval()
    several, half = processes.count > 1, torch.bfloat16 if "--bfloat16" in words else None
    model: TrainableModel = (
        ShardedModel(network, None, half, processes, CPU, "") if several else TrainableModel(network, None, half)
    )
    where: dict[str, Any] = {"collection": Path("nowhere"), "setting": "", "model": "m", "output": Path("nowhere")}
    keys: dict[str, Any] = {"batches": 8, "adam_eps": 1e-3, "lr": 1e-3, "precision": "bfloat16" if half else "float32"}
    config = MAMLenLLM(**where, **keys)
    learner = config.learner(model, Batches())
    for update in range(2):
        learner.update(learner.batches(update), 1.0, measure=False)
    peak = peak_memory(CPU) - start
    total = torch.stack([p.double().square().sum() for p in model.parameters.values()]).sum()
    if several:
        processes.sum_(total)
    return {"peak": peak, "parameters": 4 * model.size, "norm": float(total.sqrt()), "rank": processes.rank}


def child(count: int) -> list[dict[str, float]]:
    """What each of `count` processes measures."""
    launcher = [] if count == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, *launcher, __file__, "measure", *sys.argv[1:]]
    done = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def main() -> None:
    (one,), several = child(1), child(2)
    size = one["parameters"]
    print(
        f"{size / 2**20:.0f} MiB of parameters; one process: {one['peak'] / 2**20:.0f} MiB, {one['peak'] / size:.1f} x"
    )
    for found in several:
        ratio, apart = found["peak"] / one["peak"], abs(found["norm"] / one["norm"] - 1)
        print(f"process {found['rank']:.0f} of 2: {found['peak'] / 2**20:.0f} MiB, {ratio:.2f} of one")
        print(f"  relative distance of the parameters' norms: {apart:.0e}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(sys.argv[2:])) + "\n", end="", flush=True)  # one write: lines of processes stay apart
    else:
        main()
