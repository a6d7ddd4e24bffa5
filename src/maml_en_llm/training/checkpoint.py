"""A run directory: config.yaml, metrics.jsonl, checkpoints/ and model/; a final name never stands on half a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..bilevel import Moments
from ..config import TrainConfig, read_yaml, to_yaml
from ..files import replace_folder, write_text

# Keys that may differ between a run and its continuation: they do not change what is computed. Of a collection that
# lies elsewhere the data are compared.
FREE_ON_RESUME = {"collection", "output", "resume", "checkpoint_every", "device", "plan"}


class RunDirectory:
    """The directory of `config`, new or to be continued; nothing is written before `begin`.

    fingerprint: what the data looks like; a continuation must find the same.  Raises ValueError when the directory
    holds another run, or holds this one and `config.resume` is not set.
    """

    def __init__(self, config: TrainConfig, fingerprint: Mapping[str, int]) -> None:
        self.folder = config.output
        self.model = self.folder / "model"
        self.record = self.folder / "run.json"
        self._metrics = self.folder / "metrics.jsonl"
        self._checkpoints = self.folder / "checkpoints"
        self._config, self._fingerprint = config, dict(fingerprint)
        saved = self.folder / "config.yaml"
        data = self.folder / "data.json"
        if saved.is_file():
            if not config.resume:
                raise ValueError(
                    f"{self.folder} already holds a run; add --resume to continue it or choose another --output"
                )
            earlier, now = TrainConfig(**read_yaml(saved, TrainConfig)), config
            for key in vars(now):
                if key not in FREE_ON_RESUME and getattr(earlier, key) != getattr(now, key):
                    raise ValueError(
                        f"{saved}: the run to resume has {key}={getattr(earlier, key)}, now it is {getattr(now, key)}; "
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

    def save(self, batches: int, parameters: Mapping[str, Tensor], moments: Moments) -> None:
        """Writes a checkpoint after `batches` batches, then deletes the older ones."""
        folder = self._checkpoints / f"{batches:09d}"
        beside = folder.with_suffix(".partial")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        safetensors.torch.save_file(
            {k: v.contiguous() for k, v in parameters.items()}, beside / "parameters.safetensors"
        )
        state = {f"first.{name}": m for name, m in moments.first.items()}
        state |= {f"second.{name}": v for name, v in (moments.second or {}).items()}
        safetensors.torch.save_file(state, beside / "moments.safetensors")
        write_text(beside / "progress.json", json.dumps({"batches": batches, "optimizer_step": moments.step}))
        replace_folder(beside, folder, "train")
        for other in self._checkpoints.iterdir():
            if other != folder:
                shutil.rmtree(other)

    def restore(self, parameters: Mapping[str, Tensor], moments: Moments) -> int:
        """Fills `parameters` and `moments` from the newest checkpoint; returns the batches it had seen (0 if none)."""
        done = sorted(folder for folder in self._checkpoints.glob("*") if folder.suffix == "")
        if not done:
            self._metrics.unlink(missing_ok=True)
            return 0
        progress = json.loads((done[-1] / "progress.json").read_text())
        loaded = safetensors.torch.load_file(done[-1] / "parameters.safetensors")
        state = safetensors.torch.load_file(done[-1] / "moments.safetensors")
        expected = {f"first.{n}": m for n, m in moments.first.items()}
        expected |= {f"second.{n}": v for n, v in (moments.second or {}).items()}
        if loaded.keys() != parameters.keys() or state.keys() != expected.keys():
            raise ValueError(f"{done[-1]}: this checkpoint belongs to another model or method; choose another --output")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(loaded[name])
            for name, tensor in expected.items():
                tensor.copy_(state[name])
        moments.step = progress["optimizer_step"]
        self._forget_after(progress["batches"])
        return int(progress["batches"])

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
