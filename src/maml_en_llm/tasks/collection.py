"""A collection of NLP tasks on disk, read lazily.

data/TASK/{train,dev,test}.jsonl   lines {"task", "input", "output", "options"}
settings/NAME.json                 {"train": [...], "test": [...], "unseen_domain_test": [...]}
manifest.json                      optional: kinds of tasks, and the tasks declared missing
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from ..files import content
from ..names import check_name

SPLITS = ("train", "dev", "test")
NO_SPLIT = "has none of train.jsonl, dev.jsonl and test.jsonl; add one or delete the folder"
SETTING_KEYS = ("train", "test", "unseen_domain_test")
KINDS = ("classification", "nli", "paraphrase", "multiple_choice_qa", "free_form")
_HALF_PAIR = re.compile("[\ud800-\udfff]")  # half of a UTF-16 surrogate pair: JSON can spell it, but it is no text


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled example; `options` is empty for free-form outputs."""

    input: str
    output: str
    options: tuple[str, ...] = ()


def problems_of_record(record: Any, task: str) -> list[str]:
    """Everything wrong with one parsed JSON line of `task`, as sentences; empty when it is good."""
    if not isinstance(record, dict):
        return [f"a line must be a JSON object, this one is {_json_type(record)}"]
    problems = []
    for key in ("task", "input", "output"):
        if key not in record:
            problems.append(f'the key "{key}" is missing')
        elif not isinstance(record[key], str):
            problems.append(f'"{key}" must be a string, not {_json_type(record[key])}')
        elif _HALF_PAIR.search(record[key]):
            problems.append(f'"{key}" holds half of a surrogate pair, which is no character; correct the text')
    options = record.get("options")
    if "options" not in record:
        problems.append('the key "options" is missing (write [] for a free-form task)')
    elif not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        problems.append('"options" must be a list of strings')
    elif any(map(_HALF_PAIR.search, options)):
        problems.append("an option holds half of a surrogate pair, which is no character; correct the text")
    else:
        repeated = sorted({option for option in options if options.count(option) > 1})
        if repeated:
            problems.append(f"the option {_short(repeated[0])} stands more than once; each option must be distinct")
        if options and isinstance(record.get("output"), str) and record["output"] not in options:
            output = _short(record["output"])
            problems.append(f"the output {output} is not among the options {_short(options)}; add it or correct it")
    unknown = sorted(set(record) - {"task", "input", "output", "options"})
    if unknown:
        problems.append(f'unknown key "{unknown[0][:80]}"; a line has task, input, output and options only')
    if isinstance(record.get("task"), str) and record["task"] != task:
        problems.append(f'"task" is {_short(record["task"])} but the folder is {task!r}; make them equal')
    return problems


def _short(value: Any) -> str:
    """A value as Python writes it, cut where it would fill the screen."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def parse_line(line: bytes, task: str) -> tuple[Example | None, list[str]]:
    """The example on one line of `task`, or None with the sentences that say what is wrong with it."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return None, [f"not UTF-8 at byte {error.start} of the line; save the file as UTF-8"]
    except json.JSONDecodeError as error:
        if not line.strip():
            return None, ["the line is blank; delete it"]
        return None, [f"not valid JSON ({error.msg} at column {error.colno}); one JSON object a line"]
    except RecursionError:
        return None, ["not valid JSON (nested too deeply); one JSON object a line"]
    except ValueError:
        return None, ["not usable JSON (a number has thousands of digits); correct it"]
    problems = problems_of_record(record, task)
    if problems:
        return None, problems
    return Example(record["input"], record["output"], tuple(record["options"])), []


