"""The methods: how batches become one update of the parameters. One file each; `diff` two of them to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from ..bilevel import SGD, AdamW, Moments
from ..bilevel.curvature import Loss
from ..bilevel.steps import Tensors
from ..config import TrainConfig
from ..prompts.batches import Batch, Sampler


@runtime_checkable
class Method(Protocol):
    """What the training loop needs of a method; `moments` is all the state it keeps between updates."""

    moments: Moments

    def __init__(self, config: TrainConfig, parameters: Tensors) -> None: ...

    def sampler(self, **data: Any) -> Sampler:
        """Batches for this method from `data`, the fields of MixtureSampler."""

    def update(
        self, loss: Loss, parameters: Tensors, batches: Sequence[Batch], lr_scale: float, measure: bool
    ) -> dict[str, float]:
        """Changes `parameters` in place with config.batches_per_update batches; returns what to log.

        lr_scale: factor of lr from the schedule. measure: whether figures that cost extra are wanted.
        """


def make_step(config: TrainConfig, optimizer: str, lr: float) -> SGD | AdamW:
    """The inner or outer optimizer that a configuration asks for."""
    if optimizer == "sgd":
        return SGD(lr=lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return AdamW(lr=lr, betas=config.adam_betas, eps=config.adam_eps, weight_decay=config.weight_decay)


def method_class(name: str) -> Callable[[TrainConfig, Tensors], Method]:
    """The class of the method of that name."""
    from .language_model import LanguageModel
    from .maml_en_llm import MAMLenLLM
    from .metaicl import MetaICL
    from .metaict import MetaICT
    from .multitask_zero_shot import MultitaskZeroShot

    methods: dict[str, Callable[[TrainConfig, Tensors], Method]] = {
        "language-model": LanguageModel,
        "metaicl": MetaICL,
        "metaict": MetaICT,
        "multitask-zero-shot": MultitaskZeroShot,
        "maml-en-llm": MAMLenLLM,
    }
    return methods[name]
