"""Training: tasks -> prompts -> batches -> updates -> a plain Hugging Face folder, on one page."""

from __future__ import annotations

from pathlib import Path

import torch

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
from ..progress import stop_on_signal, track
from ..tasks.collection import Collection, load_collection
from .data import training_batches
from .journal import Journal, RunJournal


def train(config: Method, resume: bool = False, data_corrected: bool = False) -> Path:
    """Runs `config` and returns the model folder, `config.output / "model"`.

    With the same configuration, data and number of threads the result is bitwise the same on a CPU, also when the run
    was interrupted and continued with `resume`.  With `data_corrected` a run may be continued whose data has changed;
    its record says so.  Raises ValueError for bad input, and KeyboardInterrupt when stopped, after saving a checkpoint;
    so does any error but of the disk, unless an update had begun to change what learns.
    """
    if data_corrected and not resume:
        raise ValueError("data_corrected is about a run that goes on; add --resume or leave it out")
    processes = join(pick_device(config.device))
    if processes.rank > 0:
        return _train(config, load_collection(config.collection), Journal(config), processes)
    check_output(config.output, folder=True)
    with only_writer(config.output):
        collection = load_collection(config.collection)
        journal = RunJournal(config, collection, resume, data_corrected, processes.device)
        return _train(config, collection, journal, processes)


def _train(config: Method, collection: Collection, journal: Journal, processes: Processes) -> Path:
    if processes.number(journal.finished):
        return journal.model
    torch.manual_seed(config.seed)
    keep_freed_memory()
    model = trainable_model(config, processes.device, processes)
    learner = config.learner(model, training_batches(config, collection, model.tokenizer))
    restored, state = journal.begin(model.size, model.whole_like(learner.state_dict()))
    seen = saved_at = processes.number(restored)
    if seen or processes.count > 1:
        learner.load_state_dict(model.handed_out(learner.state_dict(), state, seen))

    group = config.batches_per_update
    updates = config.batches // group
    with track(config.name, updates * group, "batches", done=seen) as progress, stop_on_signal() as stop:
        for update in range(seen // group, updates):
            lr_scale, last = config.learning_rate_scale(update, updates), update == updates - 1
            logged = update % config.log_every == 0 or last
            with journal.update(learner, seen, saved_at):
                figures = learner.update(learner.batches(update), lr_scale, measure=logged)
            seen = (update + 1) * group
            progress.advance(group, journal.log(learner, seen, figures, logged))
            due = config.checkpoint_every and seen - saved_at >= config.checkpoint_every
            stopped = processes.any(stop.requested)
            if (due or stopped) and not last:
                journal.save(seen, model.gathered(learner.state_dict()))
                saved_at = seen
            if stopped and not last:
                raise KeyboardInterrupt(f"stopped after {seen} batches; add --resume to the command to continue")
    journal.finish(learner)
    return journal.model


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
    base = config.pinned_model if autocast and config.trainable == "lora" else None
    return TrainableModel(network, tokenizer, autocast, adapter_of, processes, config.tokens_per_forward, base)


def check_context(model: torch.nn.Module, max_tokens: int, name: str) -> None:
    """ValueError when prompts of `max_tokens` are longer than the model's context."""
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and max_tokens > context:
        raise ValueError(f"max_tokens is {max_tokens} but {name} reads at most {context}; lower --max-tokens")
