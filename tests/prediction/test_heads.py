from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from maml_en_llm.prediction.guessing import Guessing
from maml_en_llm.prediction.heads import head_names, head_type
from maml_en_llm.prediction.heads.distilled_logistic import DistilledLogistic
from maml_en_llm.prediction.heads.head import UNSEEN, centred
from maml_en_llm.prediction.heads.logistic import Logistic
from maml_en_llm.prediction.heads.majority import Majority
from maml_en_llm.prediction.heads.nearest import Nearest
from maml_en_llm.prediction.heads.prototype import Prototype
from maml_en_llm.prediction.heads.set_transformer import Network, SetTransformer
from maml_en_llm.prediction.heads.tfidf_logistic import TfidfLogistic
from maml_en_llm.prediction.heads.tfidf_nearest import TfidfNearest
from maml_en_llm.prediction.predictor import LabelledTask
from maml_en_llm.tasks.collection import Example

ALL = [
    SetTransformer(Network(5, classes=4, hidden=16).eval()) if kind is SetTransformer else kind()
    for kind in map(head_type, head_names())
]


def data(classes: int, seed: int = 0, support: int = 24, width: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Support vectors around a centre for each class, their labels, and queries."""
    generator = np.random.default_rng(seed)
    labels = np.arange(support) % classes
    centres = generator.normal(size=(classes, width))
    vectors = centres[labels] + generator.normal(size=(support, width))
    return vectors.astype(np.float32), labels, generator.normal(size=(40, width)).astype(np.float32)


def texts_of(vectors: np.ndarray) -> list[str]:
    return [" ".join(f"w{place}" for place, value in enumerate(row) if value > 0) for row in vectors]


def scores(head: Any, support: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int) -> np.ndarray:
    if head.reads == "texts":
        return head.scores(texts_of(support), labels, texts_of(queries), classes)
    return head.scores(support, labels, queries, classes)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_is_scikit_learns(classes: int) -> None:
    support, labels, queries = data(classes)
    expected = LogisticRegression(C=3.0, max_iter=1000).fit(support, labels).predict_log_proba(queries)
    np.testing.assert_allclose(Logistic(C=3.0).scores(support, labels, queries, classes), -expected, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_nothing_is_distilled_at_an_infinite_temperature(classes: int) -> None:
    support, labels, queries = data(classes)
    plain = Logistic(C=1.0).scores(support, labels, queries, classes)
    distilled = DistilledLogistic(C=1.0, temperature=np.inf, generations=2)
    np.testing.assert_allclose(distilled.scores(support, labels, queries, classes), plain, atol=2e-2)


def test_a_distilled_head_minimizes_its_formula() -> None:
    support, labels, queries = data(3)
    x, y = np.hstack([support, np.ones((24, 1))]), np.eye(3)[labels]

    def fit(teacher: np.ndarray | None) -> np.ndarray:
        def loss(flat: np.ndarray) -> float:
            w = flat.reshape(6, 3)
            value = -(y * log_softmax(x @ w, axis=1)).sum()
            if teacher is not None:
                own = log_softmax(x @ w / 2, axis=1)
                value += (np.exp(teacher) * (teacher - own)).sum()
            return float(1.5 * value + (w[:5] ** 2).sum() / 2)

        return minimize(loss, np.zeros(18), options={"gtol": 1e-4}).x.reshape(6, 3)  # gradients by differences

    teacher = log_softmax(x @ fit(None) / 2, axis=1)
    expected = -log_softmax(np.hstack([queries, np.ones((40, 1))]) @ fit(teacher), axis=1)
    found = DistilledLogistic(C=1.5, temperature=2.0).scores(support, labels, queries, 3)
    np.testing.assert_allclose(found, expected, atol=2e-2)


def test_nearest_predicts_as_one_neighbour_does() -> None:
    support, labels, queries = data(3)
    expected = KNeighborsClassifier(1, metric="cosine").fit(support, labels).predict(queries)
    np.testing.assert_array_equal(Nearest().scores(support, labels, queries, 3).argmin(axis=1), expected)


def test_prototype_predicts_as_the_nearest_centroid_does_and_is_a_softmax_of_distances() -> None:
    support, labels, queries = data(3)
    found = Prototype().scores(support, labels, queries, 3)
    np.testing.assert_array_equal(found.argmin(axis=1), NearestCentroid().fit(support, labels).predict(queries))
    squares = [
        [((query - support[labels == label].mean(axis=0)) ** 2).sum() for label in range(3)] for query in queries
    ]
    np.testing.assert_allclose(found, -log_softmax(-np.array(squares), axis=1), atol=1e-5)


def test_majority_is_scikit_learns_prior() -> None:
    support, labels, queries = data(3, support=10)
    expected = DummyClassifier(strategy="prior").fit(support, labels).predict_proba(queries)
    np.testing.assert_allclose(np.exp(-scores(Majority(), support, labels, queries, 3)), expected)


def test_words_tell_texts_apart() -> None:
    support = ["a good film", "good and kind", "a bad film", "bad and cruel"]
    for head in (TfidfLogistic(), TfidfNearest()):
        found = head.scores(support, np.array([0, 0, 1, 1]), ["good", "bad", "unknown"], 2)
        assert found[0, 0] < found[0, 1]
        assert found[1, 1] < found[1, 0]
        assert found[2, 0] == pytest.approx(found[2, 1], abs=1e-3)


@pytest.mark.parametrize("head", ALL, ids=lambda head: type(head).__name__)
@given(st.integers(2, 4), st.integers(1, 20), st.integers(0, 1000))
@settings(max_examples=20)
def test_scores_are_negative_log_probabilities_whatever_the_order(
    head: Any, classes: int, examples: int, seed: int
) -> None:
    support, labels, queries = data(classes, seed, max(examples, 1))
    found = scores(head, support, labels, queries, classes)
    assert found.shape == (40, classes)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.exp(-found).sum(axis=1), 1, atol=1e-5)
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = scores(head, support[order], labels[order], queries, classes)
    np.testing.assert_allclose(np.exp(-shuffled), np.exp(-found), atol=2e-2)  # solvers stop early
    names = np.random.default_rng(seed).permutation(classes)  # other numbers for the same classes
    renamed = scores(head, support, names[labels], queries, classes)
    np.testing.assert_allclose(np.exp(-renamed[:, names]), np.exp(-found), atol=5e-3)


@pytest.mark.parametrize("head", ALL, ids=lambda head: type(head).__name__)
def test_a_class_without_an_example_comes_last(head: Any) -> None:
    support, labels, queries = data(2)
    found = scores(head, support, 2 * labels, queries, 4)
    assert (found[:, [1, 3]] == UNSEEN).all()
    assert (found[:, [0, 2]] < UNSEEN).all()
    only = scores(head, support, 0 * labels, queries, 2)
    assert (only.argmin(axis=1) == 0).all()


def test_texts_without_words_are_no_error() -> None:
    for head in (head for head in ALL if head.reads == "texts"):
        assert np.isfinite(head.scores(["", ""], np.array([0, 1]), ["", "a"], 2)).all()


def test_the_centre_of_the_examples_and_their_lengths_do_not_matter_once_centred() -> None:
    support, _, queries = data(2)
    plain = centred(support, queries)
    moved = centred(3 * support + 7, 3 * queries + 7)
    np.testing.assert_allclose(np.vstack(plain), np.vstack(moved), atol=1e-5)


def test_a_head_is_known_by_the_name_of_its_file() -> None:
    assert isinstance(head_type("tfidf-logistic")(), TfidfLogistic)
    with pytest.raises(ValueError, match=r"learner is 'logistics'; it must be one of in-context, .*logistic"):
        head_type("logistics")


def test_guessing_is_drawn_for_each_task_input_and_seed() -> None:
    task, other = LabelledTask("a", []), LabelledTask("b", [])
    examples = [Example(f"text {number}", "x", ("x", "y", "z")) for number in range(600)]
    found = np.array(Guessing().scores(task, examples, 100))
    shares = np.bincount(found.argmin(axis=1), minlength=3) / 600
    np.testing.assert_allclose(shares, 1 / 3, atol=0.06)  # three standard errors
    np.testing.assert_array_equal(Guessing().scores(task, examples[300:], 100), found[300:])
    for draw in (Guessing().scores(task, examples, 13), Guessing().scores(other, examples, 100)):
        assert 0.25 < (np.array(draw).argmin(axis=1) == found.argmin(axis=1)).mean() < 0.42
