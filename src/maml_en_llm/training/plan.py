"""What a run will take, before it runs: its updates are made on tensors that have shapes but no memory.

The method, the model and the optimizer are the real ones, so nothing here knows what any of them does; a `Meter` counts
what each operation would compute, move and hold.  Seconds come from timing this machine for about a second.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

from ..bilevel import AdamW, update_all_, value_and_gradient
from ..config import TrainConfig
from ..methods import method_class
from ..models import (
    PromptLoss,
    choose_trainable,
    keep_freed_memory,
    load_tokenizer,
    pick_device,
    trainable_parameters,
)
from ..progress import duration
from ..prompts.batches import Batch
from ..tasks.collection import load_collection
from .loop import training_batches

IN_CACHE = 1 << 20  # bytes; tensors up to this size are worked on in the processor's cache
ALLOCATED_ANEW = 32 << 20  # bytes; from this size on memory comes from the system and goes back to it
SAMPLED_BATCHES = 64


@dataclass
class Work:
    """Of some computation: floating-point operations of products; bytes that other operations read and write, of
    tensors in the processor's cache and of larger ones; bytes of memory taken from the system."""

    products: float = 0
    cached: float = 0
    moved: float = 0
    allocated: float = 0


@dataclass(frozen=True)
class Speed:
    """Of a machine: operations, bytes, bytes and bytes a second, in the order of `Work`."""

    products: float
    cached: float
    moved: float
    allocated: float

    def seconds(self, work: Work) -> float:
        return sum(getattr(work, kind) / getattr(self, kind) for kind in vars(work))

    def __str__(self) -> str:
        return f"{self.products / 1e9:.0f} GFLOP/s, memory {self.moved / 1e9:.1f} GB/s"


