"""Time and memory of meta-updates against MetaICL's updates on the same number of batches.

    python benchmarks/meta_gradient.py                     # the cases that the targets need
    python benchmarks/meta_gradient.py --cases '*'         # every case
    python benchmarks/meta_gradient.py --torchopt DIR      # also TorchOpt, in a virtual environment made in DIR

The baseline is MetaICL on two batches: two gradients, each clipped and followed by an AdamW step.  Every case runs in
processes of its own.  One interleaves its updates with the baseline's and takes medians, so that both meet the same
machine; another runs two updates and reports its peak resident memory.  Ratios are per the same number of batches.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import json
import resource
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import GPT2Config, GPT2LMHeadModel

from maml_en_llm.bilevel import SGD, AdamW, clip_by_global_norm_, meta_gradient, update_all_, value_and_gradient
from maml_en_llm.bilevel.meta_gradient import Workspace
from maml_en_llm.bilevel.steps import Tensors
from maml_en_llm.models import PromptLoss, keep_freed_memory, trainable_parameters
from maml_en_llm.prompts.batches import Batch

TORCHOPT = ["torchopt", "optree", "graphviz"]
OUTER, CLIP = AdamW(lr=1e-5), 1.0
Update = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """way: MetaICL, a curvature of meta_gradient, `unrolled` (autograd through the update) or `torchopt`."""

    way: str
    optimizer: str = "adamw"
    k: int = 1
    n: int = 1
    trajectory: str = "keep"
    trained: str = "full"

    @property
    def name(self) -> str:
        if self.way == "metaicl":
            return f"metaicl {self.trained}"
        return f"{self.way} {self.optimizer} k={self.k} n={self.n} {self.trajectory} {self.trained}"

    @property
    def batches(self) -> int:
        return 2 * self.k * self.n


OURS = [
    Case(way, optimizer, k, n, trajectory, trained)
    for trained, way, optimizer, trajectory, k, n in itertools.product(
        ("full", "lora"),
        ("exact", "difference", "central"),
        ("sgd", "adamw"),
        ("keep", "recompute"),
        (1, 2, 4),
        (1, 4, 8),
    )
    if trajectory == "keep" or (k > 1 and optimizer == "adamw")  # plain SGD cannot be undone
]
CASES = {case.name: case for case in [*OURS, Case("unrolled", "sgd"), Case("unrolled"), Case("torchopt")]}
TIMED = [Case("exact").name, Case("difference").name, Case("unrolled").name]
MEMORY_ONLY = [Case("difference", n=8).name, Case("difference", k=4, trajectory="recompute").name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", help="patterns of names, such as 'exact * k=2 n=1 keep full'")
    parser.add_argument("--memory-only", nargs="*", default=[], help="patterns of names whose time is not measured")
    parser.add_argument("--torchopt", type=Path, metavar="DIR", help="environment for TorchOpt; made if missing")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--give-memory-back", action="store_true", help="let freed memory go; training keeps it")
    for name, default in (("layers", 6), ("width", 512), ("vocabulary", 50257), ("tokens", 512), ("answer", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "NAME"), help=argparse.SUPPRESS)  # in a child
    arguments = parser.parse_args()
    if arguments.measure:
        what, name = arguments.measure
        case = Case("metaicl", trained=name.split()[-1]) if name.startswith("metaicl") else CASES[name]
        print(json.dumps({"time": measure_time, "memory": measure_memory}[what](case, arguments)))
        return

    patterns, memory_only = arguments.cases or TIMED + MEMORY_ONLY, arguments.memory_only
    if not arguments.cases:
        memory_only = memory_only + MEMORY_ONLY
    chosen = [name for name in CASES if any(fnmatch(name, pattern) for pattern in patterns)]
    interpreter = torchopt_interpreter(arguments.torchopt) if arguments.torchopt else None
    chosen = [name for name in chosen if not name.startswith("torchopt")]
    if interpreter:
        chosen.append(Case("torchopt").name)
    if importlib.util.find_spec("peft") is None and any(name.endswith("lora") for name in chosen):
        print("peft is not installed: the cases with LoRA are left out")
        chosen = [name for name in chosen if not name.endswith("lora")]

    baselines: dict[str, int] = {}
    rows: dict[str, dict[str, float]] = {}
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| case | CPU s | ratio | wall s | ratio | peak memory, GB | ratio |\n|---|---|---|---|---|---|---|")
    for name in chosen:
        trained = name.split()[-1]
        if trained not in baselines:
            baselines[trained] = child("memory", f"metaicl {trained}")["peak"]
            print(f"| metaicl {trained}, two batches | | 1 | | 1 | {baselines[trained] / 1e9:.2f} | 1 |", flush=True)
        python = interpreter if name.startswith("torchopt") and interpreter else sys.executable
        peak = child("memory", name, python)["peak"]
        row = rows[name] = {"memory": peak / baselines[trained]}
        cells: list[str] = []
        if not any(fnmatch(name, pattern) for pattern in memory_only):
            timing = child("time", name, python)
            for clock in ("cpu", "wall"):
                seconds, baseline = timing[clock]
                row[clock] = seconds / (baseline * CASES[name].batches / 2)
                cells += [f"{seconds:.2f}", f"{row[clock]:.2f}"]
        print(f"| {name} | {' | '.join(cells or [''] * 4)} | {peak / 1e9:.2f} | {row['memory']:.2f} |", flush=True)
    print_targets(rows)


def print_targets(rows: dict[str, dict[str, float]]) -> None:
    one, many, long = (
        rows.get(case.name, {})
        for case in (Case("difference"), Case("difference", n=8), Case("difference", k=4, trajectory="recompute"))
    )
    torchopt = rows.get(Case("torchopt").name, {})

    def ratio(a: dict[str, float], b: dict[str, float], of: str) -> float | None:
        return a[of] / b[of] if of in a and of in b else None

    print("\n| target (`difference`, AdamW with shared moments) | limit | measured | reached |\n|---|---|---|---|")
    for text, limit, found in (
        ("CPU time, MAML-2-1 against MetaICL", "<= 1.5", one.get("cpu")),
        ("peak memory, MAML-2-1 against MetaICL", "<= 1.6", one.get("memory")),
        ("CPU time, TorchOpt against MAML-2-1", ">= 1.8", ratio(torchopt, one, "cpu")),
        ("peak memory, TorchOpt against MAML-2-1", ">= 2.2", ratio(torchopt, one, "memory")),
        ("peak memory, n = 8 against n = 1", "<= 1.05", ratio(many, one, "memory")),
        ("peak memory, k = 4 with recomputation against k = 1", "<= 1.2", ratio(long, one, "memory")),
    ):
        if found is not None:
            relation, bound = limit.split()
            reached = found <= float(bound) if relation == "<=" else found >= float(bound)
            print(f"| {text} | {limit} | {found:.2f} | {'yes' if reached else 'no'} |")


def child(what: str, name: str, python: str = sys.executable) -> Any:
    """What a process of its own measures for one case; it gets this process's flags."""
    words = [python, __file__, *sys.argv[1:], "--measure", what, name]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_memory(case: Case, arguments: argparse.Namespace) -> dict[str, int]:
    update = make_update(case, arguments)
    for _ in range(2):
        update()
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def measure_time(case: Case, arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Median seconds of (the case, the baseline) by either clock."""
    updates = make_update(case, arguments), make_update(Case("metaicl", trained=case.trained), arguments)
    clocks = {"cpu": time.process_time, "wall": time.perf_counter}
    seconds: dict[str, tuple[list[float], list[float]]] = {clock: ([], []) for clock in clocks}
    for repetition in range(arguments.repetitions + 1):
        for which, update in enumerate(updates):
            gc.collect()
            before = {clock: read() for clock, read in clocks.items()}
            update()
            if repetition:  # the first one warms up
                for clock, read in clocks.items():
                    seconds[clock][which].append(read() - before[clock])
    return {clock: (statistics.median(ours), statistics.median(base)) for clock, (ours, base) in seconds.items()}


def make_update(case: Case, arguments: argparse.Namespace) -> Update:
    """One update of a model of the case's own, on `case.batches` batches."""
    if not arguments.give_memory_back:
        keep_freed_memory()  # as training does
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=arguments.vocabulary,
        n_positions=arguments.tokens,
        n_embd=arguments.width,
        n_layer=arguments.layers,
        n_head=max(1, arguments.width // 64),
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model: Any = GPT2LMHeadModel(config).eval()
    if case.trained == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=8, target_modules=["c_attn"], fan_in_fan_out=True)).eval()
    loss, parameters = PromptLoss(model), {n: p.detach() for n, p in trainable_parameters(model).items()}
    answer_mask = torch.zeros(1, arguments.tokens, dtype=torch.bool)
    answer_mask[:, -arguments.answer :] = True
    batches = [
        Batch(torch.randint(arguments.vocabulary, (1, arguments.tokens)), answer_mask) for _ in range(case.batches)
    ]
    make = {"metaicl": metaicl, "unrolled": unrolled, "torchopt": torchopt_update}.get(case.way, ours)
    return make(case, loss, parameters, batches)


