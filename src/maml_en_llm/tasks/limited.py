"""Limited data: the same share of every label of a task, as a view and as a written copy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from ..names import unfinished
from .collection import SPLITS, Collection, Example
from .seeds import random_generator
from .writing import STAGING, write_json, write_task

SHARE = 0.1
VALIDATION_SHARE = 0.2


class Limited(Sequence[Example]):
    """Some of the examples of a sequence, in its order, without copying them."""

    def __init__(self, examples: Sequence[Example], indices: Sequence[int]) -> None:
        self.examples = examples
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self.examples[i] for i in self.indices[index]]
        return self.examples[self.indices[index]]


def stratified_indices(labels: Sequence[str], share: float, *key: int | str) -> list[int]:
    """A share of the positions of every label, rounded up or down so that the whole is a share too; sorted.

    The parts that rounding leaves over go to the labels with the largest remainders. At least one position is kept.
    The same `key` gives the same draw.  Raises ValueError when `share` is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share is {share}; it must be above 0 and at most 1")
    if not labels:
        return []
    words, which = np.unique(np.array(labels, dtype=object).astype(str), return_inverse=True)
    exact = np.bincount(which, minlength=len(words)) * share
    counts = np.floor(exact + 1e-9).astype(int)
    total = max(round(len(labels) * share), 1)
    remainders = np.where(exact - counts > 1e-9, exact - counts, -1.0)
    for place in np.argsort(-remainders, kind="stable")[: max(total - int(counts.sum()), 0)]:
        counts[place] += 1
    order = random_generator("limited", *key).permutation(len(labels))
    kept = [order[which[order] == place][:count] for place, count in enumerate(counts)]
    return sorted(int(index) for part in kept for index in part)


def limited(examples: Sequence[Example], task: str, share: float = SHARE, seed: int = 100) -> Limited:
    """A view of `share` of a task's examples, stratified by label (free-form and multiple choice: a plain draw).

    Deterministic: the same task, seed and examples give the same view.
    """
    return Limited(examples, stratified_indices(_labels(examples), share, task, seed))


def validation_split(examples: Sequence[Example], task: str) -> tuple[Limited, Limited]:
    """(rest, held out) of a task's train examples: a fifth is held out, stratified by label; always the same."""
    held_out = stratified_indices(_labels(examples), VALIDATION_SHARE, task, "validation")
    rest = sorted(set(range(len(examples))) - set(held_out))
    return Limited(examples, rest), Limited(examples, held_out)


def _labels(examples: Sequence[Example]) -> list[str]:
    """The label of each example; all alike for free-form and multiple choice."""
    found = [(example.output, example.options) for example in examples]
    one_list = len({options for _, options in found}) == 1 and found[0][1]
    return [output if one_list else "" for output, _ in found]


def write_limited(collection: Collection, output: Path, share: float = SHARE, seed: int = 100) -> None:
    """Writes a copy of `collection` whose train splits hold `share` of the examples; dev and test are whole.

    The copy appears whole or not at all. Raises ValueError when `output` exists.
    """
    if output.exists() or output.is_symlink():
        raise ValueError(f"{output} exists already; choose another --output")
    copy = unfinished(output)
    shutil.rmtree(copy, ignore_errors=True)
    manifest = dict(collection.manifest)
    lines = {line["name"]: dict(line) for line in manifest.get("tasks", ())}
    for name, task in collection.items():
        splits: dict[str, Sequence[Example]] = {split: task.split(split) for split in SPLITS if task.has(split)}
        if "train" in splits:
            splits["train"] = limited(splits["train"], name, share, seed)
        hashes = write_task(copy, name, splits)
        line = lines.setdefault(name, {"name": name, "kind": task.kind})
        line |= {"files": hashes, "counts": {split: len(examples) for split, examples in splits.items()}}
        line["limited"] = {"share": share, "seed": seed}
    for path in (collection.path / "settings").glob("*.json"):
        (copy / "settings").mkdir(exist_ok=True)
        shutil.copyfile(path, copy / "settings" / path.name)
    manifest["tasks"] = [lines[name] for name in sorted(lines)]
    write_json(copy / "manifest.json", manifest)
    shutil.rmtree(copy / STAGING, ignore_errors=True)
    os.replace(copy, output)
