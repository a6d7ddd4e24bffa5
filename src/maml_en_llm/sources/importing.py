"""From a user's own files to tasks of a collection; nothing is written before all of it was read and checked.

Every change to the data (labels made one, rows left out) is a remark of the task, to be read before it is written.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..names import check_name
from ..progress import track
from ..tasks.collection import KINDS, Example
from ..tasks.limited import stratified_indices
from ..tasks.writing import (
    check_collection_folder,
    check_setting,
    check_task,
    question,
    separated,
    task_hashes,
    write_manifest,
    write_setting,
    write_task,
)
from .columns import Columns, NoColumn, Placed, examples_of, suggestion
from .labels import Cleaning, clean
from .layouts import find_sources, natural_instructions, paper_task
from .reading import check_file, read_table

LARGE = 20_000  # kB of files from which reading shows its progress


@dataclass
class Imported:
    """One task read from files, and what the user should see before it is written."""

    name: str
    kind: str
    splits: dict[str, list[Example]]
    options: tuple[str, ...] = ()
    instruction: str | None = None
    sources: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # what was done
    left_out: dict[str, int] = field(default_factory=dict)  # how many rows, by what is wrong with them
    warnings: list[str] = field(default_factory=list)  # what to look at

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Content hashes by file, as they will be written."""
        return task_hashes(self.name, self.splits)

    @property
    def labels(self) -> dict[str, int]:
        """Examples by label, the most frequent first; empty for a task without fixed labels."""
        counts = Counter(example.output for examples in self.splits.values() for example in examples)
        return {label: counts[label] for label in sorted(self.options, key=lambda label: (-counts[label], label))}


def option_words(options: str) -> tuple[str, ...]:
    """The label words of --options. Raises ValueError unless there are two or more, all distinct and none empty."""
    words = tuple(word.strip() for word in options.split(","))
    if len(words) < 2 or "" in words:
        raise ValueError(f"--options {options!r} must name two labels or more, separated by commas, none of them empty")
    if len(set(words)) < len(words):
        raise ValueError("--options names a label twice; each must be distinct")
    return words


Split = dict[str, list[Placed]]


def label(task: Imported, splits: Split, columns: Columns, cleaning: Cleaning) -> tuple[Split, set[str]]:
    """The splits with their labels cleaned and their options set, as are those of `task`, with its kind and remarks.

    Also the keys of `cleaning.renamed` that were used. Raises ValueError when a label is not among the options.
    """
    everything = [placed for part in splits.values() for placed in part]
    lists = {placed.example.options for placed in everything}
    if columns.kind not in ("auto", *KINDS):
        raise ValueError(f"--kind is {columns.kind!r}; it must be auto or one of {', '.join(KINDS)}")
    used: set[str] = set()
    if lists != {()}:
        task.kind = "classification" if len(lists) == 1 else "multiple_choice_qa"
        task.options = next(iter(lists)) if len(lists) == 1 else ()
    else:
        words = option_words(columns.options) if columns.options != "auto" else ()
        cleaned = clean(task.name, [p.example.output for p in everything], cleaning, words, columns.kind)
        task.remarks += cleaned.remarks
        task.left_out |= cleaned.left_out
        task.warnings += cleaned.warnings
        task.options, used = cleaned.labels, cleaned.used
        task.kind = "classification" if task.options else "free_form"
        outputs = iter(cleaned.outputs)
        splits = {
            split: [
                Placed(Example(placed.example.input, output, task.options), placed.place)
                for placed in part
                if (output := next(outputs)) is not None
            ]
            for split, part in splits.items()
        }
        for placed in (placed for part in splits.values() for placed in part):
            if task.options and placed.example.output not in task.options:
                stray, known = placed.example.output[:60], ", ".join(task.options)
                raise ValueError(f"{placed.place}: the output {stray!r} is not among --options {known}")
    if columns.kind != "auto":
        if (columns.kind == "free_form") != (task.kind == "free_form"):
            kind = columns.kind
            raise ValueError(f"--kind is {kind} but the examples of {task.name} look like {task.kind}; see --options")
        task.kind = columns.kind
    return splits, used


