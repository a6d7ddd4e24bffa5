"""Tasks of a collection for EleutherAI's lm-evaluation-harness: configurations in YAML, data as JSON lines.

    FOLDER/collection.yaml               the group of all tasks
    FOLDER/TASK/task.yaml                one multiple-choice task with fixed demonstrations
    FOLDER/TASK/{test,demonstrations}.jsonl
    FOLDER/TASK/data.py                  reads these two from where it is, so that the folder can be moved

Prompts are those of `evaluate` (direct direction): the same demonstrations in the same order and layout.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from .files import replace_folder
from .names import check_folder, unfinished
from .prompts.demonstrations import fixed_demonstrations
from .prompts.layout import PromptFormat
from .tasks.collection import Collection, Example, Task

MAKER = "tasks export"
READ_DATA = '''"""Reads the data of this task from the folder that this file is in."""

from pathlib import Path


def load(**_):
    from datasets import load_dataset

    files = {path.stem: str(path) for path in Path(__file__).parent.glob("*.jsonl")}
    return load_dataset("json", data_files=files)
'''


def export(
    collection: Collection,
    tasks: Sequence[str],
    folder: Path,
    name: str,
    demonstrations: int = 16,
    seed: int = 100,
    layout: Literal["newlines", "spaces"] = "newlines",
) -> list[str]:
    """Writes `tasks` to `folder`, as a group called `name`; returns the names that lm-eval knows them by.

    demonstrations, seed: the draw in front of every example, the same as in `evaluate`; 0 is zero-shot.
    Raises ValueError for a task that cannot be told by options, and when `folder` holds what was not made here.
    """
    check_folder(folder, MAKER)
    known = {lm_eval_name(task): task for task in tasks}
    if len(known) < len(tasks):
        raise ValueError("two tasks have the same name in lm-eval, which knows letters, digits and _ only; rename one")
    beside = unfinished(folder)
    shutil.rmtree(beside, ignore_errors=True)
    try:
        for known_name, task in known.items():
            (beside / task).mkdir(parents=True)
            for file, text in task_files(collection[task], known_name, demonstrations, seed, layout).items():
                (beside / task / file).write_text(text, encoding="utf-8")
        mean = [{"metric": metric, "weight_by_size": False} for metric in ("acc", "acc_norm")]
        group = {"group": lm_eval_name(name), "task": list(known), "aggregate_metric_list": mean}
        (beside / "collection.yaml").write_text(yaml.safe_dump(group, sort_keys=False), encoding="utf-8")
        replace_folder(beside, folder, MAKER)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return [lm_eval_name(name), *known]


def lm_eval_name(task: str) -> str:
    return "maml_" + re.sub(r"\W+", "_", task, flags=re.ASCII)


def task_files(task: Task, name: str, demonstrations: int, seed: int, layout: str) -> dict[str, str]:
    """The files of one task, as name -> text."""
    shown = fixed_demonstrations(task.train, demonstrations, task.name, seed) if demonstrations else []
    form = PromptFormat(layout=layout)  # type: ignore[arg-type]
    splits = {"test": task.test, "demonstrations": shown}
    between, before_output = _separators(form)
    config: dict[str, Any] = {
        "task": name,
        "output_type": "multiple_choice",
        "custom_dataset": None,  # its value is a tag, which safe YAML cannot write
        "test_split": "test",
        "doc_to_text": "input",
        "doc_to_target": "label",
        "doc_to_choice": "options",
        "target_delimiter": before_output,
        "fewshot_delimiter": between,
        "num_fewshot": len(shown),
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ],
        "metadata": {"version": 1.0},
    }
    if shown:
        config |= {"fewshot_split": "demonstrations", "fewshot_config": {"sampler": "first_n"}}
    text = yaml.safe_dump(config, sort_keys=False).replace(
        "custom_dataset: null", "custom_dataset: !function data.load"
    )
    files = {"task.yaml": text, "data.py": READ_DATA}
    for split, examples in splits.items():
        if len(examples):
            files[f"{split}.jsonl"] = "".join(_line(task, split, i, e) for i, e in enumerate(examples))
    return files


def _separators(form: PromptFormat) -> tuple[str, str]:
    """What stands between two examples, and between input and output."""
    x = Example("x", "y", ("y", "z"))
    _, (before_input, before_output) = form.pieces([x, x])
    return before_input.removesuffix("x"), before_output.removesuffix("y")


def _line(task: Task, split: str, index: int, example: Example) -> str:
    where = f"task {task.name}, {split} example {index}"
    if not example.options:
        raise ValueError(f"{where} has no options: free-form tasks are not multiple choice; leave the task out")
    if not example.input.strip() or example.options == ("",):
        raise ValueError(f"{where} has no input or no label words, which lm-eval cannot show; leave the task out")
    record = {"input": example.input, "options": example.options, "label": example.options.index(example.output)}
    return json.dumps(record, ensure_ascii=False) + "\n"
