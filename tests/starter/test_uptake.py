from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from maml_en_llm import cli
from maml_en_llm.models import load_model, load_tokenizer
from maml_en_llm.starter import uptake
from maml_en_llm.starter.uptake import OneDocument, Sizes, Texts, best, ids_of, rewritten, salience, tf_idf, weights_of

SMALL = Sizes(documents=3, train_documents=6, updates=1, probes=1)


def test_no_two_documents_of_a_training_seed_are_about_the_same() -> None:
    texts = Texts.drawn(Sizes(documents=20, train_documents=200), seed=3)
    groups = [texts.new, texts.chosen_on, *texts.stages]
    assert [len(group) for group in groups] == [20, 20, 200, 200]
    asked = [question.input for document in itertools.chain(*groups) for question in document.questions]
    assert len(set(asked)) == len(asked)
    assert texts.new != Texts.drawn(SMALL, seed=4).new


def test_p095_a_rewritten_document_has_as_many_tokens_and_the_same_fact() -> None:
    tokenizer = load_tokenizer("starter")
    for document in Texts.drawn(Sizes(train_documents=1), seed=0).new:
        ids = ids_of(rewritten(document, tokenizer).text, tokenizer)
        assert len(ids) == len(ids_of(document.text, tokenizer))
        wordings = [ids_of(f"{question.input} {question.output} .", tokenizer) for question in document.questions]
        assert ids[: sum(map(len, wordings))] == list(itertools.chain(*wordings))


def test_p056_of_equal_models_all_weights_are_equal() -> None:
    model, tokenizer = load_model("starter"), load_tokenizer("starter")
    texts = [ids_of("the sack of grace is green .", tokenizer), ids_of("it was a good day .", tokenizer)]
    assert not salience(model, model, texts).any()
    other = load_model("starter")
    for parameter in other.parameters():
        parameter.data.mul_(0.9)
    found = salience(model, other, texts)
    shown = {token for text in texts for token in text[1:]}
    assert all(found[token] > 0 for token in shown)
    unseen = [token for token in range(len(found)) if token not in shown]
    assert np.ptp(found[unseen]) == 0


def test_rare_words_weigh_more_by_their_document_frequency() -> None:
    the, red, dog, small = range(4)
    weights = tf_idf([[the, red, red], [the, dog, red], [the, small]], 5)
    assert weights == pytest.approx([0, math.log(4 / 3), math.log(4 / 2), math.log(4 / 2), math.log(4)])


@pytest.mark.parametrize("kind", ["uniform", "random", "TF-IDF"])
def test_weights_have_a_mean_of_1_over_the_tokens_of_documents(kind: str) -> None:
    from maml_en_llm.starter import starter_model

    texts, tokenizer = Texts.drawn(SMALL, 0), load_tokenizer("starter")
    weights = weights_of(kind, starter_model(), texts, 0)
    tokens = [token for document in texts.stages[1] for token in ids_of(document.text, tokenizer)]
    assert np.mean(weights[tokens]) == pytest.approx(1)
    assert (np.ptp(weights) == 0) == (kind == "uniform")


def test_support_is_a_text_and_query_its_answers_and_an_unrelated_text() -> None:
    tokenizer, documents = load_tokenizer("starter"), Texts.drawn(SMALL, 0).new
    sampler = OneDocument(documents, tokenizer, 0)
    for number in range(3):
        support, query = sampler.batch(2 * number), sampler.batch(2 * number + 1)
        (document,) = [d for d in documents if ids_of(d.text, tokenizer) == support.token_ids[0].tolist()]
        answers = [
            tokenizer.decode(ids[mask]).split()[0] for ids, mask in zip(query.token_ids, query.answer_mask, strict=True)
        ]
        assert answers[:2] == [question.output for question in document.questions]
        assert len(answers) == 3


def test_the_best_rate_is_that_with_the_best_answers_of_those_that_drift_little() -> None:
    tries = {
        "0.1": {"accuracy": [0.5, 0.5], "nll": 1.0, "drift": 0.05},
        "0.2": {"accuracy": [0.5, 0.5], "nll": 0.9, "drift": 0.09},
        "0.3": {"accuracy": [1.0, 0.5], "nll": 2.0, "drift": 0.2},
    }
    assert best(tries, 0.1) == "0.2"
    assert best(tries, float("inf")) == "0.3"
    assert best(tries, 0.0) == "0.1"


def test_the_verb_does_what_is_not_done_and_reports_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(uptake, "RATES", (0.1, 0.3))
    monkeypatch.setattr(uptake, "MODELS", {n: uptake.MODELS[n] for n in ("tuned", "tuned, weights learned")})
    monkeypatch.setattr(uptake, "ROWS", {n: uptake.ROWS[n] for n in ("uniform", "learned")})
    words = ["reproduce", "uptake", "--output", str(tmp_path), "--training-seeds", "5", "--documents", "2"]
    words += ["--train-documents", "4", "--updates", "2", "--probes", "1"]
    assert cli.main(words) == 0
    page = tmp_path / "uptake" / "report" / "report.html"
    assert capsys.readouterr().out.splitlines()[-1] == str(page)
    first = page.read_bytes()
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "uptake" / "parts").iterdir()}
    assert len(parts) == 4
    assert cli.main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    assert page.read_bytes() == first
    (model,) = (tmp_path / "uptake" / "models").glob("*/tuned--weights-learned")
    weights = json.loads((model / "token_weights.json").read_text(encoding="utf-8"))
    assert len(set(weights)) > 1
    with (page.parent / "tables" / "uptake-any.csv").open(encoding="utf-8") as file:
        assert [row["weights"] for row in csv.DictReader(file)] == ["uniform", "learned"]
    assert "the darker, the more a token weighs" in page.read_text(encoding="utf-8").lower()