def settled(task: Imported, splits: Split) -> dict[str, list[Example]]:
    """Examples without those inputs that have several labels: where one label is the most frequent, it is kept."""
    if not task.options:
        return {split: [placed.example for placed in part] for split, part in splits.items()}
    votes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    texts: dict[str, str] = {}
    for part in splits.values():
        for placed in part:
            asked = question(placed.example)
            texts.setdefault(asked, placed.example.input)
            votes[asked][placed.example.output].append(placed.place)
    kept: dict[str, str | None] = {}
    said = []
    for asked, labels in votes.items():
        if len(labels) > 1:
            first, second, *_ = sorted(labels, key=lambda word: -len(labels[word]))
            kept[asked] = first if len(labels[first]) > len(labels[second]) else None
            places = "; ".join(f"{word}: {', '.join(places[:3])}" for word, places in labels.items())
            end = "left out" if kept[asked] is None else f"{first} is kept"
            said.append(f"{texts[asked][:60]!r} ({places}): {end}")
    if said:
        task.warnings.append("\n".join([f"inputs with several labels: {len(said)}", *said]))
    everything = sum(map(len, splits.values()))
    found = {
        split: [p.example for p in part if kept.get(question(p.example), p.example.output) == p.example.output]
        for split, part in splits.items()
    }
    if removed := everything - sum(map(len, found.values())):
        task.left_out["contradicted"] = removed
    return found


def hold_out(examples: Sequence[Example], share: float, *key: int | str) -> tuple[list[Example], list[Example]]:
    """(train, test): a share of every label is held out; labels with one example, and one example at least, stay."""
    counts = Counter(example.output for example in examples if example.options)
    free = [n for n, example in enumerate(examples) if not example.options or counts[example.output] > 1]
    if len(free) < 2:
        return list(examples), []
    fixed = len({example.options for example in examples}) == 1 and bool(examples[0].options)
    labels = [examples[n].output if fixed else "" for n in free]
    chosen = {free[index] for index in stratified_indices(labels, share, "holdout", *key)}
    train = [example for n, example in enumerate(examples) if n not in chosen]
    return train, [examples[n] for n in sorted(chosen)]


def read_task(
    name: str,
    files: Mapping[str, Sequence[Path]],
    columns: Columns,
    cleaning: Cleaning | None = None,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    header: bool = True,
    test_share: float = 0.2,
    seed: int = 100,
    instruction: str | None = None,
    progress: Callable[[int], None] = lambda kilobytes: None,
) -> tuple[Imported, set[str]]:
    """One task from its files, cleaned, deduplicated and split, and the keys of `cleaning.renamed` that it used.

    Calls `progress` with how much more was read. Raises ValueError with file, line and remedy.
    """
    cleaning = cleaning or Cleaning()
    paths = [path for part in files.values() for path in part]
    task = Imported(name, "free_form", {}, (), instruction, [str(path) for path in paths])
    if "paper" in files:
        task.splits = _filled(paper_task(name, files["paper"]))
        placed = {split: [Placed(example, name) for example in part] for split, part in task.splits.items()}
        placed, _ = label(task, placed, Columns(), Cleaning(fold=False, missing=()))
        task.splits = {split: [each.example for each in part] for split, part in placed.items()}
        return task, set()
    single = natural_instructions(paths[0]) if len(paths) == 1 else None
    splits: Split = {}
    empty = 0
    if single is not None:
        task.instruction = instruction or single[1]
        splits["train"] = [Placed(example, paths[0].name) for example in single[0]]
    else:
        for split, some in files.items():
            for path in some:
                size = path.stat().st_size // 2000
                table = read_table(path, encoding, delimiter, header)
                progress(size)
                blank = cleaning.missing if path.suffix.lower() in (".csv", ".tsv") else ()
                found, said = examples_of(table, columns, blank)
                progress(size)
                task.remarks += table.remarks if len(paths) == 1 else [f"{path.name}: {r}" for r in table.remarks]
                empty += said
                splits.setdefault(split or "train", []).extend(found)
    if "train" not in splits:
        raise ValueError(f"{paths[0].parent}: has no train file, only {', '.join(sorted(splits))}; add or rename one")
    if empty:
        task.left_out["without input or output"] = empty
    splits, used = label(task, splits, columns, cleaning)
    parts = settled(task, splits)
    before = sum(map(len, parts.values()))
    parts = separated(parts, 0)
    if dropped := before - sum(map(len, parts.values())):
        task.left_out["repeated"] = dropped
    if not parts["train"]:
        raise ValueError(f"{paths[0]}: no training example is left; check --input, --output and --missing")
    if not parts["test"]:
        parts["train"], parts["test"] = hold_out(parts["train"], test_share, name, seed)
    task.splits = _filled(parts)
    if task.options and sum(count > 0 for count in task.labels.values()) < 2:
        task.warnings.append("only one label is left, so there is nothing to learn")
    return task, used


