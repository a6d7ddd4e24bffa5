"""Small collections, configurations and models for tests."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maml_en_llm.config import EvaluateConfig
from maml_en_llm.methods import method_type
from maml_en_llm.methods.method import Method
from maml_en_llm.prompts.batches import Batch
from maml_en_llm.results import (
    Prediction,
    Provenance,
    Results,
    Row,
    RunRecord,
    TaskResult,
    Training,
    digest,
    summarize,
)
from maml_en_llm.results import write_results as write

WORDS = "ant bee cat dog eel fox gnu hen owl pig rat yak red blue big small glad sad near far".split()


def line(task: str, input: str, output: str, options: Sequence[str] = ()) -> dict[str, Any]:
    return {"task": task, "input": input, "output": output, "options": list(options)}


def write_lines(path: Path, records: Sequence[Mapping[str, Any] | str | bytes]) -> Path:
    """Records as JSON lines; strings and bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = [r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode() for r in records]
    path.write_bytes(b"".join(r + b"\n" for r in raw))
    return path


def write_setting(folder: Path, name: str, train: Sequence[str], test: Sequence[str], unseen: Sequence[str]) -> Path:
    path = folder / "settings" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"train": list(train), "test": list(test), "unseen_domain_test": list(unseen)}
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return path


def make_task(folder: Path, name: str, options: Sequence[str] | None, train: int = 20, test: int = 8) -> None:
    """A task in the collection `folder`: with fixed `options`; free-form if there are none; if None, three per line."""
    generator = np.random.default_rng(len(name))
    records = []
    for number in range(train + test):
        words = [str(word) for word in generator.choice(WORDS, size=4, replace=False)]
        if options is None:
            records.append(line(name, f"{number} {words[3]}?", words[0], words[:3]))
        elif not options:
            records.append(line(name, f"{number} {words[0]} {words[1]}", f"{words[1]} {words[0]}"))
        else:
            records.append(line(name, f"{number} {words[0]} {words[1]}", str(generator.choice(options)), options))
    write_lines(folder / "data" / name / "train.jsonl", records[:train])
    write_lines(folder / "data" / name / "test.jsonl", records[train:])


def make_collection(folder: Path) -> Path:
    """Four training tasks, two target tasks that can be scored and a free-form one; settings `small`, `free`."""
    make_task(folder, "colour", ["red", "blue"])
    make_task(folder, "size", ["big", "small"])
    make_task(folder, "pick", None)
    make_task(folder, "swap", [])
    make_task(folder, "mood", ["glad", "sad", "neither of the two"])
    make_task(folder, "choice", None)
    make_task(folder, "turn", [])
    train = ["colour", "size", "pick", "swap"]
    write_setting(folder, "small", train, ["mood", "choice"], ["choice"])
    write_setting(folder, "free", train, ["mood", "turn"], [])
    instructions = {"colour": "Name the colour.", "pick": "Pick a word.", "mood": "Say how it feels."}
    tasks = [{"name": name, "instruction": text} for name, text in instructions.items()]
    (folder / "manifest.json").write_text(json.dumps({"tasks": tasks}), encoding="utf-8")
    return folder


def train_config(collection: Path, model: Path, output: Path, method: str = "maml-en-llm", **changes: Any) -> Method:
    kind = method_type(method)
    defaults: dict[str, Any] = {
        "setting": "small",
        "batches": 8,
        "demonstrations": 3,
        "max_tokens": 96,
        "max_tokens_per_example": 24,
        "lr": 1e-3,
        "inner_lr": 1e-3,
        "device": "cpu",
        "log_every": 1,
        "checkpoint_every": 0,
    }
    keys = {field.name for field in dataclasses.fields(kind)}
    own = {key: value for key, value in defaults.items() if key in keys}
    return kind(collection=collection, model=str(model), output=output, **(own | changes))


def evaluate_config(collection: Path, model: Path, output: Path, **changes: Any) -> EvaluateConfig:
    defaults: dict[str, Any] = {
        "setting": "small",
        "demonstrations": 4,
        "max_tokens": 128,
        "max_tokens_per_example": 24,
        "seeds": (100, 13),
        "device": "cpu",
    }
    return EvaluateConfig(collection=collection, model=str(model), output=output, **(defaults | changes))


def random_batch(
    generator: torch.Generator, vocabulary: int = 40, prompts: int = 1, tokens: int = 10, answer: int = 3
) -> Batch:
    """Prompts of random tokens whose last `answer` ones are predicted."""
    token_ids = torch.randint(vocabulary, (prompts, tokens), generator=generator)
    answer_mask = torch.zeros(prompts, tokens, dtype=torch.bool)
    answer_mask[:, tokens - answer :] = True
    return Batch(token_ids, answer_mask)


