"""A trained model folder to the hub: what goes there, and the card with its scores."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from .files import read_json
from .hub import HUB_ID, upload
from .names import MARKER, check_folder
from .reporting.statistics import Paired, bootstrap_interval
from .results import PROVENANCE, Results, Subset, read_provenance, read_results
from .training.model_card import SNIPPET_MODEL

CARD = "README.md"


@dataclass(frozen=True)
class Push:
    """What goes to the hub: files of a folder with their sizes in bytes, and the card in the place of its own."""

    folder: Path
    repository: str
    card: str

    @property
    def files(self) -> dict[str, int]:
        sizes = {path.name: path.stat().st_size for path in sorted(self.folder.iterdir()) if path.name != MARKER}
        return sizes | {CARD: len(self.card.encode())}

    def upload(self, private: bool) -> str:
        """Sends it, and returns its address; ValueError when the hub does not take it."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for file in self.files:
                if file != CARD:
                    os.symlink((self.folder / file).resolve(), folder / file)
            (folder / CARD).write_text(self.card, encoding="utf-8")
            return upload(folder, self.repository, private)


def prepare(folder: Path, repository: str, results: Sequence[Path] = ()) -> Push:
    """The push of a model folder that `train` finished, with the scores of `results` in its card.

    Raises ValueError for any other folder, and for results of other models.
    """
    if not HUB_ID.fullmatch(repository) or "/" not in repository or "@" in repository:
        raise ValueError(f"--repo is {repository!r}; it must be OWNER/NAME, as in my-name/my-model")
    check_finished(folder)
    card = (folder / CARD).read_text(encoding="utf-8").replace(SNIPPET_MODEL, f'model="{repository}")')
    if results:
        card = card.replace("\n## Prompt layout\n", f"\n{scores(folder, results)}\n## Prompt layout\n", 1)
    return Push(folder, repository, card)


def check_finished(folder: Path) -> None:
    """ValueError unless `folder` is a whole model that `train` made, with nothing else in it."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the model/ of a run of `train`")
    listed = read_json(folder / MARKER).get("files")
    if read_provenance(folder) is None or not isinstance(listed, list):
        inside = f"; its model is in {folder / 'model'}" if (folder / "model").is_dir() else ""
        raise ValueError(f"{folder} is not a model that `train` made{inside}; give the model/ of a finished run")
    check_folder(folder, "train")
    if absent := [name for name in (*listed, CARD) if not (folder / name).is_file()]:
        raise ValueError(f"{folder} is not whole: it lacks {absent[0]}; train it again")
    weights = sorted(folder.glob("*.safetensors"))
    try:
        for path in weights:
            with safe_open(path, "pt") as file:
                file.keys()
    except (OSError, SafetensorError):
        raise ValueError(f"{path} is damaged; train the model again") from None
    if not weights:
        raise ValueError(f"{folder} has no weights (*.safetensors); train the model again")
    for path in (folder / CARD, folder / PROVENANCE):  # an earlier version wrote whole paths
        if str(folder.resolve().parent) in path.read_text(encoding="utf-8"):
            raise ValueError(f"{path} names a folder of this machine; train the model again, or correct the file")
    base = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "")
    if base == "starter" or base.startswith("."):
        raise ValueError(
            f"{folder} is an adapter of {base}, which is not on the hub; push that model first and train from its hub "
            "id, or train without --keep-adapter"
        )


def scores(folder: Path, results: Sequence[Path]) -> str:
    """A section of the card: mean scores in percent with intervals over tasks and draws of demonstrations."""
    made, rows = read_provenance(folder), []
    for path in results:
        found = read_results(path)
        if found.provenance != made:
            raise ValueError(f"{path}: these are scores of another model than {folder}; leave it out")
        rows += [_row(found, subset) for subset, summary in found.summary.items() if summary.tasks]
    table = "\n".join(rows)
    return f"""## Scores

Mean of macro-F1 (classification) and accuracy (multiple choice) over target tasks, in %, with a 95 % interval by a
bootstrap over tasks and draws of demonstrations.

| setting | tasks | prediction | mean | interval | guessing |
|---|---|---|---:|---|---:|
{table}
"""


def _row(found: Results, subset: Subset) -> str:
    tasks = [task for task in found.tasks.values() if subset == "test" or task.unseen_domain]
    drawn = [100 * np.array([list(task.scores.values())]) for task in tasks]
    low, high = bootstrap_interval([Paired(values, np.zeros_like(values)) for values in drawn])
    mean = float(np.mean([values.mean() for values in drawn]))
    guesses = [task.guess for task in tasks if task.guess is not None]
    guess = f"{100 * sum(guesses) / len(guesses):.1f}" if guesses else ""
    row, which = found.row, "" if subset == "test" else ", unseen domains"
    how = f"{row.learner}, {row.demonstrations} demonstrations, {row.choose}"
    return f"| {found.setting}{which} | {len(tasks)} | {how} | {mean:.1f} | {low:.1f} to {high:.1f} | {guess} |"