class Meter(TorchDispatchMode):
    """Counts `work`, and the `peak` of the bytes that are held, of operations on tensors without memory.

    answers: predicted positions of a prompt, since a tensor without numbers cannot tell.
    """

    def __init__(self, answers: int = 1) -> None:
        super().__init__()
        self.answers, self.work = answers, Work()
        self.held = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = function._overloadpacket
        if operation is torch.ops.aten._local_scalar_dense:
            # a number that is finite and above the usual limit of gradient norms, or a position behind every prompt
            return 2.0 if args[0].is_floating_point() else 1 << 30
        if operation is torch.ops.aten.nonzero:
            return args[0].new_zeros((self.answers, args[0].dim()), dtype=torch.long)
        result = function(*args, **(kwargs or {}))
        if operation is torch.ops.prim.device or function.is_view:
            return result
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        self._count(operation, read, made, args, kwargs or {}, result)
        for tensor in made:
            self.hold(tensor)
        return result

    def _count(
        self, operation: Any, read: list[Tensor], made: list[Tensor], args: Any, kwargs: Any, result: Any
    ) -> None:
        if operation in flop_registry:
            self.work.products += flop_registry[operation](*args, **kwargs, out_val=result)
            return
        if str(operation).endswith("attention_for_cpu"):  # q k' and p v
            self.work.products += 4 * args[0].numel() * args[1].shape[-2]
            return
        if str(operation).endswith("attention_for_cpu_backward"):  # q k' again, and four products
            self.work.products += 10 * args[1].numel() * args[2].shape[-2]
            return
        if operation is torch.ops.aten.embedding:
            read = made  # as many rows as it writes
        for tensor in read + made:
            size = min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
            if size <= IN_CACHE:
                self.work.cached += size
            else:
                self.work.moved += size

    def hold(self, tensor: Tensor) -> None:
        """Counts the tensor's memory until nothing refers to it any more."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        self._storages.add(key)
        weakref.finalize(storage, self._release, key, size)
        self.held += size
        self.peak = max(self.peak, self.held)
        if size >= ALLOCATED_ANEW:
            self.work.allocated += size

    def _release(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.held -= size


@dataclass(frozen=True)
class Plan:
    """What a run will take: bytes at once, seconds, bytes on disk; `lines` says how they come about."""

    memory: float
    seconds: float
    disk: float
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def plan(config: TrainConfig) -> Plan:
    """Estimates memory, time and disk of the run of `config`; reads its data, writes nothing and trains nothing."""
    device = pick_device(config.device)
    keep_freed_memory()  # as the run will
    tokenizer, collection = load_tokenizer(config.model), load_collection(config.collection)
    method = method_class(config.method)
    sampler = training_batches(config, method(config, {}), collection, tokenizer)
    group = config.batches_per_update
    updates = config.batches // group
    count = min(SAMPLED_BATCHES, updates * group)
    started = time.perf_counter()
    seen = [sampler.batch(i * updates * group // count) for i in range(count)]
    sampling = (time.perf_counter() - started) / count
    answers = [int(mask[1:].sum()) for batch in seen for mask in batch.answer_mask]
    lengths = [batch.token_ids.shape[1] for batch in seen]
    longest, usual = max(lengths), round(statistics.mean(lengths))
    most, mean = max(answers), round(statistics.mean(answers))

    shape = model_shape(config.model)
    speed = calibrate(shape, config.batch_size, usual, mean, device)
    baseline = resident() if device.type == "cpu" else 0
    autocast = torch.bfloat16 if config.precision == "bfloat16" else None
    model = new_model(shape, torch.device("meta"))
    model = choose_trainable(model, config.trainable, config.lora_rank, config.last_blocks)
    with FakeTensorMode(allow_non_fake_inputs=True):
        pretend_to_be_on_(device, model)
        parameters = {name: p.detach() for name, p in trainable_parameters(model).items()}
        loss, learner, meter = PromptLoss(model, autocast), method(config, parameters), Meter()
        moments = [*learner.moments.first.values(), *(learner.moments.second or {}).values()]
        for tensor in [*model.parameters(), *model.buffers(), *moments]:
            meter.hold(tensor)
        weights, learned, state = meter.held, size_of(parameters.values()), size_of(moments)
        weights -= state
        for tokens, meter.answers, measure in ((longest, most, True), (usual, mean, False)):
            meter.work = Work()
            batch = shaped_batch(config.batch_size, tokens, device)
            with meter:
                learner.update(loss, parameters, [batch] * group, 1.0, measure)

    memory, update = baseline + meter.peak, speed.seconds(meter.work)
    seconds = updates * (update + group * sampling)
    checkpoints = 2 * (learned + state) if config.checkpoint_every else learned + state
    disk = max(checkpoints, learned + state + weights)
    trained = sum(p.numel() for p in parameters.values())
    where = f"{baseline / 2**20:,.0f} MiB of this program, " if baseline else "beside what the GPU's driver takes: "
    return Plan(
        memory,
        seconds,
        disk,
        (
            f"model    {trained:,} of {sum(p.numel() for p in model.parameters()):,} parameters learn",
            f"prompts  {usual} tokens on average, {longest} at most (of {count} batches)",
            f"machine  {speed} (one block of this model and one optimizer step, timed for a second)",
            f"memory   {memory / 2**30:.2f} GiB at its peak: {where}{weights / 2**20:,.0f} MiB of weights, "
            f"{state / 2**20:,.0f} MiB of moments, "
            f"{(meter.peak - weights - state) / 2**20:,.0f} MiB of gradients, copies and activations",
            f"time     {duration(seconds)}: {updates:,} updates of {update:.3g} s and {updates * group:,} batches",
            f"disk     {disk / 2**30:.2f} GiB at most, {weights / 2**30:.2f} GiB in the end",
        ),
    )


def calibrate(shape: Any, prompts: int, tokens: int, answers: int, device: torch.device) -> Speed:
    """Times this machine for about a second: memory, an AdamW step, and a gradient of the model cut to one block."""
    source, other = torch.ones(2, 16 << 20, device=device)
    size = size_of([source])
    moved = 2 * size / seconds_of(lambda: torch.add(source, 1, out=other), device)
    allocated = size / max(seconds_of(lambda: source + 1, device) - 2 * size / moved, 1e-9)
    del source, other

    def step() -> Callable[[], None]:
        parameters = {"w": torch.ones(4 << 20, device=device)}
        moments = AdamW().init(parameters)
        return lambda: update_all_(AdamW(), parameters, parameters, moments)

    def gradient() -> Callable[[], Any]:
        loss = PromptLoss(new_model(one, device))
        batch = shaped_batch(prompts, tokens, device)
        batch.answer_mask[:, tokens - answers :] = True
        return lambda: value_and_gradient(loss, trainable_parameters(loss.model), batch)

    one = copy.deepcopy(shape)
    one.num_hidden_layers = 1
    if getattr(one, "layer_types", None):
        one.layer_types = one.layer_types[:1]
    known = Speed(1e30, 1e30, moved, allocated)
    work = work_of(step)
    known = Speed(1e30, work.cached / remaining(seconds_of(step(), device), known, work), moved, allocated)
    work = work_of(gradient, answers)
    return Speed(work.products / remaining(seconds_of(gradient(), device), known, work), known.cached, moved, allocated)


def remaining(seconds: float, known: Speed, work: Work) -> float:
    """What is left of `seconds` for the part of `work` whose speed is not known yet."""
    return max(seconds - known.seconds(work), seconds / 4)


def work_of(make: Callable[[], Callable[[], Any]], answers: int = 1) -> Work:
    with FakeTensorMode(allow_non_fake_inputs=True):
        function, meter = make(), Meter(answers)
        with meter:
            function()
    return meter.work


def seconds_of(function: Callable[[], Any], device: torch.device, at_least: float = 0.3) -> float:
    """Median time of a call, after one that does not count."""

    def timed() -> float:
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    timed()
    times: list[float] = []
    while len(times) < 3 or sum(times) < at_least:
        times.append(timed())
    return statistics.median(times)


def model_shape(model: str | Path) -> Any:
    """The transformers configuration of a Hugging Face folder or hub id."""
    try:
        return AutoConfig.from_pretrained(str(model), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load a model configuration from {model}: {str(error).splitlines()[0]}") from None


def machine_speed(device: torch.device) -> Speed:
    """The speed of this machine for a model as wide as GPT-2 small."""
    return calibrate(GPT2Config(vocab_size=256, bos_token_id=0, eos_token_id=0), 1, 512, 8, device)


def new_model(shape: Any, device: torch.device) -> Any:
    with device:  # tensors without memory cannot be moved
        return AutoModelForCausalLM.from_config(shape, dtype=torch.float32).eval()


def pretend_to_be_on_(device: torch.device, model: torch.nn.Module) -> None:
    """Replaces the model's tensors, each tied one once, by new ones on `device`; within a FakeTensorMode."""
    made: dict[int, tuple[Tensor, Tensor]] = {}
    for module in model.modules():
        places: list[dict[str, Any]] = [module._parameters, module._buffers]
        for tensors in places:
            for name, old in tensors.items():
                if old is not None and id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype, device=device)
                    is_parameter = isinstance(old, torch.nn.Parameter)
                    made[id(old)] = old, torch.nn.Parameter(new, old.requires_grad) if is_parameter else new
                if old is not None:
                    tensors[name] = made[id(old)][1]


def shaped_batch(prompts: int, tokens: int, device: torch.device) -> Batch:
    zeros = torch.zeros(prompts, tokens, dtype=torch.long, device=device)
    return Batch(zeros, zeros.bool())


def size_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def resident() -> int:
    """Bytes of memory that this process has now; what it has freed and still keeps goes back first."""
    import psutil

    with contextlib.suppress(OSError, AttributeError, TypeError):  # glibc's
        ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)
