from __future__ import annotations

import pytest

from maml_en_llm.prediction.metrics import metric_of, score


@pytest.mark.parametrize(
    ("gold", "predicted", "expected"),
    [
        (["a", "b"], ["a", "b"], 1.0),
        (["a", "b"], ["b", "a"], 0.0),
        # a: precision 2/3, recall 1, F1 4/5; b: precision 1, recall 1/2, F1 2/3
        (["a", "a", "b", "b"], ["a", "a", "a", "b"], (4 / 5 + 2 / 3) / 2),
        # c never occurs in the gold answers, so it is no label of its own: only a (2/3) and b (1) count
        (["a", "a", "b"], ["a", "c", "b"], (2 / 3 + 1) / 2),
        # a label that is never predicted counts as 0
        (["a", "b", "b", "b"], ["b", "b", "b", "b"], (0 + 6 / 7) / 2),
        (["a", "a", "a"], ["a", "a", "a"], 1.0),
    ],
)
def test_macro_f1_over_the_labels_that_occur_in_the_gold_answers(
    gold: list[str], predicted: list[str], expected: float
) -> None:
    assert score("macro_f1", gold, predicted) == pytest.approx(expected)


def test_accuracy() -> None:
    assert score("accuracy", ["a", "b", "c", "d"], ["a", "b", "x", "y"]) == 0.5


def test_kinds() -> None:
    kinds = ("classification", "nli", "paraphrase", "multiple_choice_qa", "free_form")
    assert [metric_of(kind) for kind in kinds] == ["macro_f1", "macro_f1", "macro_f1", "accuracy", "accuracy"]
