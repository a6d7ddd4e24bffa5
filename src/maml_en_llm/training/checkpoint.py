"""A run directory: config.yaml, metrics.jsonl, checkpoints/ and model/; no final name ever has half of a file.

checkpoints/000000120-3f9ac02b71de4a55.safetensors holds all tensors after 120 batches; behind the number is the
beginning of its own SHA-256, so that a damaged file is recognised, whatever happened to it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import load_yaml, to_yaml
from ..files import file_hash, read_json, to_disk, write_text, writing
from ..methods import method_from_keys
from ..methods.method import Method
from ..names import unfinished
from ..progress import console
from ..results import PROVENANCE

KEPT = 2  # checkpoints
CHECKPOINT = re.compile(r"(\d{9})-([0-9a-f]{16})")
DATA_CHANGED = (
    "the training data has changed since the run began; choose another --output, or add --data-corrected to go on with "
    "the data as it is now, which the record of the run will say"
)
BEFORE_THE_FIRST_UPDATE = {"config.yaml", "data.json", "run.json"}  # what a run writes then


class RunDirectory:
    """The directory of `config`, new or to be continued; nothing is written before `begin`.

    fingerprint: what the data looks like; a continuation must find the same.  extra: after `restore`, what `save` was
    given under that name.  Raises ValueError when the directory holds another run, or holds this one and
    it is not to `resume`, or its data has changed and was not `data_corrected`.
    """

    def __init__(
        self, config: Method, fingerprint: Mapping[str, int], resume: bool = False, data_corrected: bool = False
    ) -> None:
        self.folder = config.output
        self.model = self.folder / "model"
        self.record = self.folder / "run.json"
        self.extra: dict[str, Any] = {}
        self._metrics = self.folder / "metrics.jsonl"
        self._checkpoints = self.folder / "checkpoints"
        self._config, self._fingerprint = config, dict(fingerprint)
        saved = self.folder / "config.yaml"
        data = self.folder / "data.json"
        if self._is_unbegun():
            return
        if saved.is_file():
            if not resume:
                raise ValueError(
                    f"{self.folder} already holds a run; add --resume to continue it or choose another --output"
                )
            earlier, now = ({"method": c.name} | vars(c) for c in (read_training_config(saved), config))
            for key in now:
                if (key not in config.FREE or key == "revision") and earlier.get(key) != now[key]:
                    raise ValueError(
                        f"{saved}: the run to resume has {key}={earlier.get(key)}, now it is {now[key]}; "
                        "make them equal or choose another --output"
                    )
            if data.is_file() and read_json(data) != self._fingerprint and not data_corrected:
                raise ValueError(f"{data}: {DATA_CHANGED}")
            return
        raise ValueError(f"{self.folder} is not empty and holds no run; choose another --output")

    def _is_unbegun(self) -> bool:
        """Whether the directory is new, or was left by this very command before its first update."""
        saved = self.folder / "config.yaml"
        names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        names -= {unfinished(self.folder / name).name for name in BEFORE_THE_FIRST_UPDATE}
        if not names:
            return True
        ours = saved.is_file() and saved.read_bytes() == to_yaml(self._config).encode()
        return names <= BEFORE_THE_FIRST_UPDATE and ours

    def begin(self) -> None:
        """Makes the directory of a new run, once all that can be wrong with its configuration has been found."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "config.yaml").is_file():  # it marks the folder as a run: nothing comes before it
            write_text(self.folder / "config.yaml", to_yaml(self._config))
        if read_json(self.folder / "data.json") != self._fingerprint:
            write_text(self.folder / "data.json", json.dumps(self._fingerprint, indent=1))

    @property
    def finished(self) -> bool:
        """Whether the model is there.  Raises ValueError for a `model/` that no run has written."""
        if not self.model.exists():
            return False
        try:
            weights = sorted(self.model.glob("*.safetensors"))
            for path in weights:
                with safe_open(path, "pt") as file:
                    file.keys()
        except (OSError, SafetensorError):
            weights = []
        if not weights or "config" not in read_json(self.model / PROVENANCE):
            raise ValueError(f"{self.model} is not a model that a run wrote; move it away or choose another --output")
        return True

    def log(self, figures: Mapping[str, float]) -> None:
        with writing(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(figures)) + "\n")

    def save(self, batches: int, state: Mapping[str, Tensor], extra: Mapping[str, Any] = {}) -> None:
        """Writes a checkpoint of `state` (any tensors by name) after `batches` batches; the last two are kept.

        extra: JSON values that are kept with it.  Raises OSError naming the file when it cannot be written; then the
        earlier ones are as they were.
        """
        self._checkpoints.mkdir(exist_ok=True)
        if self._metrics.is_file():  # a checkpoint never knows more than the metrics on the disk
            with writing(self._metrics), self._metrics.open("a") as file:
                os.fsync(file.fileno())
        beside = self._checkpoints / "next.partial"
        try:
            with writing(self._checkpoints):
                about = {"batches": str(batches), "extra": json.dumps(dict(extra))}
                safetensors.torch.save_file(_apart(state), beside, about)
                to_disk(beside)
                os.replace(beside, self._checkpoints / f"{batches:09d}-{file_hash(beside)[:16]}.safetensors")
                to_disk(self._checkpoints)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        for path in self._own()[:-KEPT]:
            path.unlink()

    def restore(self, expected: Mapping[str, Tensor]) -> tuple[int, dict[str, Tensor]]:
        """How many batches the newest good checkpoint has seen and its tensors; (0, {}) when there is none.

        A checkpoint is good when its file is what was written and it has the names, shapes and dtypes of `expected`.
        Of others a message says what is wrong with them.  Raises ValueError when none of those there is good.
        """
        written = self._written()
        for path in reversed(written):
            try:
                batches, state = self._read(path, expected)
            except (OSError, ValueError, SafetensorError) as error:
                console.print(f"{path} cannot be used: {error}")
                continue
            self._forget_after(batches)
            return batches, state
        if written:
            raise ValueError(
                f"no checkpoint in {self._checkpoints} can be used (see above); "
                "delete that folder to start anew, or choose another --output"
            )
        self._forget_after(0)
        return 0, {}

    def _written(self) -> list[Path]:
        """The checkpoints, the newest last."""
        return sorted(path for path in self._checkpoints.glob("*.safetensors"))

    def _own(self) -> list[Path]:
        """Those by names that a run gives."""
        return [path for path in self._written() if CHECKPOINT.fullmatch(path.stem)]

    def _read(self, path: Path, expected: Mapping[str, Tensor]) -> tuple[int, dict[str, Tensor]]:
        name = CHECKPOINT.fullmatch(path.stem)
        if name is None:
            raise ValueError("no checkpoint has such a name")
        if file_hash(path)[:16] != name[2]:
            raise ValueError("it is damaged")
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        state, batches = safetensors.torch.load_file(path), int(name[1])
        if about.get("batches") != str(batches) or not 0 < batches < self._config.batches:
            raise ValueError(f"this run has no checkpoint after {batches} batches")
        if state.keys() != expected.keys():
            raise ValueError("it belongs to another model or method")
        for key, tensor in expected.items():
            found = state[key]
            if found.shape != tensor.shape or found.dtype != tensor.dtype:
                raise ValueError(
                    f"{key} is {found.dtype} {tuple(found.shape)}, not {tensor.dtype} {tuple(tensor.shape)}"
                )
        self.extra = json.loads(about.get("extra", "{}"))
        return batches, state

    def finish(self) -> None:
        """Deletes the checkpoints, which the model makes superfluous."""
        for path in [*self._own(), *self._checkpoints.glob("next.partial")]:
            path.unlink()
        if self._checkpoints.is_dir() and not any(self._checkpoints.iterdir()):
            self._checkpoints.rmdir()

    def _forget_after(self, batches: int) -> None:
        """Drops metrics of updates that the checkpoint does not hold, which will come again, and half a line."""
        if self._metrics.is_file():
            lines = self._metrics.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and _batches(line) <= batches]
            write_text(self._metrics, "".join(kept))


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, contiguous and each with memory of its own, as the file format wants them."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in state.items():
        found = tensor.detach().contiguous()
        memory = found.untyped_storage()
        if memory.data_ptr() in seen or memory.nbytes() != found.nbytes:
            found = found.clone()
        seen.add(memory.data_ptr())
        apart[name] = found
    return apart


def _batches(line: str) -> float:
    """The batches of a line of metrics; infinity for what is none."""
    try:
        return int(json.loads(line)["batches"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def read_training_config(path: Path) -> Method:
    """The configuration of a run directory's config.yaml; ValueError naming the file when it is not one."""
    return method_from_keys(load_yaml(path), str(path))