class Examples(Sequence[Example]):
    """The examples of one split, read from disk one line at a time.

    Nothing is read before the first use; then the file is scanned once for line ends, and a line is parsed when
    it is asked for.  Raises ValueError naming file and line when a line is not a good example.
    """

    def __init__(self, path: Path, task: str) -> None:
        self.path = path
        self.task = task

    @cached_property
    def _bytes(self) -> np.ndarray:
        if self.path.stat().st_size == 0:
            return np.zeros(0, dtype=np.uint8)
        return np.memmap(self.path, dtype=np.uint8, mode="r")

    @cached_property
    def _ends(self) -> np.ndarray:
        """Offset of the end of every line, int64 [lines]."""
        chunk = 1 << 24
        ends = [np.flatnonzero(self._bytes[i : i + chunk] == 10) + i for i in range(0, len(self._bytes), chunk)]
        found = np.concatenate(ends) if ends else np.zeros(0, dtype=np.int64)
        if len(self._bytes) and (not len(found) or found[-1] != len(self._bytes) - 1):
            found = np.append(found, len(self._bytes))
        return found

    def __len__(self) -> int:
        return len(self._ends)

    def lines_begin_with(self, character: bytes) -> bool:
        """Whether that is the first byte of every line."""
        starts = np.concatenate([[0], self._ends[:-1] + 1])[: len(self)]
        return bool((self._bytes[starts] == character[0]).all())

    def line(self, index: int) -> bytes:
        start = 0 if index == 0 else int(self._ends[index - 1]) + 1
        return self._bytes[start : int(self._ends[index])].tobytes()

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[int(index)]
        example, problems = parse_line(self.line(position), self.task)
        if example is None:
            raise ValueError(f"{self.path}:{position + 1}: {problems[0]} (`tasks check` lists every such line)")
        return example

    def __repr__(self) -> str:
        return f"Examples({str(self.path)!r})"


@dataclass(frozen=True)
class Task:
    """A named NLP task: a folder with a JSONL file per split."""

    name: str
    folder: Path
    declared_kind: str | None = None
    instruction: str | None = None
    """What the task asks for in a sentence, if the manifest has one."""

    def split(self, name: str) -> Examples:
        """The examples of split `name`; ValueError when the task does not have it."""
        path = self.folder / f"{name}.jsonl"
        if not path.is_file():
            raise ValueError(f"{path} does not exist: the task {self.name} has no {name} examples; add the file")
        examples = Examples(path, self.name)
        if len(examples) == 0:
            raise ValueError(f"{path} is empty: the task {self.name} has no {name} examples; add some")
        return examples

    @cached_property
    def train(self) -> Examples:
        return self.split("train")

    @cached_property
    def dev(self) -> Examples:
        return self.split("dev")

    @cached_property
    def test(self) -> Examples:
        return self.split("test")

    def has(self, split: str) -> bool:
        return (self.folder / f"{split}.jsonl").is_file()

    @cached_property
    def kind(self) -> str:
        """One of KINDS: what the manifest declares, else told from the options of the first 100 examples."""
        if self.declared_kind is not None:
            return self.declared_kind
        split = next((name for name in SPLITS if self.has(name)), None)
        if split is None:
            raise ValueError(f"{self.folder} {NO_SPLIT}")
        options = {example.options for example in self.split(split)[:100]}
        if options == {()}:
            return "free_form"
        return "classification" if len(options) == 1 else "multiple_choice_qa"


