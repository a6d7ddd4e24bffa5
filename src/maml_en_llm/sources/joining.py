"""Which setting imported tasks make or join, and whether it can be trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tasks.collection import read_setting
from ..tasks.seeds import random_generator
from ..tasks.writing import read_manifest, setting_is_ours, setting_path
from .importing import Imported


@dataclass(frozen=True)
class Plan:
    """What becomes of a setting when tasks are imported: its lists (None: it stays as it is), and a sentence."""

    lists: dict[str, list[str]] | None
    said: str


def proposed_setting(names: Sequence[str], able: Sequence[str], held_out: float, seed: int) -> dict[str, list[str]]:
    """A setting over `names` that holds out a share of them, drawn from those that are `able` to be targets."""
    order = [able[int(index)] for index in random_generator("held out", seed).permutation(len(able))]
    number = min(max(round(len(names) * held_out), 1), len(names) - 1)
    return _lists(names, order[:number])


def _lists(names: Sequence[str], targets: Sequence[str]) -> dict[str, list[str]]:
    return {"train": sorted(set(names) - set(targets)), "test": sorted(targets), "unseen_domain_test": []}


def plan_setting(
    collection: Path, setting: str, tasks: Sequence[Imported], targets: Sequence[str], held_out: float, seed: int
) -> Plan:
    """How imported tasks join `setting`, or which one is made of them and of those imported before.

    Raises ValueError when `targets` names tasks that are not there or cannot be targets, or the setting is not ours.
    """
    path = setting_path(collection, setting)
    lines = {line["name"]: line for line in read_manifest(collection).get("tasks", ()) if _imported(line)}
    able = {name: line.get("kind") != "free_form" for name, line in lines.items()}
    able = {name: able[name] and (collection / "data" / name / "test.jsonl").is_file() for name in lines}
    able |= {task.name: task.kind != "free_form" and "test" in task.splits for task in tasks}
    for name in targets:
        if name not in able:
            raise ValueError(
                f"--targets names {name!r}, which is not imported; the tasks are {', '.join(sorted(able))}"
            )
        if not able[name]:
            raise ValueError(f"--targets names {name!r}, which cannot be a target, without options or test examples")
    if path.is_file():
        return _joined(path, setting, [task.name for task in tasks], targets)
    if targets:
        return _planned(setting, _lists(list(able), targets))
    possible = sorted(name for name in able if able[name])
    if len(able) < 2 or not possible:
        why = "a setting needs tasks to train on and targets" if possible else "no task can be a target"
        alone = f"; a task alone is compared with --setting {possible[0]}" if possible else ""
        return Plan(None, f"no setting yet: {why}; import more tasks{alone}")
    return _planned(setting, proposed_setting(list(able), possible, held_out, seed))


def _joined(path: Path, setting: str, names: Sequence[str], targets: Sequence[str]) -> Plan:
    """The plan for a setting that is there: new tasks are trained on, or become targets if they are named so."""
    lists = read_setting(path)
    known = {name for part in lists.values() for name in part}
    new = [name for name in names if name not in known]
    moved = [name for name in targets if name not in lists["test"]]
    if not new and not moved:
        return Plan(None, f"{_described(setting, lists)} (as before)")
    if not setting_is_ours(path):
        how = f"{path} was not written by an import, or was changed since, so it stays as it is"
        if targets:
            raise ValueError(f"{how}; edit it, or give another --setting")
        return Plan(None, f"{how}: to use {', '.join(new)}, add to its lists, or give another --setting")
    lists["test"] = sorted({*lists["test"], *moved})
    lists["train"] = sorted({*lists["train"], *new} - set(moved))
    joined = [name for name in new if name not in moved]
    return _planned(
        setting, lists, f"; {', '.join(joined)} joined its training tasks (--targets makes targets)" if joined else ""
    )


def _planned(setting: str, lists: dict[str, list[str]], hint: str = "") -> Plan:
    if not lists["train"]:
        raise ValueError("--targets names all tasks, so none is left to train on; leave one out")
    return Plan(lists, _described(setting, lists) + hint)


def _described(setting: str, lists: Mapping[str, Sequence[str]]) -> str:
    return f"setting {setting}: trains on {len(lists['train'])} tasks, holds out {', '.join(lists['test']) or 'none'}"


def _imported(line: Mapping[str, Any]) -> bool:
    source = line.get("source")
    return isinstance(source, Mapping) and "asked" not in source and "files" in source


def leaks(tasks: Sequence[Imported], lists: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence for each pair of tasks for which training would refuse the setting: one is trained on examples on
    which the other, a target, is scored. So it is with several label columns of the same texts."""
    found = []
    trained = [task for task in tasks if task.name in lists["train"]]
    for target in (task for task in tasks if task.name in lists["test"]):
        scored = {(example.input, example.output) for example in target.splits.get("test", ())}
        for task in trained:
            if common := sum((example.input, example.output) in scored for example in task.splits["train"]):
                found.append(
                    f"{common} examples of {target.name}, a target, are also in {task.name}, which is trained on: "
                    "training will refuse that; make targets of both or none (--targets)"
                )
    return found
