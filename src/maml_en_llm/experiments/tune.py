"""Hyper-parameters by validation: every row of a table gets the same number of tries, and no target task is read.

OUTPUT/collection/             the collection with the setting `validation`, whose targets are training tasks
OUTPUT/tries/TRY/TABLE/        the rows of a try, as `reproduce` leaves them
OUTPUT/tuned.yaml              the best values, for `reproduce --config`
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..config import DEFAULT_METHOD, load_yaml
from ..files import write_text
from ..methods import method_type
from ..names import check_file
from ..progress import console, duration
from ..results import read_results
from ..tasks.collection import load_collection
from ..tasks.seeds import random_generator
from .rows import read_table, training_section
from .run import Reproduction

SETTING = "validation"
HELD_OUT = 0.2
SIGN = "# Chosen by `maml-en-llm tune"
Try = Mapping[str, Any]


def tune(
    table: str,
    grid: Mapping[str, Sequence[Any]],
    *,
    collection: Path,
    setting: str,
    output: Path,
    config: Path | None = None,
    rows: Sequence[str] = (),
    training_seeds: Sequence[int] = (100,),
    **places: Any,
) -> Path:
    """Trains and scores each trained row of `table` once for each point of `grid`; returns the path of tuned.yaml.

    grid: values by key of training. A value of `lr` is that of `inner_lr`, too, for rows that have one and where the
        grid does not name it: the paper's two learning rates are equal (section 4).
    setting: a fifth of its training tasks, drawn by its name alone, are the validation targets; the rest train.
    places: model, batches, max_examples and device of `Reproduction`.
    Raises ValueError for bad input, or when a row has no score.
    """
    source = read_table(table)
    grid = {key: [training_section({key: value}, "--grid")[key] for value in values] for key, values in grid.items()}
    trained = [name for name, row in source.rows.items() if "train" in row and (not rows or name in rows)]
    if not grid or not all(grid.values()) or not trained:
        raise ValueError(f"give --grid values to try, like lr=1e-4,1e-3, and --rows that {table} trains")
    check_file(output / "tuned.yaml", SIGN)
    validation_collection(collection, setting, output / "collection")
    methods = {name: {**source.shared.get("train", {}), **source.rows[name]["train"]} for name in trained}
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    scores: dict[str, dict[str, float]] = {name: {} for name in trained}
    started = time.monotonic()
    for number, point in enumerate(points):
        left = duration((time.monotonic() - started) / number * (len(points) - number)) if number else "?"
        console.rule(f"try {number + 1} of {len(points)}: {name_of(point)}; {left} left")
        runs = Reproduction(
            table,
            collection=output / "collection",
            setting=(SETTING,),
            output=output / "tries" / name_of(point),
            config=config,
            rows=trained,
            changes={name: {"train": keys_of(method, point)} for name, method in methods.items()},
            training_seeds=training_seeds,
            **places,
        )
        try:
            runs.run()
        except ValueError as error:  # a learning rate that is too high is a try, too
            console.print(f"{name_of(point)}: {error}", markup=False)
        for name in trained:
            done = [row.score for row in runs.rows if row.row == name and runs.is_scored(row)]
            averages = [read_results(score.output).summary[score.subset].average for score in done]
            if known := [average for average in averages if average is not None]:
                scores[name][name_of(point)] = sum(known) / len(known)
    record = {} if config is None else load_yaml(config)
    head = f"{SIGN} {table}` on training tasks of {setting}, {len(points)} tries for each row; mean scores in %:\n"
    for name, found in scores.items():
        changed = record.setdefault("rows", {}).setdefault(name, {}).setdefault("train", {})
        changed.update(keys_of(methods[name], best(name, found, points)))
        head += f"#   {name}: {', '.join(f'{point}: {100 * score:.1f}' for point, score in found.items())}\n"
    write_text(output / "tuned.yaml", head + yaml.safe_dump(record, sort_keys=False))
    console.print(head.replace("# ", ""), markup=False)
    return output / "tuned.yaml"


def validation_collection(collection: Path, setting: str, folder: Path) -> None:
    """The same tasks with one setting, whose targets are training tasks of `setting`."""
    opened = load_collection(collection)
    train = opened.setting(setting).train
    scored = [name for name in train if opened[name].kind != "free_form"]
    count = round(HELD_OUT * len(scored))
    if count < 1 or count == len(train):
        raise ValueError(f"{setting} has {len(scored)} training tasks with options; 5 are needed to hold one out")
    drawn = random_generator("tune", setting).permutation(len(scored))[:count]
    targets = sorted(scored[i] for i in drawn)
    lists = {"train": [name for name in train if name not in targets], "test": targets, "unseen_domain_test": targets}
    texts = {f"settings/{SETTING}.json": json.dumps(lists, indent=1) + "\n"}
    if (collection / "manifest.json").is_file():
        texts["manifest.json"] = (collection / "manifest.json").read_text(encoding="utf-8")
    if (folder / "data").exists() and not (folder / "data").samefile(collection / "data"):
        raise ValueError(f"{folder} is of another collection; choose another --output")
    (folder / "settings").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        if (folder / name).exists() and (folder / name).read_text(encoding="utf-8") != text:
            raise ValueError(f"{folder / name} is of another collection or setting; choose another --output")
        write_text(folder / name, text)
    if not (folder / "data").exists():
        os.symlink((collection / "data").resolve(), folder / "data", target_is_directory=True)


def name_of(point: Try) -> str:
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in point.items()
    )


def keys_of(row: Mapping[str, Any], point: Try) -> dict[str, Any]:
    """What a try changes of a row."""
    fields = method_type(row.get("method", DEFAULT_METHOD)).__dataclass_fields__
    follows = {"inner_lr": point["lr"]} if "lr" in point and "inner_lr" in fields else {}
    return {key: value for key, value in (follows | dict(point)).items() if key in fields}


def best(name: str, scores: Mapping[str, float], points: Sequence[Try]) -> Try:
    """The point of the highest score; says so where a neighbour that was not tried may be better."""
    if not scores:
        raise ValueError(f"no try of {name} has a score; see the reasons above")
    point = max((p for p in points if name_of(p) in scores), key=lambda p: scores[name_of(p)])
    for key, value in point.items():
        values = sorted({p[key] for p in points}) if isinstance(value, float) else []
        if len(values) > 1 and value in (values[0], values[-1]):
            end = "smallest" if value == values[0] else "largest"
            console.print(f"{name}: the best {key} is the {end} that was tried; widen the grid", markup=False)
    return point
