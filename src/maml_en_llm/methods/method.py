"""What a method is: a frozen dataclass whose fields are its flags and YAML keys, one in each file of this folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..bilevel import SGD, AdamW, clip_by_global_norm_, update_all_
from ..bilevel.steps import Norms, Tensors, waits_for_numbers
from ..config import Optimizer, TrainConfig
from ..models.device import pick_device, precision_of
from ..models.trainable import TrainableModel
from ..prediction.in_context import InContext
from ..prediction.predictor import LoadedModel, Predictor
from ..prompts.batches import MixtureSampler, SameTaskSampler, Sampler
from ..prompts.choosing import Choice, needs_vectors
from ..prompts.label_words import LabelWords
from ..prompts.layout import Direction, PromptFormat
from ..prompts.style import PromptStyle

Figures = dict[str, float | Tensor]


@runtime_checkable
class Learner(Protocol):
    """What a method learns. It owns its tensors: `state_dict` is all that a checkpoint holds."""

    def batches(self, update: int) -> Sequence[Any]:
        """The batches of an update, which depend on its number alone: resuming needs no more."""

    def update(self, batches: Sequence[Any], lr_scale: float, measure: bool) -> Mapping[str, float | Tensor]:
        """Learns from the batches of one update; returns what to log, the loss as `loss`: numbers, or tensors of one
        that are not read before they are logged.

        lr_scale: factor of the learning rate from the schedule. measure: whether figures that cost extra are wanted.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """All state between updates by name: tensors of any shape and type, not copied."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over the values of a `state_dict`."""

    def save(self, folder: Path, files: Mapping[str, str]) -> None:
        """Writes a plain Hugging Face folder, with what else prediction needs and the texts `files` by name in it."""


