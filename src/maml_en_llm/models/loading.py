"""Hugging Face models and tokenizers: load and save."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from ..files import replace_folder, writing
from ..names import check_folder, model_folder, unfinished

disable_progress_bar()  # ours say more


def load_tokenizer(model: str | Path) -> Any:
    """The tokenizer of a Hugging Face folder or hub id; ValueError when there is none.

    A folder with nothing but GPT-2's vocab.json and merges.txt counts as one.
    """
    model = model_folder(model)
    try:
        if (Path(model) / "merges.txt").is_file() and not (Path(model) / "tokenizer_config.json").is_file():
            return AutoTokenizer.from_pretrained(str(model), tokenizer_type="gpt2")
        return AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"cannot load a tokenizer from {model}: {_first_line(error)}") from None


def load_model(model: str | Path, device: torch.device | str = "cpu", attention: str | None = None) -> Any:
    """The causal language model of a Hugging Face folder or hub id, float32, in evaluation mode (no dropout).

    Only safetensors weights are read and no remote code runs. attention: a transformers attention implementation;
    None leaves the choice to transformers. Raises ValueError when there is no such model.
    """
    model = model_folder(model)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(model),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attention,
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"cannot load a causal language model from {model}: {_first_line(error)}") from None
    return loaded.to(device).eval()


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
