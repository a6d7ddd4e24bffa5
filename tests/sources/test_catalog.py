"""The catalogue: complete, well formed, and right about two rows of every source and the real framing of its tasks."""

import json
import re
from pathlib import Path

import pyarrow as arrow
import pytest
import yaml

from maml_en_llm.sources import catalog
from maml_en_llm.sources.build import find_setting
from maml_en_llm.sources.catalog import Entry, catalogue, problems_of_entry
from maml_en_llm.sources.mappings import MissingColumn, as_text, fill, options_of, span, value_at
from maml_en_llm.tasks.collection import SETTING_KEYS

ENTRIES = catalogue()
ROWS = yaml.safe_load((Path(__file__).parent / "catalog_rows.yaml").read_text(encoding="utf-8"))
SETTINGS = sorted(path.stem for path in (Path(catalog.__file__).parent / "settings").glob("*.json"))
SHARED = Path(__file__).parents[3] / "shared" / "tasks"


def test_every_task_of_the_seven_settings_has_a_good_entry() -> None:
    assert len(SETTINGS) == 7
    lists = [find_setting(name, Path("none")) for name in SETTINGS]
    named = {task for setting in lists for key in SETTING_KEYS for task in setting[key]}
    assert named == set(ENTRIES)
    assert len(named) == 142
    assert {name: problems for name, entry in ENTRIES.items() if (problems := problems_of_entry(entry))} == {}


def test_tasks_without_a_repository_are_those_known_to_have_none() -> None:
    assert {name for name, entry in ENTRIES.items() if entry.hub is None} == {
        "unifiedqa:ai2_science_middle",
        "unifiedqa:natural_questions_with_dpr_para",
        "unifiedqa:openbookqa_with_ir",
        "unifiedqa:qasc_with_ir",
    }


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.hub is not None])
def test_two_rows_of_the_sources_shape(name: str) -> None:
    expected, entry = ROWS[name], ENTRIES[name]
    assert len(expected["rows"]) == 2
    found = list(entry.examples(expected["rows"]))
    assert found[0].input == expected["input"]
    assert [example.output for example in found] == [output for output in expected["outputs"] if output is not None]
    if "options" in expected:
        assert found[0].options == tuple(expected["options"])
    else:
        assert found[0].options == entry.options
    # Rows come out of Parquet, so the fixture must be a table.
    assert len(arrow.Table.from_pylist(expected["rows"])) == 2


def test_an_entry_with_a_wrong_field_is_named() -> None:
    entry = Entry("x", "quiz", "none", "sure", hub="glue", map="labelled", parameters={"input": "{a}"})
    problems = " ".join(problems_of_entry(entry))
    for part in ("kind", "verified", "no owner", "label"):
        assert part in problems


def test_a_renamed_column_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(MissingColumn, match=r"'sentence1'; there are: text, label"):
        list(ENTRIES["glue-rte"].examples([{"text": "x", "label": 0}]))


def test_paths_and_texts() -> None:
    row = {"a": {"b": [{"c": "x  y"}]}, "a.b": "whole", "n": 3.0, "t": True, "none": None}
    assert value_at(row, "a.b") == "whole"
    assert value_at({"a": row["a"]}, "a.b.0.c") == "x  y"
    assert value_at({"a": row["a"]}, "a.b.7.c") is None
    assert fill("{n} {t}", row) == "3 true"
    assert fill("{none}!", row) is None
    assert as_text(float("nan")) is None
    with pytest.raises(ValueError, match="not one text"):
        as_text({"b": 1})


def test_a_long_context_is_cut_to_a_window_that_holds_the_answer() -> None:
    words = [f"w{number}" for number in range(500)]
    row = {"question": "which?", "context": " ".join(words), "answer": "w321"}
    found = list(span([row], question="{question}", context="context", answer="{answer}", most_words=200))
    assert found == list(span([row], question="{question}", context="context", answer="{answer}", most_words=200))
    assert " w321 " in f" {found[0].input} "
    assert len(found[0].input.split(" ")) <= 201


# The framing and the label words of the tasks of which real examples are at hand.


def real_tasks() -> list[str]:
    return sorted(name for name, entry in ENTRIES.items() if entry.verified == "content")


@pytest.mark.parametrize("name", real_tasks())
def test_framing_equals_that_of_real_examples(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no real tasks at {SHARED}")
    entry = ENTRIES[name]
    with (SHARED / "data" / name / "train.jsonl").open(encoding="utf-8") as file:
        real = [json.loads(line) for _, line in zip(range(300), file, strict=False)]
    if "words" in entry.parameters:
        assert all(sorted(example["options"]) == list(options_of(entry.parameters["words"])) for example in real)
    elif entry.map == "ordered_pair":
        assert all(sorted(example["options"]) == list(entry.options) for example in real)
    template = entry.parameters.get("input", "")
    if entry.map == "supported_answer" or not template:
        return
    parts = re.split(r"\{[^{}]+\}", template)
    pattern = re.compile(r"\s*.*\s*".join(re.escape(part.strip()) for part in parts), re.DOTALL)
    assert all(pattern.fullmatch(example["input"]) for example in real)
