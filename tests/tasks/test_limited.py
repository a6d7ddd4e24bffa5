"""Limited data: the same share of every label, as a view and as a copy."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maml_en_llm.cli import main
from maml_en_llm.methods.metaicl import MetaICL
from maml_en_llm.tasks.collection import Example, load_collection
from maml_en_llm.tasks.limited import Limited, limited, stratified_indices, validation_split
from maml_en_llm.training.data import training_examples


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=300), st.sampled_from([0.05, 0.1, 0.25, 0.5, 1.0]))
def test_every_label_keeps_its_share_to_within_one_example(labels: list[str], share: float) -> None:
    kept = stratified_indices(labels, share, "task", 100)
    assert kept == sorted(set(kept))
    assert len(kept) == max(round(len(labels) * share), 1)
    counts = Counter(labels[index] for index in kept)
    for label, number in Counter(labels).items():
        assert abs(counts[label] - number * share) < 1


def test_the_draw_depends_on_task_and_seed_alone() -> None:
    labels = ["a", "b"] * 200
    first = stratified_indices(labels, 0.1, "task", 100)
    assert first == stratified_indices(labels, 0.1, "task", 100)
    assert first != stratified_indices(labels, 0.1, "task", 13)
    assert first != stratified_indices(labels, 0.1, "other", 100)
    assert first[:5] == stratified_indices(np.array(labels).tolist(), 0.1, "task", 100)[:5]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        stratified_indices(["a"], share)


def test_a_view_does_not_copy() -> None:
    examples = [Example(f"x{n}", "ab"[n % 2], ("a", "b")) for n in range(100)]
    view = limited(examples, "task")
    assert isinstance(view, Limited)
    assert len(view) == 10
    assert Counter(example.output for example in view) == {"a": 5, "b": 5}
    assert view[0] is examples[view.indices[0]]
    assert view[2:4] == [view[2], view[3]]


def test_tasks_without_fixed_labels_are_drawn_plainly() -> None:
    free = [Example(f"x{n}", f"y{n}") for n in range(50)]
    choices = [Example(f"x{n}", f"y{n}", (f"y{n}", "z")) for n in range(50)]
    assert len(limited(free, "task")) == len(limited(choices, "task")) == 5


def test_the_written_copy_equals_the_view(
    tmp_path: Path, collection_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = load_collection(collection_folder)
    flags = ["--collection", str(collection_folder), "--output", str(tmp_path / "small")]
    assert main(["tasks", "limit", *flags]) == 0
    small = load_collection(tmp_path / "small")
    assert list(small) == list(whole)
    for name in whole:
        assert list(small[name].train) == list(limited(whole[name].train, name))
        assert list(small[name].test) == list(whole[name].test)
        assert small[name].kind == whole[name].kind
    assert small.setting("small") == whole.setting("small")
    manifest = json.loads((tmp_path / "small" / "manifest.json").read_text())
    assert manifest["tasks"][0]["limited"] == {"share": 0.1, "seed": 100}
    assert main(["tasks", "limit", *flags]) == 2
    assert "exists already" in capsys.readouterr().err


def test_training_takes_limited_data(tmp_path: Path, starter_folder: Path) -> None:
    collection = load_collection(starter_folder)
    setting = collection.setting("starter")
    config: dict[str, Any] = {
        "collection": starter_folder,
        "setting": "starter",
        "model": "m",
        "output": tmp_path / "run",
    }
    complete = training_examples(MetaICL(**config), collection, setting)
    some = training_examples(MetaICL(**config, data_amount="limited"), collection, setting)
    assert {len(examples) for examples in complete.values()} == {300, 120}
    assert {len(examples) for examples in some.values()} == {30, 12}
    assert list(some) == list(setting.train)


def test_a_fifth_of_every_label_is_held_out_for_validation() -> None:
    examples = [Example(str(i), "ab"[i % 4 == 0], ("a", "b")) for i in range(200)]
    rest, held_out = validation_split(examples, "task")
    assert Counter(e.output for e in held_out) == {"a": 30, "b": 10}
    assert sorted([*rest.indices, *held_out.indices]) == list(range(200))
    again = validation_split(examples, "task")
    assert (list(again[0].indices), list(again[1].indices)) == (list(rest.indices), list(held_out.indices))
