"""The model card and the machine-readable provenance that travel in a model folder."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..config import TrainConfig, unread_keys
from ..results import PROVENANCE, Provenance, RunRecord, Training, digest, read_provenance, to_json
from ..tasks.collection import Collection, Setting

BASELINES = {"maml-en-llm": "metaicl"}
RAW_METHODS = ("language-model",)  # their models learned language and not tasks in context
NOT_OF_A_RECIPE = ("seed", "output", "resume", "plan", "device", "log_every", "checkpoint_every")
LIBRARIES = ("maml-en-llm", "torch", "transformers", "peft", "numpy")


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def method_label(method: str, direction: str, shown: int, config: dict[str, Any]) -> str:
    """The name that tables use, e.g. `Channel MAML-2-4`; untrained and language models are `Raw LM` or `No ICL`."""
    if method == "maml-en-llm":
        name = f"{'MAML' if config['order'] == 'second' else 'FOMAML'}-{2 * config['inner_steps']}-{config['copies']}"
    else:
        untrained = "Raw LM" if shown else "No ICL"
        names = {"metaicl": "MetaICL", "metaict": "MetaICT", "multitask-zero-shot": "Multi-task zero-shot"}
        name = untrained if method in ("", "language-model") else names.get(method, method)
    return f"Channel {name}" if direction == "channel" else name


def trained_part(config: TrainConfig) -> str:
    """What of the model learned, in words."""
    return {
        "full": "all parameters",
        "lora": f"LoRA of rank {config.lora_rank} on every linear layer, merged into the weights",
        "bias": "the biases",
        "last_blocks": f"the last {config.last_blocks} blocks and the final norm",
    }[config.trainable]


def provenance_files(
    config: TrainConfig, collection: Collection, setting: Setting, trained: int, run: RunRecord
) -> dict[str, str]:
    """README.md (the model card) and PROVENANCE, as name -> text; `trained`: how many numbers learned."""
    values = vars(config) | {"shared_moments": config.shares_moments}
    unread = unread_keys(config)
    plain: dict[str, Any] = {k: str(v) if isinstance(v, Path) else v for k, v in values.items() if k not in unread}
    label = method_label(config.method, config.direction, config.shown, plain)
    training = Training(
        method=config.method,
        baseline=BASELINES.get(config.method),
        copies=plain.get("copies"),
        inner_steps=plain.get("inner_steps"),
        order=plain.get("order"),
        trainable=config.trainable,
        seed=config.seed,
        batches=config.batches,
        updates=config.batches // config.batches_per_update,
        data_amount=config.data_amount,
        recipe_hash=digest({k: v for k, v in plain.items() if k not in NOT_OF_A_RECIPE}),
    )
    record = Provenance(
        label=label,
        training=None if config.method in RAW_METHODS else training,
        config=plain,
        trained=trained_part(config),
        trained_parameters=trained,
        training_tasks=setting.train,
        training_tasks_named=setting.named["train"],
        started_from=read_provenance(config.model) or config.model,
        versions=versions(),
        run=run,
    )
    order = f"{config.order} order, " if config.method == "maml-en-llm" else ""
    rows = "\n".join(f"| {key} | {value} |" for key, value in plain.items() if key not in ("output", "resume", "plan"))
    library = "\n".join(f"| {name} | {number} |" for name, number in versions().items())
    card = f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [in-context-learning, meta-learning, {config.method}]
---

# {label}

A causal language model trained with [MAML-en-LLM](https://doi.org/10.1145/3637528.3671905)'s toolkit to learn a new
task from the examples in its prompt. Method: `{config.method}` ({order}{config.direction}), started from
`{config.model}`, {config.batches} batches of {config.batch_size}, seed {config.seed}.
Trained: {trained_part(config)} ({trained:,} numbers).

## Data

Setting `{setting.name}` of the collection `{collection.path.name}`, {len(setting.train)} of {setting.named["train"]}
training tasks: {", ".join(setting.train)}.

## Configuration

| key | value |
|---|---|
{rows}

## Versions

| library | version |
|---|---|
{library}
"""
    return {"README.md": card, PROVENANCE: to_json(record)}
