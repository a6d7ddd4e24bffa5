"""Files that commands left, with anything in their place: the next command works or says one sentence, no traceback."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import WORDS, evaluate_config, make_collection, train_config
from maml_en_llm.cli import main
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.models import new_gpt2, save_model, train_tokenizer
from maml_en_llm.training.loop import train

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 15))
ODD = [None, True, -1, 0, 1e308, float("nan"), float("inf"), 1 << 70, "", "x", "\ud800", "\x1b[31m", "[red]", [], {}]
leaves = st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutations(draw: Any, valid: Any) -> Any:
    """`valid`, one to three of whose parts, at any depth, are replaced, removed, doubled or joined by another."""
    whole = {"": copy.deepcopy(valid)}
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = whole
        key: Any = ""
        while isinstance(inner := holder[key], dict | list) and inner and draw(st.integers(0, 5)):
            holder = inner
            key = draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        how = draw(st.sampled_from(["replace", "remove", "join"]))
        if how == "remove" and holder is not whole:
            del holder[key]
        elif how == "join" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif how == "join" and isinstance(holder, dict) and holder is not whole:
            holder[draw(st.text(max_size=5))] = draw(values)
        else:
            holder[key] = draw(values)
        if not isinstance(whole[""], dict | list):
            break
    return whole[""]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection, a model, a finished run, its results, and an evaluation that was stopped."""
    folder = tmp_path_factory.mktemp("made")
    make_collection(folder / "c")
    tokenizer = train_tokenizer([" ".join(WORDS)] * 5, vocabulary=300, context=256)
    save_model(new_gpt2(tokenizer, layers=1, width=8, heads=2, context=256), tokenizer, folder / "tiny")
    whole = train_config(folder / "c", folder / "tiny", folder / "whole", "metaicl", batches=2, demonstrations=1)
    train(whole)
    scored = evaluate_config(folder / "c", folder / "whole" / "model", folder / "results.json", max_examples=2)
    evaluate(scored)
    first = folder / "results.predictions.jsonl"
    lines = [json.loads(line) for line in first.read_text().splitlines()]
    (folder / "half.json").write_text((folder / "results.json").read_text())
    (folder / "half.unfinished.jsonl").write_text(json.dumps({"of": "x"}) + "\n" + json.dumps({"rows": lines[:2]}))
    return folder


def run(words: list[str | Path]) -> None:
    """Ends with 0, or with 2 and a sentence."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    said = err.getvalue()
    assert code in (0, 2)
    assert "Traceback" not in said
    assert "is a defect" not in said
    if code == 2:
        assert said.strip()


fuzz = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextlib.contextmanager
def replaced(path: Path, text: str) -> Any:
    before = path.read_bytes()
    path.write_bytes(text.encode("utf-8", "replace"))
    try:
        yield
    finally:
        path.write_bytes(before)


@fuzz
@given(st.data())
def test_scoring_a_model_with_a_record_of_any_shape(made: Path, data: st.DataObject) -> None:
    path = made / "whole" / "model" / "maml_en_llm.json"
    words = ["evaluate", "--collection", made / "c", "--setting", "small", "--model", made / "whole" / "model"]
    words += ["--max-examples", "1", "--seeds", "100", "--device", "cpu", "--output", made / "new.json"]
    with replaced(path, json.dumps(data.draw(mutations(json.loads(path.read_text()))))):
        run(words)
    for left in made.glob("new.*"):
        left.unlink()


@fuzz
@given(st.data())
def test_a_run_goes_on_or_says_why_whatever_its_files_hold(made: Path, data: st.DataObject) -> None:
    cut = made / "cut"
    shutil.rmtree(cut, ignore_errors=True)
    shutil.copytree(made / "whole", cut, ignore=shutil.ignore_patterns("model"))
    name = data.draw(st.sampled_from(["run.json", "data.json", "metrics.jsonl", "config.yaml"]))
    text = (cut / name).read_text()
    if name == "metrics.jsonl":
        lines = [json.loads(line) for line in text.splitlines()]
        text = "\n".join(json.dumps(data.draw(mutations(line))) for line in lines)
    elif name == "config.yaml":
        text = yaml.safe_dump(data.draw(mutations(yaml.safe_load(text))))
    else:
        text = json.dumps(data.draw(mutations(json.loads(text))))
    words = ["train", "--config", made / "whole" / "config.yaml", "--output", cut, "--resume"]
    with replaced(cut / name, text):
        run(words)


@fuzz
@given(st.data())
def test_an_evaluation_goes_on_or_says_why_whatever_its_files_hold(made: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["half.json", "half.unfinished.jsonl"]))
    text = (made / name).read_text()
    if name.endswith("jsonl"):
        text = "\n".join(json.dumps(data.draw(mutations(json.loads(line)))) for line in text.splitlines())
    else:
        text = json.dumps(data.draw(mutations(json.loads(text))))
    words = ["evaluate", "--collection", made / "c", "--setting", "small", "--model", made / "tiny"]
    words += ["--max-examples", "1", "--seeds", "100", "--device", "cpu", "--demonstrations", "1"]
    words += ["--max-tokens", "128", "--max-tokens-per-example", "24", "--output", made / "half.json"]
    before = {path: path.read_bytes() for path in made.glob("half.*")}
    try:
        with replaced(made / name, text):
            run(words)
            (made / name).touch()
    finally:
        for path in made.glob("half.*"):
            path.unlink()
        for path, content in before.items():
            path.write_bytes(content)