@dataclass(frozen=True, kw_only=True)
class Method(TrainConfig):
    """Base of all methods."""

    direction: Direction = "direct"
    """direct predicts output from input; channel predicts input from output."""
    demonstrations: int = 16
    """Labelled examples in front of each example."""
    choose: Choice = "random"
    """Which other examples of a task precede an example; all but random never show one with the same input
    (docs/choosing.md)."""
    layer: str = "words"
    """choose=nearest, diverse: the layer of the starting model whose vectors are compared, as in `evaluate`."""
    predicted: Literal["last_answer", "answers"] = "last_answer"
    """What counts in the loss: the last answer of a prompt, or the answers of all its examples."""
    label_words: LabelWords = "task"
    """Names of the labels: the task's own, or redrawn for every prompt, the same for all its examples."""

    def title(self, style: PromptStyle) -> str:
        """The name that tables use, without direction, of the model on prompts of `style`."""
        raise NotImplementedError

    def learner(self, model: TrainableModel, sampler: Sampler) -> Learner:
        raise NotImplementedError

    def __post_init__(self) -> None:
        """Fills in the machine's precision, so that config.yaml says it and a run does not go on in another."""
        if self.precision is None and "precision" not in self.unread():
            object.__setattr__(self, "precision", precision_of(pick_device(self.device)))
        super().__post_init__()

    @property
    def name(self) -> str:
        """Its name in flags and files: that of the file it is written in."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    is_raw: ClassVar[bool] = False
    """Whether its models have learned language and not tasks in context, so that they count as raw."""

    shards: ClassVar[bool] = False
    """Whether its learner needs of parameters no more than what `shard` leaves to each process."""

    @property
    def whole(self) -> dict[str, Any]:
        """Keys with the values that need whole parameters in one process (...: any but the default)."""
        return {"trainable": ..., "validate_every": ...}

    @property
    def baseline(self) -> str | None:
        """Name of the method that reports compare it with."""
        return "metaicl"

    def label(self, style: PromptStyle | None = None) -> str:
        """The name that tables use, e.g. `Channel MAML-2-4`."""
        style = style or self.prompts()
        title = self.title(style) if self.choose == "random" else f"{self.title(style)} trained with {self.choose}"
        return f"Channel {title}" if style.format.direction == "channel" else title

    @property
    def batches_per_update(self) -> int:
        return 1

    def prompts(self) -> PromptStyle:
        """Prompts at training and, unless `prompts_at_test` says otherwise, at test."""
        form = PromptFormat(self.direction, self.layout, self.max_tokens, self.max_tokens_per_example)
        return PromptStyle(form, self.demonstrations)

    def prompts_at_test(self) -> PromptStyle:
        return self.prompts()

    def learning_rate_scale(self, update: int, updates: int) -> float:
        """Factor of the learning rate in `update` of `updates`."""
        return 1.0

    @property
    def choose_at_test(self) -> Choice:
        """Which labelled examples precede an example at test, unless `evaluate` is told otherwise."""
        return self.choose

    def sampler(self, **data: Any) -> Sampler:
        """Batches by number; `data`: fields of MixtureSampler."""
        return MixtureSampler(**data)

    def predictor(self, model: LoadedModel, style: PromptStyle, **options: Any) -> Predictor:
        """How a model folder that this method made predicts; `options`: other fields of InContext."""
        return InContext(model, style, **options)

    def unread(self) -> dict[str, str]:
        unread = super().unread()
        if not needs_vectors(self.choose):
            unread |= {"layer": f"choose={self.choose}"}
        if not self.demonstrations:
            unread |= dict.fromkeys(("label_words", "choose"), "demonstrations=0")
        return unread

    def check(self) -> None:
        super().check()
        self.at_least(0, "demonstrations")
        if self.shard and not self.shards:
            raise ValueError(f"shard is set but method={self.name} needs whole parameters; leave it out")
        default = {field.name: field.default for field in dataclasses.fields(self)}
        for key, value in self.whole.items() if self.shard else ():
            if (found := getattr(self, key)) == value or (value is ... and found != default[key]):
                raise ValueError(f"shard is set but {key}={found} needs whole parameters; leave one of the two out")
        if self.batches < self.batches_per_update:
            raise ValueError(f"batches is {self.batches}, less than the {self.batches_per_update} of one update")
        self.prompts()


@dataclass(frozen=True, kw_only=True)
class GradientMethod(Method):
    """Base of methods that learn by gradient descent."""

    optimizer: Optimizer = "adamw"
    """The optimizer (of the outer step, if there are two)."""
    lr: float = 1e-5
    """Learning rate (beta in the paper: of the outer step)."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    momentum: float = 0.0
    """Momentum of SGD."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's running averages."""
    adam_eps: float = 1e-8
    """Added to the root of AdamW's second moment."""
    gradient_clip: float | None = 1.0
    """Largest norm of the (meta-)gradient; None leaves it as it is."""
    schedule: Literal["linear", "constant"] = "linear"
    """Course of lr: linear falls to 0 over the run. Inner learning rates stay."""
    warmup: float = 0.0
    """Share of the run over which lr rises from 0."""

    @property
    def optimizers(self) -> set[str]:
        return {self.optimizer}

    def step(self, optimizer: str, lr: float) -> SGD | AdamW:
        """One of the two optimizers, with the keys that it reads."""
        if optimizer == "sgd":
            return SGD(lr=lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return AdamW(lr=lr, betas=self.adam_betas, eps=self.adam_eps, weight_decay=self.weight_decay)

    def unread(self) -> dict[str, str]:
        keys = {"sgd": ("momentum",), "adamw": ("adam_betas", "adam_eps")}
        absent = [name for optimizer, names in keys.items() if optimizer not in self.optimizers for name in names]
        return super().unread() | dict.fromkeys(absent, f"optimizer={self.optimizer}")

    def check(self) -> None:
        super().check()
        self.not_negative("lr", "weight_decay", "warmup")
        for name in ("adam_eps", "gradient_clip"):
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}; it must be above 0 and finite")
        if self.warmup > 1:
            raise ValueError(f"warmup is {self.warmup}; it must be at most 1")
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ValueError(f"adam_betas is {self.adam_betas}; each must be at least 0 and below 1")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must be at least 0 and below 1")

    def learning_rate_scale(self, update: int, updates: int) -> float:
        """Factor of lr in `update` of `updates`: linear warm-up, then constant or linearly to 0."""
        rising = self.warmup * updates
        if update < rising:
            return (update + 1) / (rising + 1)
        return 1.0 if self.schedule == "constant" else (updates - update) / max(updates - rising, 1)


