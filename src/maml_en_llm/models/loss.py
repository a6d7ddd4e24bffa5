"""The loss of a causal language model on prompts, as a function of its parameters."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import masking_utils

from ..prompts.batches import Batch
from .fused import Fused
from .processes import Processes

# Tokens of a forward pass beyond which nothing gets faster, and tokens whose computation takes as long as the fixed
# part of a pass (docs/performance.md).
ENOUGH_TOKENS, TOKENS_OF_A_PASS = 512, 48
ENOUGH_TOKENS_ON_GPU, TOKENS_OF_A_PASS_ON_GPU = 16384, 1024


@dataclass(frozen=True)
class Group:
    """Prompts that one forward pass computes, padded on the right to the longest: their share of a batch's loss.

    places: the positions, in the flattened rows, that predict an answer token. weights: of their cross entropies; those
        of all groups of a batch sum to 1 when every prompt has an answer.
    """

    token_ids: Int[Tensor, "rows tokens"]
    places: Int[Tensor, " answers"]
    answers: Int[Tensor, " answers"]
    weights: Float[Tensor, " answers"]


class PromptLoss:
    """The loss of a causal language model on a batch of prompts, as a function of its parameters.

    Per prompt the mean cross entropy over its answer tokens, then the mean over prompts.
    `loss(parameters, batch)` runs the model with `parameters` in place of its own, which it has back afterwards.

    tokens_per_forward: most tokens of one forward pass, padding included; a longer prompt is a pass of its own. None:
        as many as make it faster.
    processes: of several the loss is that of this one's share of the prompts, and `sum_` sums over them.

    Raises ValueError for a model whose passes change its statistics (batch normalization in training mode).
    """

    def __init__(
        self,
        model: nn.Module,
        autocast: torch.dtype | None = None,
        tokens_per_forward: int | None = None,
        processes: Processes = Processes(),  # noqa: B008 (frozen)
    ) -> None:
        for name, module in model.named_modules():  # passes are repeated: what they change would count twice
            if module.training and getattr(module, "track_running_stats", False):
                raise ValueError(f"{name} updates running statistics on every pass; call .eval() on the model")
            if hasattr(module, "warn_if_padding_and_no_attention_mask"):  # it waits for a GPU in every pass
                module.warn_if_padding_and_no_attention_mask = _no_warning
        self.model = model
        self.autocast = autocast
        self.tokens_per_forward = tokens_per_forward
        self.processes = processes
        self.fused = Fused({})  # where parameters lie that it is given in long tensors
        self.sum_ = processes.sum_ if processes.count > 1 else None
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
            for name, tensor in self.fused.apart(parameters).items():
                for place, attribute in self._places[name]:
                    own.append((place, attribute, place[attribute]))
                    place[attribute] = tensor
            self._current = parameters
            yield
        finally:
            for place, attribute, tensor in reversed(own):
                place[attribute] = tensor
            self._current = before

    def __call__(self, parameters: Mapping[str, Tensor], batch: Batch | Group) -> Float[Tensor, ""]:
        with self.substituted(parameters):
            if isinstance(batch, Group):
                return _loss_of_group(self.model, batch, self.autocast)
            return prompt_loss(self.model, batch, self.autocast, self.tokens_per_forward, self.processes)

    def alone(self) -> PromptLoss:
        """The same loss of whole batches, whatever other processes compute."""
        found = copy.copy(self)
        found.processes, found.sum_ = Processes(), None
        return found

    def parts(self, batch: Batch) -> list[Group]:
        """What is computed at once, one after another; the sum of their losses is that of `batch`."""
        return grouped(self.model, batch, self.tokens_per_forward, self.processes)


def _no_warning(*_: Any) -> None:
    """Padding on the right needs no mask."""


def prompt_loss(
    model: nn.Module,
    batch: Batch,
    autocast: torch.dtype | None = None,
    tokens_per_forward: int | None = None,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> Float[Tensor, ""]:
    """Mean over prompts of the mean over answer tokens of the next-token cross entropy; 0 for a prompt without any.

    Of several processes the share of this one: the mean is the sum of all shares.
    """
    groups = grouped(model, batch, tokens_per_forward, processes)
    return torch.stack([_loss_of_group(model, group, autocast) for group in groups]).sum()


def grouped(
    model: nn.Module,
    batch: Batch,
    tokens_per_forward: int | None = None,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> list[Group]:
    """The prompts of a batch, the longest first, in groups of at most `tokens_per_forward` tokens, padding included.

    Of several processes each gets an equal share. One that is left without a prompt computes the first with no weight,
    so that all have gradients of the same parameters.

    A prompt is left to the next group when padding it would cost more than another forward pass does. What follows the
    last token that predicts an answer token is not computed, nor are prompts without one.
    """
    parameter = next(model.parameters())
    on_cpu = parameter.device.type == "cpu"
    budget = tokens_per_forward or (ENOUGH_TOKENS if on_cpu else ENOUGH_TOKENS_ON_GPU)
    padding = TOKENS_OF_A_PASS if on_cpu else TOKENS_OF_A_PASS_ON_GPU
    if _length_changes_positions(model):
        padding = 0
    # The first token of a prompt has nothing to be predicted from. Lengths are read where the batch is: batches that
    # stay on the CPU until here make no GPU wait.
    predicting = batch.answer_mask[:, 1:].cpu()
    counts = predicting.sum(dim=1)
    ends = (predicting * torch.arange(1, predicting.shape[1] + 1)).amax(dim=1) if predicting.numel() else counts
    lengths: list[int] = ends.tolist()
    weights = 1 / (counts * len(lengths)).to(torch.float64 if parameter.dtype == torch.float64 else torch.float32)
    ordered = sorted((row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row])
    share = ordered[processes.rank :: processes.count]
    if ordered and not share:
        share, weights = ordered[:1], torch.zeros_like(weights)
    groups: list[list[int]] = []
    for row in share:
        if groups:
            longest = lengths[groups[-1][0]]
            if (len(groups[-1]) + 1) * longest <= budget and longest - lengths[row] <= padding:
                groups[-1].append(row)
                continue
        groups.append([row])

    def group(rows: list[int]) -> Group:
        tokens = lengths[rows[0]] if rows else 0
        row, column = predicting[rows, :tokens].nonzero(as_tuple=True)
        ids = batch.token_ids[rows]
        parts: tuple[Tensor, ...] = (ids[:, :tokens], row * tokens + column, ids[row, column + 1], weights[rows][row])
        if parameter.device.type == "cuda":  # a copy from pinned memory makes nobody wait
            parts = tuple(part.pin_memory() for part in parts)
        return Group(*(part.to(parameter.device, non_blocking=True) for part in parts))

    return [group(rows) for rows in groups or [[]]]


def _loss_of_group(model: nn.Module, group: Group, autocast: torch.dtype | None) -> Tensor:
    """The sum of the weighted cross entropies of a group.

    Causal attention and recurrences never look ahead, so padding on the right needs no mask.
    """
    if not group.places.numel():
        return 0 * torch.stack([parameter.sum() for parameter in model.parameters()]).sum()
    with torch.autocast(group.token_ids.device.type, dtype=autocast, enabled=autocast is not None):
        logits = _answer_logits(model, group)  # [answers, vocabulary]
    losses = functional.cross_entropy(logits.float() if autocast else logits, group.answers, reduction="none")
    return losses.to(group.weights.dtype) @ group.weights


def _answer_logits(model: Any, group: Group) -> Tensor:
    """Logits at the places of `group` alone: the output layer, which costs most, is given nothing else."""
    head = model.get_output_embeddings()

    def pick(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1)[group.places][None], *inputs[1:])

    picking = contextlib.nullcontext() if head is None else head.register_forward_pre_hook(pick)
    with picking, _one_prompt_a_row(group.token_ids.device):
        logits: Tensor = model(input_ids=group.token_ids, use_cache=False).logits
    return logits.flatten(0, 1)[group.places] if logits.shape[:2] == group.token_ids.shape else logits[0]


@contextlib.contextmanager
def _one_prompt_a_row(device: torch.device) -> Iterator[None]:
    """Within this context transformers does not look whether positions begin anew in a row: it waits for a GPU to."""
    name = "find_packed_sequence_indices"
    look = getattr(masking_utils, name, None)
    if device.type == "cpu" or look is None:
        yield
        return
    setattr(masking_utils, name, lambda positions: None)
    try:
        yield
    finally:
        setattr(masking_utils, name, look)


def _length_changes_positions(model: Any) -> bool:
    """Whether the longest row decides how all rows' positions are encoded, so that padding is not free of effect."""
    rope = repr(
        getattr(model.config.get_text_config(), "rope_parameters", None)
    )  # for some models one per kind of layer
    return "dynamic" in rope or "longrope" in rope
