"""Weights that do not learn, held in bfloat16 where computing in bfloat16 sees the same numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

HELD = (nn.Linear, Conv1D, nn.Embedding)


def hold_frozen_in_bfloat16(model: nn.Module) -> None:
    """Turns float32 weights that do not learn into bfloat16: those of linear layers, which autocast rounds to it
    anyway, and those of embeddings that are bfloat16 in the model's files.

    So gradients under autocast stay what they are, bit for bit. Outside autocast a layer computes in the type of its
    input, with a copy of its weight in that type that is gone when its product is.
    """
    places: dict[nn.Parameter, list[nn.Module]] = {}  # a tied weight has several
    others: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and name == "weight" and type(module) in HELD:
                places.setdefault(parameter, []).append(module)
            elif parameter is not None:
                others.add(parameter)
    for weight, modules in places.items():
        half = weight.detach().bfloat16()
        embeds = any(isinstance(module, nn.Embedding) for module in modules)
        if weight.requires_grad or weight in others or weight.dtype != torch.float32:
            continue
        if embeds and not torch.equal(half.float(), weight):
            continue
        weight.data = half
        for module in modules:
            forward: Any = _embed if isinstance(module, nn.Embedding) else _multiply
            module.forward = partial(forward, module)


def _embed(module: nn.Embedding, ids: Tensor) -> Tensor:
    return nn.Embedding.forward(module, ids).float()


def _multiply(module: Any, inputs: Tensor) -> Tensor:
    if torch.is_autocast_enabled(inputs.device.type):
        result: Tensor = type(module).forward(module, inputs)
        return result
    weight = module.weight.T if isinstance(module, nn.Linear) else module.weight
    product: Tensor = _Product.apply(inputs, weight)
    return product if module.bias is None else product + module.bias


class _Product(torch.autograd.Function):
    """inputs @ weight in the type of the inputs; what is kept for the way back is the weight in its own type."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return inputs @ weight.to(inputs.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return gradient @ weight.T.to(gradient.dtype), None
