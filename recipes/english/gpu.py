"""A base model of 95 million parameters from raw text, and its meta-training: tables 2a and 3a in small, on one GPU.

    python -m recipes.english.gpu --collection DIR --setting class_to_class --output runs/gpu

What is finished in OUTPUT is not done again (docs/english.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
import yaml

from maml_en_llm.experiments.run import reproduce
from maml_en_llm.files import write_text

from . import base_model


@dataclass
class Options:
    collection: Path
    """Folder of tasks: inputs of the setting's training tasks make the base, which then learns these tasks."""
    setting: str
    """Its name."""
    output: Path
    """Folder for the base, OUTPUT/base/, and the tables."""
    width: int = 768
    """Of the model, a multiple of 64."""
    blocks: int = 12
    """Of the model."""
    words: int = 12_000
    """Words that are tokens of their own."""
    prompts: int = 32
    """Prompts of up to 1,024 tokens in an update of the base."""
    text_batches: int = 1500
    """Updates of the base on raw text."""
    batches: int = 1500
    """Updates of the base on episodes."""
    episodes: int = 9000
    """Tasks of the curriculum."""
    held_out: int = 40
    """Episodes of each kind that measure the base."""
    meta_batches: int = 4000
    """Batches that each row of the tables sees."""
    meta_prompts: int = 8
    """Prompts in such a batch."""
    lr: float = 3e-4
    """Learning rate of the base."""
    meta_lr: float = 1e-4
    """Learning rate of the tables' rows, inner steps too."""
    tables: tuple[str, ...] = ("table2a", "table3a")
    """Which tables."""
    rows: tuple[str, ...] = ("no-icl", "raw-lm", "metaicl", "maml-2-1")
    """Which rows of them."""
    training_seeds: tuple[int, ...] = (100,)
    """Each row is trained once with each."""
    max_examples: int = 100
    """Scored examples of a task."""
    max_tokens_per_example: int = 60
    """So that all demonstrations fit into a prompt."""
    device: str = "auto"
    """auto takes a GPU if there is one."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the training."""


def main(options: Options) -> list[Path]:
    """Runs what is not finished, and returns the reports of the tables."""
    same: dict[str, Any] = {"collection": options.collection, "setting": options.setting, "words": options.words}
    same |= {"width": options.width, "blocks": options.blocks, "prompts": options.prompts, "lr": options.lr}
    same |= {"text_batches": options.text_batches, "batches": options.batches, "episodes": options.episodes}
    same |= {"held_out": options.held_out, "device": options.device, "precision": options.precision}
    base = base_model.make_base_model(base_model.Options(**same, output=options.output / "base"))
    shared = options.output / "rows.yaml"
    training: dict[str, Any] = {"batch_size": options.meta_prompts, "precision": options.precision}
    training |= dict.fromkeys(("lr", "inner_lr"), options.meta_lr)
    keys: dict[str, Any] = {"max_tokens_per_example": options.max_tokens_per_example, "train": training}
    write_text(shared, yaml.safe_dump(keys))
    places: dict[str, Any] = {"collection": options.collection, "output": options.output, "device": options.device}
    of_rows: dict[str, Any] = {"rows": options.rows, "batches": options.meta_batches, "model": str(base)}
    of_rows |= {"max_examples": options.max_examples, "training_seeds": options.training_seeds, "config": shared}
    return [reproduce(table, setting=[options.setting], **places, **of_rows) for table in options.tables]


if __name__ == "__main__":
    for report in main(tyro.cli(Options)):
        print(report)
