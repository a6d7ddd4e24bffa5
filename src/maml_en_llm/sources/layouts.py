"""What a file or folder holds: tasks with their splits, MetaICL's preprocessed files, Natural Instructions."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..tasks.collection import SPLITS, Example, parse_line
from ..tasks.writing import separated
from .reading import SUFFIXES, read_text

PAPER_FILE = re.compile(r"(?P<task>.+)_(?P<number>\d+)_(?P<seed>\d+)_(?P<split>train|dev|test)\.jsonl")
SPLIT_WORDS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev", "test": "test"}
UNREAD = (".xlsx", ".xls", ".ods", ".numbers", ".gsheet", ".txt", ".zip")  # which may well hold what was meant


def split_of(path: Path) -> str | None:
    """train, dev or test when a file's name says so: train.csv, validation-00000-of-00001.parquet, data_test.jsonl."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    found = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def safe_name(name: str) -> str:
    """A task name that can be a folder's name."""
    return re.sub(r"[^\w:.-]+", "-", unicodedata.normalize("NFC", name)).strip("-.") or "task"


def data_files(folder: Path) -> list[Path]:
    """The data files in a folder, sorted. Raises ValueError when there are none."""
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith((".", "cache-")) and not path.is_dir()
    ]
    hidden = {"dataset_info.json", "state.json", "dataset_dict.json", "manifest.json"}
    found = [path for path in found if path.name not in hidden]
    if not found:
        raise ValueError(f"{folder}: holds no file that ends in {', '.join(SUFFIXES)}; check --source")
    return found


def find_sources(source: Path) -> list[tuple[str, dict[str, list[Path]]]]:
    """Task names with split -> files; split "" is still to be split. Raises ValueError when nothing can be read."""
    if not source.is_dir():
        return [(safe_name(source.stem), {"": [source]})]
    if (source / "dataset_dict.json").is_file():  # a saved DatasetDict: a folder a split
        return [(safe_name(source.name), {split_of(inner) or "": data_files(inner) for inner in _folders(source)})]
    if (source / "data").is_dir() and not _holds_data(source):
        source = source / "data"
    folders = _folders(source)
    if not _holds_data(source):
        if not folders:
            data_files(source)
        return [task for folder in folders for task in find_sources(folder)]
    files = data_files(source)
    inner = next((found for folder in folders for found in folder.rglob("*") if found.suffix.lower() in SUFFIXES), None)
    if inner is not None:
        raise ValueError(f"{source} holds {files[0].name} next to a folder with {inner}; move one of them elsewhere")
    paper = [match for path in files if (match := PAPER_FILE.fullmatch(path.name))]
    if len(paper) == len(files):
        return [(task, {"paper": _of_task(files, task)}) for task in dict.fromkeys(match["task"] for match in paper)]
    if (source / "dataset_info.json").is_file() and not all(split_of(path) for path in files):  # one saved split
        return [(safe_name(source.name), {"": files})]
    if all(split_of(path) for path in files):
        by_split: dict[str, list[Path]] = {}
        for path in files:
            by_split.setdefault(split_of(path) or "", []).append(path)
        return [(safe_name(source.resolve().name), by_split)]
    return [(safe_name(path.stem), {"": [path]}) for path in files]


def _folders(source: Path) -> list[Path]:
    return [folder for folder in sorted(source.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]


def _holds_data(folder: Path) -> bool:
    return any(path.is_file() and path.suffix.lower() in SUFFIXES for path in folder.iterdir())


def left_out(source: Path) -> list[str]:
    """Files in a folder that are not read because of what they are, such as spreadsheets."""
    if not source.is_dir():
        return []
    found = [path for path in source.rglob("*") if path.is_file() and path.suffix.lower() in UNREAD]
    return sorted(path.name for path in found)


def _of_task(files: Iterable[Path], task: str) -> list[Path]:
    return [path for path in files if (match := PAPER_FILE.fullmatch(path.name)) and match["task"] == task]


def paper_task(task: str, paths: Sequence[Path]) -> dict[str, list[Example]]:
    """The splits of a task in MetaICL's files TASK_NUMBER_SEED_SPLIT.jsonl.

    The largest train file is the train split; a task with files of 16 examples a seed only gets those of all seeds.
    The test files of all seeds are the same and are read once. Raises ValueError with the line of a bad example.
    """
    matches = [(path, match) for path in sorted(paths) if (match := PAPER_FILE.fullmatch(path.name))]
    most = max(int(match["number"]) for _, match in matches)
    parts: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for path, match in matches:
        if match["split"] == "train" and int(match["number"]) < most:
            continue
        if match["split"] != "train" and parts[match["split"]]:
            continue
        text, _ = read_text(path)
        for number, line in enumerate(text.encode("utf-8", "surrogatepass").splitlines(), start=1):
            example, problems = parse_line(line, task)
            if example is None:
                raise ValueError(f"{path}:{number}: {problems[0]}")
            parts[match["split"]].append(example)
    return separated(parts, 0)


def natural_instructions(path: Path) -> tuple[list[Example], str | None] | None:
    """The examples and the definition of a task of Natural Instructions (Definition and Instances in one JSON object);
    None when the file is not one.

    The first output of an instance is its answer. Raises ValueError for an instance that has none.
    """
    if path.suffix.lower() != ".json":
        return None
    text, _ = read_text(path)
    if text.lstrip()[:1] != "{":
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return None  # perhaps JSON lines, whose reader says what is wrong
    if not isinstance(record, dict) or not isinstance(record.get("Instances"), list):
        return None
    definition = record.get("Definition")
    found = []
    for number, instance in enumerate(record["Instances"], start=1):
        outputs = instance.get("output") if isinstance(instance, dict) else None
        output = outputs[0] if isinstance(outputs, list) and outputs else outputs
        source = instance.get("input") if isinstance(instance, dict) else None
        if not isinstance(source, str) or not isinstance(output, str):
            raise ValueError(f"{path}:1: instance {number} must have an input and an output text; correct or delete it")
        if source.strip() and output.strip():
            found.append(Example(" ".join(source.split()), " ".join(output.split())))
    if not found:
        raise ValueError(f"{path}:1: has no instance with an input and an output")
    if isinstance(definition, list):
        definition = " ".join(str(part) for part in definition)
    instruction = " ".join(definition.split()) if isinstance(definition, str) else None
    return found, instruction
