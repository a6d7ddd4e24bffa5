"""Speed of `tasks check` and of the check before training: makes a collection and prints seconds for each part.

python benchmarks/check_speed.py [--examples 800000] [--collection DIR] [--model DIR]
With --collection the examples of that collection are repeated, with numbers in them, until there are enough.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tyro

from maml_en_llm.models import load_tokenizer
from maml_en_llm.sources.quality import examine
from maml_en_llm.tasks.check import check_collection, check_training_data
from maml_en_llm.tasks.collection import Example, Setting, load_collection
from maml_en_llm.tasks.writing import example_line


def made_up(number: int) -> Example:
    generator = np.random.default_rng(number)
    words = generator.zipf(1.3, int(generator.integers(10, 110))) % 50_000
    return Example(" ".join(f"w{word}" for word in words), "ab"[number % 2], ("a", "b"))


def repeated(source: Path, total: int) -> Iterator[tuple[str, Example]]:
    collection, copy, count = load_collection(source), 0, 0
    while True:
        for name, task in collection.items():
            for example in task.train:
                text = example.input if copy == 0 else f"{copy} {example.input} {copy}"
                yield f"{name}.{copy}", Example(text, example.output, example.options)
                count += 1
                if count == total:
                    return
        copy += 1


def main(examples: int = 800_000, collection: Path | None = None, model: str | None = None) -> None:
    """Prints how long checking takes.

    Args:
        examples: Examples to check.
        collection: Collection whose examples are repeated; without, random words are made up.
        model: Hugging Face folder whose tokenizer is used.
    """
    folder = Path(tempfile.mkdtemp())
    try:
        tasks = (
            ((f"task-{n // 8000}", made_up(n)) for n in range(examples))
            if collection is None
            else repeated(collection, examples)
        )
        size, opened = 0, {}
        for name, example in tasks:
            if name not in opened:
                (folder / "data" / name).mkdir(parents=True)
                opened[name] = (folder / "data" / name / "train.jsonl").open("wb")
            size += opened[name].write(example_line(example, name))
        for file in opened.values():
            file.close()
        print(f"{examples} examples in {len(opened)} tasks, {size / 1e6:.0f} MB")
        tokenizer = None if model is None else load_tokenizer(model)
        names = tuple(sorted(opened))
        setting = Setting("all", names[:-1], names[-1:], (), {})
        cache = folder / "cache"
        for what, work in (
            ("before training", lambda: check_training_data(load_collection(folder), setting, cache)),
            ("before training, again", lambda: check_training_data(load_collection(folder), setting, cache)),
            ("rules", lambda: check_collection(load_collection(folder))),
            ("quality", lambda: examine(load_collection(folder))),
            ("quality with tokens", lambda: examine(load_collection(folder), tokenizer)),
        ):
            if what.endswith("tokens") and tokenizer is None:
                continue
            wall, processor = time.monotonic(), time.process_time()
            work()
            print(f"{what}: {time.process_time() - processor:.1f} s processor, {time.monotonic() - wall:.1f} s wall")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    tyro.cli(main)
