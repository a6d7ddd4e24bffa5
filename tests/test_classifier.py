from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from builders import WORDS
from maml_en_llm import InContextClassifier, predict
from maml_en_llm.classifier import length_preferred
from maml_en_llm.prediction.heads.tfidf_logistic import TfidfLogistic
from maml_en_llm.prompts.demonstrations import fixed_demonstrations
from maml_en_llm.starter import starter_model
from maml_en_llm.starter.drawing import words
from maml_en_llm.tasks.collection import Example

TEXTS = [f"{a} {b}" for a in WORDS for b in WORDS[:3]]
LABELS = ["glad" if text < "gnu" or text.endswith("ant") else "sad" for text in TEXTS]
FRUIT, INSECTS = words("fruit")[:20], words("insects")[:20]


@pytest.fixture
def classifier(model_folder: Path) -> InContextClassifier:
    return InContextClassifier(model_folder, device="cpu", demonstrations=5).fit(TEXTS[:20], LABELS[:20])


def test_one_draw_predicts_what_predict_does(classifier: InContextClassifier, model_folder: Path) -> None:
    bank = [Example(text, label) for text, label in zip(TEXTS[:20], LABELS[:20], strict=True)]
    shown = fixed_demonstrations(bank, 5, "classifier", 100)
    probabilities = classifier.predict_proba(TEXTS[20:30])
    for text, row in zip(TEXTS[20:30], probabilities, strict=True):
        scores = predict(str(model_folder), shown, ["glad", "sad"], text, "cpu")
        shares = np.exp([-scores["glad"], -scores["sad"]])
        np.testing.assert_allclose(row, shares / shares.sum(), atol=1e-5)


def test_several_draws_are_averaged(classifier: InContextClassifier) -> None:
    alone = [classifier.set_params(seeds=[seed]).predict_proba(TEXTS[20:]) for seed in (100, 13)]
    assert not np.allclose(*alone)
    for seeds in (2, [100, 13]):
        both = classifier.set_params(seeds=seeds)
        np.testing.assert_allclose(both.predict_proba(TEXTS[20:]), np.mean(alone, axis=0), atol=1e-6)
    best = np.mean(alone, axis=0).argmax(axis=1)
    assert list(both.predict(TEXTS[20:])) == [["glad", "sad"][place] for place in best]