def metaicl(case: Case, loss: PromptLoss, parameters: Tensors, batches: Sequence[Batch]) -> Update:
    moments = OUTER.init(parameters)

    def update() -> None:
        for batch in batches:
            _, gradients = value_and_gradient(loss, parameters, batch)
            clip_by_global_norm_(gradients, CLIP)
            update_all_(OUTER, parameters, gradients, moments)

    return update


def ours(case: Case, loss: PromptLoss, parameters: Tensors, batches: Sequence[Batch]) -> Update:
    moments, k = OUTER.init(parameters), case.k
    copies = [batches[i : i + 2 * k] for i in range(0, len(batches), 2 * k)]
    workspace: Workspace = {}
    inner = OUTER if case.optimizer == "adamw" else SGD(lr=1e-5)

    def update() -> None:
        result = meta_gradient(
            loss,
            parameters,
            [copy[:k] for copy in copies],
            [copy[k:] for copy in copies],
            inner,
            moments if case.optimizer == "adamw" else None,
            curvature=case.way,  # type: ignore[arg-type]
            trajectory=case.trajectory,  # type: ignore[arg-type]
            donate_state=True,
            workspace=workspace,
        )
        clip_by_global_norm_(result.gradients, CLIP)
        update_all_(OUTER, parameters, result.gradients, moments)

    return update


