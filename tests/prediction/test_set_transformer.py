from __future__ import annotations

import numpy as np
import pytest
import torch

from maml_en_llm.prediction.heads.head import centred
from maml_en_llm.prediction.heads.set_transformer import Network, SetTransformer, equiangular, train_set_transformer


@pytest.mark.parametrize("classes", [2, 3, 8, 50])
def test_codes_are_equiangular(classes: int) -> None:
    codes = equiangular(classes).double()
    expected = (1 + 1 / (classes - 1)) * torch.eye(classes) - 1 / (classes - 1)
    torch.testing.assert_close(codes @ codes.T, expected.double(), atol=1e-6, rtol=0)


def test_one_code_tells_nothing_apart() -> None:
    with pytest.raises(ValueError, match="at least two classes"):
        equiangular(1)


def clusters(seed: int, examples: int = 60, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=examples)
    centres = generator.normal(size=(classes, 6))
    return (centres[labels] + 0.3 * generator.normal(size=(examples, 6))).astype(np.float32), labels


def test_it_learns_to_classify_classes_that_it_has_not_seen() -> None:
    tasks = {str(seed): clusters(seed) for seed in range(30)}
    network = train_set_transformer(tasks, examples=9, classes=4, steps=150, episodes=16, lr=5e-3)
    right = []
    for seed in range(100, 110):
        vectors, labels = clusters(seed)
        support, queries = centred(vectors[:12], vectors[12:])
        scores = SetTransformer(network).scores(support, labels[:12], queries, 3)
        right.append(np.mean(scores.argmin(axis=1) == labels[12:]))
    assert np.mean(right) > 0.8


def test_the_same_seed_gives_the_same_network() -> None:
    tasks = {"a": clusters(1)}
    first, again = (train_set_transformer(tasks, examples=4, classes=4, steps=3, episodes=2) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True))


def test_more_classes_than_codes_is_an_error() -> None:
    vectors, labels = clusters(1)
    with pytest.raises(ValueError, match="3 classes but the set transformer was trained with 2 codes"):
        SetTransformer(Network(6, classes=2)).scores(vectors, labels, vectors, 3)
    with pytest.raises(ValueError, match="the training task a has more than 2 classes"):
        train_set_transformer({"a": (vectors, labels)}, examples=4, classes=2)
    with pytest.raises(ValueError, match="no training task has 120 examples"):
        train_set_transformer({"a": (vectors, labels)}, examples=60)
