"""The starter collection: small English tasks made by rule, the same files on every machine.

Written by the project, from its own words and facts (words.yaml, facts.yaml), so there is nothing to download.
docs/starter-tasks.md lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from ..tasks.collection import Example
from ..tasks.seeds import random_generator
from ..tasks.writing import write_manifest, write_setting, write_task
from .classification_tasks import CLASSIFICATION
from .drawing import StarterTask
from .free_form_tasks import FREE_FORM
from .nli_tasks import NLI
from .paraphrase_tasks import PARAPHRASE
from .question_tasks import QUESTIONS
from .reader_tasks import READER, UNSEEN_FAMILIES

TASKS: tuple[StarterTask, ...] = (*CLASSIFICATION, *READER, *NLI, *PARAPHRASE, *QUESTIONS, *FREE_FORM)
TEST_EXAMPLES = 100
SMALL = 120  # training examples of a task that hr_to_lr has as a target: the others have more

# No training task of any setting is about these, so that every setting has targets from unseen domains.
HELD_OUT_DOMAINS = ("animals", "food", "music")
# Targets whose domains do occur in training.
CLASSIFICATION_TARGETS = (
    "clothing-dax",
    "feelings-emotions",
    "grammar-tense",
    "messages-intent",
    "patterns-aba",
    "places-continents",
    "sport-results",
    "transport-land-air-sea",
)
# What the quick start's hyper-parameters are chosen on: training tasks of `starter` and nothing else.
VALIDATION_DOMAINS = ("clothing", "nature", "sport")
# Left to `starter-families`: pattern aba is what the family `ends` asks for, which no training task shall.
LIKE_UNSEEN_FAMILIES = ("patterns-aba",)
QUESTION_TARGETS = (
    "question-colours",
    "question-next",
    "question-opposites",
    "question-stands-twice",
    "question-who-has",
    "question-workplaces",
)


def starter_settings() -> dict[str, dict[str, list[str]]]:
    """Training and target tasks of the seven settings of the paper (its section 4.1), and of the quick start.

    `starter` has targets about other domains than its training tasks, `starter-families` such that also follow rules
    that no training task has; `starter-validation` holds training tasks of `starter` out, for choices.
    """

    def setting(trains: Callable[[StarterTask], bool], tests: Callable[[StarterTask], bool]) -> dict[str, list[str]]:
        test = [task for task in TASKS if tests(task)]
        train = [t for t in TASKS if trains(t) and not tests(t) and t.domain not in HELD_OUT_DOMAINS]
        seen = {task.domain for task in train}
        return {
            "train": [task.name for task in train],
            "test": [task.name for task in test],
            "unseen_domain_test": [task.name for task in test if task.domain not in seen],
        }

    def of(*kinds: str) -> Callable[[StarterTask], bool]:
        return lambda task: task.kind in kinds

    def not_of(kind: str) -> Callable[[StarterTask], bool]:
        return lambda task: task.kind != kind

    def target(kind: str, named: tuple[str, ...]) -> Callable[[StarterTask], bool]:
        return lambda task: task.kind == kind and (task.name in named or task.domain in HELD_OUT_DOMAINS)

    classification = target("classification", CLASSIFICATION_TARGETS)
    questions = target("multiple_choice_qa", QUESTION_TARGETS)

    def of_unseen_family(task: StarterTask) -> bool:
        return task.name.rpartition("-")[2] in UNSEEN_FAMILIES

    def quick(task: StarterTask) -> bool:
        return task.kind == "classification" and task.name not in LIKE_UNSEEN_FAMILIES

    def held_out(task: StarterTask) -> bool:
        return task.kind == "classification" and task.domain in HELD_OUT_DOMAINS

    starter = setting(quick, lambda task: held_out(task) and not of_unseen_family(task))

    def trained(task: StarterTask) -> bool:
        return task.name in starter["train"]

    return {
        "hr_to_lr": setting(lambda task: task.train > SMALL, lambda task: task.train <= SMALL),
        "class_to_class": setting(of("classification"), classification),
        "non_class_to_class": setting(not_of("classification"), classification),
        "qa_to_qa": setting(of("multiple_choice_qa"), questions),
        "non_qa_to_qa": setting(not_of("multiple_choice_qa"), questions),
        "non_nli_to_nli": setting(not_of("nli"), of("nli")),
        "non_paraphrase_to_paraphrase": setting(not_of("paraphrase"), of("paraphrase")),
        "starter": starter,
        "starter-families": setting(quick, lambda task: held_out(task) and of_unseen_family(task)),
        "starter-validation": setting(trained, lambda task: trained(task) and task.domain in VALIDATION_DOMAINS),
    }


def starter_examples(task: StarterTask, seed: int = 0) -> dict[str, list[Example]]:
    """Examples of train and test: labels equally often, no example twice, no input in both.

    Two examples count as one when they have the same words in any order, the same options and the same answer.
    A multiple-choice question may come again in its split with other options.
    """
    generator = random_generator("starter", task.name, seed)
    fixed = task.kind not in ("multiple_choice_qa", "free_form")  # the same options for all examples
    seen: set[object] = set()
    used: dict[str, str] = {}  # the split of each input
    splits: dict[str, list[Example]] = {"train": [], "test": []}
    for split, count in (("test", TEST_EXAMPLES), ("train", task.train)):
        labels: Counter[str] = Counter()
        for _ in range(50 * count):
            example = task.draw(generator)
            key = (tuple(sorted(example.input.split())), frozenset(example.options), example.output)
            most = -(-count // len(example.options)) if fixed else count
            asked = used.get(example.input)
            again = asked == split and task.kind == "multiple_choice_qa"
            if key in seen or labels[example.output] == most or not (asked is None or again):
                continue
            seen.add(key)
            used[example.input] = split
            labels[example.output] += 1
            splits[split].append(example)
            if len(splits[split]) == count:
                break
        else:
            raise ValueError(f"the starter task {task.name} has too few different examples for {count} in {split}")
    return splits


def write_starter_collection(folder: Path, seed: int = 0) -> None:
    """Writes the starter tasks and their settings to `folder` as a collection (docs/collection-format.md)."""
    for task in TASKS:
        write_task(folder, task.name, starter_examples(task, seed))
    for name, lists in starter_settings().items():
        write_setting(folder, name, lists)
    write_manifest(folder, map(_entry, TASKS))


def _entry(task: StarterTask) -> Mapping[str, str]:
    return {
        "name": task.name,
        "kind": task.kind,
        "domain": task.domain,
        "instruction": task.instruction,
        "licence": "Apache-2.0",
    }
