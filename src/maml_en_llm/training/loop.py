"""Training: tasks -> prompts -> batches -> updates -> a plain Hugging Face folder, on one page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bilevel import Moments
from ..config import TrainConfig
from ..files import check_output, only_writer
from ..methods import Method, method_class
from ..models import (
    PromptLoss,
    check_tokenizer,
    choose_trainable,
    keep_freed_memory,
    load_model,
    load_tokenizer,
    merge_trained,
    pick_device,
    save_model,
    trainable_parameters,
)
from ..progress import console, stop_on_signal, track
from ..prompts.batches import Sampler
from ..prompts.token_cache import TokenCache, cache_folder
from ..tasks.collection import Collection, Example, Setting, load_collection
from ..tasks.limited import limited
from .checkpoint import RunDirectory
from .model_card import provenance_files
from .record import RunRecord, data_hash


def train(config: TrainConfig) -> Path:
    """Runs `config` and returns the model folder, `config.output / "model"`.

    With the same configuration, data and number of threads the result is bitwise the same on a CPU, also when the run
    was interrupted and resumed.  Raises ValueError for bad input, and KeyboardInterrupt when stopped, after saving a
    checkpoint.
    """
    check_output(config.output, folder=True)
    with only_writer(config.output):
        return _train(config)


def _train(config: TrainConfig) -> Path:
    collection = load_collection(config.collection)
    setting = training_setting(config, collection)
    run = RunDirectory(config, fingerprint=data_fingerprint(collection, setting))
    console.print(setting.presence())
    left_out = [name for name in collection.setting(config.setting).train if name not in setting.train]
    if left_out:
        console.print(f"left out, because the manifest has no instruction for them: {', '.join(left_out)}")
    if run.finished:
        run.finish()
        console.print(f"{run.model} is finished already")
        return run.model

    torch.manual_seed(config.seed)
    device = pick_device(config.device)
    keep_freed_memory()
    record = RunRecord(config, training_data_hash(config, collection), device, run.record)
    if record.earlier.get("manifest_hash", record.manifest_hash) != record.manifest_hash:
        raise ValueError(f"{run.record}: the training data has changed since the run began; choose another --output")
    tokenizer = load_tokenizer(config.model)
    model = load_model(config.model, device)
    check_tokenizer(tokenizer, model, config.model)
    check_context(model, config.max_tokens, config.model)
    model = choose_trainable(model, config.trainable, config.lora_rank, config.last_blocks)
    loss = PromptLoss(model, autocast=torch.bfloat16 if config.precision == "bfloat16" else None)
    parameters = {name: p.detach() for name, p in trainable_parameters(model).items()}
    method = method_class(config.method)(config, parameters)
    sampler = training_batches(config, method, collection, tokenizer)

    group = config.batches_per_update
    updates = config.batches // group
    run.begin()
    record.write()
    batches_seen, saved = run.restore(state_of(parameters, method.moments))
    if saved:
        load_state(saved, parameters, method.moments)
    first = batches_seen // group
    saved_at = first * group
    started = time.monotonic()
    with track(config.method, updates * group, "batches", done=first * group) as progress, stop_on_signal() as stop:
        for update in range(first, updates):
            batches = [sampler.batch(number).to(device) for number in range(update * group, (update + 1) * group)]
            lr_scale = learning_rate_scale(config, update, updates)
            logged = update % config.log_every == 0 or update == updates - 1
            figures = method.update(loss, parameters, batches, lr_scale, measure=logged)

            seen = (update + 1) * group
            progress.advance(group, f"loss {figures['loss']:.3f}")
            if logged:
                run.log({"batches": seen, **figures, "lr": config.lr * lr_scale, "seconds": time.monotonic() - started})
            due = config.checkpoint_every and seen - saved_at >= config.checkpoint_every
            if (due or stop.requested) and seen < updates * group:
                run.save(seen, state_of(parameters, method.moments))
                record.write()
                saved_at = seen
            if stop.requested and seen < updates * group:
                raise KeyboardInterrupt(f"stopped after {seen} batches; add --resume to the command to continue")

    trained = sum(parameter.numel() for parameter in parameters.values())
    hashes = {"config_hash": record.config_hash, "manifest_hash": record.manifest_hash}
    files = provenance_files(config, collection, setting, trained, hashes)
    record.write()
    save_model(merge_trained(model), tokenizer, run.model, files)
    run.finish()
    return run.model


def state_of(parameters: Mapping[str, Tensor], moments: Moments) -> dict[str, Tensor]:
    """All that an update changes, by name."""
    groups = {"parameter": parameters, "first": moments.first, "second": moments.second or {}}
    state = {f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
    return state | {"step": torch.tensor(moments.step)}


def load_state(saved: Mapping[str, Tensor], parameters: Mapping[str, Tensor], moments: Moments) -> None:
    """Takes all that `state_of` gave over from a checkpoint."""
    with torch.no_grad():
        for name, tensor in state_of(parameters, moments).items():
            tensor.copy_(saved[name])
    moments.step = int(saved["step"])


def training_batches(config: TrainConfig, method: Method, collection: Collection, tokenizer: Any) -> Sampler:
    """The batches of a run, by number."""
    form, setting = config.prompt_format(), training_setting(config, collection)
    instructions = {name: collection[name].instruction for name in setting.train} if config.instructed else {}
    return method.sampler(
        tasks=training_examples(config, collection, setting),
        instructions=instructions,
        format=form,
        tokenizer=tokenizer,
        token_cache=TokenCache(tokenizer, form, cache_folder()),
        demonstrations=config.shown,
        prompts_per_batch=config.batch_size,
        seed=config.seed,
    )


def training_setting(config: TrainConfig, collection: Collection) -> Setting:
    """The setting of a run; a method that reads instructions trains on the tasks that have one."""
    setting = collection.setting(config.setting)
    if not config.instructed:
        return setting
    instructed = tuple(name for name in setting.train if collection[name].instruction)
    if not instructed:
        raise ValueError(
            f"no training task of {config.setting} has an instruction, which method={config.method} needs; "
            f'add "instruction" to tasks in {collection.path / "manifest.json"}'
        )
    return replace(setting, train=instructed)


def training_examples(config: TrainConfig, collection: Collection, setting: Setting) -> dict[str, Sequence[Example]]:
    """The train examples of the setting's training tasks, or the stratified 10 % of each."""
    if config.data_amount == "limited":
        return {name: limited(collection[name].train, name) for name in setting.train}
    return {name: collection[name].train for name in setting.train}


def learning_rate_scale(config: TrainConfig, update: int, updates: int) -> float:
    """Factor of the learning rate in `update` of `updates`: linear warm-up, then constant or linearly to 0."""
    rising = config.warmup * updates
    if update < rising:
        return (update + 1) / (rising + 1)
    return 1.0 if config.schedule == "constant" else (updates - update) / max(updates - rising, 1)


def check_context(model: torch.nn.Module, max_tokens: int, name: str) -> None:
    """ValueError when prompts of `max_tokens` are longer than the model's context."""
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and max_tokens > context:
        raise ValueError(f"max_tokens is {max_tokens} but {name} reads at most {context}; lower --max-tokens")


def training_data_hash(config: TrainConfig, collection: Collection) -> str:
    """Hash of what a run reads of its collection."""
    return data_hash(collection, training_setting(config, collection).train, ("train",), config.instructed)


def data_fingerprint(collection: Collection, setting: Setting) -> dict[str, int]:
    """Bytes of train.jsonl by training task: enough to see that a resumed run has the data it began with."""
    return {name: collection[name].train.path.stat().st_size for name in setting.train}
