"""Training: tasks -> prompts -> batches -> updates -> a plain Hugging Face folder, on one page."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..bilevel.steps import waits_for_numbers
from ..files import check_output, only_writer
from ..methods.method import Method
from ..models import (
    Processes,
    ShardedModel,
    TrainableModel,
    check_tokenizer,
    choose_trainable,
    join,
    keep_freed_memory,
    load_model,
    load_tokenizer,
    pick_device,
    recompute_activations,
)
from ..prediction.features import selection_with
from ..prediction.predictor import LoadedModel
from ..progress import console, stop_on_signal, track
from ..prompts.batches import Sampler
from ..prompts.choosing import needs_vectors, selection
from ..prompts.demonstrations import Select
from ..prompts.token_cache import TokenCache, cache_folder
from ..tasks.check import check_training_data
from ..tasks.collection import Collection, Example, Setting, load_collection
from ..tasks.limited import limited
from .checkpoint import DATA_CHANGED, RunDirectory
from .model_card import provenance_files
from .record import Measurement, data_hash
from .remarks import moved_nothing
from .tensorboard import Board
from .validation import Validation


def train(config: Method, resume: bool = False, data_corrected: bool = False) -> Path:
    """Runs `config` and returns the model folder, `config.output / "model"`.

    With the same configuration, data and number of threads the result is bitwise the same on a CPU, also when the run
    was interrupted and continued with `resume`.  With `data_corrected` a run may be continued whose data has changed;
    its record says so.  Raises ValueError for bad input, and KeyboardInterrupt when stopped, after saving a checkpoint;
    so does any error but of the disk, unless an update had begun to change what learns.
    """
    if data_corrected and not resume:
        raise ValueError("data_corrected is about a run that goes on; add --resume or leave it out")
    processes, device = join(pick_device(config.device))
    if processes.rank > 0:
        return _follow(config, processes, device)
    check_output(config.output, folder=True)
    with only_writer(config.output):
        return _train(config, resume, data_corrected, processes, device)


def _train(config: Method, resume: bool, data_corrected: bool, processes: Processes, device: torch.device) -> Path:
    collection = load_collection(config.collection)
    setting = training_setting(config, collection)
    run = RunDirectory(config, data_fingerprint(collection, setting), resume, data_corrected)
    console.print(setting.presence())
    left_out = [name for name in collection.setting(config.setting).train if name not in setting.train]
    if left_out:
        console.print(f"left out, because the manifest has no instruction for them: {', '.join(left_out)}")
    if run.finished:
        processes.number(config.batches, device)
        run.finish()  # a kill may have left checkpoints behind the model
        console.print(f"{run.model} is finished already")
        return run.model

    check_training_data(collection, setting, cache_folder())
    torch.manual_seed(config.seed)
    keep_freed_memory()
    record = Measurement(config, training_data_hash(config, collection), device, run.record)
    if record.earlier_data != record.data and not data_corrected:
        raise ValueError(f"{run.record}: {DATA_CHANGED}")
    model = trainable_model(config, device, processes)
    learner = config.learner(model, training_batches(config, collection, model.tokenizer))
    validation = Validation(config, collection, setting) if config.validate_every else None
    losses: list[float | torch.Tensor] = []
    shown = ""

    def files() -> dict[str, str]:
        return provenance_files(config, collection, setting, model.size, record.now())

    group = config.batches_per_update
    updates = config.batches // group
    run.begin()
    seen, state = run.restore(model.whole_like(learner.state_dict()))
    if state and not config.shard:
        learner.load_state_dict(state)
    processes.number(seen, device)
    if isinstance(model, ShardedModel):
        if seen:
            learner.load_state_dict(model.scattered(learner.state_dict(), state))
    else:
        processes.copy_(learner.state_dict(), device)
    record.goes_on_after(seen)
    record.write()
    if validation:
        validation.restore(run.extra)
    board = Board(config.output, seen) if config.tensorboard else None
    first, saved_at, started = seen // group, seen, time.monotonic()
    with track(config.name, updates * group, "batches", done=seen) as progress, stop_on_signal() as stop:
        for update in range(first, updates):
            lr_scale = config.learning_rate_scale(update, updates)
            logged = update % config.log_every == 0 or update == updates - 1
            state = learner.state_dict()
            before = [tensor._version for tensor in state.values()]  # how often each was changed in place
            try:
                figures = learner.update(learner.batches(update), lr_scale, measure=logged)
            except Exception as error:
                whole = before == [tensor._version for tensor in state.values()]
                if whole and seen > saved_at and not isinstance(error, OSError) and not config.shard:
                    run.save(seen, state, validation.extra if validation else {})
                    record.write()
                    console.print(f"an error after {seen} batches; they are in a checkpoint, and --resume goes on")
                raise

            seen = (update + 1) * group
            losses.append(figures["loss"])
            if logged or not waits_for_numbers(device):
                shown = f"loss {check_finite(float(figures['loss']), seen):.3f}"
            progress.advance(group, shown)
            if validation and validation.due(seen, updates * group):
                figures, logged = {**figures, "validation_score": validation.measure(learner, files, seen)}, True
            if logged:
                read = {name: float(value) for name, value in figures.items()}
                read = {"batches": seen, **read, "seconds": time.monotonic() - started}
                run.log(read)
                if board:
                    board.show(read)
            due = config.checkpoint_every and seen - saved_at >= config.checkpoint_every
            stopped = processes.any(stop.requested, device)
            if (due or stopped) and seen < updates * group:
                check_finite(float(losses[-1]), seen)
                run.save(seen, model.gathered(learner.state_dict()), validation.extra if validation else {})
                record.write()
                saved_at = seen
            if stopped and seen < updates * group:
                raise KeyboardInterrupt(f"stopped after {seen} batches; add --resume to the command to continue")

    record.write()
    if validation:
        validation.finish(run.model)
    else:
        learner.save(run.model, files())
    run.finish()
    if "trainable" not in config.unread() and (remark := moved_nothing([float(loss) for loss in losses])):
        console.print(f"note: {remark}", markup=False)
    return run.model


def check_finite(loss: float, seen: int) -> float:
    """The loss; ValueError if it is not finite, which on a GPU nothing has looked at before."""
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss is {loss} after {seen} batches; lower the learning rates or look for prompts without an answer"
        )
    return loss


def _follow(config: Method, processes: Processes, device: torch.device) -> Path:
    """What all processes but the first do: their shares of the same updates, without reading or writing the run."""
    collection = load_collection(config.collection)
    torch.manual_seed(config.seed)
    model = trainable_model(config, device, processes)
    learner = config.learner(model, training_batches(config, collection, model.tokenizer))
    group = config.batches_per_update
    seen = processes.number(0, device)
    if seen == config.batches:  # finished already
        return config.output / "model"
    if not isinstance(model, ShardedModel):
        state = learner.state_dict()
        processes.copy_(state, device)
        learner.load_state_dict(state)
    elif seen:
        learner.load_state_dict(model.scattered(learner.state_dict(), {}))
    updates, saved_at = config.batches // group, seen
    with stop_on_signal() as stop:
        for update in range(seen // group, updates):
            logged = update % config.log_every == 0 or update == updates - 1
            learner.update(learner.batches(update), config.learning_rate_scale(update, updates), measure=logged)
            seen = (update + 1) * group
            due = config.checkpoint_every and seen - saved_at >= config.checkpoint_every
            stopped = processes.any(stop.requested, device)
            if config.shard and (due or stopped) and update < updates - 1:
                model.gathered(learner.state_dict())
                saved_at = seen
            if stopped and update < updates - 1:
                raise KeyboardInterrupt("stopped")
    if config.shard:
        learner.save(config.output / "model", {})
    return config.output / "model"


def trainable_model(
    config: Method,
    device: torch.device,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> TrainableModel:
    """The model that the run starts from, with what learns chosen."""
    tokenizer = load_tokenizer(config.pinned_model)
    network = load_model(config.pinned_model, "cpu" if config.shard else device)
    check_tokenizer(tokenizer, network, config.model)
    check_context(network, config.max_tokens, config.model)
    if config.recompute_activations:
        recompute_activations(network)
    network = choose_trainable(network, config.trainable, config.lora_rank, config.last_blocks)
    autocast = torch.bfloat16 if config.precision == "bfloat16" else None
    if config.shard:
        start, tokens = config.pinned_model, config.tokens_per_forward
        return ShardedModel(network, tokenizer, autocast, processes, device, start, tokens)
    adapter_of = config.pinned_model if config.keep_adapter else None
    return TrainableModel(network, tokenizer, autocast, adapter_of, processes, config.tokens_per_forward)


def training_batches(config: Method, collection: Collection, tokenizer: Any) -> Sampler:
    """The batches of a run, by number."""
    style, setting = config.prompts(), training_setting(config, collection)
    instructions = {name: collection[name].instruction for name in setting.train} if style.instructed else {}
    return config.sampler(
        tasks=training_examples(config, collection, setting),
        instructions=instructions,
        format=style.format,
        tokenizer=tokenizer,
        token_cache=TokenCache(tokenizer, style.format, cache_folder()),
        demonstrations=style.demonstrations,
        predicted=config.predicted,
        prompts_per_batch=config.batch_size,
        seed=config.seed,
        label_words=config.label_words,
        select=training_selection(config),
    )


def training_selection(config: Method) -> Select | None:
    """How demonstrations are chosen, None for the draw at random.

    Vectors come from the model that the run starts from, so that they are the same at every update.
    """
    if config.choose == "random":
        return None
    if not needs_vectors(config.choose):
        return selection(config.choose)
    return selection_with(
        LoadedModel(config.pinned_model, pick_device(config.device)), config.choose, layer=config.layer
    )


def training_setting(config: Method, collection: Collection) -> Setting:
    """The setting of a run; a method that reads instructions trains on the tasks that have one."""
    setting = collection.setting(config.setting)
    if not config.prompts().instructed:
        return setting
    instructed = tuple(name for name in setting.train if collection[name].instruction)
    if not instructed:
        raise ValueError(
            f"no training task of {config.setting} has an instruction, which method={config.name} needs; "
            f'add "instruction" to tasks in {collection.path / "manifest.json"}'
        )
    return replace(setting, train=instructed)


def training_examples(config: Method, collection: Collection, setting: Setting) -> dict[str, Sequence[Example]]:
    """The train examples of the setting's training tasks, or the stratified 10 % of each."""
    if config.data_amount == "limited":
        return {name: limited(collection[name].train, name) for name in setting.train}
    return {name: collection[name].train for name in setting.train}


def check_context(model: torch.nn.Module, max_tokens: int, name: str) -> None:
    """ValueError when prompts of `max_tokens` are longer than the model's context."""
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and max_tokens > context:
        raise ValueError(f"max_tokens is {max_tokens} but {name} reads at most {context}; lower --max-tokens")


def training_data_hash(config: Method, collection: Collection) -> str:
    """Hash of what a run reads of its collection."""
    return data_hash(collection, training_setting(config, collection).train, ("train",), config.prompts().instructed)


def data_fingerprint(collection: Collection, setting: Setting) -> dict[str, int]:
    """Bytes of train.jsonl by training task: enough to see that a resumed run has the data it began with."""
    return {name: collection[name].train.path.stat().st_size for name in setting.train}