def _filled(splits: Mapping[str, list[Example]]) -> dict[str, list[Example]]:
    return {split: examples for split, examples in splits.items() if examples}


def read_tasks(
    source: Path, columns: Columns, cleaning: Cleaning | None = None, *, task: str | None = None, **reading: Any
) -> list[Imported]:
    """All tasks in a file or folder. Raises ValueError with file, line and remedy."""
    if not source.is_dir():
        check_file(source)
    found = find_sources(source)
    if task is not None:
        if len(found) > 1:
            raise ValueError(
                f"{source} holds {len(found)} tasks ({', '.join(name for name, _ in found)}), so leave --task out"
            )
        found = [(check_name(task, "task"), found[0][1])]
    first: dict[str, Path] = {}
    size = 0
    for name, files in found:
        paths = [path for part in files.values() for path in part]
        size += sum(path.stat().st_size // 2000 * 2 for path in paths if path.exists())
        earlier = first.setdefault(check_name(name, "task").casefold(), paths[0])  # many disks do not tell A from a
        if earlier is not paths[0]:
            raise ValueError(
                f"{earlier} and {paths[0]} would both become the task {name}; rename one, or import each with a --task"
            )
    tasks: list[Imported] = []
    used: set[str] = set()
    other: list[NoColumn] = []
    with track("import", size, "kB") if size > LARGE else nullcontext() as tracker:
        if tracker is not None:
            reading["progress"] = tracker.advance
        for name, files in found:
            try:
                read, keys = read_task(name, files, columns, cleaning, **reading)
            except NoColumn as error:
                other.append(error)
                continue
            tasks.append(read)
            used |= keys
    if other:
        what = f"{source}: {len(other)} files do not have the columns of --input and --output"
        hint = suggestion([error.table for error in other], columns)
        raise ValueError(f"{other[0] if len(other) == 1 else what}; {hint}")
    if unused := set(cleaning.renamed if cleaning else ()) - used:
        raise ValueError(
            f"--label-map names {min(unused)!r}, which is no label of any task; correct it or leave it out"
        )
    return tasks


def check_import(collection: Path, tasks: Sequence[Imported], overwrite: bool = False) -> None:
    """ValueError unless all tasks may be written: none may be there with other examples, except to overwrite it."""
    check_collection_folder(collection)
    for task in tasks:
        same = check_task(collection, task.name, task.hashes)
        if (collection / "data" / task.name).exists() and not same and not overwrite:
            raise ValueError(f"{collection / 'data' / task.name} exists already; give --overwrite or another --task")


def write_tasks(
    collection: Path,
    tasks: Sequence[Imported],
    *,
    overwrite: bool = False,
    setting: str | None = None,
    lists: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Writes tasks into a collection, and `setting` with `lists` (see plan_setting) if there are any.

    Raises ValueError, before anything is written, when check_import does or the setting is not ours.
    """
    check_import(collection, tasks, overwrite)
    if setting is not None and lists is not None:
        check_setting(collection, setting, lists)
    entries = []
    for task in tasks:
        hashes = write_task(collection, task.name, task.splits)
        entries.append(
            {
                "name": task.name,
                "kind": task.kind,
                "options": list(task.options),
                "instruction": task.instruction,
                "source": {"files": task.sources},
                "counts": {split: len(examples) for split, examples in task.splits.items()},
                "files": hashes,
            }
        )
    if setting is not None and lists is not None:
        write_setting(collection, setting, lists)
    write_manifest(collection, entries)