def unrolled(case: Case, loss: PromptLoss, parameters: Tensors, batches: Sequence[Batch]) -> Update:
    """MAML-2-1 by autograd through the update; eager attention, as fused kernels have no second derivative."""
    moments = OUTER.init(parameters)
    (b1, b2), support, query = OUTER.betas, batches[0], batches[1]

    def inner_step(p: Tensor, g: Tensor, name: str) -> Tensor:
        if case.optimizer == "sgd":
            return p - 1e-5 * g
        assert moments.second is not None
        m, v, t = b1 * moments.first[name] + (1 - b1) * g, b2 * moments.second[name] + (1 - b2) * g**2, moments.step
        moments.first[name], moments.second[name] = m.detach(), v.detach()
        root = (v / (1 - b2**t) + 1e-16).sqrt()  # inside the root too: its derivative at 0 is infinite
        return p - OUTER.lr * (m / (1 - b1**t)) / (root + OUTER.eps)

    def meta_gradients() -> Tensors:
        theta = {name: p.requires_grad_() for name, p in parameters.items()}
        gradients = torch.autograd.grad(loss(theta, support), list(theta.values()), create_graph=True)
        phi = {n: inner_step(p, g, n) for (n, p), g in zip(theta.items(), gradients, strict=True)}
        return dict(zip(theta, torch.autograd.grad(loss(phi, query), list(theta.values())), strict=True))

    def update() -> None:
        with sdpa_kernel(SDPBackend.MATH):
            moments.step += case.optimizer == "adamw"
            gradients = meta_gradients()
        for p in parameters.values():
            p.requires_grad_(False)
        clip_by_global_norm_(gradients, CLIP)
        update_all_(OUTER, parameters, gradients, moments)

    return update


def torchopt_update(case: Case, loss: PromptLoss, parameters: Tensors, batches: Sequence[Batch]) -> Update:
    """The same with TorchOpt's differentiable AdamW, whose state inner and outer steps share."""
    import torchopt

    optimizer = torchopt.adamw(lr=OUTER.lr, betas=OUTER.betas, eps=OUTER.eps, weight_decay=0.0, eps_root=1e-16)
    theta = {name: p.requires_grad_() for name, p in parameters.items()}
    state = optimizer.init(theta)
    support, query = batches

    def step(gradients: Sequence[Tensor], state: Any, inplace: bool) -> tuple[Any, Any]:
        by_name = dict(zip(theta, gradients, strict=True))
        changes, state = optimizer.update(by_name, state, params=theta, inplace=inplace)
        return torchopt.apply_updates(theta, changes, inplace=inplace), state

    def meta_gradients() -> tuple[Tensors, Any]:
        gradients = torch.autograd.grad(loss(theta, support), list(theta.values()), create_graph=True)
        phi, after = step(gradients, state, inplace=False)
        meta = torch.autograd.grad(loss(phi, query), list(theta.values()))
        return dict(zip(theta, meta, strict=True)), after

    def update() -> None:
        nonlocal state
        with sdpa_kernel(SDPBackend.MATH):
            gradients, after = meta_gradients()
        torchopt.stop_gradient(after)
        clip_by_global_norm_(gradients, CLIP)
        with torch.no_grad():
            _, state = step(list(gradients.values()), after, inplace=True)

    return update


def torchopt_interpreter(folder: Path) -> str | None:
    """The interpreter of a virtual environment with TorchOpt, which sees this one's packages; None if that fails."""
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            # torch is here already; --no-deps keeps pip from fetching it again
            subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *TORCHOPT], check=True)
            own = next(folder.glob("lib/python*/site-packages"))
            (own / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([python, "-c", "import torchopt"], check=True)
    except (subprocess.CalledProcessError, StopIteration) as error:
        print(f"TorchOpt cannot be used and is left out: {error}")
        return None
    return str(python)


if __name__ == "__main__":
    main()
