"""Parameters that lie one behind another in a few long tensors, so that one operation changes many of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LONGEST = (
    1 << 24
)  # numbers of several parameters in one tensor: what is in memory twice while a gradient is put together


@dataclass(frozen=True)
class Fused:
    """Where each parameter lies: by long tensor the names, sizes and shapes of its parameters, in order."""

    layout: Mapping[str, tuple[tuple[str, int, torch.Size], ...]]

    def apart(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Views of the parameters by their own names; what is no long tensor stays what it is.

        A gradient by a long tensor is complete with the last of its parameters'.
        """
        views: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            members = self.layout.get(key)
            if members is None:
                views[key] = tensor
                continue
            for (name, _, shape), part in zip(members, tensor.split([size for _, size, _ in members]), strict=True):
                views[name] = part.view(shape)
        return views


def fuse(parameters: Mapping[str, nn.Parameter], longest: int = LONGEST) -> tuple[Fused, dict[str, Tensor]]:
    """Moves the parameters into long tensors of one type, at most `longest` where there are several in one.

    The parameters become views of them. Returns where each lies, and the long tensors by new names; a parameter that is
    alone in its tensor keeps its name.
    """
    groups: list[list[str]] = []
    size = 0
    for name, parameter in parameters.items():
        before = parameters[groups[-1][0]] if groups else None
        alike = before is not None and (before.dtype, before.device) == (parameter.dtype, parameter.device)
        if not alike or size + parameter.numel() > longest:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += parameter.numel()
    layout, tensors = {}, {}
    for names in groups:
        if len(names) == 1:
            tensors[names[0]] = parameters[names[0]].detach()
            continue
        key = f"{names[0]} to {names[-1]}"
        members = [parameters[name] for name in names]
        layout[key] = tuple((name, p.numel(), p.shape) for name, p in zip(names, members, strict=True))
        tensors[key] = torch.cat([p.detach().reshape(-1) for p in members])
        for (_, _, shape), p, part in zip(
            layout[key], members, tensors[key].split([p.numel() for p in members]), strict=True
        ):
            p.data = part.view(shape)
    return Fused(layout), tensors
