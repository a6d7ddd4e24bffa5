"""What the report's browser of single predictions holds: a sample of examples with every method's scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config import EvaluateConfig
from ..evaluation.protocol import demonstration_bank, scored_examples
from ..files import content_hash
from ..models import load_tokenizer
from ..prompts.demonstrations import fixed_demonstrations
from ..prompts.layout import EncodedTarget, PromptFormat
from ..results import Prediction, read_predictions
from ..tasks.collection import Collection, Example, Task, load_collection
from .reading import Inputs, Result

SAMPLES = (40, 20, 10, 5, 2)  # examples of a task and setting; the first that fits BYTES is taken
BYTES = 3_500_000
INPUT_CHARACTERS = 600
DEMONSTRATION_CHARACTERS = 160
MOST_ENCODED = 2000  # examples of a task whose prompts are shown


class Predictions:
    """Predictions of all results at their first seed, and the collections that they are about where those are."""

    def __init__(self, inputs: Inputs) -> None:
        self.results = inputs.results
        self.rows = [_by_task(predictions_of(result, inputs)) for result in self.results]
        self.collections: dict[str, Collection | None] = {}
        self.scored: dict[tuple[Any, ...], Sequence[Example]] = {}
        self.prompts: dict[tuple[Any, ...], TaskPrompts | None] = {}
        self.texts: dict[str, int] = {}
        """Parts of prompts, each once, with their numbers."""
        for result in self.results:
            place = str(result.content.config.get("collection") or "")
            if place not in self.collections:
                self.collections[place] = _collection(place)

    def collection(self, result: Result) -> Collection | None:
        return self.collections[str(result.content.config.get("collection") or "")]

    def labels(self, task: str) -> Counter[str]:
        """Gold outputs of a task among the examples scored; empty without predictions."""
        rows = next((rows[task] for rows in self.rows if task in rows), {})
        return Counter(row.output for row in rows.values())

    def data(self) -> dict[str, Any]:
        """The sample as plain data for the page; empty without predictions."""
        if not any(self.rows):
            return {}
        for sample in SAMPLES:
            data = self._sample(sample)
            if len(json.dumps(data)) <= BYTES:
                break
        return data

    def _sample(self, sample: int) -> dict[str, Any]:
        members: dict[tuple[str, str], list[int]] = {}
        for number, (result, rows) in enumerate(zip(self.results, self.rows, strict=True)):
            for task in rows:
                members.setdefault((result.setting, task), []).append(number)
        examples = []
        self.texts.clear()
        demonstrations: dict[str, Any] = {}
        for (setting, task), numbers in sorted(members.items()):
            shared = sorted(set.intersection(*(set(self.rows[n][task]) for n in numbers)))
            chosen = [shared[len(shared) * i // sample] for i in range(sample)] if len(shared) > sample else shared
            for index in chosen:
                examples.append(self._example(setting, task, index, numbers))
            if task not in demonstrations and (shown := self._demonstrations(task, numbers)):
                demonstrations[task] = shown
        return {
            "texts": list(self.texts),
            "sample": sample,
            "characters": INPUT_CHARACTERS,
            "methods": [result.label for result in self.results],
            "examples": examples,
            "demonstrations": demonstrations,
        }

    def _example(self, setting: str, task: str, index: int, numbers: Sequence[int]) -> dict[str, Any]:
        gold = self.rows[numbers[0]][task][index].output
        found = next(filter(None, (self._lookup(self.results[n], task, index, gold) for n in numbers)), None)
        scored = []
        for number in numbers:
            row = self.rows[number][task][index]
            prompts = self._prompts(self.results[number], task, index)
            scored.append([number, row.seed, row.predicted, row.scores, prompts])
        entry: dict[str, Any] = {"setting": setting, "task": task, "index": index, "gold": gold, "scored": scored}
        if found:
            entry |= {"input": _cut(found.input, INPUT_CHARACTERS), "options": found.options}
        return entry

    def _lookup(self, result: Result, task: str, index: int, gold: str) -> Example | None:
        """The example, if the collection is still there and holds the same one at this place."""
        collection = self.collection(result)
        if collection is None or task not in collection:
            return None
        try:
            example = self._scored(result, collection[task])[index]
        except (ValueError, IndexError):
            return None
        return example if example.output == gold else None

    def _scored(self, result: Result, task: Task) -> Sequence[Example]:
        config = _config(result)
        key = (task.folder, config.split, config.data_amount, config.max_examples)
        if key not in self.scored:
            self.scored[key] = scored_examples(config, task)
        return self.scored[key]

    def _prompts(self, result: Result, task: str, index: int) -> list[list[int]]:
        """For each option the numbers of the prompt's parts: demonstrations, context, answer; empty where the model or
        the collection is not there any more."""
        collection, row, model = self.collection(result), result.row, str(result.content.config.get("model") or "")
        if collection is None or task not in collection or row.learner != "in-context" or not Path(model).is_dir():
            return []
        form = (row.layout, row.max_tokens, row.max_tokens_per_example, row.overflow)
        shown = (row.direction, row.demonstrations, row.choose, row.instructions, row.adaptation is None)
        scored = (row.split, row.data_amount, row.max_examples)
        key = (collection.path, task, _tokenizer_key(Path(model)), form, shown, scored)
        if key not in self.prompts:
            try:
                examples = self._scored(result, collection[task])
                self.prompts[key] = task_prompts(result, collection[task], examples, model)
            except (ValueError, OSError):
                self.prompts[key] = None
        prompts = self.prompts[key]
        if prompts is None or index >= len(prompts.targets):
            return []
        parts = [prompts.parts(target) for target in prompts.targets[index]]
        return [[self.texts.setdefault(text, len(self.texts)) for text in three] for three in parts]

    def _demonstrations(self, task: str, numbers: Sequence[int]) -> dict[str, Any] | None:
        for number in numbers:
            result = self.results[number]
            collection, count, seed = self.collection(result), result.row.demonstrations, result.content.seeds[0]
            if collection is None or task not in collection or not count:
                continue
            try:
                drawn = fixed_demonstrations(demonstration_bank(_config(result), collection[task]), count, task, seed)
            except ValueError:
                continue
            pairs = [[_cut(e.input, DEMONSTRATION_CHARACTERS), _cut(e.output, DEMONSTRATION_CHARACTERS)] for e in drawn]
            return {"seed": seed, "pairs": pairs}
        return None


@dataclass(frozen=True)
class TaskPrompts:
    """What a model read of a task at its first seed, as tokens."""

    form: PromptFormat
    tokenizer: Any
    head: list[int]
    prefix: list[int]
    targets: Sequence[Sequence[EncodedTarget]]

    @cached_property
    def longest(self) -> int:
        return max(len(option) for options in self.targets for option in options)

    def parts(self, target: EncodedTarget) -> tuple[str, str, str]:
        """Instruction and demonstrations as they were cut, what follows them, and the option that is scored."""
        if self.form.overflow == "fit":
            prefix = self.form.fit(self.prefix, self.longest)
        else:
            prefix = self.prefix[max(0, len(self.prefix) + len(target) - self.form.max_tokens) :]
        texts = ([*self.head, *prefix], target.context, target.answer)
        front, context, answer = (self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False) for ids in texts)
        return front, context, answer


def task_prompts(result: Result, task: Task, examples: Sequence[Example], model: str) -> TaskPrompts | None:
    """None where there are too many examples to encode them all, or demonstrations were not drawn at random."""
    row = result.row
    if len(examples) > MOST_ENCODED or row.choose != "random":
        return None
    limits = (row.max_tokens, row.max_tokens_per_example)
    form = PromptFormat(row.direction, row.layout, *limits, row.overflow)  # type: ignore[arg-type]
    tokenizer = load_tokenizer(model)
    head = form.encode_instruction(tokenizer, task.instruction) if row.instructions else []
    pool = demonstration_bank(_config(result), task)
    seed = result.content.seeds[0]
    drawn = fixed_demonstrations(pool, row.demonstrations, task.name, seed) if row.demonstrations else []
    targets = form.encode_all_targets(tokenizer, examples, first=not drawn and not head)
    prefix = form.encode_demonstrations(tokenizer, drawn, first=not head)
    return TaskPrompts(form.behind(head), tokenizer, head, prefix, targets)


def _tokenizer_key(model: Path) -> str:
    """Models with the same tokenizer read the same prompts."""
    path = model / "tokenizer.json"
    return content_hash(path) if path.is_file() else str(model)


def predictions_of(result: Result, found: Inputs) -> list[Prediction]:
    """The predictions of a results file, of its first seed; what is missing or broken is noted in `found`."""
    try:
        predictions, broken = read_predictions(result.predictions, result.content.seeds[0])
    except ValueError:
        found.not_read.append((result.predictions, "the predictions are missing; they are not browsed"))
        return []
    if broken:
        found.not_read.append((result.predictions, "some of its lines are not whole; the others are shown"))
    return predictions


def _config(result: Result) -> EvaluateConfig:
    """The evaluation's keys that say which examples were scored; ValueError when they are none of `evaluate`."""
    row = result.row
    keys: dict[str, Any] = {"split": row.split, "data_amount": row.data_amount, "max_examples": row.max_examples}
    return EvaluateConfig(model="", collection=Path(), setting=result.setting, output=Path(), **keys)


def _collection(place: str) -> Collection | None:
    """None where there is none any more, or what it holds is not good: a report can do without."""
    try:
        collection = load_collection(Path(place)) if place else None
        if collection is not None:
            next((collection[folder.name] for folder in collection.task_folders), None)  # reads the manifest
    except (ValueError, OSError, TypeError, KeyError, AttributeError):
        return None
    return collection


def _by_task(rows: Sequence[Prediction]) -> dict[str, dict[int, Prediction]]:
    tasks: dict[str, dict[int, Prediction]] = {}
    for row in rows:
        tasks.setdefault(row.task, {})[row.index] = row
    return tasks


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + " …"
