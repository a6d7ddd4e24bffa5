"""Several processes of one training, started by torchrun: each computes its share of the prompts of every batch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Processes:
    """Who this process is among those of a training. All of them call each method, in the same order."""

    rank: int = 0
    count: int = 1

    def sum_(self, tensor: Tensor) -> None:
        """Sums `tensor` over the processes, in place."""
        dense = tensor.contiguous()
        distributed.all_reduce(dense)
        if dense is not tensor:
            tensor.copy_(dense)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in one of them."""
        if self.count == 1:
            return flag
        flags = torch.tensor(float(flag), device=device)
        self.sum_(flags)
        return bool(flags)

    def number(self, number: int, device: torch.device) -> int:
        """The number of the first process."""
        if self.count == 1:
            return number
        there = torch.tensor(number, device=device)
        distributed.broadcast(there, src=0)
        return int(there)

    def copy_(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Copies the tensors of the first process into those of `state`."""
        for tensor in state.values() if self.count > 1 else ():
            there = tensor.to(device).contiguous()  # counters may lie on the CPU
            distributed.broadcast(there, src=0)
            with torch.no_grad():
                tensor.copy_(there)


def join(device: torch.device) -> tuple[Processes, torch.device]:
    """The processes of this training and the device of this one: a GPU each, where there are GPUs."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes(), device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(distributed.get_rank(), count), device
