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

from ..files import write_text, writing
from ..names import check_name
from .collection import SETTING_KEYS, SPLITS, Example, problems_of_manifest, read_json_object, read_setting
from .seeds import random_generator

STAGING = ".maml-en-llm-unfinished"  # beside data/, so that no reader takes a half-written task for one


def example_line(example: Example, task: str) -> bytes:
    """The JSON line of an example; a lone surrogate, which is no character, becomes U+FFFD."""
    record = {"task": task, "input": example.input, "output": example.output, "options": list(example.options)}
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def task_hashes(name: str, splits: Mapping[str, Sequence[Example]]) -> dict[str, str]:
    """Content hashes by file of what write_task would write."""
    digests = {split: hashlib.sha256() for split in SPLITS if splits.get(split)}
    for split, digest in digests.items():
        for example in splits[split]:
            digest.update(example_line(example, name))
    return {f"{split}.jsonl": digest.hexdigest() for split, digest in digests.items()}


def recorded(collection: Path) -> dict[str, dict[str, Any]]:
    """The lines of the manifest by task, with those of tasks that an interrupted command finished."""
    lines = list(read_manifest(collection).get("tasks", ()))
    lines += [read_json_object(path) for path in sorted((collection / STAGING).glob("*.json"))]
    return {line["name"]: line for line in lines}


def check_task(collection: Path, name: str, hashes: Mapping[str, str] | None = None) -> bool:
    """Whether data/NAME holds files with these `hashes` already. Raises ValueError unless write_task may write it.

    It may when there is no such folder, or the folder holds just what the manifest says was written.
    """
    check_name(name, "task")
    folder = collection / "data" / name
    if not folder.exists() and not folder.is_symlink():
        return False
    present = {path.name for path in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else {""}
    found = file_hashes(folder)
    if hashes is not None and found == hashes and present == set(found):
        return True
    if present - set(found) or (found and recorded(collection).get(name, {}).get("files") != found):
        raise ValueError(
            f"{folder} was not written by maml-en-llm, or was changed since; choose another name, or delete it yourself"
        )
    return False


def write_task(collection: Path, name: str, splits: Mapping[str, Sequence[Example]]) -> dict[str, str]:
    """Writes data/NAME with the splits that have examples, replacing what was there; returns content hashes by file.

    Raises ValueError when check_task does, OSError (disk full, no permission) with nothing left of the unfinished one.
    """
    if check_task(collection, name, hashes := task_hashes(name, splits)):
        return hashes
    staged, target = collection / STAGING / name, collection / "data" / name
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        for split in SPLITS:
            if splits.get(split):
                path = staged / f"{split}.jsonl"
                with writing(target / path.name), path.open("wb") as file:
                    file.writelines(example_line(example, name) for example in splits[split])
                    file.flush()
                    os.fsync(file.fileno())
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
            found[path.name] = _hash(path)
    return found


def write_json(path: Path, record: Any) -> None:
    """Writes JSON beside `path` and renames it, so that `path` is never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read_manifest(collection: Path) -> dict[str, Any]:
    """The manifest, empty when there is none. Raises ValueError when manifest.json is something else."""
    path = collection / "manifest.json"
    if not path.is_file():
        return {}
    manifest = read_json_object(path)
    if problems := problems_of_manifest(manifest):
        raise ValueError(f"{path}: {problems[0][1]}")
    return manifest


def check_collection_folder(collection: Path) -> None:
    """ValueError unless tasks may be written into `collection`: a manifest.json there must be that of a collection."""
    manifest = read_manifest(collection)
    if manifest and not {"tasks", "missing"} & manifest.keys():
        raise ValueError(f"{collection / 'manifest.json'} is not that of a collection; choose another --collection")


def write_manifest(collection: Path, entries: Iterable[Mapping[str, Any]], missing: Iterable[str] = ()) -> None:
    """Merges `entries` (each with a name) into manifest.json, declares `missing` tasks and tidies up."""
    check_collection_folder(collection)
    manifest = read_manifest(collection)
    tasks = {entry["name"]: entry for entry in manifest.get("tasks", ())} | {entry["name"]: entry for entry in entries}
    manifest["tasks"] = [tasks[name] for name in sorted(tasks)]
    manifest["missing"] = sorted({*manifest.get("missing", ()), *missing} - set(tasks))
    write_json(collection / "manifest.json", manifest)
    shutil.rmtree(collection / STAGING, ignore_errors=True)


def setting_path(collection: Path, name: str) -> Path:
    """settings/NAME.json. Raises ValueError when `name` is no name."""
    return collection / "settings" / f"{check_name(name, 'setting')}.json"


def setting_is_ours(path: Path) -> bool:
    """Whether a setting file is as write_setting left it."""
    record = read_json_object(path)
    return record == _setting(record)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_setting(collection: Path, name: str, lists: Mapping[str, Sequence[str]]) -> bool:
    """Whether settings/NAME.json holds these lists already. Raises ValueError unless write_setting may write it."""
    path = setting_path(collection, name)
    if not path.exists():
        return False
    if path.is_file() and read_setting(path) == {key: list(lists.get(key, ())) for key in SETTING_KEYS}:
        return True
    if not path.is_file() or not setting_is_ours(path):
        raise ValueError(
            f"{path} was not written by maml-en-llm, or was changed since; edit it, or name another setting"
        )
    return False


def write_setting(collection: Path, name: str, lists: Mapping[str, Sequence[str]]) -> Path:
    """Writes settings/NAME.json. Raises ValueError when check_setting does."""
    path = setting_path(collection, name)
    if not check_setting(collection, name, lists):
        write_json(path, _setting(lists))
    return path


def _setting(lists: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in a setting file; the hash of its lists tells it from one that somebody wrote or changed."""
    record = {key: list(lists.get(key) or ()) for key in SETTING_KEYS}
    digest = hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]
    return record | {"made by": f"maml-en-llm {digest}"}


def question(example: Example) -> str:
    """What two examples have in common when input and options are equal but for case and white space."""
    return " ".join("\x1f".join((example.input, *example.options)).split()).lower()


def without_duplicates(examples: Iterable[Example], seen: set[str] | None = None) -> Iterator[Example]:
    """The first example of each question, leaving out those in `seen`, to which new ones are added."""
    seen = set() if seen is None else seen
    for example in examples:
        key = question(example)
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
