"""The model card and the machine-readable provenance that travel in a model folder."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..config import TrainConfig
from ..tasks.collection import Collection, Setting, read_json_object

PROVENANCE = "maml_en_llm.json"
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


def read_provenance(model: str | Path) -> dict[str, Any]:
    """What `train` wrote of how a model folder was made; empty for any other model."""
    path = Path(model) / PROVENANCE
    return read_json_object(path) if path.is_file() else {}


def trained_part(config: TrainConfig) -> str:
    """What of the model learned, in words."""
    return {
        "full": "all parameters",
        "lora": f"LoRA of rank {config.lora_rank} on every linear layer, merged into the weights",
        "bias": "the biases",
        "last_blocks": f"the last {config.last_blocks} blocks and the final norm",
    }[config.trainable]


def provenance_files(
    config: TrainConfig, collection: Collection, setting: Setting, trained: int, hashes: Mapping[str, str]
) -> dict[str, str]:
    """README.md (the model card) and PROVENANCE, as name -> text; `trained`: how many numbers learned."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in vars(config).items()}
    plain["shared_moments"] = config.shares_moments
    label = method_label(config.method, config.direction, config.shown, plain)
    record = {
        "label": label,
        "config": plain,
        "trained": trained_part(config),
        "trained_parameters": trained,
        "updates": config.batches // config.batches_per_update,
        "training_tasks": list(setting.train),
        "training_tasks_named": setting.named["train"],
        "started_from": read_provenance(config.model) or config.model,
        "versions": versions(),
        **hashes,
    }
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
    return {"README.md": card, PROVENANCE: json.dumps(record, indent=1, ensure_ascii=False)}
