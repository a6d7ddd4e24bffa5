"""The model card and the machine-readable provenance that travel in a model folder."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..methods.method import Method
from ..tasks.collection import Collection, Setting, read_json_object

PROVENANCE = "maml_en_llm.json"
LIBRARIES = ("maml-en-llm", "torch", "transformers", "peft", "numpy")


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def read_provenance(model: str | Path) -> dict[str, Any]:
    """What `train` wrote of how a model folder was made; empty for any other model."""
    path = Path(model) / PROVENANCE
    return read_json_object(path) if path.is_file() else {}


def trained_part(config: Method) -> str:
    """What of the model learned, in words."""
    return {
        "full": "all parameters",
        "lora": f"LoRA of rank {config.lora_rank} on every linear layer, merged into the weights",
        "bias": "the biases",
        "last_blocks": f"the last {config.last_blocks} blocks and the final norm",
    }[config.trainable]


def provenance_files(
    config: Method, collection: Collection, setting: Setting, trained: int, hashes: Mapping[str, str]
) -> dict[str, str]:
    """README.md (the model card) and PROVENANCE, as name -> text; `trained`: how many numbers learned."""
    plain = {"method": config.name} | {k: str(v) if isinstance(v, Path) else v for k, v in vars(config).items()}
    label = config.label()
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
