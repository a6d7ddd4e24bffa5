from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from builders import random_batch, train_config
from maml_en_llm import SGD, AdamW
from maml_en_llm.config import load_yaml
from maml_en_llm.methods import method_from_keys
from maml_en_llm.methods.anil import head_names
from maml_en_llm.prompts.batches import Batch
from on_tensors import NoBatches, OnTensors
from unrolled import after_step, detached, relative_error, zero_state

CONFIG = Path(__file__).parents[2] / "configs" / "beyond" / "anil.yaml"


def config_of(**changes: Any) -> Any:
    return train_config(Path("c"), Path("m"), Path("o"), method="anil", batches=1000, **changes)


def network_loss(p: Mapping[str, Tensor], batch: Batch) -> Tensor:
    hidden = torch.tanh(p["body"][batch.token_ids].sum(dim=1))
    return torch.nn.functional.cross_entropy(hidden @ p["head.w"] + p["head.b"], batch.token_ids[:, 0] % 3)


@pytest.mark.parametrize(("k", "n"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("inner", ["sgd", "adamw"])
def test_an_update_equals_autograd_through_inner_steps_of_the_head(inner: str, k: int, n: int) -> None:
    """Meta-gradients by head and body, then one AdamW step on both, in float64."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"body": (40, 6), "head.w": (6, 3), "head.b": (3,)}
    parameters = {name: torch.randn(s, generator=generator, dtype=torch.float64) * 0.3 for name, s in shapes.items()}
    step = SGD(0.3) if inner == "sgd" else AdamW(0.02)
    config = config_of(
        head=("head.*",),
        inner_optimizer=inner,
        inner_lr=step.lr,
        inner_steps=k,
        copies=n,
        curvature="exact",
        gradient_clip=None,
        lr=0.01,
    )
    theta, state = detached(parameters), zero_state(parameters)
    learner = config.learner(OnTensors(network_loss, parameters), NoBatches())
    for _ in range(3):
        batches = [random_batch(generator, prompts=4) for _ in range(2 * k * n)]
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in theta.items()}
        losses: list[Tensor] = []
        for copy in (batches[i : i + 2 * k] for i in range(0, len(batches), 2 * k)):
            head = {name: leaves[name] for name in ("head.w", "head.b")}
            moments = zero_state(head)
            for batch in copy[:k]:
                loss = network_loss(leaves | head, batch)
                gradients = torch.autograd.grad(loss, list(head.values()), create_graph=True)
                head, moments = after_step(step, head, dict(zip(head, gradients, strict=True)), moments)
            losses += [network_loss(leaves | head, batch) for batch in copy[k:]]
        value = torch.stack(losses).mean()
        meta = dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))
        theta, state = after_step(AdamW(0.01), theta, meta, state)
        figures = learner.update(batches, 1.0, measure=False)
        assert figures["loss"] == pytest.approx(value.item(), rel=1e-12)
        assert relative_error(parameters, theta) < 1e-8


def test_the_head_is_by_default_the_last_block_and_what_follows_it(model_folder: Path) -> None:
    names = [name for name, _ in AutoModelForCausalLM.from_pretrained(model_folder).named_parameters()]
    found = head_names(names)
    assert found == [name for name in names if name.startswith(("transformer.h.1.", "transformer.ln_f."))]
    assert head_names(names, ["*.ln_f.*"]) == ["transformer.ln_f.weight", "transformer.ln_f.bias"]


def test_a_head_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"head has \*\.ln_g, which fits no parameter that learns, as a\.b is one"):
        head_names(["a.b"], ["a.*", "*.ln_g"])
    with pytest.raises(ValueError, match=r"no parameter that learns is in a numbered block, as b is not; give head"):
        head_names(["a", "b"])


def test_the_configuration_on_its_page_loads() -> None:
    config = method_from_keys(load_yaml(CONFIG) | {"collection": "c", "setting": "s", "output": "o"})
    assert (config.name, config.label()) == ("anil", "ANIL")
