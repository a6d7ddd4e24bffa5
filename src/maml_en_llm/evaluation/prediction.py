"""Predicting one input with a model and a few labelled examples: what the toolkit is for, in one call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..files import text_lines
from ..methods import method_of_model
from ..models import pick_device
from ..prediction.predictor import LabelledTask, LoadedModel
from ..prediction.scoring import check_finite
from ..progress import console
from ..prompts.demonstrations import AsGiven
from ..results import read_provenance
from ..sources.reading import Table, read_table
from ..tasks.collection import Example


def predict(
    model: str,
    demonstrations: Sequence[Example],
    options: Sequence[str],
    input: str,
    device: str = "auto",
    instruction: str | None = None,
) -> dict[str, float]:
    """Options of `input` with their scores, mean negative log-likelihoods in nats, the predicted (lowest) first.

    The prompt has the layout and direction that `model` was trained with, behind `instruction` if there is one.  Raises
    ValueError for bad input.
    """
    options = tuple(options)
    if len(set(options)) != len(options) or len(options) < 2:
        raise ValueError(f"options are {', '.join(options) or 'empty'}; give at least two, all different")
    for shown_output in (d.output for d in demonstrations if d.output not in options):
        raise ValueError(
            f"the demonstration output {shown_output!r} is not among the options {', '.join(options)}; "
            "add it or correct it"
        )
    method = method_of_model(read_provenance(model))
    style = replace(method.prompts_at_test(), demonstrations=len(demonstrations))
    if style.instructed and not instruction:
        console.print("this model was trained with an instruction at the head of each prompt; --instruction gives one")
    style = replace(style, instructed=bool(instruction))
    shown = [Example(d.input, d.output, options) for d in demonstrations]
    predictor = method.predictor(LoadedModel(model, pick_device(device)), style, select=AsGiven())
    task = LabelledTask("demonstrations", shown, instruction)
    (scores,) = predictor.scores(task, [Example(input, options[0], options)], seed=0)
    check_finite([scores], f"the input {input!r}")
    return dict(sorted(zip(options, scores, strict=True), key=lambda item: item[1]))


TEXT_COLUMNS, LABEL_COLUMNS = ("input", "text"), ("output", "label")


def read_demonstrations(path: Path, text: str | None = None, label: str | None = None) -> list[Example]:
    """Examples from JSON lines with "input" and "output", or from the columns `text` and `label` of any other table
    (else input or text, and output or label); ValueError with file and line for a bad one."""
    if not path.is_file():
        raise ValueError(
            f'{path} does not exist; give --demonstrations a file of lines like {{"input": "...", "output": "..."}}'
        )
    if path.suffix.lower() != ".jsonl" or text or label:
        return _examples_of_table(read_table(path), text, label)
    examples = []
    for number, line in enumerate(text_lines(path), start=1):
        try:
            record = json.loads(line)
            examples.append(Example(record["input"], record["output"]))
            if not isinstance(record["input"], str) or not isinstance(record["output"], str):
                raise TypeError
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f'{path}:{number}: must be JSON like {{"input": "...", "output": "..."}}') from None
    return examples


def _examples_of_table(table: Table, text: str | None, label: str | None) -> list[Example]:
    named = []
    for flag, given, usual in (("--text-column", text, TEXT_COLUMNS), ("--label-column", label, LABEL_COLUMNS)):
        found = [name for name in (given, *usual) if name in table.columns]
        if not found:
            missing = f"no column is named {given!r}, {' or '.join(usual)}" if given else f"give {flag}"
            raise ValueError(f"{table.path}: {missing}; the columns are {', '.join(table.columns)}")
        named.append(found[0])
    examples = []
    for place, row in table.rows:
        values = [row.get(name) for name in named]
        for name, value in zip(named, values, strict=True):
            if value is None or not str(value).strip():
                raise ValueError(f"{table.path}:{place}: has nothing in {name!r}; fill it in or drop the row")
        examples.append(Example(str(values[0]), str(values[1])))
    return examples
