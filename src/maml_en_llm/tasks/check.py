"""Every rule that a collection must obey, and what must hold of a setting before a model is trained or scored on it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..files import content_hash
from ..progress import track
from .collection import (
    NO_SPLIT,
    SETTING_KEYS,
    SPLITS,
    Collection,
    Examples,
    Setting,
    Task,
    parse_line,
    problems_of_manifest,
    read_json_object,
)
from .whole_file import ReadByLine, all_good, text, texts


@dataclass(frozen=True)
class Violation:
    """What is wrong, where, and what to do; `line` counts from 1. A warning does not make a collection bad."""

    path: Path
    line: int
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {'warning: ' if self.severity == 'warning' else ''}{self.message}"


def check_collection(collection: Collection) -> list[Violation]:
    """All violations in the files of `collection`, in the order manifest, tasks, settings."""
    found, missing = _check_manifest(collection)
    tasks = {folder.name: Task(folder.name, folder) for folder in collection.task_folders}
    if not tasks:
        found.append(Violation(collection.path / "data", 1, "holds no task; add a folder per task"))
    for task in tasks.values():
        found.extend(_check_task(task.folder))
    for name in collection.setting_names:
        found.extend(_check_setting(tasks, missing, collection.path / "settings" / f"{name}.json"))
    return found


def _check_manifest(collection: Collection) -> tuple[list[Violation], frozenset[str] | None]:
    """What is wrong with the manifest, and the tasks that it declares missing (None: it cannot be told)."""
    path = collection.path / "manifest.json"
    if not path.is_file():
        return [], frozenset()
    try:
        manifest = read_json_object(path)
    except ValueError as error:
        return [_from_error(path, error)], None
    text = path.read_text(encoding="utf-8")
    problems = problems_of_manifest(manifest)
    found = [Violation(path, _line_of(text, word, after), problem) for word, after, problem in problems]
    unknown = any(word == "missing" and after is None for word, after, _ in problems)
    return found, None if unknown else frozenset(manifest.get("missing", ()))


def _check_task(folder: Path) -> Iterator[Violation]:
    if not any((folder / f"{split}.jsonl").is_file() for split in SPLITS):
        yield Violation(folder, 1, NO_SPLIT)
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        if path.is_file():
            examples = Examples(path, folder.name)
            if not len(examples):
                yield Violation(path, 1, "is empty; add examples or delete the file")
            if not all_good(examples):
                for index in range(len(examples)):
                    for problem in parse_line(examples.line(index), folder.name)[1]:
                        yield Violation(path, index + 1, problem)


def _check_setting(tasks: Mapping[str, Task], missing: frozenset[str] | None, path: Path) -> Iterator[Violation]:
    try:
        record = read_json_object(path)
    except ValueError as error:
        yield _from_error(path, error)
        return
    text = path.read_text(encoding="utf-8")
    lists: dict[str, list[str]] = {}
    for key in SETTING_KEYS:
        names = record.get(key)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            yield Violation(path, _line_of(text, key), f'"{key}" must be a list of task names')
            continue
        lists[key] = names
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Violation(path, _line_of(text, name, key), f"{name} stands more than once under {key}; keep one")
        for name in dict.fromkeys(names):
            where = _line_of(text, name, key)
            if name not in tasks:
                if missing is not None and name not in missing:
                    message = (
                        f"the task {name} is named under {key} but data/{name} does not exist; "
                        'add it or list it under "missing" in manifest.json'
                    )
                    yield Violation(path, where, message)
                continue
            for split in ("train",) if key == "train" else ("train", "test"):
                if not tasks[name].has(split):
                    message = (
                        f"the task {name} is named under {key} but data/{name}/{split}.jsonl does not exist; add it"
                    )
                    yield Violation(path, where, message)
    for name in sorted(set(lists.get("train", ())) & set(lists.get("test", ()))):
        message = f"{name} is under both train and test; a target task must not be trained on, delete one"
        absent = name not in tasks  # left out on both sides, so nothing leaks
        yield Violation(path, _line_of(text, name, "test"), message, "warning" if absent else "error")
    for name in sorted(set(lists.get("unseen_domain_test", ())) - set(lists.get("test", ()))):
        message = f"{name} is under unseen_domain_test but not under test; add it to test"
        yield Violation(path, _line_of(text, name, "unseen_domain_test"), message)


def _line_of(text: str, word: str, after: str | None = None) -> int:
    """The line on which the JSON string `word` first stands (behind the key `after`, if given); 1 if nowhere."""
    start = 0
    if after is not None:
        key = re.search(re.escape(json.dumps(after)) + r"\s*:", text)
        start = key.start() if key else 0
    position = text.find(json.dumps(word), start)
    if position < 0:
        position = text.find(json.dumps(word, ensure_ascii=False), start)
    return text.count("\n", 0, max(position, 0)) + 1


def _from_error(path: Path, error: ValueError) -> Violation:
    place, _, message = str(error).removeprefix(str(path)).removeprefix(":").partition(": ")
    return Violation(path, int(place) if place.isdigit() else 1, message)


# ---- before training and evaluation

VERSION = 1  # of what the cached hashes are made of
SCORED = ("dev", "test")
LARGE = 20_000  # kB of examples from which reading shows its progress


def check_training_data(collection: Collection, setting: Setting, cache: Path | None = None) -> int:
    """Reads all that training and evaluation may read of a setting, and returns the number of examples.

    Raises ValueError with file and line when an example is not good, when a task is both trained on and a target, or
    when an example on which a target is scored (input and output alike) is in the training data.

    cache: folder where the hashes of good files are kept by content, so that no file is read twice while it stays.
    """
    trained = [collection[name].train for name in setting.train]
    return _check_data(collection, setting, trained, setting.test, SCORED, cache)


def check_evaluation_data(
    collection: Collection, setting: Setting, targets: Sequence[str], split: str, cache: Path | None = None
) -> int:
    """The same before `split` of some of the setting's targets is scored, of what that may read and of the training
    data as far as they are there.  validation, which is a part of the train split, stands for that."""
    trained = [collection[name].train for name in setting.train if collection[name].has("train")]
    return _check_data(collection, setting, trained, targets, ("train" if split == "validation" else split,), cache)


def _check_data(
    collection: Collection,
    setting: Setting,
    trained: Sequence[Examples],
    targets: Sequence[str],
    splits: Sequence[str],
    cache: Path | None,
) -> int:
    if both := sorted(set(setting.train) & {*setting.test, *setting.unseen_domain_test}):
        path = collection.path / "settings" / f"{setting.name}.json"
        raise ValueError(f"{path}: {both[0]} is under both train and test; a target must not be trained on, delete one")
    tasks = [collection[name] for name in targets]
    scored = [task.split(split) for task in tasks for split in splits if task.has(split)]
    pools = [task.train for task in tasks if task.has("train") and "train" not in splits]
    files = [*trained, *pools, *scored]
    sizes = [examples.path.stat().st_size // 1000 for examples in files]
    found: list[np.ndarray] = []
    with track("check data", sum(sizes), "kB") if sum(sizes) > LARGE else nullcontext() as progress:
        for examples, size in zip(files, sizes, strict=True):
            found.append(_good_hashes(examples, cache))
            if progress is not None:
                progress.advance(size, examples.task)
    learned, tested = found[: len(trained)], found[len(trained) + len(pools) :]
    everything = np.sort(np.concatenate([*learned, np.array([2**64 - 1], np.uint64)]))  # a place for every hash
    for examples, hashes in zip(scored, tested, strict=True):
        for line in np.flatnonzero(everything[np.searchsorted(everything, hashes)] == hashes).tolist():
            for other, theirs in zip(trained, learned, strict=True):
                for place in np.flatnonzero(theirs == hashes[line]).tolist():
                    one, two = examples[line], other[place]
                    if (one.input, one.output) == (two.input, two.output):
                        raise ValueError(
                            f"{examples.path}:{line + 1}: this example of the target {examples.task} is also in the "
                            f"training data, {other.path}:{place + 1}; delete it there, or do not train on "
                            f"{other.task} (`tasks check` says how many there are)"
                        )
    return sum(map(len, found))


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).digest()


def _good_hashes(examples: Examples, cache: Path | None) -> np.ndarray:
    """A hash of input and output of each example, uint64 [examples]. Raises ValueError for the first bad line."""
    path = None
    if cache is not None:
        key = f"{VERSION} {examples.task} {content_hash(examples.path)}"
        path = cache / "checked" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
        with suppress(OSError, ValueError, EOFError):
            hashes = np.load(path)
            if hashes.dtype == np.uint64 and hashes.shape == (len(examples),):
                return hashes
    digests = bytearray()
    try:
        for some in texts(examples):
            digests += b"".join([_digest(one) for one in some])
    except ReadByLine:
        digests.clear()
        for example in examples:
            digests += _digest(text(example))
    hashes = np.frombuffer(bytes(digests), dtype=np.uint64)
    if path is not None:
        beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with suppress(OSError):  # a cache that cannot be written is none
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with beside.open("wb") as file:
                    np.save(file, hashes)
                os.replace(beside, path)
            finally:
                beside.unlink(missing_ok=True)
    return hashes
