"""On a GPU parameters lie in a few long tensors and no update reads a number. Both are held here without one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from builders import random_batch, train_config
from families import tiny_model
from maml_en_llm.bilevel import curvature, exploration, meta_gradient, steps
from maml_en_llm.bilevel.steps import AdamW, Tensors, global_norm
from maml_en_llm.methods import method as method_module
from maml_en_llm.models import PromptLoss, TrainableModel, choose_trainable, trainable_parameters
from maml_en_llm.models.fused import fuse
from maml_en_llm.training import journal, loop
from maml_en_llm.training.checkpoint import read_metrics
from unrolled import relative_error

METHODS: dict[str, dict[str, Any]] = {
    "metaicl": {"accumulate": 2},
    "maml-en-llm": {"copies": 2, "inner_steps": 2, "weight_decay": 0.1},
    "anil": {},
    "reptile": {},
    "meta-sgd": {},
    "maml-plus-plus": {"inner_steps": 2},
}
NOWHERE = Path("nowhere")


class Sampler:
    def batch(self, number: int) -> Any:
        return random_batch(torch.Generator().manual_seed(number), vocabulary=60, prompts=3)


def as_on_a_gpu(patch: pytest.MonkeyPatch) -> None:
    for module in (steps, curvature, exploration, method_module, journal):
        patch.setattr(module, "waits_for_numbers", lambda device: True)


def learner_of(method: str, device: str = "cpu", **changes: Any) -> Any:
    config = train_config(NOWHERE, NOWHERE, NOWHERE, method, **METHODS[method] | changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = choose_trainable(tiny_model("gpt2").double(), config.trainable)
    return config.learner(TrainableModel(network.to(device), None), Sampler())


def trained(method: str, **changes: Any) -> tuple[dict[str, float], Tensors]:
    learner = learner_of(method, **changes)
    for number in range(2):
        figures = learner.update(learner.batches(number), 1.0, measure=True)
    return {name: float(value) for name, value in figures.items()}, learner.state_dict()


@pytest.mark.parametrize("changes", [{}, {"trainable": "lora"}], ids=["full", "lora"])
@pytest.mark.parametrize("method", METHODS)
def test_updates_on_a_gpu_are_those_on_a_cpu(method: str, changes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if method == "anil" and changes:
        changes = {"trainable": "last_blocks"}
    figures, state = trained(method, **changes)
    as_on_a_gpu(monkeypatch)
    same_figures, same = trained(method, **changes)
    assert same_figures == pytest.approx(figures, rel=1e-5)
    assert list(same) == list(state)  # a checkpoint can go on where it was not made
    limit = 1e-12 if method in ("metaicl", "reptile") else 1e-7  # a difference divides rounding by its step
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            assert torch.equal(same[name], tensor), name
            continue
        assert relative_error({"": same[name]}, {"": tensor}) < limit, name


@pytest.mark.parametrize("kind", ["exact", "difference", "central"])
def test_meta_gradients_by_long_tensors_are_those_by_parameters(kind: Any) -> None:
    model = tiny_model("llama").double()
    loss = PromptLoss(model, tokens_per_forward=15)
    generator = torch.Generator().manual_seed(0)
    support, query = ([[random_batch(generator, 60, prompts=3) for _ in range(2)]] for _ in range(2))

    def gradient(parameters: Tensors) -> Tensors:
        return meta_gradient(loss, parameters, support, query, AdamW(1e-3, eps=1e-3), curvature=kind).gradients

    expected = gradient(trainable_parameters(model))
    values = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss.fused, parameters = fuse(dict(model.named_parameters()), longest=1000)
    assert 1 < len(parameters) < len(values)
    assert all(p.numel() <= 1000 for name, p in parameters.items() if name not in values)
    for name, p in model.named_parameters():
        assert torch.equal(p, values[name])
    assert relative_error(loss.fused.apart(gradient(parameters)), expected) < (1e-12 if kind == "exact" else 1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_no_update_reads_a_number(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor on `meta` has none, and raises when asked."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which knows no `meta`
    learner = learner_of(method, device="meta")
    assert learner.model.device.type == "meta"
    assert len(learner.parameters) == (29 if not learner.fused else 1)
    learner.update(learner.batches(0), 1.0, measure=False)
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(global_norm(learner.parameters))


@pytest.mark.parametrize("changes", [{}, {"trainable": "lora", "keep_adapter": True}], ids=["full", "adapter"])
def test_a_run_on_a_gpu_writes_the_same_model(
    changes: Any, collection_folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> tuple[Tensors, list[dict[str, Any]]]:
        config = train_config(collection_folder, model_folder, tmp_path / name, log_every=2, **changes)
        (weights,) = loop.train(config).glob("*.safetensors")
        return load_file(weights), read_metrics(config.output)

    weights, metrics = run("cpu")
    as_on_a_gpu(monkeypatch)
    same, logged = run("gpu")
    assert relative_error(same, weights) < 1e-4
    assert list(same) == list(weights)
    assert [line["loss"] for line in logged] == pytest.approx([line["loss"] for line in metrics], rel=1e-4)


def test_a_loss_that_is_not_finite_ends_a_run_on_a_gpu_where_it_is_read(
    collection_folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_on_a_gpu(monkeypatch)
    config = train_config(collection_folder, model_folder, tmp_path, lr=1e20, gradient_clip=None, checkpoint_every=4)
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) after .* batches; lower the learning rates"):
        loop.train(config)
    assert not list((tmp_path / "checkpoints").glob("*"))