@dataclass(frozen=True, kw_only=True)
class TwoLevelMethod(GradientMethod):
    """Base of methods whose copies adapt before they are measured; an update sees 2kn batches."""

    copies: int = 1
    """n, adapted copies that a meta-update explores."""
    inner_steps: int = 1
    """k, inner steps of each copy."""

    @property
    def batches_per_update(self) -> int:
        return 2 * self.inner_steps * self.copies

    def check(self) -> None:
        self.at_least(1, "copies", "inner_steps")
        super().check()

    def support_and_query(self, batches: Sequence[Any]) -> tuple[list[Sequence[Any]], list[Sequence[Any]]]:
        """By copy the k batches that it adapts to, and the k that it is measured on."""
        k = self.inner_steps
        copies = [batches[i : i + 2 * k] for i in range(0, len(batches), 2 * k)]
        return [copy[:k] for copy in copies], [copy[k:] for copy in copies]


@dataclass(frozen=True, kw_only=True)
class SameTaskMethod(TwoLevelMethod):
    """Base of those whose copies learn a task each: all 2k batches of a copy are of one task."""

    def sampler(self, **data: Any) -> Sampler:
        return SameTaskSampler(**data, inner_steps=self.inner_steps)

    def unread(self) -> dict[str, str]:
        return super().unread() | {"choose": f"method={self.name}"}


class GradientLearner:
    """What learners by gradient descent share: the model's parameters and an optimizer's moments.

    Subclasses add `update`. fused: whether they treat all parameters alike, so that on a GPU `parameters` may be a few
    long tensors instead.
    """

    fused: ClassVar[bool] = False

    def __init__(self, method: GradientMethod, model: TrainableModel, sampler: Sampler) -> None:
        self.method, self.model, self.sampler = method, model, sampler
        if self.fused and waits_for_numbers(model.device):
            model.fuse()
        self.loss, self.parameters = model.loss, model.parameters
        self.norms: Norms | None = getattr(model.loss, "norms", None)
        self.optimizer = method.step(method.optimizer, method.lr)
        self.moments = self.optimizer.init(self.parameters)

    def batches(self, update: int) -> Sequence[Any]:
        count = self.method.batches_per_update
        return [self.sampler.batch(n) for n in range(update * count, (update + 1) * count)]

    def outer_step(self, gradients: Tensors, lr_scale: float) -> Figures:
        """Clips the gradients and moves the parameters by them; returns the norm before and the learning rate."""
        norm = clip_by_global_norm_(gradients, self.method.gradient_clip, self.norms)
        step = replace(self.optimizer, lr=self.optimizer.lr * lr_scale)
        update_all_(step, self.parameters, gradients, self.moments)
        return {"gradient_norm": norm, "lr": step.lr}

    def state_dict(self) -> dict[str, Tensor]:
        named = {"parameters": self.parameters, "first_moments": self.moments.first}
        named |= {"second_moments": self.moments.second} if self.moments.second is not None else {}
        tensors = {f"{group}.{n}": t for group, some in named.items() for n, t in self.model.apart(some).items()}
        return tensors | {"optimizer_step": torch.tensor(self.moments.step)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.state_dict().items():
                tensor.copy_(state[name])
        self.moments.step = int(state["optimizer_step"])

    def save(self, folder: Path, files: Mapping[str, str]) -> None:
        self.model.save(folder, files)
