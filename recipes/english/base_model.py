"""The recipe of a base model that reads English: raw text, word vectors, a circuit, episodes (docs/english.md).

    python -m recipes.english.base_model --collection DIR --setting class_to_class --output runs/english

With `--width` random weights take the place of the circuit, and next-token prediction on the raw text comes before the
episodes: for a GPU (gpu.py).

Seeded; what is finished in OUTPUT is not done again, and an interrupted stage goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from maml_en_llm.files import write_text
from maml_en_llm.methods.language_model import LanguageModel
from maml_en_llm.models import load_model, load_tokenizer, new_gpt2, pick_device, save_model, word_tokenizer
from maml_en_llm.prediction.scoring import Scorer
from maml_en_llm.progress import console
from maml_en_llm.prompts.layout import PromptFormat
from maml_en_llm.tasks.collection import Example, load_collection
from maml_en_llm.tasks.seeds import random_generator
from maml_en_llm.tasks.writing import write_manifest, write_setting, write_task
from maml_en_llm.training.loop import train

from . import text
from .circuit import CONTEXT, LAYERS, MEANING, Gains, circuit

DEMONSTRATIONS = 16


@dataclass
class Options:
    collection: Path
    """Folder of tasks, of which the training tasks' inputs are read and nothing else."""
    setting: str
    """Its name."""
    output: Path
    """Folder for the model and what is made on the way."""
    words: int = 12_000
    """Words that are tokens of their own."""
    prior: float = 0.7
    """Share of a label's frequency that the circuit takes off; below 0 it adds, which training begins better from."""
    groups: int = 300
    """Groups of documents, and of words."""
    episodes: int = 900
    """Tasks of the curriculum."""
    batches: int = 200
    """Its updates; 0 leaves the curriculum out."""
    prompts: int = 8
    """Prompts of an update."""
    lr: float = 3e-4
    """Its learning rate."""
    width: int = 0
    """Width of a model that begins with random weights, a multiple of 64; 0: the circuit."""
    blocks: int = 12
    """--width: its blocks."""
    text_batches: int = 2000
    """--width: updates on raw text."""
    device: str = "cpu"
    """auto takes a GPU if there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the training."""
    held_out: int = 40
    """Episodes of each kind that measure accuracy."""


def make_base_model(options: Options) -> Path:
    """Runs what of the recipe is not finished in `options.output` and returns the folder of the model."""
    start = options.output / ("untrained" if options.width else "circuit")
    episodes = options.output / "episodes"
    corpus = None
    if not start.is_dir() or (options.batches and not _measured(options).is_file()):
        console.print("word vectors of the training tasks' inputs")
        texts = text.raw_texts(load_collection(options.collection), options.setting)
        words = text.frequent_words(texts, options.words)
        # The parts of rare words differ between runs (tokenizers breaks ties at random): there is one tokenizer only.
        tokenizer = load_tokenizer(start) if start.is_dir() else word_tokenizer(words, context=CONTEXT)
        vectors = text.word_vectors(text.token_ids(tokenizer, texts), len(tokenizer), MEANING)
        if not start.is_dir():
            if options.width:
                shape = {"layers": options.blocks, "width": options.width, "heads": options.width // 64}
                network: Any = new_gpt2(tokenizer, context=CONTEXT, **shape)
                _write_documents(options.output / "texts", texts)
            else:
                network = circuit(tokenizer, torch.tensor(vectors, dtype=torch.float32), Gains(prior=options.prior))
            save_model(network, tokenizer, start)
        if options.batches:
            corpus = text.corpus(texts, words, tokenizer, vectors, options.groups)
            if not (episodes / "manifest.json").is_file():
                _write_episodes(episodes, corpus, options)
    shared: dict[str, Any] = {
        "demonstrations": DEMONSTRATIONS,
        "batch_size": options.prompts,
        "lr": options.lr,
        "adam_betas": (0.9, 0.98),
        "warmup": 0.1,
        "log_every": 20,
        "checkpoint_every": 100,
        "device": options.device,
        "precision": options.precision,
    }
    begun = start
    if options.width:
        begun = train(
            LanguageModel(
                collection=options.output / "texts",
                setting="texts",
                model=str(start),
                output=options.output / "text",
                batches=options.text_batches,
                **shared,
            ),
            resume=True,
        )
    if not options.batches:
        return begun
    of_circuit: dict[str, Any] = {"trainable": "last_blocks", "last_blocks": LAYERS}  # embeddings stay as they are
    model = train(
        LanguageModel(
            collection=episodes,
            setting="episodes",
            model=str(begun),
            output=options.output / "run",
            predicted="answers",
            batches=options.batches,
            **shared,
            **({} if options.width else of_circuit),
        ),
        resume=True,
    )
    if corpus is not None and not _measured(options).is_file():
        found = {
            name: {kind: accuracy(path, corpus, kind, options.held_out, options.device) for kind in text.KINDS}
            for name, path in (("text" if options.width else "circuit", begun), ("episodes", model))
        }
        write_text(_measured(options), json.dumps(found, indent=2) + "\n")
    for name, by_kind in json.loads(_measured(options).read_text(encoding="utf-8")).items():
        shares = ", ".join(f"{kind} {100 * share:.0f}" for kind, share in by_kind.items())
        console.print(f"% of held-out episodes right after {name}: {shares}")
    return model


def accuracy(model: Path, corpus: text.Corpus, kind: str, episodes: int, device: str = "cpu") -> float:
    """Share of episodes of two classes or more, drawn apart from those of training, whose last example is right."""
    scorer, tokenizer, form = Scorer(load_model(model, pick_device(device))), load_tokenizer(model), PromptFormat()
    generator, right = random_generator("english", "held-out", kind), 0
    for _ in range(episodes):
        *shown, asked = text.episode(generator, corpus, kind, DEMONSTRATIONS + 1)
        prefix = form.encode_demonstrations(tokenizer, shown)
        (scores,) = scorer.score(prefix, form.encode_all_targets(tokenizer, [asked], first=False))
        right += asked.options[int(np.argmin(scores))] == asked.output
    return right / episodes


def _write_documents(folder: Path, texts: Sequence[str]) -> None:
    """A collection of one task, whose examples are the two halves of a document: to be read, not answered."""
    words = [document.split() for document in texts]
    halves = [(" ".join(some[: len(some) // 2]), " ".join(some[len(some) // 2 :])) for some in words if len(some) > 1]
    write_task(folder, "texts", {"train": [Example(first, second, ()) for first, second in halves]})
    write_setting(folder, "texts", {"train": ["texts"]})
    write_manifest(folder, [])


def _measured(options: Options) -> Path:
    return options.output / "accuracy.json"


def _write_episodes(folder: Path, corpus: text.Corpus, options: Options) -> None:
    generator = random_generator("english", "episodes")
    names = [f"episode-{number}" for number in range(options.episodes)]
    for number, name in enumerate(names):
        kind = text.KINDS[number % len(text.KINDS)]
        write_task(folder, name, {"train": text.episode(generator, corpus, kind, DEMONSTRATIONS + 8)})
    write_setting(folder, "episodes", {"train": names})
    write_manifest(folder, [])


if __name__ == "__main__":
    make_base_model(tyro.cli(Options))
