"""Rows beyond the paper that choose, order or fuse what a prompt shows, each under its number."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import WORDS, evaluate_config
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.prediction.heads.prototype import Prototype
from maml_en_llm.prediction.heads.retrieval_prototype import RetrievalPrototype
from maml_en_llm.prediction.in_context import ORDERS, PROBES, InContext
from maml_en_llm.prediction.predictor import LabelledTask, LoadedModel
from maml_en_llm.prompts.choosing import BM25, Nearest
from maml_en_llm.prompts.demonstrations import AsGiven, candidate_orders
from maml_en_llm.prompts.layout import PromptFormat
from maml_en_llm.prompts.style import PromptStyle
from maml_en_llm.starter.drawing import words
from maml_en_llm.tasks.collection import Example
from maml_en_llm.tasks.seeds import random_generator

OPTIONS = ("red", "blue")
BANK = [Example(f"{a} {b}", OPTIONS[len(a) % 2], OPTIONS) for a, b in zip(WORDS, reversed(WORDS), strict=True)]
TASK = LabelledTask("colour", BANK)


@pytest.fixture(scope="module")
def model(model_folder: Path) -> LoadedModel:
    return LoadedModel(str(model_folder), "cpu")


def in_context(model: LoadedModel, count: int, **changes: Any) -> InContext:
    form = PromptFormat("direct", "newlines", 128, 24)
    return InContext(model, PromptStyle(form, count), **changes)


def letters(texts: Sequence[str]) -> np.ndarray:
    """A vector of each text: how often each letter is in it."""
    return np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz "] for text in texts], np.float64)


def test_x09_the_probed_order_is_the_most_even_of_all(model: LoadedModel) -> None:
    shown = (3, 5, 8, 13)
    others = [index for index in range(len(BANK)) if index not in shown]
    drawn = random_generator("probes", "colour", 7).permutation(len(others))[:PROBES]
    queries = [Example(BANK[others[place]].input, "red", OPTIONS) for place in drawn]
    evenness = {}
    for order in permutations(shown):
        task = LabelledTask("other", [BANK[index] for index in order])
        scores = np.array(in_context(model, 4, select=AsGiven()).scores(task, queries, 1))
        share = (scores.argmin(axis=1) == 0).mean()
        evenness[order] = min(share, 1 - share)  # of two labels it rises with the entropy
    assert len(set(evenness.values())) > 1
    found = in_context(model, 4, probe=True).probed(TASK, shown, OPTIONS, 7)
    assert evenness[found] == max(evenness.values())
    assert found == max(evenness, key=lambda order: evenness[order])  # the first of equals


def test_x09_labels_of_probes_are_not_read_and_the_probed_order_is_shown(model: LoadedModel) -> None:
    predictor = in_context(model, 3, probe=True)
    shown = (0, 1, 2)
    turned = [Example(e.input, OPTIONS[1 - OPTIONS.index(e.output)], OPTIONS) for e in BANK]
    hidden = LabelledTask("colour", [*BANK[:3], *turned[3:]])
    order = predictor.probed(TASK, shown, OPTIONS, 7)
    assert predictor.probed(hidden, shown, OPTIONS, 7) == order
    # Three examples that are all the bank are their own probes.
    few, query = LabelledTask("colour", BANK[:3]), [Example("fox yak", "red", OPTIONS)]
    probing = in_context(model, 3, select=AsGiven(), probe=True)
    bank = LabelledTask("colour", [BANK[index] for index in probing.probed(few, shown, OPTIONS, 7)])
    expected = in_context(model, 3, select=AsGiven()).scores(bank, query, 0)
    np.testing.assert_allclose(probing.scores(few, query, 7), expected, atol=1e-5)


@given(st.integers(1, 9), st.integers(1, 30))
def test_x09_orders_are_orders(count: int, most: int) -> None:
    orders = candidate_orders(count, most, "key")
    assert len(orders) <= most
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert orders[0] == list(range(count))


def test_x09_is_a_row(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"order": "probed", "seeds": (1,), "demonstrations": 2, "max_examples": 3}
    found = evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "r.json", **keys))
    assert found.row.label.endswith("probed order")
    with pytest.raises(ValueError, match="orders is set but order=probed does not read it"):
        evaluate_config(collection_folder, model_folder, tmp_path / "r.json", order="probed", orders=2)
    assert ORDERS == 24


@given(st.data())
@settings(max_examples=30)
def test_p012_no_query_meets_itself_or_its_twin(data: st.DataObject) -> None:
    inputs = data.draw(st.lists(st.sampled_from(WORDS[:6]), min_size=2, max_size=12))
    bank = [Example(text, OPTIONS[place % 2], OPTIONS) for place, text in enumerate(inputs)]
    queries = [Example(text, "red", OPTIONS) for text in data.draw(st.lists(st.sampled_from(WORDS[:8]), min_size=1))]
    count, groups = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 3))
    for select in (Nearest(vectors=letters, groups=groups), BM25(vectors=letters, groups=groups)):
        chosen = select(bank, queries, count, random_generator("p012"))
        for query, shown in zip(queries, chosen, strict=True):
            assert query.input not in {bank[index].input for index in shown}
            assert len(set(shown)) == len(shown) <= count


def test_p012_the_nearest_are_those_of_brute_force() -> None:
    queries = [Example("fox yak", "red", OPTIONS), Example("big red", "red", OPTIONS)]
    found = Nearest(vectors=letters)(BANK, queries, 5, random_generator("p012"))
    for query, shown in zip(queries, found, strict=True):
        q = letters([query.input])[0]
        vectors = letters([example.input for example in BANK])
        similarity = [float(q @ v / np.sqrt((q @ q) * (v @ v))) for v in vectors]
        best = sorted(range(len(BANK)), key=lambda index: (-round(similarity[index], 6), index))[:5]
        assert shown == best[::-1]


def vectors(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_p007_without_a_corpus_it_is_the_prototype_head() -> None:
    support, labels, queries = vectors(6, 0), np.arange(6) % 3, vectors(9, 1)
    plain = Prototype().scores(support, labels, queries, 3)
    np.testing.assert_array_equal(RetrievalPrototype().scores(support, labels, queries, 3), plain)
    alone = RetrievalPrototype(weight=0.0, corpus=vectors(20, 2))
    np.testing.assert_array_equal(alone.scores(support, labels, queries, 3), plain)


def test_p007_weights_sum_to_one_and_favour_what_is_similar() -> None:
    head, support = RetrievalPrototype(passages=4, corpus=vectors(50, 2)), vectors(5, 0)
    weights, places = head.weights(support)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    for x, row, found in zip(support, weights, places, strict=True):
        similarity = [float(x @ passage) for passage in head.corpus]
        assert list(found) == sorted(range(50), key=lambda place: -similarity[place])[:4]
        expected = np.exp([10 * similarity[place] for place in found])
        np.testing.assert_allclose(row, expected / expected.sum(), rtol=1e-4)
    found = [sum(w * head.corpus[p] for w, p in zip(*both, strict=True)) for both in zip(weights, places, strict=True)]
    by_hand = [0.5 * x + 0.5 * y for x, y in zip(support, found, strict=True)]
    np.testing.assert_allclose(head.fused(support), by_hand, atol=1e-6)


def test_p007_is_a_row(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    none = dict.fromkeys(("max_tokens", "max_tokens_per_example"))
    keys: dict[str, Any] = {"learner": "retrieval-prototype", "demonstrations": 1, **none}
    found = evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "r.json", **keys))
    assert found.row.label == "Retrieval prototype"
    assert found.row.labels_used == 1


def test_p111_the_budget_is_counted_and_the_head_learns_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "examples/label_a_pool.py"))
    fruit, insects = words("fruit")[:20], words("insects")[:20]
    texts, labels = [*fruit[:3], *insects[:3]], ["sour"] * 3 + ["sweet"] * 3
    pool = [*fruit[3:], *insects[3:]]
    asked: list[int] = []
    kind = script["InContextClassifier"]
    real = kind.predict

    def counted(self: Any, X: Sequence[str]) -> np.ndarray:
        asked.extend([len(X)] if self.learner == "in-context" else [])
        return real(self, X)

    monkeypatch.setattr(kind, "predict", counted)
    head, said = script["label_pool"](texts, labels, pool, 12)
    assert asked == [12]
    assert len(said) == 12
    assert set(said) <= set(pool)
    alone = kind(learner="logistic", demonstrations=18, device="cpu").fit([*texts, *said], [*labels, *said.values()])
    np.testing.assert_allclose(head.predict_proba(pool), alone.predict_proba(pool), atol=1e-6)
    assert head.score(pool, ["sour"] * 17 + ["sweet"] * 17) > 0.7
    with pytest.raises(ValueError, match="99 rows are to be chosen but only 34"):
        script["label_pool"](texts, labels, pool, 99)
