"""Running a table: what is finished stays, what is not is done, and several processes can share the work.

OUTPUT/TABLE/runs/SETTING/ROW/           run directories of `train`; ROW-seed13 with another training seed
OUTPUT/TABLE/results/SETTING/ROW.json    results of `evaluate` or `adapt`
OUTPUT/TABLE/report/                     the report
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import AdaptConfig
from ..evaluation.adaptation import adapt
from ..evaluation.protocol import evaluate, target_data_hash
from ..files import lock, owner
from ..methods.method import Method
from ..progress import console
from ..reporting.report import report
from ..results import RunRecord, read_provenance, read_results, read_run
from ..tasks.collection import Collection, load_collection
from ..training.checkpoint import read_training_config
from ..training.data import training_data_hash
from ..training.loop import train
from ..training.record import config_hash, trained_identity
from .rows import Overrides, RowRun, Sections, read_overrides, read_table, rows_of

FAILURES = (ValueError, OSError, RuntimeError, MemoryError)  # of input, disk and device; anything else is a defect
REPORT_TRIES = 120


class Reproduction:
    """The rows of a table, and what of them is there."""

    def __init__(
        self,
        table: str,
        *,
        collection: Path,
        output: Path,
        setting: Sequence[str] = (),
        model: str | None = None,
        rows: Sequence[str] = (),
        config: Path | None = None,
        batches: int | None = None,
        max_examples: int | None = None,
        training_seeds: Sequence[int] = (),
        changes: Mapping[str, Sections] | None = None,
        device: str = "auto",
    ) -> None:
        """changes: keys of single rows, by name and section, over those of the file `config`."""
        self.table, self.folder = read_table(table), output / table
        overrides = read_overrides(config) if config is not None else Overrides()
        if batches is not None:
            overrides.forced["train"] = {"batches": batches}
        if max_examples is not None:
            overrides.forced["evaluate"] = {"max_examples": max_examples}
        overrides.rows = {**overrides.rows}
        for row, sections in (changes or {}).items():
            of_file = overrides.rows.get(row, {})
            overrides.rows[row] = of_file | {name: of_file.get(name, {}) | keys for name, keys in sections.items()}
        overrides.training_seeds = tuple(dict.fromkeys(training_seeds)) or overrides.training_seeds
        named = tuple(setting) or overrides.settings
        self.opened: Collection | None = None
        self.settings = named or self.table.settings
        if (collection / "data").is_dir():
            self.opened = load_collection(collection)
            self.settings = self._present(self.settings, explicit=bool(named))
        self.model = model or overrides.model or self.table.model
        places: dict[str, Any] = {"collection": collection, "output": output, "device": device}
        everything = rows_of(self.table, overrides, settings=self.settings, model=self.model, **places)
        unknown = [name for name in rows if name not in self.table.rows]
        if unknown:
            raise ValueError(f"{table} has no row {unknown[0]!r}; its rows are {', '.join(self.table.rows)}")
        self.rows = [row for row in everything if not rows or row.row in rows]

    def _present(self, settings: tuple[str, ...], explicit: bool) -> tuple[str, ...]:
        """The settings that the collection has; named ones must be there."""
        assert self.opened is not None
        absent = [name for name in settings if name not in self.opened.setting_names]
        here = tuple(name for name in settings if name not in absent)
        if absent and (explicit or not here):
            known = ", ".join(self.opened.setting_names) or "none"
            raise ValueError(f"{self.opened.path} has no setting {absent[0]!r}; known settings: {known}")
        if absent:
            console.print(f"left out, because {self.opened.path} has no such settings: {', '.join(absent)}")
        return here

    def collection(self) -> Collection:
        return self.opened if self.opened is not None else load_collection(self.rows[0].score.collection)

    def training_hashes(self, config: Method) -> dict[str, str]:
        data = training_data_hash(config, self.collection())
        return {"config_hash": config_hash(config), "manifest_hash": data}

    def scoring_hashes(self, row: RowRun) -> dict[str, str]:
        """What the row's results will say; known before its model is there."""
        trained = self.training_hashes(row.train) if row.train is not None else None
        identity = trained_identity(trained["config_hash"], trained["manifest_hash"]) if trained else None
        data = target_data_hash(row.score, self.collection())
        return {"config_hash": config_hash(row.score, identity), "manifest_hash": data}

    def is_trained(self, row: RowRun) -> bool:
        """Whether the row's model is there, made from these inputs."""
        config = row.train
        if config is None:
            return True
        folder = config.output / "model"
        return _was_made(lambda: made.run if (made := read_provenance(folder)) else None, self.training_hashes, config)

    def is_scored(self, row: RowRun) -> bool:
        """Whether the row's results are there, made from these inputs; its model need not be there any more."""
        return _was_made(lambda: read_results(row.score.output).run, self.scoring_hashes, row)

    def status(self, row: RowRun) -> str:
        if self.opened is not None and self.is_scored(row):
            return "finished"
        begun = row.score.output.with_suffix(".unfinished.jsonl").is_file()
        return "partial" if begun or (row.train is not None and row.train.output.is_dir()) else "to do"

    # ---- doing what is not there

    def run(self) -> Path:
        """Does every row that is not finished, then writes the report and returns its path.

        A row that fails does not keep the others from being done; in the end a ValueError says how many failed.
        """
        self.collection()
        failures: dict[str, str] = {}
        waiting, busy = self.rows, True
        while waiting and busy:
            left = []
            for row in waiting:
                try:
                    if not self._do(row):
                        left.append(row)
                except KeyboardInterrupt:
                    raise KeyboardInterrupt("stopped; the same command continues where it was") from None
                except FAILURES as error:
                    failures[str(row)] = sentence(error)
                    console.print(f"{row} failed: {failures[str(row)]}", markup=False)
            # What others are at may let some of the rest be done, as long as this process gets anything done itself.
            busy, waiting = len(left) < len(waiting), left
        path = self.report()
        for row in waiting:
            console.print(f"{row} is being done by {self._owner(row)}", markup=False)
        if failures:
            for name, text in failures.items():
                console.print(f"{name}: {text}", markup=False)
            finished = sum(self.is_scored(row) for row in self.rows)
            raise ValueError(
                f"{len(failures)} of {len(self.rows)} rows failed (see above), {finished} are finished; "
                "correct the cause and give the same command again"
            )
        return path or self.folder

    def _do(self, row: RowRun) -> bool:
        """Trains and scores the row where that is not done; False when another process is at it."""
        if self.is_scored(row):
            return True
        with lock(row.score.output.with_suffix(".lock")) as ours:
            if not ours:
                return False
            if self.is_scored(row):
                return True
            console.rule(f"{self.table.name}: {row}")
            if row.train is not None and not self.is_trained(row):
                with lock(_sibling(row.train.output, ".lock")) as ours:
                    if not ours:
                        return False
                    if not self.is_trained(row):
                        self._set_aside_another(row.train)
                        train(row.train, resume=True)
            if isinstance(row.score, AdaptConfig):
                adapt(row.score)
            else:
                evaluate(row.score)
        return True

    def _set_aside_another(self, config: Method) -> None:
        """Renames a run directory that was made from other inputs: what was computed is kept."""
        folder, hashes = config.output, self.training_hashes(config)
        if not (folder / "config.yaml").is_file():  # nothing, or no run: `train` refuses that
            return
        if (folder / "run.json").is_file():
            same = read_run(folder / "run.json").made_from(hashes)
        else:
            same = self.training_hashes(read_training_config(folder / "config.yaml")) == hashes
        if (folder / "model").is_dir() or not same:
            kept = _sibling(folder, time.strftime(".replaced-%Y%m%d-%H%M%S"))
            folder.rename(kept)
            console.print(f"the inputs of {folder} have changed; the earlier run is kept as {kept.name}", markup=False)

    def _owner(self, row: RowRun) -> str:
        path = row.score.output.with_suffix(".lock")
        return owner(path if path.exists() or row.train is None else _sibling(row.train.output, ".lock"))

    def report(self) -> Path | None:
        """The report of the finished rows."""
        finished = [row for row in self.rows if self.is_scored(row)]
        if not finished:
            return None
        for _ in range(REPORT_TRIES):  # another process may just be writing its own
            with lock(self.folder / "report.lock") as ours:
                if ours:
                    runs = dict.fromkeys(row.train.output for row in finished if row.train is not None)
                    there = [run for run in runs if run.is_dir()]
                    return report([*(row.score.output for row in finished), *there], self.folder / "report")
            time.sleep(0.5)
        return self.folder / "report"


def sentence(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = str(error).strip().split("\n")[0] or type(error).__name__
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _was_made(record: Callable[[], RunRecord | None], hashes: Callable[[Any], dict[str, str]], of: Any) -> bool:
    """Whether the record of `of` has its hashes; what cannot be read was not made, and bad inputs have made nothing."""
    try:
        made = record()
        return made is not None and made.made_from(hashes(of))
    except ValueError:
        return False


def _sibling(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


def reproduce(table: str, **changes: Any) -> Path:
    """Runs the rows of `table` that are not finished and returns the path of its report.

    changes: the parameters of `Reproduction`.  Raises ValueError for bad input, and at the end when rows failed.
    """
    return Reproduction(table, **changes).run()
