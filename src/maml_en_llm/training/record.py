"""What a result was made of and what it cost: hashes of its inputs, the code, the machine, time and memory.

Two hashes say whether something was computed from the same inputs: `config_hash` of every key that changes what is
computed, and `data_hash` of the tasks it read. A trained model counts as the two hashes of its training, so it can be
known before it exists.
"""

from __future__ import annotations

import contextlib
import gc
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..files import content_hash, write_text
from ..hub import commit_of
from ..names import model_folder
from ..results import DataChange, RunRecord, digest, read_provenance, read_run, to_json
from ..tasks.collection import SPLITS, Collection


def config_hash(config: Any, model: str | None = None) -> str:
    """Hash of the keys of a configuration that change what is computed; `model`: what `model_identity` would say."""
    keys = {key: value for key, value in vars(config).items() if key not in config.FREE}
    keys = {key: value for key, value in keys.items() if config.LATER.get(key, ...) != value}
    return digest(keys | {"kind": getattr(config, "name", ""), "model": model or model_identity(config.pinned_model)})


def model_identity(model: str) -> str:
    """What a model is, wherever it lies: how it was trained, else the content of its folder, else its hub id."""
    folder = Path(model_folder(model))
    if not folder.is_dir():
        return model
    provenance = read_provenance(model)
    if provenance is not None:
        return trained_identity(provenance.run.config_hash, provenance.run.manifest_hash)
    return digest([(path.name, content_hash(path)) for path in sorted(folder.iterdir()) if path.is_file()])


def trained_identity(config: str, data: str) -> str:
    """The identity of the model that a training with these two hashes makes."""
    return digest(["trained", config, data])


def data_hash(
    collection: Collection, tasks: Sequence[str], splits: Sequence[str] = SPLITS, instructions: bool = False
) -> str:
    """Hash of the tasks' kinds and the content of their files, and of their instructions if these are read."""
    found = []
    for name in tasks:
        task = collection[name]
        files = [(split, content_hash(task.folder / f"{split}.jsonl")) for split in splits if task.has(split)]
        found.append((name, task.kind, files, collection[name].instruction if instructions else None))
    return digest(found)


@cache
def code_version() -> str:
    """The commit of the checkout that this code stands in, with +dirty when it was changed; else the version."""
    root = Path(__file__).parents[3]
    if (root / ".git").exists():
        words = ["git", "-C", str(root), "describe", "--always", "--tags", "--dirty=+dirty"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    return version("maml-en-llm")


def hardware(device: torch.device) -> str:
    """The machine part that computes, in words."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        return f"{torch.distributed.get_world_size()} processes, each {_part(device)}"
    return _part(device)


def _part(device: torch.device) -> str:
    if device.type == "cuda":
        tf32 = "off" if torch.get_float32_matmul_precision() == "highest" else "on"
        return f"{torch.cuda.get_device_name(device)}, 1 of {torch.cuda.device_count()}, TF32 {tf32}"
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as lines:
        name = next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    count = torch.get_num_threads()
    return f"{name}, {count} thread{'s' * (count > 1)}" if device.type == "cpu" else f"{name}, {device}"


def forget_peak(device: torch.device) -> None:
    """Lets `peak_memory` count from here on; on a CPU only where the system can (Linux)."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Most bytes held at once: by tensors on a GPU, by the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, StopIteration), open("/proc/self/status", encoding="utf-8") as lines:
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class Measurement:
    """Measures a command from its construction on; with a `path`, goes on from the record that is there."""

    def __init__(self, config: Any, data: str, device: torch.device, path: Path | None = None) -> None:
        forget_peak(device)
        self.started = time.monotonic()
        self.config_hash, self.data = config_hash(config), data
        self.device, self.path = device, path
        self.model = config.pinned_model
        self.earlier = read_run(path) if path is not None and path.is_file() else None
        self.data_changes = self.earlier.data_changes if self.earlier else ()

    @property
    def manifest_hash(self) -> str:
        """That of the data, or of the data before and after each change."""
        return digest([asdict(change) for change in self.data_changes]) if self.data_changes else self.data

    @property
    def earlier_data(self) -> str:
        """Hash of the data that the run has read last."""
        if self.earlier is None:
            return self.data
        return self.data_changes[-1].after if self.data_changes else self.earlier.manifest_hash

    def goes_on_after(self, batches: int) -> None:
        """Records that the run goes on after that many batches, with other data than before if these have changed."""
        if batches and self.earlier_data != self.data:
            self.data_changes += (DataChange(batches=batches, before=self.earlier_data, after=self.data),)
        # A change comes no later than the checkpoint that the run goes on from, and is none before the first batch.
        moved = (replace(change, batches=min(change.batches, batches)) for change in self.data_changes)
        self.data_changes = tuple(change for change in moved if change.batches)

    def now(self) -> RunRecord:
        seconds, peak = (self.earlier.wall_seconds, self.earlier.peak_memory_bytes) if self.earlier else (0.0, 0)
        return RunRecord(
            config_hash=self.config_hash,
            manifest_hash=self.manifest_hash,
            data_changes=self.data_changes,
            code_version=code_version(),
            model_commit=commit_of(self.model),
            hardware=hardware(self.device),
            wall_seconds=round(seconds + time.monotonic() - self.started, 3),
            peak_memory_bytes=max(peak, peak_memory(self.device)),
        )

    def write(self) -> None:
        assert self.path is not None
        write_text(self.path, to_json(self.now()))
