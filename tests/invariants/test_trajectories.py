"""Groups of configurations that must give the same trajectory through the real `train()`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from builders import train_config
from maml_en_llm.methods.maml_en_llm import MAMLenLLM
from maml_en_llm.prompts.batches import Batch, MixtureSampler, Sampler
from maml_en_llm.training.checkpoint import read_metrics
from maml_en_llm.training.loop import train


class Renumbered:
    """The batches of another sampler under other numbers."""

    def __init__(self, sampler: Sampler, number: Callable[[int], int]) -> None:
        self.sampler, self.number = sampler, number

    def batch(self, number: int) -> Batch:
        return self.sampler.batch(self.number(number))


@pytest.fixture
def run(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> Callable[..., tuple[dict[str, Any], list[float]]]:
    """Trains; returns the weights and the losses that were logged."""
    count = iter(range(100))

    def run(**changes: Any) -> Run:
        output = tmp_path / str(next(count))
        model = train(train_config(collection_folder, model_folder, output, **changes))
        return safetensors.torch.load_file(model / "model.safetensors"), [m["loss"] for m in read_metrics(output)]

    return run


def assert_same(runs: Sequence[Run], tolerance: float = 0.0) -> None:
    """All runs end in the same weights and report the same losses: bitwise, or as close as `tolerance`."""
    weights, losses = runs[0]
    assert len(runs) > 1
    assert len(losses) > 1
    for other_weights, other_losses in runs[1:]:
        assert other_losses == pytest.approx(losses, rel=tolerance, abs=0)
        for name, tensor in weights.items():
            assert torch.allclose(other_weights[name], tensor, rtol=tolerance, atol=tolerance)


def assert_different(ours: Run, theirs: Run) -> None:
    assert ours[1] != theirs[1]


QUERY_ONLY = {"batches": 12, "inner_lr": 0.0, "shared_moments": False}


def test_maml_without_adaptation_is_metaicl_on_the_query_batches(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(method="maml-en-llm", order="first", **QUERY_ONLY)
    second = run(method="maml-en-llm", order="second", **QUERY_ONLY)
    difference = run(method="maml-en-llm", curvature="difference", **QUERY_ONLY)
    with monkeypatch.context() as patch:  # of each pair the second batch is the query
        patch.setattr(
            "maml_en_llm.methods.method.MixtureSampler",
            lambda **data: Renumbered(MixtureSampler(**data), lambda number: 2 * number + 1),
        )
        metaicl = run(method="metaicl", batches=6)
    assert_same([first, second, difference, metaicl])
    assert_different(first, run(method="metaicl", batches=6))


def test_with_an_inner_learning_rate_the_orders_differ(run: Callable[..., Run]) -> None:
    """So that the equality above says something."""
    assert_different(run(order="first", inner_lr=0.01, batches=12), run(order="second", inner_lr=0.01, batches=12))


def test_copies_that_explore_the_same_batches_are_one_copy(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"method": "maml-en-llm", "shared_moments": False, "adam_eps": 1e-3, "curvature": "exact"}
    one = run(**own, batches=8)
    monkeypatch.setattr(  # batches 0 1 0 1 0 1 0 1, 2 3 2 3 ...
        MAMLenLLM,
        "sampler",
        lambda self, **data: Renumbered(MixtureSampler(**data), lambda number: 2 * (number // 8) + number % 2),
    )
    # sums of four quarters round differently, and AdamW makes more of that where gradients are tiny
    assert_same([one, run(**own, batches=32, copies=4)], tolerance=1e-5)


@pytest.mark.parametrize("method", ["metaicl", "maml-en-llm"])
def test_a_prompt_repeated_in_a_batch_counts_once(
    method: str, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    config: dict[str, Any] = {"method": method, "batches": 6, "optimizer": "sgd", "lr": 0.01}
    if method == "maml-en-llm":
        config |= {"inner_optimizer": "sgd", "inner_lr": 0.01}
    single = run(**config)
    original = MixtureSampler._prompt
    monkeypatch.setattr(MixtureSampler, "_prompt", lambda self, position: original(self, position // 3))
    assert_same([single, run(**config, batch_size=3)], tolerance=2e-5)


@pytest.mark.parametrize("method", ["metaicl", "maml-en-llm"])
def test_what_only_concerns_logging_changes_nothing(method: str, run: Callable[..., Run]) -> None:
    weights = [run(method=method, **changes)[0] for changes in ({}, {"log_every": 3}, {"checkpoint_every": 2})]
    for other in weights[1:]:
        assert all(torch.equal(other[name], tensor) for name, tensor in weights[0].items())


def test_zero_shot_is_metaicl_without_demonstrations(run: Callable[..., Run]) -> None:
    assert_same([run(method="multitask-zero-shot"), run(method="metaicl", demonstrations=0)])


def test_spelled_out_defaults_are_the_defaults(run: Callable[..., Run]) -> None:
    assert_same(
        [run(), run(shared_moments=True), run(curvature="difference", sampling="mixture", copies=1, inner_steps=1)]
    )
    assert_different(run(), run(shared_moments=False))


def test_sgd_without_momentum_has_no_moments_to_share(run: Callable[..., Run]) -> None:
    sgd = {"optimizer": "sgd", "inner_optimizer": "sgd", "copies": 2}
    assert_same([run(**sgd, shared_moments=True), run(**sgd, shared_moments=False)])


def test_clipping_above_every_norm_is_no_clipping(run: Callable[..., Run]) -> None:
    assert_same([run(method="metaicl", gradient_clip=None), run(method="metaicl", gradient_clip=1e6)])
    assert_different(run(method="metaicl", gradient_clip=None), run(method="metaicl", gradient_clip=1e-9))


def test_the_difference_of_gradients_follows_the_exact_trajectory(run: Callable[..., Run]) -> None:
    plain = {"inner_optimizer": "sgd", "inner_lr": 0.05, "optimizer": "sgd", "lr": 0.05, "batches": 12}
    assert_same([run(**plain, curvature="exact"), run(**plain, curvature="difference")], tolerance=2e-3)
