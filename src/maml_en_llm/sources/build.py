"""From the Hugging Face hub to a collection; the only file that touches the network.

Every task is downloaded, mapped, split and put in place on its own, so that a build that was stopped goes on with
what is missing, and one task that fails does not stop the others.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..hub import SECONDS_TO_ANSWER, unreachable
from ..names import check_name
from ..progress import console, track
from ..tasks.collection import SETTING_KEYS, Example, read_setting
from ..tasks.writing import (
    STAGING,
    check_collection_folder,
    check_setting,
    check_task,
    drawn,
    file_hashes,
    recorded,
    sampled,
    separated,
    write_json,
    write_manifest,
    write_setting,
    write_task,
)
from .catalog import Entry, catalogue, paper_files
from .layouts import PAPER_FILE, paper_task
from .mappings import Row

CONVERTED = "refs/convert/parquet"  # where the hub keeps Parquet copies of repositories in other formats
SEED = 100
MOST_READ = 200_000  # train examples of a source that are kept in memory, a random sample of larger ones
Source = Literal["hub", "paper"]


@dataclass(frozen=True)
class Failure:
    """A task that could not be built: why, and what to do."""

    task: str
    reason: str

    def __str__(self) -> str:
        by_hand = f"give its data with `tasks import --task {self.task} --collection DIR --source FILE`"
        return f"{self.task}: {self.reason}; {by_hand}, or run the command again"


@dataclass
class Hub:
    """Lists and downloads files of dataset repositories.

    folder: a local copy in the layout OWNER/NAME/REVISION/FILE, read instead of the network; REVISION is `main` unless
    pinned.
    """

    folder: Path | None = None
    _listed: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _unreachable: str | None = None

    def list_files(self, repository: str, revision: str) -> list[str]:
        """All file names at a revision, none when it does not exist. ValueError when the repository does not."""
        if self.folder is not None:
            if not (self.folder / repository).is_dir():
                raise ValueError(f"{self.folder / repository} does not exist")
            root = self.folder / repository / revision
            return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        if (repository, revision) not in self._listed:
            from huggingface_hub import HfApi
            from huggingface_hub.errors import RevisionNotFoundError

            api = HfApi()
            # Listing a repository tries six times; asking for it tries once.
            is_there = partial(api.dataset_info, revision=revision, timeout=SECONDS_TO_ANSWER)
            list_repo_files = partial(api.list_repo_files, repo_type="dataset", revision=revision)
            try:
                self._ask(is_there, repository)
                self._listed[repository, revision] = self._ask(list_repo_files, repository)
            except RevisionNotFoundError:
                self._listed[repository, revision] = []
        return self._listed[repository, revision]

    def download(self, repository: str, revision: str, name: str) -> Path:
        """The local path of one file. Raises ValueError when it cannot be had."""
        if self.folder is not None:
            return self.folder / repository / revision / name
        from huggingface_hub import hf_hub_download

        return Path(self._ask(partial(hf_hub_download, repo_type="dataset", revision=revision), repository, name))

    def _ask(self, function: Callable[..., Any], repository: str, *names: str) -> Any:
        """Calls the hub; ValueError when that fails, at once when it could not be reached before."""
        from huggingface_hub.errors import RevisionNotFoundError

        if self._unreachable is None:
            try:
                return function(repository, *names)
            except RevisionNotFoundError:
                raise
            except Exception as error:  # which HTTP library the hub's client raises from changes with its version
                reason = unreachable(error)
                if any(word in type(error).__name__ for word in ("Connect", "Timeout", "Offline")):
                    self._unreachable = reason
        else:
            reason = self._unreachable
        raise ValueError(f"cannot read {'/'.join((repository, *names))} from the hub ({reason})") from None


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def parquet_files(names: Sequence[str], config: str | None, split: str) -> list[str]:
    """Those of a repository's files that hold one split of a configuration, in order.

    Knows CONFIG/SPLIT-00000-of-00001.parquet and data/SPLIT-...parquet (written by the datasets library) and
    CONFIG/SPLIT/0000.parquet (the hub's converter), with "partial-" in front of a split that was cut short.
    """
    tables = [name for name in names if name.endswith(".parquet")]
    if config is not None and any(config in name.split("/")[:-1] for name in tables):
        tables = [name for name in tables if config in name.split("/")[:-1]]
    elif config is not None and len({name.split("/")[0] for name in tables}) > 1:
        return []  # several configurations and none of this name
    whole = re.compile(rf"(?:.*-)?{re.escape(split)}(?:-\d{{5}}-of-\d{{5}}(?:-[0-9a-f]+)?)?\.parquet")
    found = []
    for name in tables:
        *folders, file = name.split("/")
        if whole.fullmatch(file) or (folders and folders[-1] in (split, f"partial-{split}")):
            found.append(name)
    return sorted(found)


def find_split(hub: Hub, entry: Entry, split: str) -> tuple[str, list[str]]:
    """The revision and the Parquet files of a source split. Raises ValueError when there are none."""
    repository = str(entry.hub)
    for revision in (entry.revision or "main", CONVERTED):
        names = parquet_files(hub.list_files(repository, revision), entry.config, split)
        if names:
            return revision, names
    what = f"configuration {entry.config}, split {split}" if entry.config else f"split {split}"
    raise ValueError(f"{repository} has no Parquet files of {what}")


def read_rows(paths: Sequence[Path]) -> Iterator[Row]:
    """The rows of Parquet files. Raises ValueError when a file is not Parquet."""
    import pyarrow as arrow
    import pyarrow.parquet

    for path in paths:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=4096):
                    yield from batch.to_pylist()
        except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError) as error:
            raise ValueError(f"{path}: not a readable Parquet file ({_sentence(error)})") from None


@dataclass(frozen=True)
class Built:
    """The examples of a task, and where they came from."""

    splits: dict[str, list[Example]]
    source: dict[str, Any] = field(default_factory=dict)


def from_hub(hub: Hub, entry: Entry, examples: int) -> Built:
    """A task from its own repository, split as the paper does: up to `examples` train examples, the whole test split.

    Raises ValueError when files or columns are missing or no row could be used.
    """
    found: dict[str, list[Example]] = {}
    revisions, files = set(), []
    for ours, theirs in entry.splits.items():
        found[ours] = []
        for split in [theirs] if isinstance(theirs, str) else theirs:
            revision, names = find_split(hub, entry, split)
            revisions.add(revision)
            files += names
            paths = [hub.download(str(entry.hub), revision, name) for name in names]
            mapped = entry.examples(read_rows(paths))
            found[ours] += sampled(mapped, MOST_READ, entry.name) if ours == "train" else mapped
        if not found[ours]:
            raise ValueError(f"none of the rows of {entry.hub} could be mapped; its columns or labels have changed")
    splits = separated(found, entry.holdout, entry.name, SEED)
    if entry.test_share < 1:
        number = max(round(len(splits["test"]) * entry.test_share), 1)
        splits["test"] = drawn(splits["test"], number, entry.name, "test")
    splits["train"] = drawn(splits["train"], min(examples, entry.at_most or examples), entry.name, SEED)
    source = {"hub": entry.hub, "config": entry.config, "revisions": sorted(revisions), "files": sorted(set(files))}
    return Built(splits, source)


def from_paper_files(hub: Hub, entry: Entry, examples: int) -> Built:
    """A task from the paper's own preprocessed files. Raises ValueError when they have none of it."""
    paper = paper_files()
    names = [
        name
        for name in hub.list_files(paper.hub, paper.revision)
        if (match := PAPER_FILE.fullmatch(name.rsplit("/", 1)[-1])) and match["task"] == entry.name
    ]
    if not names:
        raise ValueError(f"{paper.hub} has no files of it")
    paths = [hub.download(paper.hub, paper.revision, name) for name in names]
    splits = paper_task(entry.name, paths)
    splits["train"] = drawn(splits["train"], examples, entry.name, SEED)
    return Built(splits, {"hub": paper.hub, "revisions": [paper.revision], "files": sorted(names)})


def build_task(collection: Path, entry: Entry, hub: Hub, source: Source, examples: int) -> dict[str, Any]:
    """Builds one task into `collection` and returns its line of the manifest.

    A task without a repository of its own comes from the paper's files. Raises ValueError with the reason.
    """
    paper = source == "paper" or entry.hub is None
    built = (from_paper_files if paper else from_hub)(hub, entry, examples)
    for split in ("train", "test"):
        if not built.splits.get(split) and not (split == "test" and paper):
            raise ValueError(f"no {split} example is left of it")
    hashes = write_task(collection, entry.name, built.splits)
    return {
        "name": entry.name,
        "kind": entry.kind,
        "options": list(entry.options),
        "instruction": entry.instruction,
        "licence": paper_files().licence if paper else entry.licence,
        "verified": entry.verified,
        "source": built.source | {"asked": {"source": source, "examples": examples}},
        "counts": {split: len(found) for split, found in built.splits.items() if found},
        "files": hashes,
    }


def _finished(collection: Path, asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The manifest lines of unchanged tasks that an earlier run built in the same way, or an import made."""
    return {
        name: line
        for name, line in recorded(collection).items()
        if _asked(line) in (asked, None) and line.get("files") == file_hashes(collection / "data" / name)
    }


def _asked(line: Mapping[str, Any]) -> Any:
    """What was asked of the build that made a task; None for a task that was imported."""
    source = line.get("source")
    return source.get("asked") if isinstance(source, Mapping) else None


def build(
    output: Path,
    *,
    setting: str | None = None,
    settings: Path | None = None,
    tasks: Sequence[str] = (),
    examples: int = 16_384,
    workers: int = 4,
    source: Source = "hub",
    hub: Hub | None = None,
) -> list[Failure]:
    """Builds the tasks of a setting, or the named ones, into the collection `output`; returns the tasks that failed.

    settings: a folder of setting files to take `setting` from, by default output/settings and the paper's seven.
    Raises ValueError when the setting or a task is unknown.
    """
    wanted, lists = list(dict.fromkeys(tasks)), None
    if setting is not None:
        lists = find_setting(setting, settings or output / "settings")
        wanted = list(dict.fromkeys([*wanted, *(name for key in SETTING_KEYS for name in lists[key])]))
    if not wanted:
        raise ValueError("nothing to build; give --setting or --task")
    if examples < 1 or workers < 1:
        raise ValueError("--examples and --workers must be at least 1")
    entries = catalogue()
    unknown = [name for name in wanted if name not in entries]
    if unknown:
        raise ValueError(f"the catalogue has no task {unknown[0]!r}; `tasks list --catalogue` shows them")

    check_collection_folder(output)
    asked = {"source": source, "examples": examples}
    done = _finished(output, asked)
    todo = [name for name in wanted if name not in done]
    for name in todo:
        check_task(output, name)
    if lists is not None and setting is not None:
        check_setting(output, setting, lists)
    lines = {name: done[name] for name in wanted if name in done}
    failures = []
    if len(todo) < len(wanted):
        console.print(f"{len(wanted) - len(todo)} of {len(wanted)} tasks are built already")
    work = partial(_attempt, output, hub or Hub(), source, examples)
    pool = ThreadPoolExecutor(workers)
    try:
        with track("build", len(wanted), "tasks", done=len(lines)) as progress:
            for name, result in zip(todo, pool.map(work, todo), strict=True):
                if isinstance(result, Failure):
                    failures.append(result)
                else:
                    lines[name] = result
                progress.advance(1, name)
    finally:
        pool.shutdown(cancel_futures=True)  # whoever stops the build does not wait for tasks that have not begun
    if lists is not None and setting is not None:
        write_setting(output, setting, lists)
    (output / "data").mkdir(parents=True, exist_ok=True)
    write_manifest(output, lines.values(), missing=[failure.task for failure in failures])
    shutil.rmtree(output / STAGING, ignore_errors=True)
    return failures


def _attempt(collection: Path, hub: Hub, source: Source, examples: int, name: str) -> dict[str, Any] | Failure:
    try:
        line = build_task(collection, catalogue()[name], hub, source, examples)
    except ValueError as error:
        return Failure(name, str(error))
    write_json(collection / STAGING / f"{name}.json", line)  # so that a stopped build knows what is finished
    return line


def find_setting(name: str, folder: Path) -> dict[str, list[str]]:
    """The lists of a setting file, or of one of the paper's settings. Raises ValueError when there is none."""
    path = folder / f"{check_name(name, 'setting')}.json"
    if not path.is_file():
        path = Path(__file__).parent / "settings" / f"{name}.json"
    if not path.is_file():
        known = sorted(found.stem for found in path.parent.glob("*.json"))
        raise ValueError(f"there is no setting {name!r}; known settings: {', '.join(known)}")
    return read_setting(path)