@dataclass(frozen=True)
class Setting:
    """A partition of NLP tasks. The lists hold the tasks that are present; `named` counts those the file names."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    unseen_domain_test: tuple[str, ...]
    named: Mapping[str, int]

    def presence(self) -> str:
        """How many of the tasks that the setting names are here, for people."""
        sides = (("train", "train"), ("test", "test"), ("unseen_domain_test", "unseen-domain test"))
        counts = [f"{len(getattr(self, key))} of {self.named[key]} {words}" for key, words in sides]
        return f"{self.name}: {', '.join(counts)} tasks present"


class Collection(Mapping[str, Task]):
    """A folder of NLP tasks plus named settings; `collection["glue-rte"].train[0]` is an Example."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "data").is_dir():
            raise ValueError(
                f"{self.path} is not a collection: it has no folder data/ with one folder per task; "
                "give --collection a folder made by `tasks build` or `tasks import`"
            )

    @cached_property
    def manifest(self) -> dict[str, Any]:
        path = self.path / "manifest.json"
        manifest = read_json_object(path) if path.is_file() else {}
        for *_, problem in problems_of_manifest(manifest):
            raise ValueError(f"{path}: {problem}")
        return manifest

    @cached_property
    def missing(self) -> frozenset[str]:
        """Tasks that settings may name although they are not here, as the manifest declares."""
        return frozenset(self.manifest.get("missing", ()))

    @cached_property
    def _tasks(self) -> dict[str, Task]:
        said = {entry["name"]: entry for entry in self.manifest.get("tasks", ())}
        entries = [(folder, said.get(folder.name, {})) for folder in self.task_folders]
        return {f.name: Task(f.name, f, entry.get("kind"), entry.get("instruction")) for f, entry in entries}

    @property
    def task_folders(self) -> list[Path]:
        """The folders of data/; hidden ones are no tasks."""
        folders = (folder for folder in (self.path / "data").iterdir() if folder.is_dir())
        return sorted(folder for folder in folders if not folder.name.startswith("."))

    def __getitem__(self, name: str) -> Task:
        if name not in self._tasks:
            raise KeyError(f"{self.path} has no task {name!r}")
        return self._tasks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def setting_names(self) -> list[str]:
        return sorted(path.stem for path in (self.path / "settings").glob("*.json"))

    def setting(self, name: str) -> Setting:
        """The setting `name` with the tasks that are present; ValueError when one is absent and not declared so.

        The name of a task is a setting, too, whose only target it is.
        """
        path = self.path / "settings" / f"{check_name(name, 'setting')}.json"
        if not path.is_file() and name in self._tasks:
            return Setting(name, (), (name,), (), named={"train": 0, "test": 1, "unseen_domain_test": 0})
        if not path.is_file():
            known = ", ".join(self.setting_names) or "none"
            raise ValueError(f"{path} does not exist: there is no setting {name!r}; known settings: {known}")
        lists = read_setting(path)
        present: dict[str, tuple[str, ...]] = {}
        for key, names in lists.items():
            absent = [task for task in names if task not in self._tasks and task not in self.missing]
            if absent:
                raise ValueError(
                    f"{path}: the task {absent[0]} is named under {key} but {self.path / 'data' / absent[0]} does not "
                    'exist; add it or list it under "missing" in manifest.json'
                )
            present[key] = tuple(task for task in names if task in self._tasks)
        return Setting(name, **present, named={key: len(names) for key, names in lists.items()})


def problems_of_manifest(manifest: Mapping[str, Any]) -> list[tuple[str, str | None, str]]:
    """What is wrong with a manifest: a word that shows the place, the key it comes after (if any), and a sentence."""
    found: list[tuple[str, str | None, str]] = []
    missing, tasks = manifest.get("missing", []), manifest.get("tasks", [])
    if not isinstance(missing, list) or not all(isinstance(name, str) for name in missing):
        found.append(("missing", None, '"missing" must be a list of task names'))
    if not isinstance(tasks, list) or not all(isinstance(t, dict) and isinstance(t.get("name"), str) for t in tasks):
        return [*found, ("tasks", None, '"tasks" must be a list of objects that each have a "name"')]
    for task in tasks:
        name, kind = task["name"], task.get("kind")
        if kind is not None and (not isinstance(kind, str) or kind not in KINDS):
            found.append((name, "tasks", f"{name} has the unknown kind {_short(kind)}; use one of {', '.join(KINDS)}"))
        if not isinstance(task.get("instruction", ""), str | None):
            found.append((name, "tasks", f"the instruction of {name} must be a sentence"))
    return found


def read_setting(path: Path) -> dict[str, list[str]]:
    """The lists of a setting file. Raises ValueError with the file's name when it is none."""
    record = read_json_object(path)
    for key in SETTING_KEYS:
        if not isinstance(record.get(key), list) or not all(isinstance(name, str) for name in record[key]):
            raise ValueError(f'{path}: "{key}" must be a list of task names')
    return {key: record[key] for key in SETTING_KEYS}


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; ValueError with file and line when it is not one."""
    data = content(path)
    try:
        record = json.loads(data.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None
    except RecursionError:
        raise ValueError(f"{path}:1: not valid JSON (nested too deeply)") from None
    except ValueError:
        raise ValueError(f"{path}:1: not usable JSON (a number has thousands of digits)") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}:1: must be a JSON object, not {_json_type(record)}")
    return record


def load_collection(path: str | Path) -> Collection:
    """Opens the collection folder at `path` without reading any example (ValueError when it is not one)."""
    return Collection(path)
