"""What a run will take, before it runs: a few of its updates are made and timed, and nothing is written."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..methods.method import Method
from ..models import keep_freed_memory, load_tokenizer, pick_device
from ..progress import duration
from ..tasks.collection import load_collection
from .data import training_batches
from .loop import trainable_model
from .record import forget_peak, peak_memory

SAMPLED_UPDATES = 32
TIMED_UPDATES = 4


@dataclass(frozen=True)
class Plan:
    """What a run will take: bytes at once, seconds, bytes on disk; `lines` says how they come about."""

    memory: float
    seconds: float
    disk: float
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def plan(config: Method) -> Plan:
    """Measures the update with the most tokens, for memory, and some usual ones, for time, of the run of `config`."""
    device = pick_device(config.device)
    collection = load_collection(config.collection)
    sampler = training_batches(config, collection, load_tokenizer(config.pinned_model))
    keep_freed_memory()  # as the run will
    forget_peak(device)
    model = trainable_model(replace(config, shard=False), device)
    learner = config.learner(model, sampler)

    updates = config.batches // config.batches_per_update
    count = min(SAMPLED_UPDATES, updates)
    started = time.perf_counter()
    sampled = [learner.batches(i * updates // count) for i in range(count)]
    sampling = (time.perf_counter() - started) / count
    sampled.sort(key=tokens_of)
    usual = sampled[len(sampled) // 2]
    learner.update(sampled[-1], 1.0, True)  # the first update is slower than others, and the largest needs most memory
    memory = peak_memory(device)
    update = statistics.median(
        _seconds(lambda: learner.update(usual, 1.0, False), device) for _ in range(TIMED_UPDATES)
    )

    seconds = updates * (update + sampling)
    state = size_of(learner.state_dict().values())
    weights = size_of(model.network.parameters())
    disk = max(2 * state, weights) + weights if config.checkpoint_every else state + weights
    trained = sum(p.numel() for p in model.parameters.values())
    total = sum(p.numel() for p in model.network.parameters())
    held = "tensors" if device.type == "cuda" else "this whole program"
    lines = (
        f"model    {trained:,} of {total:,} parameters learn",
        f"prompts  {tokens_of(usual):,} tokens in a usual update, {tokens_of(sampled[-1]):,} at most (of {count})",
        f"memory   {memory / 2**30:.2f} GiB at its peak ({held}, measured in one update)",
        f"time     {duration(seconds)}: {updates:,} updates of {update + sampling:.3g} s",
        f"disk     {disk / 2**30:.2f} GiB at most, {weights / 2**30:.2f} GiB in the end",
    )
    return Plan(memory, seconds, disk, lines)


def tokens_of(batches: Any) -> int:
    """Tokens of the batches of an update; 0 for batches that are not prompts."""
    return sum(batch.token_ids.numel() for batch in batches if hasattr(batch, "token_ids"))


def size_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _seconds(function: Any, device: torch.device) -> float:
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
