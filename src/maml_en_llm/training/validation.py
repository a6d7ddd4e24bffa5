"""Scores on validation tasks while training: the state that scores best becomes the model.

RUN/validated/   the state that was scored last
RUN/best/        the best one, until it becomes RUN/model/ at the end
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..files import replace_folder
from ..methods.method import Learner, Method
from ..models import pick_device
from ..prediction.features import selection_with
from ..prediction.metrics import metric_of
from ..prediction.metrics import score as score_of
from ..prediction.predictor import LabelledTask, LoadedModel
from ..progress import console
from ..results import Metric
from ..tasks.collection import Collection, Example, Setting, Task
from ..tasks.limited import limited, validation_split

Part = tuple[LabelledTask, Sequence[Example], Metric]  # what demonstrations come from, what is scored, and how


class Validation:
    """The validation of a run, `None` as `best` before the first: its score and how many batches it had seen."""

    def __init__(self, config: Method, collection: Collection, setting: Setting) -> None:
        self.config = config
        self.parts = validation_parts(config, collection, setting)
        self.best: tuple[float, int] | None = None
        self.scored, self.kept = config.output / "validated", config.output / "best"

    def restore(self, extra: Mapping[str, Any]) -> None:
        """Goes on from what `extra` was when a checkpoint was made."""
        if extra.get("best") and self.kept.is_dir():
            self.best = (float(extra["best"][0]), int(extra["best"][1]))

    @property
    def extra(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"best": self.best}

    def due(self, seen: int) -> bool:
        """Whether the update that ends after `seen` batches is followed by a validation; the last one is."""
        group, every = self.config.batches_per_update, self.config.validate_every
        return seen + group > self.config.batches or seen // every > (seen - group) // every

    def measure(self, learner: Learner, files: Callable[[], Mapping[str, str]], seen: int) -> float:
        """The mean over tasks of each one's metric, from 0 to 1; the better state is kept, of equals the earlier.

        Changes no random state, so that a run with validation learns what one without it does.
        """
        with torch.random.fork_rng():
            learner.save(self.scored, files())
            score = mean_score(self.config, self.scored, self.parts)
        if self.best is None or score > self.best[0]:
            self.best = (score, seen)
            replace_folder(self.scored, self.kept, "train")
        return score

    def finish(self, model: Path) -> None:
        """Makes the best state the model."""
        assert self.best is not None
        score, batches = self.best
        console.print(f"model/ is the state after {batches} batches, the best on validation tasks: {100 * score:.1f} %")
        replace_folder(self.kept, model, "train")
        shutil.rmtree(self.scored, ignore_errors=True)


def mean_score(config: Method, folder: Path, parts: Sequence[Part]) -> float:
    """The mean over tasks of the metric of the model in `folder`: macro-F1 where tasks have fixed labels, which a model
    that has learned to answer the most frequent one does not raise, as it does accuracy."""
    model = LoadedModel(str(folder), pick_device(config.device))
    style = config.prompts_at_test()
    several = style.demonstrations > 0
    select = selection_with(model, config.choose_at_test if several else "random", layer=config.layer)
    predictor, found = config.predictor(model, style, select=select), []
    for task, examples, metric in parts:
        scores = predictor.scores(task, examples, seed=config.seed)
        lowest = [min(range(len(row)), key=row.__getitem__) for row in scores]
        predicted = [example.options[place] for example, place in zip(examples, lowest, strict=True)]
        found.append(score_of(metric, [example.output for example in examples], predicted))
    return sum(found) / len(found)


def validation_parts(config: Method, collection: Collection, setting: Setting) -> list[Part]:
    """The tasks that validate: targets of `validate_setting`, with a fifth of their train examples held out, or the
    training tasks with their dev or else test examples, which are not trained on.

    Raises ValueError for targets of the setting that is trained on, and when no task can be scored.
    """
    named = config.validate_setting
    tasks: list[Task] = [collection[name] for name in setting.train]
    if named is not None:
        tasks = [collection[name] for name in collection.setting(named).test]
        kept_apart = {*setting.test, *setting.unseen_domain_test}
        if tuned := [task.name for task in tasks if task.name in kept_apart]:
            raise ValueError(
                f"--validate-setting {named} has the target {tuned[0]}, which is a target of {setting.name}, too, and "
                "must not choose the model that is scored on it; choose another"
            )
    count = config.prompts_at_test().demonstrations
    parts: list[Part] = []
    for task in tasks:
        split = next((name for name in ("dev", "test") if task.has(name)), None)
        if task.kind == "free_form" or (named is None and split is None):
            continue
        bank, examples = validation_split(task.train, task.name) if named else (task.train, task.split(str(split)))
        share = min(1.0, config.validate_examples / len(examples))
        if len(bank) >= count:
            chosen = limited(examples, task.name, share, config.seed) if share < 1 else examples
            parts.append((LabelledTask(task.name, bank, task.instruction), chosen, metric_of(task.kind)))
    if not parts:
        raise ValueError(
            f"no task can validate: {named or 'the training tasks'} need options, {count} train examples"
            f"{'' if named else ', and dev or test examples'}; give another --validate-setting"
        )
    return parts
