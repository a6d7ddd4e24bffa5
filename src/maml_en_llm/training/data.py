"""What a run reads: its tasks, and the batches made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..methods.method import Method
from ..models import pick_device
from ..prediction.features import selection_with
from ..prediction.predictor import LoadedModel
from ..prompts.batches import Sampler
from ..prompts.choosing import needs_vectors, selection
from ..prompts.demonstrations import Select
from ..prompts.token_cache import TokenCache, cache_folder
from ..tasks.collection import Collection, Example, Setting
from ..tasks.limited import limited
from .record import data_hash


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


def training_data_hash(config: Method, collection: Collection) -> str:
    """Hash of what a run reads of its collection."""
    return data_hash(collection, training_setting(config, collection).train, ("train",), config.prompts().instructed)


def data_fingerprint(collection: Collection, setting: Setting) -> dict[str, int]:
    """Bytes of train.jsonl by training task: enough to see that a resumed run has the data it began with."""
    return {name: collection[name].train.path.stat().st_size for name in setting.train}
