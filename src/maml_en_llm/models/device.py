"""The machine part that computes, and its memory."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Literal

import torch


def pick_device(name: str = "auto") -> torch.device:
    """`auto`: the first GPU there is, else the CPU; ValueError for a device that is not there.

    On a GPU products of float32 are computed in float32: TF32 has three digits, too few for differences of gradients.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    if name != "auto":
        try:
            device = torch.device(name)
        except RuntimeError:
            raise ValueError(f"device is {name!r}; it must be auto, cpu, cuda, cuda:N or mps") from None
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError):
            raise ValueError(f"device is {name!r} but this machine has no such device; use auto or cpu") from None
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def precision_of(device: torch.device) -> Literal["float32", "bfloat16"]:
    """What training computes in unless it is told: bfloat16 on a GPU that has it."""
    has = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has else "float32"


def keep_freed_memory() -> None:
    """Lets this process keep large memory that it frees, where the C library is glibc; elsewhere nothing happens.

    What goes back to the system comes back page by page and zeroed, which is a sixth of an update on a CPU
    (docs/performance.md).
    """
    _set_thresholds(2**31 - 1)


def give_back_freed_memory() -> None:
    """The opposite: for what would leave holes that nothing fits in."""
    _set_thresholds(2**16)


def _set_thresholds(size: int) -> None:
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        for option in (trim_threshold, mmap_threshold):
            library.mallopt(option, size)
