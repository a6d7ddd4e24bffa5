from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from builders import WORDS
from maml_en_llm.models import load_model
from maml_en_llm.prediction.features import Features
from maml_en_llm.prediction.from_features import FromFeatures
from maml_en_llm.prediction.heads.logistic import Logistic
from maml_en_llm.prediction.heads.nearest import Nearest
from maml_en_llm.prediction.heads.tfidf_nearest import TfidfNearest
from maml_en_llm.prediction.predictor import LabelledTask, Predictor
from maml_en_llm.prompts.demonstrations import fixed_demonstrations
from maml_en_llm.tasks.collection import Example

OPTIONS = ("red", "blue", "green")
BANK = [Example(f"{a} {b}", OPTIONS[len(a) % 3], OPTIONS) for a in WORDS for b in WORDS[:3]]
QUERIES = [Example(f"{word} yak", OPTIONS[0], OPTIONS) for word in WORDS]


@pytest.fixture
def features(model_folder: Path, tokenizer: Any) -> Features:
    return Features(load_model(model_folder), tokenizer)


def test_a_head_learns_from_the_demonstrations_of_the_prompt(features: Features) -> None:
    predictor = FromFeatures(Logistic(), 16, features)
    assert isinstance(predictor, Predictor)
    found = predictor.scores(LabelledTask("colour", BANK), QUERIES, seed=13)
    shown = fixed_demonstrations(BANK, 16, "colour", 13)
    vectors, asked = (features.vectors([e.input for e in some]) for some in (shown, QUERIES))
    mean = vectors.mean(axis=0)
    x, q = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (vectors - mean, asked - mean))
    model = LogisticRegression(C=100.0, max_iter=1000).fit(x, [e.output for e in shown])
    expected = -model.predict_log_proba(q)[:, [list(model.classes_).index(option) for option in OPTIONS]]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert predictor.labels_used(LabelledTask("colour", BANK)) == 16


def test_options_that_differ_by_row_are_scored_each_in_its_place() -> None:
    bank = [Example("ant", "red"), Example("bee", "blue"), Example("cat", "green")]
    queries = [Example("bee", "x", ("green", "blue")), Example("bee", "x", ("unknown", "red"))]
    found = FromFeatures(TfidfNearest(), 3).scores(LabelledTask("t", bank), queries, seed=1)
    assert found[0][1] < found[0][0]
    assert found[1][1] < found[1][0]


def test_each_seed_draws_other_labels(features: Features) -> None:
    predictor = FromFeatures(Nearest(), 4, features)
    task = LabelledTask("colour", BANK)
    assert (
        predictor.scores(task, QUERIES, 1) == predictor.scores(task, QUERIES, 1) != predictor.scores(task, QUERIES, 2)
    )


def test_all_labels_are_used_where_there_are_fewer(features: Features) -> None:
    task, predictor = LabelledTask("t", BANK[:7]), FromFeatures(Nearest(), 300, features)
    assert predictor.labels_used(task) == 7
    np.testing.assert_allclose(
        predictor.scores(task, QUERIES, 1), FromFeatures(Nearest(), 7, features).scores(task, QUERIES, 1)
    )
