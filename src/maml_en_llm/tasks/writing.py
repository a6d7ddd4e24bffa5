"""Writing collections: a task's folder appears whole or not at all, and the manifest comes last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_text
from .collection import SPLITS, Example, read_json_object
from .seeds import random_generator

STAGING = ".unfinished"  # beside data/, so that no reader takes a half-written task for one


def example_line(example: Example, task: str) -> bytes:
    """The JSON line of an example; a lone surrogate, which is no character, becomes U+FFFD."""
    record = {"task": task, "input": example.input, "output": example.output, "options": list(example.options)}
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def write_task(collection: Path, name: str, splits: Mapping[str, Sequence[Example]]) -> dict[str, str]:
    """Writes data/NAME with the splits that have examples, replacing what was there; returns content hashes by file.

    Raises OSError (disk full, no permission) with nothing left of the unfinished folder.
    """
    staged = collection / STAGING / name
    hashes = {}
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        for split in SPLITS:
            if splits.get(split):
                digest = hashlib.sha256()
                with (staged / f"{split}.jsonl").open("wb") as file:
                    for example in splits[split]:
                        line = example_line(example, name)
                        digest.update(line)
                        file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
                hashes[f"{split}.jsonl"] = digest.hexdigest()
        target = collection / "data" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        replaced = collection / STAGING / f"{name}.replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            os.replace(target, replaced)
        os.replace(staged, target)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        with contextlib.suppress(OSError):
            (collection / STAGING).rmdir()
        raise
    return hashes


def file_hashes(folder: Path) -> dict[str, str]:
    """Content hashes of the JSONL files of a task's folder, as write_task returns them."""
    found = {}
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        if path.is_file():
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def write_json(path: Path, record: Any) -> None:
    """Writes JSON beside `path` and renames it, so that `path` is never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def write_manifest(collection: Path, entries: Iterable[Mapping[str, Any]], missing: Iterable[str] = ()) -> None:
    """Merges `entries` (each with a name) into manifest.json, declares `missing` tasks and tidies up."""
    path = collection / "manifest.json"
    manifest = read_json_object(path) if path.is_file() else {}
    tasks = {entry["name"]: entry for entry in manifest.get("tasks", ())} | {entry["name"]: entry for entry in entries}
    manifest["tasks"] = [tasks[name] for name in sorted(tasks)]
    manifest["missing"] = sorted({*manifest.get("missing", ()), *missing} - set(tasks))
    write_json(path, manifest)
    shutil.rmtree(collection / STAGING, ignore_errors=True)


def write_setting(collection: Path, name: str, lists: Mapping[str, Sequence[str]]) -> Path:
    """Writes settings/NAME.json."""
    path = collection / "settings" / f"{name}.json"
    write_json(path, {key: list(lists.get(key, ())) for key in ("train", "test", "unseen_domain_test")})
    return path


def without_duplicates(examples: Iterable[Example], seen: set[str] | None = None) -> Iterator[Example]:
    """The first example of each question, leaving out those in `seen`, to which new ones are added.

    Two examples are one question when input and options are equal but for case and white space.
    """
    seen = set() if seen is None else seen
    for example in examples:
        key = " ".join("\x1f".join((example.input, *example.options)).split()).lower()
        if key not in seen:
            seen.add(key)
            yield example


def drawn(examples: Sequence[Example], count: int, *key: int | str) -> list[Example]:
    """`count` of the examples (all when there are fewer) in an order drawn from `key`."""
    order = random_generator("drawn", *key).permutation(len(examples))
    return [examples[int(index)] for index in order[:count]]


def sampled(examples: Iterable[Example], most: int, *key: int | str) -> list[Example]:
    """All examples, or a uniform sample of `most` of them, drawn from `key` without holding more than that."""
    kept: list[Example] = []
    generator = random_generator("sampled", *key)
    for number, example in enumerate(examples):
        if number < most:
            kept.append(example)
        elif (place := int(generator.integers(number + 1))) < most:
            kept[place] = example
    return kept


def separated(
    splits: Mapping[str, Iterable[Example]], holdout: float | int, *key: int | str
) -> dict[str, list[Example]]:
    """Deduplicated train, dev and test without a common question; one in several stays in test, else in train.

    holdout: the share (below 1) or number of train examples that become test, when there are no test examples.
    """
    seen: set[str] = set()
    found = {split: list(without_duplicates(splits.get(split, ()), seen)) for split in ("test", "train", "dev")}
    if holdout and not found["test"]:
        kept = drawn(found["train"], len(found["train"]), "holdout", *key)
        number = max(round(len(kept) * holdout), 1) if holdout < 1 else int(holdout)
        number = min(number, max(len(kept) - 1, 0))  # one train example at least
        found["test"], found["train"] = kept[:number], kept[number:]
    return {split: found[split] for split in SPLITS}
