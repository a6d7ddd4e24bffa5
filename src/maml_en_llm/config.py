"""What a run can be told: frozen dataclasses, overlaid by a YAML file, overlaid by flags.

An unknown key is an error, and so is a key that the chosen method does not read.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from .bilevel.curvature import Curvature
from .bilevel.meta_gradient import Order, Trajectory
from .models.trainable import Trainable
from .prompts.label_words import LabelWords
from .prompts.layout import Direction, Layout, Overflow, Predicted, PromptFormat

MethodName = Literal["language-model", "metaicl", "metaict", "multitask-zero-shot", "maml-en-llm"]
Optimizer = Literal["adamw", "sgd"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Meta-train a causal language model on the training tasks of a setting."""

    collection: Path
    """Folder of NLP tasks."""
    setting: str
    """Name of the setting whose training tasks are learned from."""
    model: str
    """Hugging Face folder or hub id to start from."""
    output: Path
    """Run directory: config.yaml, metrics.jsonl, checkpoints/ and model/."""
    method: MethodName = "maml-en-llm"
    """How batches become updates."""
    direction: Direction = "direct"
    """direct predicts output from input; channel predicts input from output."""

    batches: int = 50_000
    """Training length in batches seen, the same for every method; MAML-en-LLM sees 2kn in a meta-update."""
    batch_size: int = 1
    """Prompts in a batch."""
    demonstrations: int = 16
    """Labelled examples in front of each example."""
    layout: Layout = "newlines"
    """How examples are joined; metaicl is exactly the reference implementation's way."""
    max_tokens: int = 1024
    """Limit of a prompt."""
    max_tokens_per_example: int = 256
    """Limit of one example; its input is cut from the end."""
    data_amount: Literal["complete", "limited"] = "complete"
    """limited trains on 10 % of every task, stratified by label."""
    seed: int = 100
    """Seed of the data order and the demonstrations."""

    trainable: Trainable = "full"
    """Which parameters learn: all, LoRA on every linear layer (merged at the end), biases, or the last blocks."""
    lora_rank: int = 8
    """trainable=lora: rank of what is added to each linear layer."""
    last_blocks: int = 2
    """trainable=last_blocks: how many transformer blocks learn, with the final norm."""

    optimizer: Optimizer = "adamw"
    """The optimizer (MAML-en-LLM: of the outer step)."""
    lr: float = 1e-5
    """Learning rate (MAML-en-LLM: beta, of the outer step)."""
    weight_decay: float = 0.0
    """Decoupled weight decay of both steps."""
    momentum: float = 0.0
    """Momentum of SGD."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's running averages."""
    adam_eps: float = 1e-8
    """Added to the root of AdamW's second moment."""
    gradient_clip: float | None = 1.0
    """Largest norm of the (meta-)gradient; None leaves it as it is."""
    schedule: Literal["linear", "constant"] = "linear"
    """Course of lr: linear falls to 0 over the run. The inner learning rate stays."""
    warmup: float = 0.0
    """Share of the run over which lr rises from 0."""

    predicted: Predicted | None = None
    """What counts in the loss: the last answer of a prompt (the default), the answers of all its examples, or every
    token (language-model, whose default it is)."""
    label_words: LabelWords = "task"
    """Names of the labels: the task's own, or redrawn for every prompt, the same for all its examples."""

    copies: int = 1
    """MAML-en-LLM: n, adapted copies that a meta-update explores."""
    inner_steps: int = 1
    """MAML-en-LLM: k, inner steps of each copy."""
    inner_optimizer: Optimizer = "adamw"
    """MAML-en-LLM: optimizer of the inner steps."""
    inner_lr: float = 1e-5
    """MAML-en-LLM: alpha, learning rate of the inner steps."""
    order: Order = "second"
    """MAML-en-LLM: second is the exact meta-gradient, first ignores how adaptation depends on the start."""
    curvature: Curvature | None = None
    """MAML-en-LLM: Hessian-vector products by one more gradient (difference), two (central), or exact; by default
    difference in float32, central in bfloat16."""
    trajectory: Trajectory = "keep"
    """MAML-en-LLM: with inner_steps > 1, keep every step or recompute it on the way back, which saves memory."""
    verify_curvature: int = 0
    """MAML-en-LLM: every N updates compare with exact curvature and log the error (0: never)."""
    shared_moments: bool | None = None
    """MAML-en-LLM: inner and outer steps update one optimizer state; by default if they use the same optimizer."""
    sampling: Literal["mixture", "same_task"] = "mixture"
    """MAML-en-LLM: support and query are draws from the mixture of all tasks, or come from one task a copy."""

    device: str = "auto"
    """auto takes a GPU if there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes under autocast; parameters and moments stay float32."""
    log_every: int = 20
    """Updates between two lines of metrics.jsonl."""
    checkpoint_every: int = 1000
    """Batches between two checkpoints (0: none but when interrupted)."""
    resume: bool = False
    """Continue the run in --output from its newest checkpoint, or start it if there is none."""
    plan: bool = False
    """Have the command print what memory, time and disk the run will take, and stop."""

    def __post_init__(self) -> None:
        check_literals(self)
        for name in ("batches", "batch_size", "copies", "inner_steps", "log_every", "lora_rank", "last_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("demonstrations", "checkpoint_every", "lr", "inner_lr", "weight_decay", "warmup"):
            if not getattr(self, name) >= 0:  # so that nan is refused, too
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("adam_eps", "gradient_clip"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.warmup > 1:
            raise ValueError(f"warmup is {self.warmup}; it must be at most 1")
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ValueError(f"adam_betas is {self.adam_betas}; each must be at least 0 and below 1")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must be at least 0 and below 1")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, why in unread_keys(self).items():
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} is set but {why} does not read it; leave it out")
        if self.shared_moments and self.optimizer != self.inner_optimizer:
            raise ValueError(
                f"shared_moments needs one optimizer for both steps, but inner_optimizer is {self.inner_optimizer} and "
                f"optimizer is {self.optimizer}; make them equal or leave shared_moments out"
            )
        group = self.batches_per_update
        if self.batches < group:
            raise ValueError(
                f"batches is {self.batches}, less than the {group} of one update (2 * inner_steps * copies)"
            )
        if self.predicted == ("last_answer" if self.method == "language-model" else "text"):
            other = "text" if self.method == "language-model" else "last_answer"
            raise ValueError(f"predicted is {self.predicted}; with method={self.method} it must be {other} or answers")
        self.prompt_format()

    @property
    def chosen_predicted(self) -> Predicted:
        """predicted with its default filled in."""
        return self.predicted or ("text" if self.method == "language-model" else "last_answer")

    @property
    def batches_per_update(self) -> int:
        return 2 * self.inner_steps * self.copies if self.method == "maml-en-llm" else 1

    @property
    def shares_moments(self) -> bool:
        """shared_moments with its default filled in."""
        return self.optimizer == self.inner_optimizer if self.shared_moments is None else self.shared_moments

    @property
    def chosen_curvature(self) -> Curvature:
        """curvature with its default filled in."""
        return self.curvature or ("difference" if self.precision == "float32" else "central")

    @property
    def shown(self) -> int:
        """Demonstrations in front of each example, as the method uses them."""
        return 0 if self.method == "multitask-zero-shot" else self.demonstrations

    @property
    def instructed(self) -> bool:
        """Whether the task's instruction stands at the head of each prompt."""
        return self.method == "metaict"

    def prompt_format(self) -> PromptFormat:
        return PromptFormat(self.direction, self.layout, self.max_tokens, self.max_tokens_per_example)


MAML_KEYS = (
    "copies",
    "inner_steps",
    "inner_optimizer",
    "inner_lr",
    "order",
    "curvature",
    "trajectory",
    "verify_curvature",
    "shared_moments",
    "sampling",
)


def unread_keys(config: Any) -> dict[str, str]:
    """Keys that a TrainConfig (or what has its fields) leaves unread, each with the choice that does not read it."""
    optimizers = {config.optimizer} | ({config.inner_optimizer} if config.method == "maml-en-llm" else set())
    optimizer = f"optimizer={config.optimizer}"
    groups = (
        (config.method != "maml-en-llm", f"method={config.method}", MAML_KEYS),
        (config.method == "multitask-zero-shot", f"method={config.method}", ("demonstrations", "label_words")),
        (config.demonstrations == 0, "demonstrations=0", ("label_words",)),
        (config.trainable != "lora", f"trainable={config.trainable}", ("lora_rank",)),
        (config.trainable != "last_blocks", f"trainable={config.trainable}", ("last_blocks",)),
        ("sgd" not in optimizers, optimizer, ("momentum",)),
        ("adamw" not in optimizers, optimizer, ("adam_betas", "adam_eps")),
        (config.order == "first", f"order={config.order}", ("curvature", "trajectory", "verify_curvature")),
        (config.inner_steps == 1, f"inner_steps={config.inner_steps}", ("trajectory",)),
    )
    found: dict[str, str] = {}
    for unread, why, names in groups:
        if unread:
            found = dict.fromkeys(names, why) | found
    return found


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score a model on the target tasks of a setting under the MetaICL protocol."""

    model: str
    """Hugging Face folder or hub id."""
    collection: Path
    """Folder of NLP tasks."""
    setting: str
    """Name of the setting whose target tasks are scored."""
    output: Path
    """Results file (.json); predictions go beside it (.predictions.jsonl)."""
    subset: Literal["test", "unseen_domain_test"] = "test"
    """All target tasks, or those of unseen domains only."""
    split: Literal["test", "dev", "validation"] = "test"
    """Which examples of the target tasks are scored; validation is a fifth of their train split, of which then no
    demonstration comes."""
    data_amount: Literal["complete", "limited"] = "complete"
    """limited scores 10 % of the examples of every task, stratified by label."""
    direction: Direction | None = None
    """direct or channel; by default as the model was trained, else direct."""
    layout: Layout | None = None
    """How examples are joined; by default as the model was trained, else newlines."""
    demonstrations: int | None = None
    """Labelled examples in front of each example; by default as the model was trained, else 16. 0 is zero-shot."""
    max_tokens: int | None = None
    """Limit of a prompt; by default as the model was trained, else 1024."""
    max_tokens_per_example: int | None = None
    """Limit of one example; by default as the model was trained, else 256."""
    overflow: Overflow = "fit"
    """fit cuts a task's demonstrations once; left cuts every prompt from its left, as the reference does."""
    instructions: bool | None = None
    """The task's instruction at the head of its prompts; by default as the model was trained, else not."""
    calibrate: bool = False
    """Subtract the score that an option has with the input "N/A" (PMI); direct only."""
    seeds: tuple[int, ...] = (100, 13, 21, 42, 87)
    """One draw of demonstrations each."""
    orders: int = 1
    """In how many orders each draw is scored, to tell the spread over orders from that over choices. Scores are those
    of the first; the others are shuffled."""
    max_examples: int | None = None
    """Score only the first N examples of each task."""
    label: str | None = None
    """Name of the method in reports; by default told from how the model was trained."""
    device: str = "auto"
    """auto takes a GPU if there is one."""
    tokens_per_forward: int | None = None
    """Tokens that one forward pass scores, behind the shared demonstrations; by default chosen by the free memory."""

    def __post_init__(self) -> None:
        check_literals(self)
        if not self.seeds:
            raise ValueError("seeds is empty; give at least one")
        if self.demonstrations is not None and self.demonstrations < 0:
            raise ValueError(f"demonstrations is {self.demonstrations}; it must not be negative")
        for name in ("orders", "max_examples", "tokens_per_forward"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(EvaluateConfig):
    """Score a model on target tasks before and after it has learned each one from a few of its examples."""

    lr: float = 1e-7
    """Learning rate of AdamW; the paper's hardly moves a small model."""
    adaptation_examples: int = 16
    """Examples of a task that it learns from: one pass, one step each."""
    adaptation_tokens: int = 256
    """Limit of a prompt that it learns from; of the other examples as many stand in front as fit."""
    adaptation_seed: int = 100
    """Seed of the draw of these examples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lr >= 0:
            raise ValueError(f"lr is {self.lr}; it must not be negative")
        for name, least in (("adaptation_examples", 1), ("adaptation_tokens", 4)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")


def check_literals(config: Any) -> None:
    """ValueError when a field holds none of the words that its type allows."""
    for name, hint in typing.get_type_hints(type(config)).items():
        parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        allowed = [word for part in parts if typing.get_origin(part) is Literal for word in typing.get_args(part)]
        absent = getattr(config, name) is None and type(None) in parts
        if allowed and not absent and getattr(config, name) not in allowed:
            raise ValueError(f"{name} is {getattr(config, name)!r}; it must be one of {', '.join(map(str, allowed))}")


def read_yaml(path: Path, config_type: type[Any]) -> dict[str, Any]:
    """The keys of a YAML file with the types of `config_type`'s fields; ValueError for a key it does not have."""
    return typed_keys(load_yaml(path), config_type, str(path))


def load_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file as they are; ValueError when it holds something else."""
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; give --config a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}: must hold keys and values, like `lr: 1e-5`")
    return record


def typed_keys(record: Mapping[str, Any], config_type: type[Any], where: str) -> dict[str, Any]:
    """`record` with the types of `config_type`'s fields; ValueError, which begins with `where`, for an unknown key."""
    hints = typing.get_type_hints(config_type)
    unknown = [key for key in record if key not in hints]
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(hints))}")
    return {key: _convert(value, hints[key], f"{where}: {key}") for key, value in record.items()}


def _convert(value: Any, hint: Any, where: str) -> Any:
    """A YAML value as the field's type; `1e-5`, which YAML reads as a string, becomes a number."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), where)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where} is {value!r}; it must be one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is {value!r}; it must be a list")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ValueError(f"{where} is {value!r}; it must be a list of {len(arguments)}")
        return tuple(_convert(v, arguments[0], where) for v in value)
    if hint is bool and isinstance(value, bool):
        return value
    try:
        if hint in (int, float) and not isinstance(value, bool):
            number = hint(value)
            if hint is float or number == float(value):
                return number
        if hint is Path and isinstance(value, str):
            return Path(value)
        if hint is str and isinstance(value, (str, int)) and not isinstance(value, bool):
            return str(value)
    except (TypeError, ValueError):
        pass
    words = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path", str: "text"}
    raise ValueError(f"{where} is {value!r}; it must be {words[hint]}")


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML that `read_yaml` reads back to an equal one."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        return list(value) if isinstance(value, tuple) else value

    return yaml.safe_dump({key: plain(value) for key, value in vars(config).items()}, sort_keys=False)
