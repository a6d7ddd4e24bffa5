"""A run directory: config.yaml, metrics.jsonl, checkpoints/ and model/; a final name never stands on half a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ..config import load_yaml, to_yaml
from ..files import replace_folder, write_text
from ..methods import method_from_keys
from ..methods.method import Method


class RunDirectory:
    """The directory of `config`, new or to be continued; nothing is written before `begin`.

    fingerprint: what the data looks like; a continuation must find the same.  Raises ValueError when the directory
    holds another run, or holds this one and it is not to `resume`.
    """

    def __init__(self, config: Method, fingerprint: Mapping[str, int], resume: bool = False) -> None:
        self.folder = config.output
        self.model = self.folder / "model"
        self.record = self.folder / "run.json"
        self._metrics = self.folder / "metrics.jsonl"
        self._checkpoints = self.folder / "checkpoints"
        self._config, self._fingerprint = config, dict(fingerprint)
        saved = self.folder / "config.yaml"
        data = self.folder / "data.json"
        if saved.is_file():
            if not resume:
                raise ValueError(
                    f"{self.folder} already holds a run; add --resume to continue it or choose another --output"
                )
            earlier, now = ({"method": c.name} | vars(c) for c in (read_training_config(saved), config))
            for key in now:
                if key not in config.FREE and earlier.get(key) != now[key]:
                    raise ValueError(
                        f"{saved}: the run to resume has {key}={earlier.get(key)}, now it is {now[key]}; "
                        "make them equal or choose another --output"
                    )
            if data.is_file() and json.loads(data.read_text()) != self._fingerprint:
                raise ValueError(f"{data}: the training data has changed since the run began; choose another --output")
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} is not empty and holds no run; choose another --output")

    def begin(self) -> None:
        """Makes the directory of a new run, once all that can be wrong with its configuration has been found."""
        if not (self.folder / "config.yaml").is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "data.json", json.dumps(self._fingerprint, indent=1))
            write_text(self.folder / "config.yaml", to_yaml(self._config))

    @property
    def finished(self) -> bool:
        return self.model.is_dir()

    def log(self, figures: Mapping[str, float]) -> None:
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(figures)) + "\n")

    def save(self, batches: int, state: Mapping[str, Tensor]) -> None:
        """Writes a checkpoint after `batches` batches, then deletes the older ones."""
        folder = self._checkpoints / f"{batches:09d}"
        beside = folder.with_suffix(".partial")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, beside / "state.safetensors")
        write_text(beside / "progress.json", json.dumps({"batches": batches}))
        replace_folder(beside, folder, "train")
        for other in self._checkpoints.iterdir():
            if other != folder:
                shutil.rmtree(other)

    def restore(self, expected: Mapping[str, Tensor]) -> tuple[int, dict[str, Tensor]]:
        """The batches that the newest checkpoint had seen and its state, with the names of `expected`; 0 and nothing
        if there is none."""
        done = sorted(folder for folder in self._checkpoints.glob("*") if folder.suffix == "")
        if not done:
            self._metrics.unlink(missing_ok=True)
            return 0, {}
        progress = json.loads((done[-1] / "progress.json").read_text())
        loaded = safetensors.torch.load_file(done[-1] / "state.safetensors")
        if loaded.keys() != expected.keys():
            raise ValueError(f"{done[-1]}: this checkpoint belongs to another model or method; choose another --output")
        self._forget_after(progress["batches"])
        return int(progress["batches"]), loaded

    def finish(self) -> None:
        shutil.rmtree(self._checkpoints, ignore_errors=True)

    def _forget_after(self, batches: int) -> None:
        """Drops metrics of updates that the checkpoint does not hold; they will come again."""
        if self._metrics.is_file():
            lines = self._metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["batches"] <= batches]
            write_text(self._metrics, "".join(kept))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def read_training_config(path: Path) -> Method:
    """The configuration of a run directory's config.yaml; ValueError naming the file when it is not one."""
    return method_from_keys(load_yaml(path), str(path))
