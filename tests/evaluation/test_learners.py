"""Heads and ways to choose, through `evaluate`, `adapt` and `train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import evaluate_config, make_collection, train_config
from maml_en_llm.config import AdaptConfig
from maml_en_llm.evaluation.adaptation import adapt
from maml_en_llm.evaluation.protocol import evaluate, head_label
from maml_en_llm.models import load_model, load_tokenizer
from maml_en_llm.prediction.features import Features
from maml_en_llm.prediction.heads.head import centred
from maml_en_llm.prediction.heads.prototype import Prototype
from maml_en_llm.prompts.demonstrations import fixed_demonstrations
from maml_en_llm.tasks.collection import load_collection
from maml_en_llm.training.data import training_batches
from maml_en_llm.training.loop import train

NO_PROMPTS: dict[str, Any] = {"max_tokens": None, "max_tokens_per_example": None}  # heads do not read them


def scores_of(output: Path, task: str, seed: int) -> list[list[float]]:
    lines = output.with_suffix(".predictions.jsonl").read_text().splitlines()
    return [row["scores"] for row in map(json.loads, lines) if (row["task"], row["seed"]) == (task, seed)]


def test_a_head_is_scored_as_on_plain_arrays(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    config = evaluate_config(
        collection_folder, model_folder, tmp_path / "r.json", learner="prototype", layer="last", **NO_PROMPTS
    )
    results = evaluate(config)
    assert results.row.label == "Prototype"
    assert (results.row.learner, results.row.labels_used, results.row.demonstrations) == ("prototype", 4, 4)
    task = load_collection(collection_folder)["mood"]
    features = Features(load_model(model_folder), load_tokenizer(model_folder), "last")
    for seed in (100, 13):
        shown = fixed_demonstrations(task.train, 4, "mood", seed)
        options = task.train[0].options
        labels = np.array([options.index(example.output) for example in shown])
        vectors = (features.vectors([e.input for e in some]) for some in (shown, list(task.test)))
        support, queries = centred(*vectors)
        expected = Prototype().scores(support, labels, queries, len(options))
        found = scores_of(config.output, "mood", seed)
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("learner", ["uniform", "majority", "logistic", "tfidf-nearest"])
def test_every_head_scores_tasks_of_every_kind(
    learner: str, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    keys = {"learner": learner, **NO_PROMPTS}
    results = evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "r.json", **keys))
    assert set(results.tasks) == {"mood", "choice"}


def test_the_set_transformer_learns_from_the_training_tasks(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maml_en_llm.prediction.heads import set_transformer

    learned: dict[str, Any] = {}
    real = set_transformer.train_set_transformer

    def few_steps(tasks: Any, **keys: Any) -> Any:
        learned.update(tasks)
        return real(tasks, **keys, steps=2, episodes=2)

    monkeypatch.setattr(set_transformer, "train_set_transformer", few_steps)
    keys = {"learner": "set-transformer", **NO_PROMPTS}
    results = evaluate(evaluate_config(make_collection(tmp_path / "tasks"), model_folder, tmp_path / "r.json", **keys))
    assert results.row.label == "Set transformer"
    assert set(learned) == {"colour", "size"}


@pytest.mark.parametrize("choose", ["balanced", "bm25", "nearest", "diverse"])
@pytest.mark.parametrize("bank", ["own", "all"])
def test_ways_to_choose(choose: Any, bank: Any, collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    alone = choose in ("bm25", "nearest")
    if bank == "all" and not alone:
        with pytest.raises(ValueError, match=f"bank is set but choose={choose} does not read it"):
            evaluate_config(collection_folder, model_folder, tmp_path / "r.json", choose=choose, bank=bank)
        return
    config = evaluate_config(collection_folder, model_folder, tmp_path / "r.json", choose=choose, bank=bank)
    results = evaluate(config)
    assert results.seeds == ((100,) if alone else (100, 13))
    assert results.row.labels_used == (0 if bank == "all" else 20 if alone else 4)
    assert results.row.label == f"Raw LM, {choose}" + (" of all tasks" if bank == "all" else "")
    few = evaluate_config(collection_folder, model_folder, tmp_path / "random.json", seeds=(100,))
    evaluate(few)
    assert scores_of(config.output, "mood", 100) != scores_of(few.output, "mood", 100)


def test_groups_draw_for_each_seed(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"choose": "nearest", "choose_groups": 2}
    results = evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "r.json", **keys))
    assert results.seeds == (100, 13)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": "logistic"}, "max_tokens is set but learner=logistic does not read it"),
        ({"learner": "logistic", "calibrate": True}, "does not read it"),
        ({"choose_groups": 2}, "choose_groups is set but choose=random does not read it"),
        ({"layer": "last"}, "layer is set but choose=random does not read it"),
        ({"choose": "nearest", "demonstrations": 0}, "choose is set but demonstrations=0 does not read it"),
        ({"choose": "nearest", "choose_groups": -1}, "choose_groups is -1"),
        ({"choose": "nearest", "layer": "first"}, "layer is first; it must be words, middle, last or a number"),
        ({"learner": "magic", **NO_PROMPTS}, "learner is 'magic'; it must be"),
        (
            {"learner": "majority", "demonstrations": 0, **NO_PROMPTS},
            "demonstrations is 0 but learner=majority learns from them",
        ),
    ],
)
def test_keys_that_say_nothing_are_refused(
    changes: dict[str, Any], message: str, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "r.json", **changes))
    assert not (tmp_path / "r.json").exists()


def test_adapting_with_nearest_demonstrations(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    config = evaluate_config(collection_folder, model_folder, tmp_path / "r.json", choose="nearest", max_examples=2)
    keys = vars(config) | {"adaptation_examples": 3, "adaptation_tokens": 64}
    assert "nearest" in adapt(AdaptConfig(**keys)).row.label
    with pytest.raises(ValueError, match="learner is logistic but only the model itself adapts"):
        AdaptConfig(**keys | {"learner": "logistic", "choose": "random", **NO_PROMPTS})


@pytest.mark.parametrize("choose", ["balanced", "bm25", "nearest", "diverse"])
def test_training_prompts_show_what_is_chosen(
    choose: Any, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    config = train_config(collection_folder, model_folder, tmp_path / "run", "metaicl", choose=choose, max_tokens=256)
    sampler = training_batches(config, load_collection(collection_folder), load_tokenizer(model_folder))
    encoded: list[tuple[str, int, list[int]]] = []
    real = sampler.encode  # type: ignore[attr-defined]

    def remember(name: str, target: int, shown: list[int]) -> Any:
        encoded.append((name, target, shown))
        return real(name, target, shown)

    sampler.encode = remember  # type: ignore[attr-defined]
    first = [sampler.batch(number).token_ids for number in range(20)]
    collection = load_collection(collection_folder)
    for name, target, shown in encoded:
        examples = collection[name].train
        assert len(shown) == 3
        assert examples[target].input not in [examples[index].input for index in shown]
    again = training_batches(config, collection, load_tokenizer(model_folder))
    assert [batch.tolist() for batch in first] == [again.batch(number).token_ids.tolist() for number in range(20)]


def test_a_model_trained_with_nearest_demonstrations_says_so(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    model = train(train_config(collection_folder, model_folder, tmp_path / "run", "metaicl", choose="nearest"))
    results = evaluate(evaluate_config(collection_folder, model, tmp_path / "r.json", choose="nearest"))
    assert results.row.label == "MetaICL trained with nearest, nearest"


@pytest.mark.parametrize(
    ("trained", "label"),
    [
        ({"method": "metaicl", "choose": "nearest", "layer": "last"}, "MetaICL trained with nearest"),
        ({"method": "nearest-demonstrations"}, "Nearest demonstrations"),
    ],
)
def test_demonstrations_are_chosen_as_the_model_was_trained(
    trained: dict[str, Any], label: str, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    model = train(train_config(collection_folder, model_folder, tmp_path / "run", **trained))
    said = {"choose": trained.get("choose", "bm25")} | {k: v for k, v in trained.items() if k == "layer"}
    told = evaluate(evaluate_config(collection_folder, model, tmp_path / "told.json", **said))
    default = evaluate(evaluate_config(collection_folder, model, tmp_path / "default.json"))
    drawn = evaluate(evaluate_config(collection_folder, model, tmp_path / "drawn.json", choose="random"))
    assert (default.row.label, default.row.choose) == (label, said["choose"])
    assert (drawn.row.label, drawn.row.choose) == (f"{label}, random", "random")
    predictions = [(tmp_path / f"{n}.predictions.jsonl").read_bytes() for n in ("told", "default", "drawn")]
    assert predictions[0] == predictions[1] != predictions[2]
    assert default.row.labels_used == told.row.labels_used > drawn.row.labels_used


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": "same_task", "choose": "nearest"}, "choose is set but sampling=same_task does not read it"),
        ({"layer": "last"}, "layer is set but choose=random does not read it"),
    ],
)
def test_training_keys_that_say_nothing_are_refused(
    changes: dict[str, Any], message: str, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train_config(collection_folder, model_folder, tmp_path / "run", **changes)


def test_names_of_heads() -> None:
    assert [head_label(name) for name in ("tfidf-logistic", "set-transformer")] == [
        "TF-IDF logistic",
        "Set transformer",
    ]
