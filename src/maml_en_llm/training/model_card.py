"""The model card and the machine-readable provenance that travel in a model folder."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..methods.method import Method
from ..results import PROVENANCE, Provenance, RunRecord, Training, digest, read_provenance, to_json
from ..tasks.collection import Collection, Setting

LIBRARIES = ("maml-en-llm", "torch", "transformers", "peft", "numpy")


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def trained_part(config: Method) -> str:
    """What of the model learned, in words."""
    if "trainable" in config.unread():
        return "nothing"
    return {
        "full": "all parameters",
        "lora": f"LoRA of rank {config.lora_rank} on every linear layer, merged into the weights",
        "bias": "the biases",
        "last_blocks": f"the last {config.last_blocks} blocks and the final norm",
    }[config.trainable]


def provenance_files(
    config: Method, collection: Collection, setting: Setting, trained: int, run: RunRecord
) -> dict[str, str]:
    """README.md (the model card) and PROVENANCE, as name -> text; `trained`: how many numbers learned."""
    unread = config.unread()
    read = {k: str(v) if isinstance(v, Path) else v for k, v in vars(config).items() if k not in unread}
    plain: dict[str, Any] = {"method": config.name} | read
    label, different = config.label(), {"seed", *config.FREE}
    training = Training(
        method=config.name,
        baseline=None if config.baseline == config.name else config.baseline,
        copies=plain.get("copies"),
        inner_steps=plain.get("inner_steps"),
        order=plain.get("order"),
        trainable=config.trainable,
        seed=config.seed,
        batches=config.batches,
        updates=config.batches // config.batches_per_update,
        data_amount=config.data_amount,
        recipe_hash=digest({k: v for k, v in plain.items() if k not in different}),
    )
    record = Provenance(
        label=label,
        training=None if config.is_raw else training,
        config=plain,
        trained=trained_part(config),
        trained_parameters=trained,
        training_tasks=setting.train,
        training_tasks_named=setting.named["train"],
        started_from=read_provenance(config.model) or config.model,
        versions=versions(),
        run=run,
    )
    changes = "".join(
        f"\n\nAfter {change.batches} batches the training data was corrected: its hash was `{change.before[:16]}` "
        f"until then and `{change.after[:16]}` from there on."
        for change in run.data_changes
    )
    rows = "\n".join(f"| {key} | {value} |" for key, value in plain.items() if key != "output")
    library = "\n".join(f"| {name} | {number} |" for name, number in versions().items())
    card = f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [in-context-learning, meta-learning, {config.name}]
---

# {label}

A causal language model trained with [MAML-en-LLM](https://doi.org/10.1145/3637528.3671905)'s toolkit to learn a new
task from the examples in its prompt. Method: `{config.name}` ({config.direction}), started from
`{config.model}`, {config.batches} batches of {config.batch_size}, seed {config.seed}.
Trained: {trained_part(config)} ({trained:,} numbers).

## Data

Setting `{setting.name}` of the collection `{collection.path.name}`, {len(setting.train)} of {setting.named["train"]}
training tasks: {", ".join(setting.train)}.{changes}

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
