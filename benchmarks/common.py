"""What both benchmarks need: a GPT-2-shaped model with the 50,257 vocabulary, tasks, measuring in child processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from maml_en_llm import Collection, load_collection
from maml_en_llm.models import load_tokenizer, train_tokenizer
from maml_en_llm.starter.tasks import write_starter_collection

SHARED = Path(__file__).resolve().parents[2] / "shared"  # tasks and tokenizers beside the checkout, if they are there
VOCABULARY = 50_257
PADDED = 1024


def make_model(layers: int = 6, width: int = 512, context: int = PADDED, device: str = "cpu") -> Any:
    """An untrained GPT-2 of that size; `width` is a multiple of 64, a head's size."""
    torch.manual_seed(0)
    sizes = {"n_embd": width, "n_layer": layers, "n_head": width // 64, "n_positions": context}
    config = GPT2Config(vocab_size=VOCABULARY, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **sizes)
    return GPT2LMHeadModel(config).eval().to(device)


def open_collection() -> tuple[Collection, bool]:
    """The tasks beside the checkout, else the starter tasks; and which of the two (True: the former)."""
    if (SHARED / "tasks").is_dir():
        return load_collection(SHARED / "tasks"), True
    folder = Path(tempfile.gettempdir()) / "maml-en-llm-benchmark-tasks"
    if not folder.is_dir():
        write_starter_collection(folder)
    return load_collection(folder), False


def open_tokenizer(collection: Collection) -> Any:
    """GPT-2's if it is beside the checkout, else one learned from the tasks."""
    if (SHARED / "tokenizers" / "gpt2").is_dir():
        return load_tokenizer(SHARED / "tokenizers" / "gpt2")
    return train_tokenizer((e.input for task in collection.values() for e in task.train), 8000)


def in_child(script: str, *words: str) -> tuple[list[dict[str, Any]], float]:
    """Runs `script words...` in a process of its own; the JSON lines that it prints, and its peak memory in MiB."""
    child = subprocess.Popen([sys.executable, script, *words], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    lines = [json.loads(line) for line in child.stdout if line.startswith("{")]
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{script} {' '.join(words)} ended with {child.returncode}")
    return lines, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def emit(**record: Any) -> None:
    print(json.dumps(record), flush=True)


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right."""
    parts = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    return "\n".join([*parts, *(f"| {' | '.join(line)} |" for line in lines)])
