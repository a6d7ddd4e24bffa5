"""What `train --plan` says beside what is then measured: peak memory and time, each in a process of its own.

    python benchmarks/plan.py --collection DIR --setting NAME --model DIR [DIR ...] [--batches N]

Prints a Markdown table, one row for each model and kind of training. The measured time is that of the updates.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

KINDS: dict[str, dict[str, object]] = {
    "MetaICL": {"method": "metaicl"},
    "MetaICL, LoRA": {"method": "metaicl", "trainable": "lora"},
    "MAML-2-1, exact": {"method": "maml-en-llm", "curvature": "exact"},
    "MAML-2-1, difference": {"method": "maml-en-llm", "curvature": "difference"},
    "MAML-4-1, exact": {"method": "maml-en-llm", "curvature": "exact", "inner_steps": 2},
    "MAML-4-1, difference, recomputed": {
        "method": "maml-en-llm",
        "curvature": "difference",
        "inner_steps": 2,
        "trajectory": "recompute",
    },
    "MAML-2-1, difference, LoRA": {"method": "maml-en-llm", "curvature": "difference", "trainable": "lora"},
}
PLAN = """
import json, sys
from pathlib import Path
from maml_en_llm.config import TrainConfig
from maml_en_llm.training.plan import plan
words = json.loads(sys.argv[1])
found = plan(TrainConfig(**words | {"collection": Path(words["collection"]), "output": Path(words["output"])}))
print(json.dumps([found.memory, found.seconds]))
"""
RUN = """
import json, resource, sys
from pathlib import Path
from maml_en_llm.config import TrainConfig
from maml_en_llm.training.checkpoint import read_metrics
from maml_en_llm.training.loop import train
words = json.loads(sys.argv[1])
output = Path(words["output"])
train(TrainConfig(**words | {"collection": Path(words["collection"]), "output": output}))
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps([peak, read_metrics(output)[-1]["seconds"]]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", required=True)
    parser.add_argument("--setting", required=True)
    parser.add_argument("--model", required=True, nargs="+")
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    arguments = parser.parse_args()

    print("| model | training | memory, plan | measured | off by | time, plan | measured | off by |")
    print("|---|---|---|---|---|---|---|---|")
    for model in arguments.model:
        for kind in arguments.kinds:
            with tempfile.TemporaryDirectory() as folder:
                words = {
                    "collection": arguments.collection,
                    "setting": arguments.setting,
                    "model": model,
                    "output": f"{folder}/run",
                    "batches": arguments.batches,
                    "max_tokens": arguments.max_tokens,
                    "device": "cpu",
                    **KINDS[kind],
                }
                (memory, seconds), (peak, taken) = answer(PLAN, words), answer(RUN, words)
            off = f"{memory / peak - 1:+.0%}", f"{seconds / taken - 1:+.0%}"
            memories = f"{memory / 2**20:,.0f} MiB | {peak / 2**20:,.0f} MiB | {off[0]}"
            print(
                f"| {Path(model).name} | {kind} | {memories} | {seconds:.1f} s | {taken:.1f} s | {off[1]} |", flush=True
            )


def answer(program: str, words: dict[str, object]) -> list[float]:
    command = [sys.executable, "-c", program, json.dumps(words)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: list[float] = json.loads(printed.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
