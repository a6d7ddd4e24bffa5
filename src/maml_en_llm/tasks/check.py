"""Every rule that a collection must obey; each violation is reported with file and line, all of them at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .collection import (
    NO_SPLIT,
    SETTING_KEYS,
    SPLITS,
    Collection,
    Examples,
    Task,
    parse_line,
    problems_of_manifest,
    read_json_object,
)


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
