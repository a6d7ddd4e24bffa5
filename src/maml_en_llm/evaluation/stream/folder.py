"""The files of a stream, which make it go on where it was stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from ...files import read_json, to_disk, write_text, writing
from ...models import TrainableModel
from ...names import unfinished
from ...results import Results, from_json, to_json, write_results
from .figures import DocumentFigures, StreamResults

MAKER = "stream"


class StreamFolder:
    """The files of a stream; `identity` says what it is computed from."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity
        self.results, self._about = folder / "stream.json", folder / "about.json"
        self._metrics, self._checkpoint = folder / "metrics.jsonl", folder / "checkpoint.safetensors"
        if folder.is_dir() and any(folder.iterdir()) and read_json(self._about).get("of") != identity:
            raise ValueError(f"{folder} holds something else than this stream; choose another --output")

    def begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self._about, json.dumps({"of": self.identity}))

    def log(self, row: DocumentFigures) -> None:
        with writing(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(to_json(row, indent=None) + "\n")

    def save(self, rows: Sequence[DocumentFigures], state: dict[str, Tensor]) -> None:
        """Replaces the checkpoint by one of `state` after `rows`."""
        beside = unfinished(self._checkpoint)
        with writing(self._checkpoint):
            about = {"rows": json.dumps([to_json(row, indent=None) for row in rows])}
            safetensors.torch.save_file({n: t.detach().contiguous() for n, t in state.items()}, beside, about)
            to_disk(beside)
            os.replace(beside, self._checkpoint)

    def restore(self, state: dict[str, Tensor]) -> list[DocumentFigures]:
        """Takes the checkpoint's tensors over into `state`; the rows up to there."""
        rows: list[DocumentFigures] = []
        if self._checkpoint.is_file():
            with safe_open(self._checkpoint, "pt") as file, torch.no_grad():
                lines = json.loads(file.metadata()["rows"])
                rows = [from_json(DocumentFigures, line, self._checkpoint) for line in lines]
                for name, tensor in state.items():
                    tensor.copy_(file.get_tensor(name))
        write_text(self._metrics, "".join(to_json(row, indent=None) + "\n" for row in rows))
        return rows

    def finish(
        self, model: TrainableModel, model_files: dict[str, str], results: StreamResults, rows: Results | None
    ) -> None:
        model.save(self.folder / "model", model_files, maker=MAKER)
        if rows is not None:
            write_results(self.folder / "results.json", rows)
        write_text(self.results, to_json(results))  # last: it says that all is there
        self._checkpoint.unlink(missing_ok=True)
