from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, softplus

from builders import make_collection, random_batch, tiny_language_model, train_config
from maml_en_llm.config import load_yaml
from maml_en_llm.methods import method_from_keys
from maml_en_llm.methods.token_weights import WEIGHTS
from maml_en_llm.models import TrainableModel
from maml_en_llm.prompts.batches import Batch
from maml_en_llm.tasks.collection import Example
from maml_en_llm.training.loop import train
from on_tensors import NoBatches
from unrolled import detached, relative_error

CONFIG = Path(__file__).parents[2] / "configs" / "beyond" / "token-weights.yaml"


def config_of(**changes: Any) -> Any:
    return train_config(Path("c"), Path("m"), Path("o"), method="token-weights", batches=1000, **changes)


def learner_of(**changes: Any) -> Any:
    """On a small language model in float64, with weights that differ."""
    model = TrainableModel(tiny_language_model("gpt2").double(), None)
    learner = config_of(**changes).learner(model, NoBatches())
    noise = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    learner.parameters[WEIGHTS].add_(noise)
    return learner


def weighted(network: Any, parameters: Any, w: torch.Tensor | None, batch: Batch) -> torch.Tensor:
    """The loss written out: the mean over prompts of the mean over their predicted tokens, one prompt at a time."""
    total = []
    for ids, mask in zip(batch.token_ids, batch.answer_mask, strict=True):
        logits = torch.func.functional_call(
            network, parameters, kwargs={"input_ids": ids[None]}, tie_weights=True
        ).logits[0]
        places = [t for t in range(1, len(ids)) if mask[t]]
        each = torch.stack([cross_entropy(logits[t - 1], ids[t]) for t in places])
        factors = 1 if w is None else torch.stack([softplus(w[ids[t]]) for t in places])
        total.append((factors * each).mean())
    return torch.stack(total).mean()


@pytest.mark.parametrize(("k", "n"), [(1, 1), (2, 2)])
def test_p045_an_update_equals_autograd_by_the_model_and_by_the_weights(k: int, n: int) -> None:
    """One outer step of SGD, in float64, so that both meta-gradients can be read off."""
    own = {"inner_steps": k, "copies": n, "inner_lr": 0.3, "optimizer": "sgd", "gradient_clip": None}
    learner = learner_of(lr=0.1, weights_lr=0.2, curvature="exact", **own)
    generator = torch.Generator().manual_seed(0)
    batches = [random_batch(generator, prompts=2, answer=9 if i % (2 * k) < k else 3) for i in range(2 * k * n)]
    start = detached(learner.parameters)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    theta = {name: tensor for name, tensor in leaves.items() if name != WEIGHTS}
    network, losses = learner.model.network, []
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        for copy in (batches[i : i + 2 * k] for i in range(0, len(batches), 2 * k)):
            phi = theta
            for batch in copy[:k]:
                loss = weighted(network, phi, leaves[WEIGHTS], batch)
                gradients = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
                phi = {name: p - 0.3 * g for (name, p), g in zip(phi.items(), gradients, strict=True)}
            losses += [weighted(network, phi, None, batch) for batch in copy[k:]]
        value = torch.stack(losses).mean()
        meta = dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))
    figures = learner.update(batches, 1.0, measure=False)
    assert figures["loss"] == pytest.approx(value.item(), rel=1e-10)
    assert float(meta[WEIGHTS].norm()) > 1e-4
    for names, lr in (({WEIGHTS}, 0.2), (set(theta), 0.1)):
        found = {name: (start[name] - learner.parameters[name]) / lr for name in names}
        assert relative_error(found, {name: meta[name] for name in names}) < 1e-8


def test_at_the_start_the_inner_loss_is_the_ordinary_one() -> None:
    model = TrainableModel(tiny_language_model("gpt2").double(), None)
    learner = config_of().learner(model, NoBatches())
    batch = random_batch(torch.Generator().manual_seed(0), prompts=3, answer=9)
    found, expected = learner.inner_loss(learner.parameters, batch), model.loss(model.parameters, batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_with_lr_0_the_weights_alone_learn() -> None:
    learner = learner_of(lr=0.0)
    generator = torch.Generator().manual_seed(0)
    before = detached(learner.parameters)
    learner.update([random_batch(generator, answer=9), random_batch(generator)], 1.0, measure=False)
    assert {name for name, p in learner.parameters.items() if not torch.equal(p, before[name])} == {WEIGHTS}


def test_support_prompts_predict_all_of_their_text_and_queries_an_answer(tokenizer: Any) -> None:
    tasks = {"t": [Example(f"cat {i}", ("red", "blue")[i % 2], ("red", "blue")) for i in range(12)]}
    config = config_of(inner_steps=2, demonstrations=1)
    sampler = config.sampler(tasks=tasks, format=config.prompts().format, tokenizer=tokenizer, demonstrations=1)
    for number in range(8):
        (mask,) = sampler.batch(number).answer_mask
        support = number % 4 < 2
        assert bool(mask[1:].all()) == support
        assert bool(mask[-1])


def test_the_model_folder_is_plain_and_holds_a_weight_of_each_token(model_folder: Path, tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "collection")
    config = train_config(folder, model_folder, tmp_path / "run", method="token-weights", batches=4, inner_lr=0.1)
    model = train(config)
    weights = json.loads((model / "token_weights.json").read_text())
    assert len(weights) == 300
    assert min(weights) > 0
    assert len(set(weights)) > 2
    assert load_file(model / "model.safetensors").keys() == load_file(model_folder / "model.safetensors").keys()


def test_the_configuration_on_its_page_loads() -> None:
    config = method_from_keys(load_yaml(CONFIG) | {"collection": "c", "setting": "s", "output": "o"})
    assert (config.name, config.label()) == ("token-weights", "Token weights")
