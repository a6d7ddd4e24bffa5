"""Hugging Face models and tokenizers: load and save."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from ..files import read_json, replace_folder, writing
from ..hub import existing_folder, pinned
from ..names import check_folder, unfinished

logging.disable_progress_bar()  # ours say more
ADAPTER = "adapter_config.json"


def load_tokenizer(model: str | Path) -> Any:
    """The tokenizer of a Hugging Face folder or hub id; ValueError when there is none.

    A folder with nothing but GPT-2's vocab.json and merges.txt counts as one.
    """
    model = existing_folder(model, "a tokenizer")
    try:
        if (model / "merges.txt").is_file() and not (model / "tokenizer_config.json").is_file():
            tokenizer: Any = AutoTokenizer.from_pretrained(str(model), tokenizer_type="gpt2")
        else:
            tokenizer = AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"cannot load a tokenizer from {model}: {_first_line(error)}") from None
    if set(tokenizer.get_vocab()) <= {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}:
        raise ValueError(f"cannot load a tokenizer from {model}: there is none; put its files there")
    return tokenizer


def check_tokenizer(tokenizer: Any, model: Any, name: str | Path) -> None:
    """ValueError when `tokenizer` makes token ids that `model` has no embedding for."""
    largest, rows = max(tokenizer.get_vocab().values()), model.get_input_embeddings().weight.shape[0]
    if largest >= rows:
        raise ValueError(
            f"{name}: the tokenizer has token ids up to {largest} but the model only {rows} embeddings; "
            "put there the tokenizer that the model was trained with"
        )


def load_model(model: str | Path, device: torch.device | str = "cpu", attention: str | None = None) -> Any:
    """The causal language model of a Hugging Face folder or hub id, float32, in evaluation mode (no dropout).

    Only safetensors weights are read and no remote code runs. attention: a transformers attention implementation;
    None leaves the choice to transformers. Raises ValueError when there is no such model, or when its tensors are not
    exactly those of its configuration.
    """
    model = existing_folder(model, "a causal language model")
    if (model / ADAPTER).is_file() and not (model / "config.json").is_file():
        return _load_adapter(model, device, attention)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would say of tensors is said below
    try:
        both: Any = AutoModelForCausalLM.from_pretrained(
            str(model),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason = "its tensors have other shapes than its config.json says" if "ignore_mis" in str(error) else None
        raise ValueError(f"cannot load a causal language model from {model}: {reason or _first_line(error)}") from None
    finally:
        logging.set_verbosity(verbosity)
    loaded, found = both
    for what, names in (("lacks", found["missing_keys"]), ("has", found["unexpected_keys"])):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            which = "that its config.json asks for" if what == "lacks" else "that its config.json knows nothing of"
            raise ValueError(f"cannot load a causal language model from {model}: it {what} {min(names)}{more}, {which}")
    return loaded.to(device).eval()


def _load_adapter(folder: Path, device: torch.device | str, attention: str | None) -> Any:
    """The model that a PEFT folder belongs to with the adapter merged into it."""
    from peft import PeftModel

    record = read_json(folder / ADAPTER)
    base = str(record.get("base_model_name_or_path") or "")
    local = os.path.normpath(folder / base)
    if not (folder / "adapter_model.safetensors").is_file():
        raise ValueError(f"cannot load the adapter in {folder}: it has no adapter_model.safetensors")
    try:
        network = load_model(local if Path(local).is_dir() else pinned(base, record.get("revision")), "cpu", attention)
    except ValueError as error:
        raise ValueError(f"{folder} is an adapter of {base or 'no model'}, which cannot be loaded: {error}") from None
    try:
        with warnings.catch_warnings():  # of what peft asks transformers
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            adapted: Any = PeftModel.from_pretrained(network, str(folder))
        return adapted.merge_and_unload().to(device).eval()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        raise ValueError(f"cannot load the adapter in {folder}: {_first_line(error)}") from None


def save_model(
    model: Any, tokenizer: Any, folder: Path, extra_files: Mapping[str, str] | None = None, maker: str = "train"
) -> None:
    """Writes a plain Hugging Face folder, with `extra_files` (name -> text) in it, replacing `folder` in one step.

    Raises ValueError when `folder` holds what `maker` (a verb) did not write.
    """
    check_folder(folder, maker)
    beside = unfinished(folder)
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with writing(folder):
            model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
            for name, text in (extra_files or {}).items():
                (beside / name).write_text(text, encoding="utf-8")
        replace_folder(beside, folder, maker)
    except OSError:  # the disk is full: what there is of the new folder is of no use
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
