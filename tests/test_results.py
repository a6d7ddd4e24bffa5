"""What is written can be read, and what is read is what is written: any other content is one sentence."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import a_prediction, a_provenance, a_row, a_run, a_training, make_collection, write_results
from maml_en_llm.reporting.reading import not_read_lines, read_inputs, read_result
from maml_en_llm.reporting.report import report
from maml_en_llm.results import (
    PredictionStore,
    Provenance,
    Row,
    RunRecord,
    from_json,
    prediction_line,
    read_predictions,
    read_results,
    to_json,
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of every file that a report reads."""
    folder = tmp_path_factory.mktemp("files")
    path = write_results(folder / "a.json", "MAML-2-1", {"t": [0.5, 0.6], "u": [0.1, 0.2]}, method="maml-en-llm")
    path.with_suffix(".predictions.jsonl").write_text("".join(prediction_line(a_prediction(index=i)) for i in range(3)))
    run = folder / "run"
    (run / "model").mkdir(parents=True)
    (run / "config.yaml").write_text(json.dumps({"method": "metaicl", "setting": "small", "batches": 4}))
    (run / "metrics.jsonl").write_text('{"batches": 1, "loss": 2.0}\n{"batches": 2, "loss": 1.0}\n')
    (run / "run.json").write_text(to_json(a_run()))
    (run / "model" / "maml_en_llm.json").write_text(to_json(a_provenance(a_training("maml-en-llm"))))
    write_results(folder / "good.json", "Raw LM", {"t": [0.5, 0.6], "u": [0.1, 0.2]})
    return folder


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value in a JSON document."""
    inner: list[tuple[Any, ...]] = []
    if isinstance(value, dict):
        inner = [p for key in value for p in places(value[key], (*path, key))]
    elif isinstance(value, list):
        inner = [p for i in range(len(value)) for p in places(value[i], (*path, i))]
    return [path, *inner]


def changed(document: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    document[path[0]] = changed(document[path[0]], path[1:], new)
    return document


EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 12))
MUTATED = ("a.json", "a.predictions.jsonl", "run/run.json", "run/model/maml_en_llm.json", "run/metrics.jsonl")


@pytest.mark.parametrize("name", [*MUTATED, "run/config.yaml"])
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_json_shape_stops_a_report(name: str, data: st.DataObject, files: Path) -> None:
    path = files / name
    text = path.read_text()
    lines = text.splitlines() if name.endswith(".jsonl") else [text]
    document = json.loads(lines[0])
    place = data.draw(st.sampled_from(places(document)))
    new = json.dumps(changed(document, place, data.draw(anything)))
    new = new[: data.draw(st.integers(0, len(new)))] if data.draw(st.integers(0, 5)) == 0 else new
    path.write_text("\n".join([new, *lines[1:]]))
    try:
        page = report([files], files.parent / "out").read_text()
        assert "Raw LM" in page  # of the good file
        assert not any("Traceback" in line for line in not_read_lines(read_inputs([files])))
    finally:
        path.write_text(text)


@settings(max_examples=200)
@given(anything)
def test_a_foreign_document_is_one_sentence_that_names_the_file(document: Any) -> None:
    for kind in (RunRecord, Provenance, Row):
        with pytest.raises(ValueError, match=r"^x\.json: [^\n]+$"):
            from_json(kind, json.dumps(document), "x.json")


rows = st.builds(
    a_row,
    label=st.text(st.characters(exclude_categories=["Cs"])),
    demonstrations=st.integers(0, 1 << 40),
    calibrated=st.booleans(),
    training=st.none() | st.builds(a_training, copies=st.none() | st.integers(0, 9), seed=st.integers(-9, 9)),
)


@given(rows)
def test_rows_come_back_as_they_were(row: Row) -> None:
    assert from_json(Row, to_json(row), "") == row


def test_results_come_back_as_they_were(files: Path) -> None:
    found = read_results(files / "a.json")
    (files / "again.json").write_text(to_json(found))
    assert read_results(files / "again.json") == found
    (files / "again.json").unlink()


@pytest.mark.parametrize("score", [math.nan, math.inf, -0.1, 1.1])
def test_a_score_that_is_none_is_not_written(files: Path, score: float) -> None:
    whole = read_result(files / "a.json").content
    task = replace(whole.tasks["t"], scores={"100": score})
    with pytest.raises(ValueError, match=r"tasks\.t\.scores\.100"):
        to_json(replace(whole, tasks={"t": task}))


def test_only_whole_predictions_of_the_seed_are_read(tmp_path: Path) -> None:
    good = [prediction_line(a_prediction(index=i)) for i in range(3)]
    others = [prediction_line(a_prediction(seed=13)), prediction_line(a_prediction(order=1))]
    broken = [good[0].replace("1.0", "NaN"), '{"seed":100, "x": 1}\n', good[0][:-30]]
    (tmp_path / "p.jsonl").write_text("".join([*good, *others, *broken]))
    found, count = read_predictions(tmp_path / "p.jsonl", 100)
    assert found == [a_prediction(index=i) for i in range(3)]
    assert count == 3


def interrupted(path: Path) -> PredictionStore:
    store = PredictionStore(path, "of this")
    store.add("t", 100, [a_prediction(index=i) for i in range(2)])
    store.add("t", 13, [a_prediction(seed=13)])
    return store


CUTS: list[tuple[Callable[[str], str], set[int]]] = [
    (lambda text: text, {100, 13}),
    (lambda text: text[:-5], {100}),  # in the middle of the last line
    (lambda text: text.replace('"seed":13', '"seed":"x"'), {100}),
    (lambda text: text.replace('"index":0', '"index":-1'), set()),
    (lambda text: text.replace("of this", "of that"), set()),
    (lambda text: "", set()),
    (lambda text: text.partition("\n")[0] + "\n" + "[" * 9999, set()),
]


@pytest.mark.parametrize(("cut", "kept"), CUTS)
def test_what_is_whole_of_an_interrupted_evaluation_is_kept(
    tmp_path: Path, cut: Callable[[str], str], kept: set[int]
) -> None:
    interrupted(tmp_path / "r.json")
    path = tmp_path / "r.unfinished.jsonl"
    path.write_text(cut(path.read_text()))
    store = PredictionStore(tmp_path / "r.json", "of this")
    assert store.finished("t") == kept
    for seed in {100, 13} - kept:
        store.add("t", seed, [a_prediction(seed=seed)])
    store.write()
    store.forget()
    assert not path.exists()
    for seed in (100, 13):
        assert read_predictions(tmp_path / "r.predictions.jsonl", seed)[1] == 0


@pytest.mark.parametrize("manifest", ["3", "[1]", '{"tasks": 3}', '{"tasks": [{}]}', '{"tasks": [["a"]]}', "[" * 9999])
def test_a_collection_that_is_no_longer_good_does_not_stop_a_report(manifest: str, tmp_path: Path) -> None:
    collection = make_collection(tmp_path / "collection")
    (collection / "manifest.json").write_text(manifest)
    config = {"collection": str(collection)}
    path = write_results(tmp_path / "a.json", "Raw LM", {"mood": [0.5, 0.6]}, config=config)
    path.with_suffix(".predictions.jsonl").write_text(prediction_line(a_prediction(task="mood")))
    assert f"The collection {collection} is not there" in report([path], tmp_path / "out").read_text()