def test_other_rows_of_a_call_do_not_matter(classifier: InContextClassifier) -> None:
    texts = [*TEXTS[20:40], "long " * 300, "", "\n"]
    with pytest.warns(UserWarning, match="demonstrations fit in 256 tokens"):
        together = classifier.predict_proba(texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = np.concatenate([classifier.predict_proba([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("choose", ["given", "random", "balanced", "bm25", "nearest", "diverse"])
@pytest.mark.parametrize("learner", ["in-context", "tfidf-logistic", "prototype"])
def test_every_way_to_choose_and_to_learn(model_folder: Path, choose: Any, learner: str) -> None:
    model = InContextClassifier(model_folder, device="cpu", demonstrations=4, choose=choose, learner=learner)
    found = model.fit(TEXTS[:20], LABELS[:20]).predict_proba(TEXTS[15:25])
    assert found.shape == (10, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_a_head_is_itself(model_folder: Path) -> None:
    model = InContextClassifier(model_folder, choose="given", learner="tfidf-logistic").fit(TEXTS[:20], LABELS[:20])
    labels = np.array([["glad", "sad"].index(label) for label in LABELS[:20]])
    expected = TfidfLogistic().scores(TEXTS[:20], labels, TEXTS[20:], 2)
    np.testing.assert_allclose(model.scores(TEXTS[20:]), expected, atol=1e-6)


def test_options_may_differ_by_row(classifier: InContextClassifier) -> None:
    options = [["red", "blue", "green"], ["glad", "sad"]]
    found = classifier.predict_proba(["ant", TEXTS[25]], options=options)
    assert [len(row) for row in found] == [3, 2]
    assert classifier.predict(["ant", TEXTS[25]], options=options)[0] in options[0]
    np.testing.assert_allclose(found[1], classifier.predict_proba([TEXTS[25]])[0], atol=1e-6)
    with pytest.raises(ValueError, match="each row needs one at least, all different"):
        classifier.predict(["ant"], options=[["a", "a"]])


@pytest.mark.parametrize("labels", [[0, 1] * 5, [True, False] * 5, ["a", "b"] * 5, [10, 9] * 5])
def test_labels_come_back_as_they_were(model_folder: Path, labels: list[Any]) -> None:
    model = InContextClassifier(model_folder, device="cpu").fit(TEXTS[:10], labels)
    assert list(model.classes_) == sorted(set(labels))
    found = model.predict(TEXTS[10:14])
    assert set(found.tolist()) <= set(labels)
    assert found.dtype == np.asarray(labels).dtype


def test_partial_fit_keeps_more(model_folder: Path) -> None:
    texts, labels = TEXTS[::7], LABELS[::7]
    whole = InContextClassifier(model_folder, device="cpu", choose="given").fit(texts, labels)
    parts = InContextClassifier(model_folder, device="cpu", choose="given")
    for text, label in zip(texts, labels, strict=True):
        parts.partial_fit([text], [label], classes=["glad", "sad"])
        assert list(parts.classes_) == ["glad", "sad"]
    np.testing.assert_array_equal(parts.predict_proba(TEXTS[:40]), whole.predict_proba(TEXTS[:40]))


def test_adapt_learns_and_fit_forgets(classifier: InContextClassifier, model_folder: Path) -> None:
    before = classifier.predict_proba(TEXTS[20:25])
    other = clone(classifier).fit(TEXTS[:20], LABELS[:20])
    np.testing.assert_array_equal(classifier.adapt(lr=0).predict_proba(TEXTS[20:25]), before)
    adapted = classifier.adapt(lr=1e-2).predict_proba(TEXTS[20:25])
    assert not np.allclose(adapted, before)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(classifier)).predict_proba(TEXTS[20:25]), adapted)
    np.testing.assert_array_equal(other.predict_proba(TEXTS[20:25]), before)
    np.testing.assert_array_equal(classifier.fit(TEXTS[:20], LABELS[:20]).predict_proba(TEXTS[20:25]), before)


def test_the_built_in_model_tells_fruit_from_insects() -> None:
    texts, labels = [*FRUIT[:8], *INSECTS[:8]], ["sour"] * 8 + ["sweet"] * 8
    model = InContextClassifier(device="cpu", choose="given").fit(texts, labels)
    assert model.score([*FRUIT[8:], *INSECTS[8:]], ["sour"] * 12 + ["sweet"] * 12) > 0.8
    by_path = InContextClassifier(str(starter_model()), device="cpu", choose="given").fit(texts, labels)
    np.testing.assert_array_equal(by_path.predict_proba(FRUIT), model.predict_proba(FRUIT))


def test_one_label_for_nearly_all_rows_is_pointed_out() -> None:
    texts, labels = [*FRUIT[:8], *INSECTS[:8]], ["sour"] * 8 + ["sweet"] * 8
    model = InContextClassifier(device="cpu", learner="majority").fit(texts, labels)
    with pytest.warns(UserWarning, match=r"is predicted for 72 of 72 rows, though 50 % .* learner"):
        model.predict(FRUIT[8:] * 6)


def test_a_preference_for_the_longest_label_is_pointed_out() -> None:
    length = {"no": 1, "perhaps so": 3}
    many, few = ["perhaps so"] * 48 + ["no"] * 12, ["perhaps so", "no", "no"]
    assert "the longest label, 'perhaps so', is predicted for 80 % of the rows, though 33 % of" in str(
        length_preferred(many, few, length)
    )
    assert "the shortest label, 'no'" in str(length_preferred(["no"] * 60, few[:2], length))
    assert length_preferred(many, ["perhaps so", "perhaps so", "no"], length) is None
    assert length_preferred(many[:49], few, length) is None
    assert length_preferred(many, few, {"no": 1, "perhaps so": 1}) is None


def test_it_works_in_pipelines_and_searches(model_folder: Path) -> None:
    model = InContextClassifier(model_folder, device="cpu", demonstrations=3)
    pipeline = make_pipeline(FunctionTransformer(lambda texts: [text.upper() for text in texts]), model)
    assert pipeline.fit(TEXTS[:9], LABELS[:9]).predict(TEXTS[9:12]).shape == (3,)
    assert cross_val_score(model, TEXTS[:12], LABELS[:12], cv=2).shape == (2,)
    grid = {"choose": ["random", "nearest"], "learner": ["in-context", "tfidf-nearest"]}
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(np.array(TEXTS[:12]), LABELS[:12])
    assert set(search.best_params_) == {"choose", "learner"}


def test_scikit_learns_checks_pass() -> None:
    model = InContextClassifier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the checks that are left out, because they give tables of numbers
        estimator_checks.check_estimator(model)
    for check in (
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_valid_tag_types,
        estimator_checks.check_mixin_order,
        estimator_checks.check_parameters_default_constructible,
    ):
        check("InContextClassifier", clone(model))


def test_containers_of_texts(classifier: InContextClassifier) -> None:
    expected = classifier.predict_proba(TEXTS[20:24])
    array = np.array(TEXTS[20:24])
    for texts in (tuple(TEXTS[20:24]), array, array.astype(object), array[:, None], iter(TEXTS[20:24])):
        np.testing.assert_array_equal(classifier.predict_proba(texts), expected)
    assert classifier.predict([]).shape == (0,)
    assert classifier.predict_proba([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", "X is str; give a list of texts"),
        (["a", None], r"X\[1\] is NoneType, not a text"),
        (["a", float("nan")], r"X\[1\] is float, not a text"),
        (np.zeros((2, 3)), r"X has the shape \(2, 3\); give one text for each row"),
    ],
)
def test_what_is_no_text_is_an_error(classifier: InContextClassifier, texts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier.predict(texts)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"demonstrations": 0}, "demonstrations is 0; it must be at least 1"),
        ({"seeds": 0}, "seeds is 0; it must be at least 1"),
        ({"seeds": []}, "seeds is empty"),
        ({"learner": "forest"}, "learner is 'forest'; it must be one of in-context"),
        ({"learner": "set-transformer"}, "needs training tasks"),
        ({"learner": "logistic", "calibrate": True}, "calibrate is set but learner=logistic does not read it"),
        ({"choose": "best"}, "choose is 'best'; it must be one of given, random"),
        ({"choose": "random", "choose_groups": 3}, "choose=random shows all rows the same demonstrations"),
        ({"direction": "sideways"}, "direction is 'sideways'; it must be one of direct, channel"),
        ({"direction": "channel", "calibrate": True}, "calibrate is read in the direct direction only"),
    ],
)
def test_wrong_parameters_are_errors_at_fit(model_folder: Path, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InContextClassifier(model_folder).set_params(**parameters).fit(TEXTS[:4], LABELS[:4])


def test_predicting_before_fitting_is_an_error(model_folder: Path) -> None:
    with pytest.raises(NotFittedError):
        InContextClassifier(model_folder).predict(["a"])


def test_wrong_labels_are_errors(model_folder: Path) -> None:
    model = InContextClassifier(model_folder)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(["a", "b"], ["x"])
    with pytest.raises(ValueError, match="Unknown label type"):
        model.fit(["a", "b"], [0.5, 0.7])
    with pytest.raises(ValueError, match="give at least one"):
        model.fit([], [])
