from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from maml_en_llm.starter.drawing import domains, fill, of_pools, read, with_articles
from maml_en_llm.starter.page import starter_page
from maml_en_llm.starter.tasks import HELD_OUT_DOMAINS, SMALL, TASKS, starter_examples
from maml_en_llm.tasks.check import check_collection
from maml_en_llm.tasks.collection import Collection, Example, load_collection
from maml_en_llm.tasks.seeds import random_generator

FIXED = ("classification", "nli", "paraphrase")
# Of all files of seed 0. It changes when words, facts, tasks or settings do: then also remake docs/starter-tasks.md.
SHA256 = "2eb45b4bd4f501841edef76d6a824d23c29b58e328a1a9ae91030a5c64173de8"


@pytest.fixture(scope="module")
def collection(starter_folder: Path) -> Collection:
    return load_collection(starter_folder)


@pytest.fixture(scope="module")
def examples(collection: Collection) -> dict[str, dict[str, list[Example]]]:
    return {name: {"train": list(task.train), "test": list(task.test)} for name, task in collection.items()}


def test_words_and_facts_are_single_plain_words() -> None:
    categories = [category for domain in domains().values() for category in domain.items()]
    assert len(categories) >= 110
    assert len({name for name, _ in categories}) == len(categories)
    for name, found in categories:
        assert 20 <= len(found) <= 40, name
        assert all(re.fullmatch("[a-z]+", word) for word in found), name
    for name, domain in domains().items():
        found = [word for category in domain.values() for word in category]
        assert len(set(found)) == len(found), name
    for name, pairs in read("facts.yaml").items():
        assert all(re.fullmatch("[a-z]+|[0-9]+", word) for pair in pairs.items() for word in pair), name


def test_no_key_stands_twice_in_the_data() -> None:
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
            keys = [key.value for key, _ in node.value]
            assert len(set(keys)) == len(keys), Counter(keys).most_common(1)
            return super().construct_mapping(node, deep)

    for name in ("words.yaml", "facts.yaml", "tasks.yaml"):
        path = Path(__file__).parents[2] / "src/maml_en_llm/starter" / name
        assert yaml.load(path.read_text(), Strict)


def test_the_files_are_always_the_same(starter_folder: Path) -> None:
    digest = hashlib.sha256()
    for path in sorted(path for path in starter_folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(starter_folder).as_posix().encode() + b"\0" + path.read_bytes())
    assert digest.hexdigest() == SHA256


def test_another_seed_gives_other_examples(examples: dict[str, dict[str, list[Example]]]) -> None:
    for task in TASKS[::30]:
        assert starter_examples(task) == examples[task.name]
        other = starter_examples(task, seed=1)
        assert {split: len(found) for split, found in other.items()} == {"train": task.train, "test": 100}
        assert other["test"] != examples[task.name]["test"]


def test_a_task_with_too_few_examples_says_so() -> None:
    poor = of_pools("poor", "d", "Say which.", {"a": ("one", "two"), "b": ("three", "four")})
    with pytest.raises(ValueError, match="the starter task poor has too few different examples for 100 in test"):
        starter_examples(poor)


def test_the_collection_obeys_the_rules(collection: Collection) -> None:
    assert check_collection(collection) == []
    assert Counter(task.kind for task in collection.values()) == Counter(task.kind for task in TASKS)
    for entry in json.loads((collection.path / "manifest.json").read_text())["tasks"]:
        assert set(entry) == {"name", "kind", "domain", "instruction", "licence"}
        assert entry["instruction"].endswith(".")
    assert len(TASKS) == len(collection) >= 60


def test_examples_are_short_distinct_and_balanced(examples: dict[str, dict[str, list[Example]]]) -> None:
    for task in TASKS:
        splits = examples[task.name]
        assert len(splits["train"]) == task.train
        assert len(splits["test"]) == 100
        questions = [(e.input, *sorted(e.options)) for split in splits.values() for e in split]
        assert len(set(questions)) == len(questions) >= 200, task.name
        inputs = {split: {e.input for e in found} for split, found in splits.items()}
        assert not inputs["train"] & inputs["test"], task.name
        for split, found in splits.items():
            assert all(1 <= len(e.input.split()) <= 20 and e.input == e.input.lower() for e in found), task.name
            if task.kind in FIXED:
                assert len(inputs[split]) == len(found), task.name
                counts = Counter(e.output for e in found)
                assert 2 <= len(counts) <= 4
                assert max(counts.values()) - min(counts.values()) <= 2, task.name
            if task.kind == "multiple_choice_qa":
                places = Counter(e.options.index(e.output) for e in found)
                assert len(places) == len(found[0].options) in (3, 4)
                assert min(places.values()) > len(found) / len(places) / 2, task.name
            assert all(" " not in option for e in found for option in e.options), task.name
        tokens = [len(f"{e.input} {e.output}".split()) for e in splits["train"]]
        assert 16 * sum(tokens) / len(tokens) < 350, task.name


