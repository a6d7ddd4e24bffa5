"""What training takes on a GPU, in one command of at most half an hour.

    python benchmarks/gpu.py --output DIR          # DIR/gpu.json and DIR/gpu.md; the same command goes on
    python benchmarks/gpu.py --output DIR --tiny   # every part in seconds, on a CPU too: is it in working order?
    python benchmarks/gpu.py --output DIR --parts throughput memory

Parts do not need each other. gpu.json is replaced whole after each; a part that failed is there with its error, the
rest is done by a process that knows nothing of it, and the next call tries it again. Models are GPT-2 Small and Medium
by shape, with random weights, since speed does not depend on what they have learned; prompts are 1,024 random tokens
with an answer of 8, one in a batch.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel

import curvature as curvature_benchmark
import meta_gradient as torchopt_benchmark
from common import table
from maml_en_llm.bilevel import AdamW, curvature, exploration, steps, value_and_gradient
from maml_en_llm.files import read_json, write_text
from maml_en_llm.methods import method as method_module
from maml_en_llm.methods import method_type
from maml_en_llm.models import (
    PromptLoss,
    TrainableModel,
    choose_trainable,
    keep_freed_memory,
    load_model,
    load_tokenizer,
    pick_device,
    recompute_activations,
    trainable_parameters,
)
from maml_en_llm.models.device import precision_of
from maml_en_llm.prediction.scoring import Scorer
from maml_en_llm.prompts.batches import Batch, MixtureSampler
from maml_en_llm.prompts.layout import EncodedPrompt, EncodedTarget, PromptFormat
from maml_en_llm.starter.tasks import TASKS, starter_examples
from maml_en_llm.training.record import code_version, forget_peak, hardware, peak_memory

PAPER_BATCHES = 50_000
PEAK_TFLOPS = {  # dense, of (bfloat16, float32 without TF32), by a part of the GPU's name
    "H200": (989.0, 67.0),
    "H100 PCIe": (756.0, 51.0),
    "H100": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "4090": (165.0, 82.6),
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "MetaICL": ("metaicl", {}),
    "MAML-2-1": ("maml-en-llm", {}),
    "MAML-2-4": ("maml-en-llm", {"copies": 4}),
    "FOMAML-2-1": ("maml-en-llm", {"order": "first"}),
    "MetaICL, float32": ("metaicl", {"precision": "float32"}),
    "MAML-2-1, float32": ("maml-en-llm", {"precision": "float32"}),
    "MAML-2-1, exact": ("maml-en-llm", {"curvature": "exact"}),
    "MetaICL, LoRA": ("metaicl", {"trainable": "lora"}),
    "MAML-2-1, LoRA": ("maml-en-llm", {"trainable": "lora"}),
}


@dataclass(frozen=True)
class Size:
    """A GPT-2 shape and the prompts that it is measured with."""

    layers: int
    width: int
    vocabulary: int = 50_257
    tokens: int = 1024
    answer: int = 8

    def model(self, device: torch.device) -> Any:
        torch.manual_seed(0)
        heads = max(1, self.width // 64)
        sizes = {"n_layer": self.layers, "n_embd": self.width, "n_head": heads, "n_positions": self.tokens}
        config = GPT2Config(vocab_size=self.vocabulary, bos_token_id=0, eos_token_id=0, **sizes)
        with device:
            return GPT2LMHeadModel(config).eval()

    def batch(self, number: int) -> Batch:
        """A sampler's batch."""
        return self.batch_of([self.tokens], number)

    def batch_of(self, lengths: list[int], number: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(number)
        return Batch.from_prompts(
            [
                EncodedPrompt(
                    torch.randint(self.vocabulary, (n,), generator=generator).tolist(),
                    [i >= n - self.answer for i in range(n)],
                )
                for n in lengths
            ]
        )

    @property
    def flops(self) -> float:
        """Of a gradient on one prompt: 6 for each weight of the blocks and token, attention, logits of the answer."""
        blocks = 12 * self.layers * self.width**2
        attention = 12 * self.layers * self.width * self.tokens**2
        return 6 * blocks * self.tokens + attention + 6 * self.width * self.vocabulary * self.answer


@dataclass(frozen=True)
class Setting:
    """What is measured, and where."""

    device: torch.device
    sizes: dict[str, Size]
    seconds: float  # for one figure
    tiny: bool

    @property
    def smallest(self) -> Size:
        return next(iter(self.sizes.values()))

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds_of(self, function: Callable[[], Any], warm_up: int = 2) -> float:
        """Seconds of a call, on average over as many as fit."""
        for _ in range(0 if self.tiny else warm_up):
            function()
        self.wait()
        started, calls = time.perf_counter(), 0
        while not calls or time.perf_counter() - started < self.seconds:
            for _ in range(1 if self.tiny else 4):
                function()
                calls += 1
            self.wait()
        return (time.perf_counter() - started) / calls

    def learner(self, size: Size, kind: str, network: Any = None, **changes: Any) -> Any:
        """The learner of a kind of training, on a model of its own."""
        name, keys = KINDS[kind]
        where = {"collection": Path(), "setting": "", "model": "", "output": Path(), "device": str(self.device)}
        config = method_type(name)(**where, **keys | changes)
        autocast = torch.bfloat16 if config.precision == "bfloat16" else None
        network = choose_trainable(network or size.model(self.device), config.trainable)
        start = "nowhere" if autocast and config.trainable == "lora" else None  # as training does
        return config.learner(TrainableModel(network, None, autocast, start=start), size)

    def updates_of(self, size: Size, kind: str, **changes: Any) -> tuple[Callable[[], Any], Any]:
        """A function that makes one update, and the learner."""
        learner, number = self.learner(size, kind, **changes), iter(range(10**9))

        def update() -> None:
            learner.update(learner.batches(next(number)), 1.0, measure=False)

        return update, learner


def ideal_seconds(setting: Setting, size: Size, config: Any) -> float | None:
    """What the gradients of one update would take at the GPU's peak; None where that is not known, and for LoRA."""
    peak = next((p for name, p in PEAK_TFLOPS.items() if name in hardware(setting.device)), None)
    if peak is None or config.trainable != "full":
        return None
    low = peak[0] if config.precision == "bfloat16" else peak[1]
    batches = config.batches_per_update
    in_low, in_float32 = float(batches), 0.0  # gradients
    if config.name == "maml-en-llm" and config.order == "second":
        # A product of the Hessian and a vector is one more gradient by a difference, two by a central one, and takes as
        # long as two if it is exact; all in float32, with exact curvature the support gradients too.
        in_float32 = {"difference": 1, "central": 2, "exact": 3}[config.chosen_curvature] * batches / 2
        in_low -= batches / 2 if config.chosen_curvature == "exact" else 0
    return (in_low / low + in_float32 / peak[1]) * size.flops / 1e12


def tried(about: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row; of what does not fit into memory one that says so, so that others are measured all the same.

    What `measure` makes is gone when it is done, and the next row finds the memory empty.
    """
    clean()
    try:
        return about | measure()
    except torch.OutOfMemoryError:
        return about | {"note": "out of memory"}


def throughput(setting: Setting) -> list[dict[str, Any]]:
    """Time, use of the GPU and memory of an update."""
    rows: list[dict[str, Any]] = []
    for name, size in setting.sizes.items():
        of_metaicl: dict[tuple[str, str], float] = {}
        for kind in KINDS:
            about = {"model": name, "training": kind}
            rows.append(tried(about, partial(speed_of_updates, setting, size, kind, of_metaicl)))
    return rows


def speed_of_updates(setting: Setting, size: Size, kind: str, of_metaicl: dict[Any, float]) -> dict[str, Any]:
    """of_metaicl: seconds a batch of MetaICL by precision and what is trained, which MetaICL fills in."""
    forget_peak(setting.device)
    update, learner = setting.updates_of(size, kind)
    config, seconds = learner.method, setting.seconds_of(update)
    a_batch = seconds / config.batches_per_update
    alike = config.precision, config.trainable
    if config.name == "metaicl":
        of_metaicl[alike] = a_batch
    base, ideal = of_metaicl.get(alike), ideal_seconds(setting, size, config)
    return {
        "precision": config.precision,
        "ms a batch": 1e3 * a_batch,
        "tokens a second": size.tokens / a_batch,
        "ratio to MetaICL": None if base is None else a_batch / base,
        "FLOPs utilization": None if ideal is None else ideal / seconds,
        "hours for 50,000 batches": a_batch * PAPER_BATCHES / 3600,
        "peak GiB": peak_memory(setting.device) / 2**30,
    }


def memory(setting: Setting) -> list[dict[str, Any]]:
    """Peak memory of two updates by copies and inner steps."""
    rows: list[dict[str, Any]] = []
    shapes = [(1, 1, "keep", False), (8, 1, "keep", False), (1, 4, "keep", False), (1, 4, "recompute", False)]
    for name, size in setting.sizes.items():
        for n, k, trajectory, recompute in [*shapes, (1, 1, "keep", True)]:
            about = {"model": name, "n": n, "k": k, "trajectory": trajectory}
            changes = {"copies": n, "inner_steps": k} | ({"trajectory": trajectory} if k > 1 else {})
            about |= {"activations": "recomputed" if recompute else ""}
            rows.append(tried(about, partial(peak_of_updates, setting, size, recompute, changes)))
    return rows


def peak_of_updates(setting: Setting, size: Size, recompute: bool, changes: dict[str, Any]) -> dict[str, Any]:
    forget_peak(setting.device)
    network = size.model(setting.device)
    if recompute:
        recompute_activations(network)
    update, _ = setting.updates_of(size, "MAML-2-1", network=network, **changes)
    for _ in range(1 if setting.tiny else 2):
        update()
    setting.wait()
    return {"peak GiB": peak_memory(setting.device) / 2**30}


def torchopt(setting: Setting) -> list[dict[str, Any]]:
    """MAML-2-1 in float32 by TorchOpt, by autograd through the update, and by this engine, on the same batches."""
    ways: dict[str, Any] = {"difference": torchopt_benchmark.ours, "exact": torchopt_benchmark.ours}
    ways |= {"unrolled": torchopt_benchmark.unrolled}
    if importlib.util.find_spec("torchopt") is not None:
        ways["torchopt"] = torchopt_benchmark.torchopt_update
    rows = [tried({"way": way}, partial(speed_of_way, setting, way, make)) for way, make in ways.items()]
    if "torchopt" not in ways:
        rows.append({"way": "torchopt", "note": "not installed"})
    return rows


def speed_of_way(setting: Setting, way: str, make: Callable[..., Any]) -> dict[str, Any]:
    forget_peak(setting.device)
    size = setting.smallest
    model = size.model(setting.device)
    parameters = {name: p.detach() for name, p in trainable_parameters(model).items()}
    update = make(torchopt_benchmark.Case(way), PromptLoss(model), parameters, [size.batch(n) for n in range(2)])
    seconds = setting.seconds_of(update)
    return {"ms an update": 1e3 * seconds, "peak GiB": peak_memory(setting.device) / 2**30}


def evaluation(setting: Setting) -> list[dict[str, Any]]:
    """Examples a second that are scored, of four options each, behind 16 demonstrations, by weights and by the tokens
    that share a pass (None: as many as by default)."""
    rows: list[dict[str, Any]] = []
    for name, size in setting.sizes.items():
        generator = torch.Generator().manual_seed(0)

        def ids(count: int, vocabulary: int = size.vocabulary, generator: Any = generator) -> list[int]:
            return torch.randint(vocabulary, (count,), generator=generator).tolist()

        shown, asked, examples = size.tokens * 3 // 4, size.tokens // 16, 8 if setting.tiny else 256
        prefix, targets = ids(shown), []
        for _ in range(examples):
            question = ids(asked)
            targets.append([EncodedTarget(question, ids(2)) for _ in range(4)])
        for precision in (torch.float32, torch.bfloat16):
            for tokens in (None, 1024, 4096):
                about = {"model": name, "weights": str(precision).removeprefix("torch."), "tokens": tokens or "default"}
                rows.append(tried(about, partial(speed_of_scores, setting, size, precision, tokens, prefix, targets)))
    return rows


def speed_of_scores(
    setting: Setting, size: Size, precision: torch.dtype, tokens: int | None, prefix: list[int], targets: list[Any]
) -> dict[str, Any]:
    scorer = Scorer(size.model(setting.device).to(precision), tokens)
    seconds = setting.seconds_of(partial(scorer.score, prefix, targets), warm_up=1)
    return {"packed": scorer.packing, "examples a second": len(targets) / seconds}


def errors(setting: Setting) -> list[dict[str, Any]]:
    """Relative error of meta-gradients against exact curvature in float32, on the starter model and its prompts."""
    tokenizer, model = load_tokenizer("starter"), load_model("starter", setting.device)
    tasks = {task.name: starter_examples(task)["train"] for task in TASKS[:4]}
    form = PromptFormat(max_tokens=128 if setting.tiny else 512, max_tokens_per_example=64)
    sampler = MixtureSampler(tasks, form, tokenizer, seed=1)
    step, parameters = AdamW(lr=1e-4), {name: p.detach() for name, p in trainable_parameters(model).items()}
    precise, coarse, moments = PromptLoss(model), PromptLoss(model, torch.bfloat16), step.init(parameters)
    for number in range(2 if setting.tiny else 10):
        _, gradients = value_and_gradient(precise, parameters, sampler.batch(number))
        steps.update_all_(step, parameters, gradients, moments)
    pairs = [(sampler.batch(1000 + 2 * i), sampler.batch(1001 + 2 * i)) for i in range(1 if setting.tiny else 5)]

    def gradients_of(loss: PromptLoss, kind: str, order: str = "second") -> list[Any]:
        return [curvature_benchmark.gradient(loss, parameters, pair, step, moments, kind, order) for pair in pairs]

    exact, rows = gradients_of(precise, "exact"), []

    def show(computed: str, products: str, found: list[Any]) -> None:
        error = [curvature_benchmark.relative_error(f, e) for f, e in zip(found, exact, strict=True)]
        cosine = min(curvature_benchmark.cosine(f, e) for f, e in zip(found, exact, strict=True))
        rows.append(
            {"computed in": computed, "products": products, "error, median": statistics.median(error)}
            | {"worst": max(error), "cosine, worst": cosine}
        )

    show("float32", "none (first order)", gradients_of(precise, "exact", "first"))
    for kind in ("difference", "central"):
        show("float32", kind, gradients_of(precise, kind))
    with tf32():
        for kind in ("exact", "difference", "central"):
            show("float32 with TF32", kind, gradients_of(precise, kind))
    show("bfloat16", "none (first order)", gradients_of(coarse, "exact", "first"))
    show("bfloat16", "exact, in float32", gradients_of(coarse, "exact"))
    show("bfloat16", "central, in float32", gradients_of(coarse, "central"))
    with curvature_benchmark.differences_of_bfloat16():
        show("bfloat16", "central, in bfloat16", gradients_of(coarse, "central"))
    return rows


def groups(setting: Setting) -> list[dict[str, Any]]:
    """Time of a gradient by how prompts of a batch share passes: one by one, padded rows, or packed in one row."""
    size, generator = setting.smallest, torch.Generator().manual_seed(0)
    count, (low, high) = (4, (8, 24)) if setting.tiny else (32, (40, 800))
    lengths = torch.randint(low, high, (count,), generator=generator).tolist()
    batches = {f"{count} prompts of {low} to {high} tokens": size.batch_of(lengths)}
    batches[f"{count} prompts of {high} tokens"] = size.batch_of([high] * count)
    autocast = torch.bfloat16 if precision_of(setting.device) == "bfloat16" else None
    budgets: dict[str, int | None] = {"one by one": 1, "padded, as by default": None}
    budgets |= {f"padded, at most {n:,} tokens": n for n in (4096, 65_536)}
    rows: list[dict[str, Any]] = []
    for name, batch in batches.items():
        for way, tokens in budgets.items():
            make: Callable[[Any], PromptLoss] = partial(PromptLoss, autocast=autocast, tokens_per_forward=tokens)
            rows.append(tried({"batch": name, "passes": way}, partial(speed_of_gradient, setting, make, batch)))
        make = partial(PackedLoss, autocast=autocast)
        rows.append(tried({"batch": name, "passes": "packed"}, partial(speed_of_gradient, setting, make, batch)))
    return rows


def speed_of_gradient(setting: Setting, make: Callable[[Any], PromptLoss], batch: Batch) -> dict[str, Any]:
    forget_peak(setting.device)
    model = setting.smallest.model(setting.device)
    loss, parameters = make(model), {name: p.detach() for name, p in trainable_parameters(model).items()}
    value, _ = value_and_gradient(loss, parameters, batch)
    seconds = setting.seconds_of(partial(value_and_gradient, loss, parameters, batch))
    found = {"loss": float(value), "ms a gradient": 1e3 * seconds}
    return found | {"peak GiB": peak_memory(setting.device) / 2**30}


class PackedLoss(PromptLoss):
    """All prompts of a batch one behind another in a row; attention stays within each, as positions begin anew."""

    def parts(self, batch: Batch) -> list[Any]:
        return [batch]

    def __call__(self, parameters: Any, batch: Any) -> torch.Tensor:
        device, rows = next(iter(parameters.values())).device, []
        for ids, mask in zip(batch.token_ids, batch.answer_mask, strict=True):
            length = int(mask.nonzero().max()) + 1
            weights = torch.zeros(length - 1)
            weights[mask[1:length]] = 1 / (int(mask[1:length].sum()) * len(batch.token_ids))
            rows.append((ids[: length - 1], torch.arange(length - 1), ids[1:length], weights))
        ids, positions, targets, weights = (torch.cat(column).to(device) for column in zip(*rows, strict=True))
        places = weights.nonzero()[:, 0]
        enabled = self.autocast is not None
        with self.substituted(parameters), torch.autocast(device.type, dtype=self.autocast, enabled=enabled):
            output = self.model(
                input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=places
            )
        losses = torch.nn.functional.cross_entropy(output.logits[0].float(), targets[places], reduction="none")
        return losses @ weights[places]


def compiled(setting: Setting) -> list[dict[str, Any]]:
    """Time of an update with and without torch.compile of the transformer blocks."""
    rows: list[dict[str, Any]] = []
    for kind in ("MetaICL", "MAML-2-1"):
        for backend in (None, "eager" if setting.tiny else "inductor"):
            about = {"training": kind, "torch.compile": backend or "off"}
            rows.append(tried(about, partial(speed_of_compiled, setting, kind, backend)))
    return rows


def speed_of_compiled(setting: Setting, kind: str, backend: str | None) -> dict[str, Any]:
    torch._dynamo.reset()
    network = setting.smallest.model(setting.device)
    for block in network.transformer.h if backend else ():
        block.compile(backend=backend)
    started = time.perf_counter()
    update, _ = setting.updates_of(setting.smallest, kind, network=network)
    update()
    setting.wait()
    first = time.perf_counter() - started
    return {"s for the first update": first, "ms an update": 1e3 * setting.seconds_of(update)}


def launches(setting: Setting) -> list[dict[str, Any]]:
    """What an update asks of the device, with parameters one by one and numbers read as on a CPU, and in long tensors
    without. kernels: operations that compute, counted in float32 on tensors without memory, for which no GPU is needed;
    the profiler sees the device's own precision, in which MAML-2-1 takes a product from two gradients. Of the
    numbers that the profiler sees read on a CPU, those in the second row have another way on a GPU."""
    rows: list[dict[str, Any]] = []
    for name, size in setting.sizes.items():
        for kind in ("MetaICL", "MAML-2-1", "FOMAML-2-1"):
            for after in (False, True):
                about = {"model": name, "training": kind, "parameters": "in long tensors" if after else "one by one"}
                rows.append(tried(about, partial(asked_of_the_device, setting, size, kind, after)))
    return rows


def asked_of_the_device(setting: Setting, size: Size, kind: str, after: bool) -> dict[str, Any]:
    with as_on_a_gpu(after):
        found: dict[str, Any] = {"kernels": operations(size, kind)}
        if setting.tiny or setting.device.type == "cuda":
            found |= profiled(setting, size, kind)
    return found


def operations(size: Size, kind: str) -> int:
    """Operations of an update that are more than another view."""
    with mock.patch.object(torch, "autocast", return_value=contextlib.nullcontext()):  # it knows no `meta`
        update, _ = Setting(torch.device("meta"), {}, 0, True).updates_of(size, kind)
        update()
        with Operations() as operations:
            update()
    return operations.count


class Operations(TorchDispatchMode):
    """Counts operations that compute something."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (function.is_view or "empty" in str(function) or "detach" in str(function))
        return function(*args, **(kwargs or {}))


def profiled(setting: Setting, size: Size, kind: str) -> dict[str, Any]:
    """What the profiler sees of an update on the device."""
    update, _ = setting.updates_of(size, kind)
    update()
    setting.wait()
    on_gpu = setting.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * on_gpu
    with torch.profiler.profile(activities=activities) as profile:
        update()
    seen = Counter(event.name for event in profile.events())
    launched = sum(count for name, count in seen.items() if "LaunchKernel" in name)
    return {
        "numbers read, profiler": seen["aten::_local_scalar_dense"],
        "launches, profiler": launched if on_gpu else None,
        "synchronizations, profiler": seen["cudaStreamSynchronize"] if on_gpu else None,
    }


@contextlib.contextmanager
def as_on_a_gpu(yes: bool) -> Iterator[None]:
    """Within this context learners and the engine do what they do on a GPU, or what they do on a CPU."""
    with contextlib.ExitStack() as stack:
        for module in (steps, curvature, exploration, method_module):
            # A tensor without memory has no numbers that could be read.
            known = (lambda device: yes) if module is method_module else (lambda device: yes or device.type == "meta")
            stack.enter_context(mock.patch.object(module, "waits_for_numbers", known))
        yield


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Within this context float32 products are computed in TF32 where the GPU has it."""
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def clean() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


PARTS: dict[str, Callable[[Setting], list[dict[str, Any]]]] = {
    "throughput": throughput,
    "memory": memory,
    "launches": launches,
    "groups": groups,
    "compile": compiled,
    "evaluation": evaluation,
    "errors": errors,
    "torchopt": torchopt,
}
FULL = {"small": Size(12, 768), "medium": Size(24, 1024)}
TINY = {"tiny": Size(1, 32, vocabulary=500, tokens=32, answer=4)}


def page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = ["# Training on a GPU", "", f"{record['machine']}, torch {record['torch']}.", ""]
    for name, part in record["parts"].items():
        about = " ".join(str(PARTS[name].__doc__).split())
        lines += [f"## {name.capitalize()}", "", f"{about} {part['seconds']:.0f} s, code {part['code']}.", ""]
        if "error" in part:
            lines += [f"Not measured: {part['error']}", ""]
            continue
        header = list(dict.fromkeys(key for row in part["rows"] for key in row))
        lines += [table(header, [[shown(row.get(key)) for key in header] for row in part["rows"]]), ""]
    return "\n".join(lines)


def shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of gpu.json and gpu.md")
    parser.add_argument("--tiny", action="store_true", help="every part in seconds, to see that it works")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args(words)
    gc.freeze()  # what was imported is there to stay, and need not be looked through
    keep_freed_memory()
    device = pick_device(arguments.device)
    setting = Setting(device, TINY if arguments.tiny else FULL, 0.0 if arguments.tiny else 4.0, arguments.tiny)
    file = arguments.output / "gpu.json"
    machine = hardware(device) + (", tiny" if arguments.tiny else "")
    record: dict[str, Any] = {"machine": machine, "torch": torch.__version__, "parts": {}}
    if file.is_file():
        record = read_json(file)
        if record["machine"] != machine:
            raise SystemExit(f"{file} was measured on {record['machine']}, not on {machine}; choose another --output")
    arguments.output.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(arguments.parts, start=1):
        if "rows" in record["parts"].get(name, {}):
            continue
        started, found = time.perf_counter(), {}
        try:
            found["rows"] = PARTS[name](setting)
        except Exception as error:  # other parts can do without it
            found["error"] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        found |= {"seconds": round(time.perf_counter() - started, 1), "code": code_version()}
        record["parts"][name] = found
        write_text(file, json.dumps(record, indent=1))
        write_text(arguments.output / "gpu.md", page(record))
        print(f"{name}: {found['seconds']} s {found.get('error', '')}", flush=True)
        if "error" in found and (rest := arguments.parts[number:]):  # an error of CUDA would fail whatever comes next
            os.execv(sys.executable, [sys.executable, *sys.argv, "--parts", *rest])


if __name__ == "__main__":
    main()
