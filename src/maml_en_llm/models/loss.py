"""The loss of a causal language model on prompts, as a function of its parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ..prompts.batches import Batch


class PromptLoss:
    """The loss of a causal language model on a batch of prompts, as a function of its parameters.

    Per prompt the mean cross entropy over its answer tokens, then the mean over prompts.
    `loss(parameters, batch)` runs the model with `parameters` in place of its own, which it has back afterwards;
    logits are computed only at the positions that predict an answer token.
    """

    def __init__(self, model: nn.Module, autocast: torch.dtype | None = None) -> None:
        self.model = model
        self.autocast = autocast
        self._current: Mapping[str, Tensor] | None = None
        # Every place where a parameter stands: a tied weight stands in several and is exchanged in each exactly once.
        self._places: dict[str, list[tuple[dict[str, Any], str]]] = {}
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for module in model.modules():
            for attribute, parameter in module._parameters.items():
                if parameter is not None:
                    self._places.setdefault(names[id(parameter)], []).append((module._parameters, attribute))

    @contextlib.contextmanager
    def substituted(self, parameters: Mapping[str, Tensor]) -> Iterator[None]:
        """Within this context the model computes with `parameters` (some or all of its own, by name)."""
        if self._current is parameters:
            yield
            return
        before, own = self._current, []
        try:
            for name, tensor in parameters.items():
                for place, attribute in self._places[name]:
                    own.append((place, attribute, place[attribute]))
                    place[attribute] = tensor
            self._current = parameters
            yield
        finally:
            for place, attribute, tensor in reversed(own):
                place[attribute] = tensor
            self._current = before

    def __call__(self, parameters: Mapping[str, Tensor], batch: Batch) -> Float[Tensor, ""]:
        with self.substituted(parameters):
            return prompt_loss(self.model, batch, self.autocast)

    def parts(self, batch: Batch) -> list[Batch]:
        """Batches of one prompt each; the mean of their losses is that of `batch`."""
        return [Batch(ids[None], mask[None]) for ids, mask in zip(batch.token_ids, batch.answer_mask, strict=True)]


def prompt_loss(model: nn.Module, batch: Batch, autocast: torch.dtype | None = None) -> Float[Tensor, ""]:
    """Mean over prompts of the mean over answer tokens of the next-token cross entropy; 0 for a prompt without any.

    Prompts run one by one: no token is padding, and attention never spans two prompts (packing them in one row was
    slower: docs/performance.md).
    """
    losses = [
        _loss_of_prompt(model, *prompt, autocast) for prompt in zip(batch.token_ids, batch.answer_mask, strict=True)
    ]
    return torch.stack(losses).mean()


def _loss_of_prompt(model: nn.Module, token_ids: Tensor, answer_mask: Tensor, autocast: torch.dtype | None) -> Tensor:
    """The loss of one prompt [tokens]; what follows the last token that predicts an answer token is not computed."""
    positions = answer_mask[1:].nonzero().squeeze(1)  # the first token of a prompt has nothing to be predicted from
    if positions.numel() == 0:
        return 0 * torch.stack([parameter.sum() for parameter in model.parameters()]).sum()
    read = token_ids[None, : int(positions[-1]) + 1]
    with torch.autocast(token_ids.device.type, dtype=autocast, enabled=autocast is not None):
        logits = model(input_ids=read, use_cache=False, logits_to_keep=positions).logits[0]  # [answer tokens, V]
    return functional.cross_entropy(logits.float() if autocast else logits, token_ids[positions + 1])