def tiny_language_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A model of `family` with a vocabulary of 40, two layers of width 16 and random weights, in evaluation mode."""
    import transformers

    common = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    grouped = common | {"intermediate_size": 24, "num_key_value_heads": 1}
    configs: dict[str, Any] = {
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=40, n_positions=128, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        ),
        "llama": lambda: transformers.LlamaConfig(**grouped),
        "qwen3": lambda: transformers.Qwen3Config(**grouped, head_dim=8),
        "gemma": lambda: transformers.GemmaConfig(**grouped, head_dim=8),
        "gemma3": lambda: transformers.Gemma3TextConfig(**grouped, head_dim=8),
        "opt": lambda: transformers.OPTConfig(
            **common, ffn_dim=24, word_embed_proj_dim=16, max_position_embeddings=128
        ),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**common, intermediate_size=24),
        "bloom": lambda: transformers.BloomConfig(
            vocab_size=40, hidden_size=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        ),
    }
    config = configs[family]()
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():  # larger than at birth, so that what a token sees changes what it predicts
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def a_training(method: str = "metaicl", **changes: Any) -> Training:
    values: dict[str, Any] = {"trainable": "full", "seed": 100, "batches": 8, "updates": 8, "data_amount": "complete"}
    if method == "maml-en-llm":
        values |= {"baseline": "metaicl", "copies": 1, "inner_steps": 1, "order": "second", "updates": 4}
    return Training(**({"method": method, "recipe_hash": digest([method, changes.get("copies")])} | values | changes))


def a_row(label: str = "Raw LM", **changes: Any) -> Row:
    values: dict[str, Any] = {"model": "base", "direction": "direct", "demonstrations": 4, "labels_used": 4}
    values |= {"layout": "newlines", "max_tokens": 128, "max_tokens_per_example": 24}
    return Row(label=label, **(values | changes))


def a_run(**changes: Any) -> RunRecord:
    values: dict[str, Any] = {"config_hash": "c", "manifest_hash": "d", "code_version": "1", "hardware": "1 core"}
    return RunRecord(**(values | {"wall_seconds": 1.5, "peak_memory_bytes": 1000} | changes))


def a_provenance(training: Training | None = None, **changes: Any) -> Provenance:
    method = training.method if training else "language-model"
    values: dict[str, Any] = {"label": "a model", "trained": "all parameters", "trained_parameters": 10}
    values |= {"training_tasks": ("colour",), "training_tasks_named": 1, "started_from": "base", "versions": {}}
    made: dict[str, Any] = {"config": {"method": method, "model": "base"}, "run": a_run(config_hash=f"of {method}")}
    return Provenance(training=training, **(values | made | changes))


def a_prediction(**changes: Any) -> Prediction:
    values: dict[str, Any] = {"task": "t", "seed": 100, "index": 0, "output": "a", "predicted": "b"}
    return Prediction(**(values | {"scores": (1.0, 0.5)} | changes))


def write_results(
    path: Path,
    label: str,
    scores: Mapping[str, Sequence[float]],
    *,
    method: str | None = None,
    setting: str = "small",
    unseen: Sequence[str] = (),
    seeds: Sequence[int] = (100, 13),
    row: Mapping[str, Any] = {},
    training: Mapping[str, Any] = {},
    provenance: Mapping[str, Any] = {},
    **changes: Any,
) -> Path:
    """A results file as `evaluate` writes it. scores: by task, one per seed; method: what trained the model; `row`,
    `training` and `provenance`: other fields of these."""

    def entry(name: str, values: Sequence[float]) -> TaskResult:
        by_seed = dict(zip(map(str, seeds), values, strict=True))
        means = {"scores": by_seed, "average": sum(values) / len(values), "worst": min(values)}
        known: dict[str, Any] = {"kind": "classification", "metric": "macro_f1", "examples": 8}
        return TaskResult(**means, **known, unseen_domain=name in unseen)  # type: ignore[arg-type]

    tasks = {name: entry(name, values) for name, values in scores.items()}
    made = None if method is None else a_training(method, **training)
    content = Results(
        setting=setting,
        row=a_row(label, training=made, **row),
        seeds=tuple(seeds),
        summary={
            "test": summarize(list(tasks.values()), len(tasks)),
            "unseen_domain_test": summarize([tasks[name] for name in unseen if name in tasks], len(unseen)),
        },
        tasks=tasks,
        config={},
        provenance=None if made is None else a_provenance(made, label=label, **provenance),
        versions={},
        run=a_run(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, replace(content, **changes))
    return path