def test_no_two_tasks_are_the_same_up_to_the_names_of_labels(examples: dict[str, dict[str, list[Example]]]) -> None:
    answers = {
        name: {(e.input, e.options if not fixed else ()): e.output for split in splits.values() for e in split}
        for name, splits in examples.items()
        for fixed in [len({e.options for e in splits["train"]}) == 1]
    }
    for one, other in combinations(answers, 2):
        assert set(answers[one]) != set(answers[other])
        if one.endswith("-comparison") and other.endswith("-turn"):
            continue  # half of the latter's inputs are like the former's, the others are turned round
        shared = sorted(set(answers[one]) & set(answers[other]))
        if len(shared) >= min(len(answers[one]), len(answers[other])) / 5:  # labels must not translate each other
            pairs = {(answers[one][key], answers[other][key]) for key in shared}
            labels = {first for first, _ in pairs}, {second for _, second in pairs}
            assert not len(pairs) == len(labels[0]) == len(labels[1]), (one, other)


def test_settings(collection: Collection) -> None:
    tasks = {task.name: task for task in TASKS}
    names = [path.stem for path in (Path(__file__).parents[2] / "src/maml_en_llm/sources/settings").glob("*.json")]
    assert sorted(collection.setting_names) == sorted([*names, "starter", "starter-families", "starter-validation"])
    kinds = {
        "class_to_class": ({"classification"}, {"classification"}),
        "non_class_to_class": ({"nli", "paraphrase", "multiple_choice_qa", "free_form"}, {"classification"}),
        "qa_to_qa": ({"multiple_choice_qa"}, {"multiple_choice_qa"}),
        "non_qa_to_qa": ({"classification", "nli", "paraphrase", "free_form"}, {"multiple_choice_qa"}),
        "non_nli_to_nli": ({"classification", "paraphrase", "multiple_choice_qa", "free_form"}, {"nli"}),
        "non_paraphrase_to_paraphrase": ({"classification", "nli", "multiple_choice_qa", "free_form"}, {"paraphrase"}),
        "starter": ({"classification"}, {"classification"}),
        "starter-families": ({"classification"}, {"classification"}),
    }
    for name in collection.setting_names:
        setting = collection.setting(name)
        seen = {tasks[task].domain for task in setting.train}
        assert not seen & set(HELD_OUT_DOMAINS)
        assert set(setting.unseen_domain_test) == {task for task in setting.test if tasks[task].domain not in seen}
        assert len(setting.test) >= 4
        assert len(setting.unseen_domain_test) >= 2
        assert len(setting.train) >= 10
        assert not set(setting.train) & set(setting.test)
        assert all(tasks[task].kind != "free_form" for task in setting.test)
        if name in kinds:
            found = {tasks[task].kind for task in setting.train}, {tasks[task].kind for task in setting.test}
            assert found == kinds[name], name
    low = collection.setting("hr_to_lr")
    assert max(tasks[task].train for task in low.test) <= SMALL < min(tasks[task].train for task in low.train)
    start = collection.setting("starter")
    assert start.test == start.unseen_domain_test
    validation = collection.setting("starter-validation")
    assert set(validation.train) | set(validation.test) <= set(start.train)
    assert sum({"foo", "dax", "zup", "wug"} & set(collection[t].train[0].options) != set() for t in start.test) >= 4


def test_filling_templates() -> None:
    assert with_articles("a apple and a unit and a umbrella") == "an apple and a unit and an umbrella"
    filled = fill(random_generator("fill"), "{x} {x2} {x}", {"x": ("one", "two")}).split()
    assert filled[0] == filled[2] != filled[1]


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs/starter-tasks.md"
    assert page.read_text(encoding="utf-8") == starter_page(), "remake it: its first line says how"
