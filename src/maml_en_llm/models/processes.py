"""Several processes of one command, started by torchrun: each computes its share, and the first reads and writes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from ..progress import console


@dataclass(frozen=True)
class Processes:
    """Who this process is among those of a command. All of them call each method, in the same order.

    device: that of this process, on which numbers are exchanged.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)

    def sum_(self, tensor: Tensor) -> None:
        """Sums `tensor` over the processes, in place."""
        dense = tensor.contiguous()
        distributed.all_reduce(dense)
        if dense is not tensor:
            tensor.copy_(dense)

    def mean_(self, tensor: Tensor) -> None:
        """The mean of `tensor` over the processes, in place."""
        if self.count > 1:
            self.sum_(tensor)
            tensor.div_(self.count)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one of them."""
        if self.count == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        self.sum_(flags)
        return bool(flags)

    def most(self, number: int) -> int:
        """The largest of the numbers that the processes give."""
        there = torch.tensor(number, device=self.device)
        distributed.all_reduce(there, distributed.ReduceOp.MAX)
        return int(there)

    def number(self, number: int) -> int:
        """The number of the first process."""
        if self.count == 1:
            return number
        there = torch.tensor(number, device=self.device)
        distributed.broadcast(there, src=0)
        return int(there)

    def copy_(self, state: Mapping[str, Tensor]) -> None:
        """Copies the tensors of the first process into those of `state`."""
        for tensor in state.values() if self.count > 1 else ():
            there = tensor.to(self.device).contiguous()  # counters may lie on the CPU
            distributed.broadcast(there, src=0)
            with torch.no_grad():
                tensor.copy_(there)

    def gathered(self, value: Any) -> list[Any]:
        """What each process gives, anything that pickles, by rank; an empty list in all but the first."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.gather_object(value, found if self.rank == 0 else None)
        return found if self.rank == 0 else []

    def same(self, value: Any) -> Any:
        """What the first process gives, anything that pickles."""
        if self.count == 1:
            return value
        there = [value]
        distributed.broadcast_object_list(there)
        return there[0]


def join(device: torch.device) -> Processes:
    """The processes of this command, on `device`, or on a GPU each where that is one.

    From then on the first alone prints.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes(device=device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank = distributed.get_rank()
    console.quiet = rank > 0
    return Processes(rank, count, device)
