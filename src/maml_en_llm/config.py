"""What a run can be told: frozen dataclasses, overlaid by a YAML file, overlaid by flags.

An unknown key is an error, and so is a key that the chosen method does not read.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from .hub import pinned
from .names import check_label
from .prompts.choosing import Choice, needs_vectors
from .prompts.layout import Direction, Layout, Overflow
from .safe_yaml import read_yaml_file

Optimizer = Literal["adamw", "sgd"]
DEFAULT_METHOD = "maml-en-llm"
Trainable = Literal["full", "lora", "bias", "last_blocks"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Keys of a command. Subclasses check their values in `check`, which constructing one calls."""

    FREE: ClassVar[frozenset[str]] = frozenset({"collection", "output", "device", "revision"})
    """Keys that do not change what is computed; of collections and models, with their revision, the content counts."""
    LATER: ClassVar[Mapping[str, Any]] = {}
    """Values that keys have in runs from before there were these keys."""

    model: str
    """Hugging Face folder or hub id, or starter for the built-in model."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; by default its newest state."""

    @property
    def pinned_model(self) -> str:
        """The model with its revision."""
        return pinned(self.model, self.revision)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises ValueError naming the key whose value cannot be meant."""
        check_literals(self)
        pinned(self.model, self.revision)

    def at_least(self, least: int, *names: str) -> None:
        for name in names:
            if getattr(self, name) is not None and getattr(self, name) < least:
                must = f"be at least {least}" if least else "not be negative"
                raise ValueError(f"{name} is {getattr(self, name)}; it must {must}")

    def not_negative(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not 0 <= value < math.inf:  # nan is refused, too
                raise ValueError(f"{name} is {value}; it must {'be finite' if value > 0 else 'not be negative'}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Keys of every training run; a method adds its own (methods/method.py)."""

    FREE: ClassVar[frozenset[str]] = Config.FREE | {
        "checkpoint_every",
        "log_every",
        "keep_adapter",
        "tensorboard",
        "tokens_per_forward",
        "recompute_activations",
        "shard",
    }

    collection: Path
    """Folder of NLP tasks."""
    setting: str
    """Name of the setting whose training tasks are learned from."""
    output: Path
    """Run directory: config.yaml, metrics.jsonl, checkpoints/ and model/."""

    batches: int = 50_000
    """Training length in batches seen, the same for every method."""
    batch_size: int = 1
    """Prompts in a batch."""
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
    keep_adapter: bool = False
    """trainable=lora: write the adapter alone, a PEFT folder, instead of a whole model with it merged."""
    last_blocks: int = 2
    """trainable=last_blocks: how many transformer blocks learn, with the final norm."""

    validate_every: int = 0
    """Batches between two scores on validation tasks; the state that scores best becomes model/ (0: the last does)."""
    validate_setting: str | None = None
    """Setting, or task, whose targets validate, on a fifth of their train examples; it must share no target with
    `setting`. By default the training tasks do, on their dev or test examples."""
    validate_examples: int = 50
    """Most examples of each validation task."""

    device: str = "auto"
    """auto takes a GPU if there is one."""
    shard: bool = False
    """Spread parameters, moments and copies over the processes of torchrun, for models that do not fit into one device
    (docs/several-processes.md)."""
    precision: Literal["float32", "bfloat16"] | None = None
    """bfloat16 computes under autocast; parameters and moments stay float32, but for weights that LoRA leaves as they
    are (docs/performance.md). By default bfloat16 on a GPU that has it, else float32."""
    tokens_per_forward: int | None = None
    """Most tokens of one forward and backward pass, padding included; a longer prompt is a pass of its own. It bounds
    the memory of activations. By default as many as make it faster (docs/performance.md)."""
    recompute_activations: bool = False
    """Keep the inputs of transformer blocks alone and compute the rest again on the way back: less memory, a third
    more time."""
    log_every: int = 20
    """Updates between two lines of metrics.jsonl."""
    tensorboard: bool = False
    """Write the lines of metrics.jsonl for TensorBoard, too, to tensorboard/ in the run directory."""
    checkpoint_every: int = 1000
    """Batches between two checkpoints (0: none but when interrupted)."""

    def check(self) -> None:
        super().check()
        self.at_least(1, "batches", "batch_size", "log_every", "lora_rank", "last_blocks", "validate_examples")
        self.at_least(1, "tokens_per_forward")
        self.at_least(0, "checkpoint_every", "validate_every")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, why in self.unread().items():
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} is set but {why} does not read it; leave it out")

    def unread(self) -> dict[str, str]:
        """Keys that other values leave without effect, each with the value that does."""
        read = {"lora": "lora_rank", "last_blocks": "last_blocks"}
        unread = [name for trainable, name in read.items() if trainable != self.trainable]
        unread += ["keep_adapter"] if self.trainable != "lora" else []
        of_validation = () if self.validate_every else ("validate_setting", "validate_examples")
        return dict.fromkeys(unread, f"trainable={self.trainable}") | dict.fromkeys(of_validation, "validate_every=0")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Score a model on the target tasks of a setting under the MetaICL protocol."""

    FREE: ClassVar[frozenset[str]] = Config.FREE | {"label", "tokens_per_forward"}

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
    learner: str = "in-context"
    """What predicts: the model in its context, or a head that learns from the same labelled examples:
    distilled-logistic, logistic, majority, nearest, prototype, retrieval-prototype, set-transformer, tfidf-logistic,
    tfidf-nearest; or uniform, which guesses."""
    choose: Choice | None = None
    """Which labelled examples precede an example; all but random never show it itself (docs/choosing.md). By default as
    the model was trained, else random."""
    bank: Literal["own", "all"] = "own"
    """Where bm25 and nearest choose from: the task's own labelled examples, or those of all training tasks."""
    choose_groups: int = 0
    """bm25 and nearest: how many sets of demonstrations a task's examples share; 0 is one for each, which is slow."""
    layer: str = "words"
    """Of the vectors that heads and nearest compare: words (input embeddings), middle, last, or a number."""
    calibrate: bool = False
    """Subtract the score that an option has with the input "N/A" (PMI); direct only."""
    seeds: tuple[int, ...] = (100, 13, 21, 42, 87)
    """One draw of demonstrations each."""
    order: Literal["drawn", "probed"] = "drawn"
    """probed: of 24 orders of a prompt's demonstrations the one behind which predictions for unlabelled inputs of the
    task are most even (GlobalE)."""
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

    def check(self) -> None:
        super().check()
        if self.label is not None:
            check_label(self.label)
        if not self.seeds:
            raise ValueError("seeds is empty; give at least one")
        self.at_least(0, "demonstrations", "choose_groups")
        self.at_least(1, "orders", "max_examples", "tokens_per_forward")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, why in self.unread().items():
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} is set but {why} does not read it; leave it out")

    def unread(self) -> dict[str, str]:
        """Keys that other values leave without effect, each with the value that does."""
        unread: dict[str, str] = {}
        choose = self.choose or "random"
        if self.learner != "in-context":
            of_prompts = ("direction", "layout", "max_tokens", "max_tokens_per_example", "overflow", "instructions")
            names = (*of_prompts, "calibrate", "order", "orders", "bank", "tokens_per_forward")
            unread |= dict.fromkeys(names, f"learner={self.learner}")
        elif not needs_vectors(choose, self.choose_groups):
            unread |= {"layer": f"choose={choose}"}
        if choose not in ("bm25", "nearest"):
            unread |= dict.fromkeys(("bank", "choose_groups"), f"choose={choose}")
        if self.order == "probed":
            unread |= {"orders": "order=probed"}
        if self.demonstrations == 0:
            unread |= dict.fromkeys(("choose", "order"), "demonstrations=0")
        return unread


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

    def check(self) -> None:
        super().check()
        if self.learner != "in-context":
            raise ValueError(f"learner is {self.learner} but only the model itself adapts; leave it out")
        self.not_negative("lr")
        self.at_least(1, "adaptation_examples")
        self.at_least(4, "adaptation_tokens")


def check_literals(config: Any) -> None:
    """ValueError when a field holds none of the words that its type allows."""
    hints = typing.get_type_hints(type(config))
    for name, hint in ((field.name, hints[field.name]) for field in dataclasses.fields(config)):
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
    record = read_yaml_file(path) or {}
    if not isinstance(record, dict):
        raise ValueError(f"{path}: must hold keys and values, like `lr: 1e-5`")
    return record


def typed_keys(record: Mapping[str, Any], config_type: type[Any], where: str) -> dict[str, Any]:
    """`record` with the types of `config_type`'s fields; ValueError, which begins with `where`, for an unknown key."""
    every = typing.get_type_hints(config_type)
    hints = {field.name: every[field.name] for field in dataclasses.fields(config_type)}
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

    keys = {"method": config.name} if hasattr(config, "name") else {}
    keys |= {key: plain(value) for key, value in vars(config).items()}
    return yaml.safe_dump(keys, sort_keys=False)
