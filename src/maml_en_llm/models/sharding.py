"""A model whose tensors are spread over the processes of torchrun (FSDP2): each has a part of every one, its shards.

Optimizers, adjoints and finite differences work coordinate by coordinate, and so on shards as on whole tensors, but for
norms. The model alone needs whole tensors: it gathers those of one block at a time, and scatters the gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..prompts.batches import Batch
from .device import give_back_freed_memory
from .loading import load_model, save_model
from .loss import Group, PromptLoss
from .processes import Processes
from .trainable import TrainableModel, blocks_of


class ShardedLoss(PromptLoss):
    """The loss of a sharded model; what it is given as parameters are shards, and so are the gradients."""

    def __init__(
        self,
        model: Any,
        autocast: torch.dtype | None,
        tokens_per_forward: int | None,
        processes: Processes,
        shards: Mapping[str, Tensor],
    ) -> None:
        super().__init__(model, autocast, tokens_per_forward, processes)
        self.sum_ = None  # gradients are summed as they are scattered
        self.shards = shards
        self.device = next(iter(shards.values())).device

    def norms(self, *parts: float) -> list[float]:
        """Norms over all processes from those of this one's shards."""
        squares = torch.tensor(parts, dtype=torch.float64, device=self.device).square()
        self.processes.sum_(squares)
        return squares.sqrt().tolist()

    def parts(self, batch: Batch) -> list[Group]:
        """As many in every process, so that all gather and scatter as often; the last ones may have no weight."""
        groups = super().parts(batch)
        most = self.processes.most(len(groups))
        idle = replace(groups[-1], weights=torch.zeros_like(groups[-1].weights))
        return groups + [idle] * (most - len(groups))

    def stream_gradient(
        self,
        parameters: Mapping[str, Tensor],
        batch: Batch,
        consume: Callable[[str, Tensor], None],
        by: Collection[str] | None = None,
        watch: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """That of bilevel/curvature.py: the loss of all processes; `consume` gets the gradient of each shard.

        The model computes with what lies in its own shards, so `parameters` are exchanged with them until their
        gradient is known. On a CPU a gradient is handed over as soon as it is there; a GPU scatters gradients on a
        stream of its own, which is waited for at the end.
        """
        sharded: dict[str, Any] = {name: p for name, p in self.model.named_parameters() if name in parameters}
        values = {name: parameters[name].detach() for name in sharded}
        exchanged = {name for name, own in self.shards.items() if values[name].data_ptr() != own.data_ptr()}

        def exchange(name: str) -> None:
            other = values[name].clone()
            values[name].copy_(self.shards[name])
            self.shards[name].copy_(other)

        def hand_over(name: str) -> None:
            parameter = sharded[name]
            gradient = torch.zeros_like(values[name]) if parameter.grad is None else parameter.grad.to_local()
            parameter.grad = None
            with torch.no_grad():
                if name in exchanged:
                    exchanged.remove(name)
                    exchange(name)
                del values[name]
                if by is None or name in by:
                    consume(name, gradient)

        groups, hooks = self.parts(batch), []
        total = torch.zeros((), dtype=groups[0].weights.dtype, device=self.device)
        try:
            with torch.no_grad():
                for name in exchanged:
                    exchange(name)
            for number, group in enumerate(groups if groups[0].places.numel() else (), start=1):
                if number == len(groups) and self.device.type == "cpu":
                    for name, parameter in sharded.items():
                        hook = parameter.register_post_accumulate_grad_hook(lambda _, name=name: hand_over(name))
                        hooks.append(hook)
                value = self(parameters, group)
                if watch is not None and number == len(groups):
                    watch(value)
                value.backward()
                total += value.detach()
            for name in list(values):
                hand_over(name)
        finally:
            for hook in hooks:
                hook.remove()
            with torch.no_grad():
                for name in exchanged:
                    exchange(name)
        self.processes.sum_(total)
        return total

    @contextlib.contextmanager
    def substituted(self, parameters: Mapping[str, Tensor]) -> Iterator[None]:
        """The model computes with what lies in its shards."""
        yield


class ShardedModel(TrainableModel):
    """A causal language model that is sharded over `processes`; `parameters` are the shards of this one, by name.

    network: whole, wherever it lies; device: where the shards go. start: the folder or hub id that it came from.
    Raises ValueError when there is one process only.
    """

    start: str

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        autocast: torch.dtype | None,
        processes: Processes,
        device: torch.device,
        start: str,
        tokens_per_forward: int | None = None,
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh  # slow imports, which others need not wait for
        from torch.distributed.fsdp import FSDPModule, fully_shard

        if processes.count == 1:
            raise ValueError("shard is set but there is one process; start several by torchrun, or leave it out")
        give_back_freed_memory()  # gathered blocks come and go
        self.network, self.tokenizer, self.adapter_of = network, tokenizer, None
        self.processes, self.start = processes, start
        self.mesh = init_device_mesh(device.type, (processes.count,))
        _, blocks = blocks_of(network)
        for module in (*blocks, network):
            fully_shard(module, mesh=self.mesh)
        for module in network.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # losses are shares of a sum
                module.set_force_sum_reduction_for_comms(True)
        sharded = dict(network.named_parameters())
        self.like = {name: (p.shape, p.stride()) for name, p in sharded.items()}
        self.parameters = {name: p.detach().to_local() for name, p in sharded.items()}
        self.loss = ShardedLoss(network, autocast, tokens_per_forward, processes, self.parameters)

    @property
    def size(self) -> int:
        return sum(shape.numel() for shape, _ in self.like.values())

    def fuse(self) -> None:
        """Nothing: shards stay with the modules that put them together."""

    def whole_like(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `state_dict` of a learner holds, in the shapes that it has in a checkpoint, without values."""
        return {
            key: torch.empty(self.like[name][0], dtype=tensor.dtype, device="meta") if name in self.like else tensor
            for key, tensor in state.items()
            for name in [key.partition(".")[2]]
        }

    def gathered(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same with values, in the memory of the first process's CPU; the others get nothing."""
        found = {}
        for key, tensor in state.items():
            name = key.partition(".")[2]
            whole = self._whole(name, tensor) if name in self.like else tensor
            if self.processes.rank == 0:
                found[key] = whole.cpu()
        return found

    def handed_out(self, own: Mapping[str, Tensor], whole: Mapping[str, Tensor], seen: int) -> Mapping[str, Tensor]:
        """The shards, like those in `own`, of what the first process has in `whole`."""
        if not seen:
            return own  # all have read their parts of the same model
        found = {}
        for key, tensor in own.items():
            name, first = key.partition(".")[2], self.processes.rank == 0
            shape = self.like[name][0] if name in self.like else tensor.shape
            there = torch.empty(shape, dtype=tensor.dtype, device=self.device)
            if first:
                there.copy_(whole[key])
            self.processes.copy_({key: there})
            if name in self.like:
                chunks = there.chunk(self.processes.count)
                there = chunks[self.processes.rank] if self.processes.rank < len(chunks) else there[:0]
            found[key] = there.to(tensor.device)
        return found

    def save(self, folder: Path, files: Mapping[str, str], maker: str = "train") -> None:
        """Writes a plain Hugging Face folder; all processes call it, and the first writes."""
        network = load_model(self.start) if self.processes.rank == 0 else None
        places = {} if network is None else dict(network.named_parameters())
        for name, shard in self.parameters.items():
            whole = self._whole(name, shard)
            if network is not None:
                with torch.no_grad():
                    places[name].copy_(whole)
        if network is not None:
            save_model(network, self.tokenizer, folder, files, maker)

    def _whole(self, name: str, shard: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor, Shard

        shape, stride = self.like[name]
        return DTensor.from_local(
            shard, self.mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
        ).full_tensor()
