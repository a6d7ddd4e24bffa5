"""Predicting one input with a model and a few labelled examples: what the toolkit is for, in one call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..config import EvaluateConfig
from ..models import check_tokenizer, load_model, load_tokenizer, pick_device
from ..prediction.scoring import Scorer, check_finite
from ..progress import console
from ..tasks.collection import Example
from ..training.model_card import read_provenance
from .protocol import as_trained, score_targets


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
    unset = EvaluateConfig(model=model, collection=Path(), setting="", output=Path())
    form, _, instructed = as_trained(unset, read_provenance(model))
    if instructed and not instruction:
        console.print("this model was trained with an instruction at the head of each prompt; --instruction gives one")
    tokenizer = load_tokenizer(model)
    head = form.encode_instruction(tokenizer, instruction)
    shown = [Example(d.input, d.output, options) for d in demonstrations]
    targets = form.encode_targets(tokenizer, Example(input, options[0], options), first=not shown and not head)
    loaded = load_model(model, pick_device(device))
    check_tokenizer(tokenizer, loaded, model)
    scorer = Scorer(loaded)
    prefix = form.encode_demonstrations(tokenizer, shown, first=not head)
    ((scores,), _) = score_targets(form, scorer, prefix, [targets], head)
    check_finite([scores], f"the input {input!r}")
    return dict(sorted(zip(options, scores, strict=True), key=lambda item: item[1]))


def read_demonstrations(path: Path) -> list[Example]:
    """Examples from JSON lines with "input" and "output"; ValueError with file and line for a bad one."""
    if not path.is_file():
        raise ValueError(
            f'{path} does not exist; give --demonstrations a file of lines like {{"input": "...", "output": "..."}}'
        )
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # a text may hold other line ends
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; save the file as UTF-8") from None
    examples = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            examples.append(Example(record["input"], record["output"]))
            if not isinstance(record["input"], str) or not isinstance(record["output"], str):
                raise TypeError
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f'{path}:{number}: must be JSON like {{"input": "...", "output": "..."}}') from None
    return examples
