"""The model card and the machine-readable provenance that travel in a model folder.

Neither has an absolute path: folders are named by their last word.
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ..hub import HUB_ID, model_folder
from ..methods.method import Method
from ..names import printable, public_name
from ..prompts.layout import PromptFormat
from ..results import PROVENANCE, Provenance, RunRecord, Training, digest, read_provenance, to_json
from ..tasks.collection import Collection, Example, Setting

LIBRARIES = ("maml-en-llm", "torch", "transformers", "peft", "numpy")
UNKNOWN = "unknown: see the base model"
SNIPPET_MODEL = 'model=".")  # the folder of this card'  # `push` puts the name of the repository in its place


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def trained_part(config: Method) -> str:
    """What of the model learned, in words."""
    if "trainable" in config.unread():
        return "nothing"
    kept = "kept as an adapter" if config.keep_adapter else "merged into the weights"
    return {
        "full": "all parameters",
        "lora": f"LoRA of rank {config.lora_rank} on every linear layer, {kept}",
        "bias": "the biases",
        "last_blocks": f"the last {config.last_blocks} blocks and the final norm",
    }[config.trainable]


def provenance_files(
    config: Method, collection: Collection, setting: Setting, trained: int, run: RunRecord
) -> dict[str, str]:
    """README.md (the model card) and PROVENANCE, as name -> text; `trained`: how many numbers learned."""
    unread = config.unread()
    plain: dict[str, Any] = {"method": config.name}
    for key, value in vars(config).items():
        if key not in unread and key != "revision":
            plain[key] = public_name(value) if isinstance(value, Path) else value
    plain["model"] = public_name(config.pinned_model)
    different = {"seed", *config.FREE}
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
        label=config.label(),
        training=None if config.is_raw else training,
        config=plain,
        trained=trained_part(config),
        trained_parameters=trained,
        training_tasks=setting.train,
        training_tasks_named=setting.named["train"],
        started_from=read_provenance(config.pinned_model) or plain["model"],
        versions=versions(),
        run=run,
    )
    return {"README.md": _card(config, collection, setting, record), PROVENANCE: to_json(record)}


def _card(config: Method, collection: Collection, setting: Setting, record: Provenance) -> str:
    base, licence = record.start, licence_of(config.pinned_model)
    head: dict[str, Any] = {
        "library_name": "peft" if config.keep_adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["in-context-learning", "meta-learning", config.name],
        "license": licence or "unknown",
    }
    if HUB_ID.fullmatch(base) and not os.path.isdir(config.model) and base != "starter":
        head["base_model"] = base.partition("@")[0]
        head["base_model_relation"] = "adapter" if config.keep_adapter else "finetune"
    style = config.prompts_at_test()
    shown = f"behind {style.demonstrations} labelled examples" if style.demonstrations else "without labelled examples"
    instructed = ", with the task's instruction at the head" if style.instructed else ""
    built_in = " (the built-in model of the toolkit)" if base == "starter" else ""
    commit = f", commit `{record.run.model_commit}`" if record.run.model_commit else ""
    changes = "".join(
        f"\n\nAfter {change.batches} batches the training data was corrected: its hash was `{change.before[:16]}` "
        f"until then and `{change.after[:16]}` from there on."
        for change in record.run.data_changes
    )
    rows = "\n".join(f"| {key} | {_cell(value)} |" for key, value in record.config.items() if key != "output")
    library = "\n".join(f"| {name} | {number} |" for name, number in record.versions.items())
    return f"""---
{yaml.safe_dump(head, sort_keys=False).strip()}
---

# {record.label}

A causal language model trained with [MAML-en-LLM](https://doi.org/10.1145/3637528.3671905)'s toolkit to learn a new
task from the examples in its prompt. Method: `{config.name}` ({config.direction}), started from
`{base}`, {config.batches} batches of {config.batch_size}, seed {config.seed}.
Trained: {record.trained} ({record.trained_parameters:,} numbers).

- Base model: `{base}`{built_in}{commit}
- Licence: {licence or UNKNOWN}

## Use

```python
from maml_en_llm import InContextClassifier

classifier = InContextClassifier({SNIPPET_MODEL}
classifier.fit(["a robin", "a salmon", "a sparrow", "a trout"], ["bird", "fish", "bird", "fish"])
print(classifier.predict(["a pigeon"]))
```

## Prompt layout

It reads an example {shown}{instructed}, direction `{style.format.direction}`, layout `{style.format.layout}`, up to
{style.format.max_tokens} tokens. What is predicted is in brackets:

```
{_prompt(style.format)}
```

## Data

Setting `{setting.name}` of the collection `{public_name(os.path.abspath(collection.path))}`, {len(setting.train)} of \
{setting.named["train"]} training tasks: {_names(setting.train)}.{changes}

Licences of the data: {_licences(collection, setting)}.

## Configuration

| key | value |
|---|---|
{rows}

## Versions

| library | version |
|---|---|
{library}
"""


def licence_of(model: str) -> str | None:
    """The licence that the card of a model states; None when it has none or states none."""
    if model == "starter":
        return "apache-2.0"
    try:
        text = (Path(model_folder(model)) / "README.md").read_text(encoding="utf-8")
        stated = yaml.safe_load(text.split("---\n")[1]).get("license") if text.startswith("---\n") else None
    except (OSError, ValueError, AttributeError, IndexError, yaml.YAMLError):
        return None
    return stated if isinstance(stated, str) and stated != "unknown" else None


def _prompt(form: PromptFormat) -> str:
    """A prompt of one demonstration and an example, as text."""
    shown, example = (Example(f"{word} input", f"{word} label", ("a", "b")) for word in ("first", "second"))
    pieces = form.pieces([shown, example])
    if form.direction == "direct":
        (one, label), (two, answer) = pieces
        return f"{one}{label}{two}{answer[: -len(example.output)]}[{example.output}]"
    (label, one), (answer, two) = ((output, input) for input, output in pieces)
    return f"{label}{one}{answer}{two[: -len(example.input)]}[{example.input}]"


def _licences(collection: Collection, setting: Setting) -> str:
    said = {entry["name"]: entry.get("licence") for entry in collection.manifest.get("tasks", ())}
    counts = Counter(str(said.get(name) or "not stated") for name in setting.train)
    return ", ".join(f"{_cell(licence)} ({count} task{'s' * (count > 1)})" for licence, count in counts.most_common())


def _names(tasks: tuple[str, ...]) -> str:
    return ", ".join(map(_cell, tasks))


def _cell(value: Any) -> str:
    """A value in a line of Markdown: data has neither tables nor HTML."""
    return printable(str(value)).replace("|", "\\|").replace("<", "&lt;")
