"""Weights that do not learn are held in bfloat16, and nothing that autocast computes is another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from builders import random_batch, train_config
from families import FAMILIES, tiny_model
from maml_en_llm import AdamW, meta_gradient
from maml_en_llm.bilevel import value_and_gradient
from maml_en_llm.models import PromptLoss, choose_trainable, load_model, trainable_parameters
from maml_en_llm.models import trainable as trainable_module
from maml_en_llm.models.frozen import hold_frozen_in_bfloat16
from maml_en_llm.training.loop import train
from unrolled import relative_error

WITH_LORA = [family for family in FAMILIES if "mamba" not in family]
LORA: dict[str, Any] = {"trainable": "lora", "lora_rank": 4, "precision": "bfloat16"}


def lora_models(family: str, representable: bool = True) -> tuple[Any, Any]:
    """A LoRA model whose weights are numbers of bfloat16 in float32, and the same held in bfloat16."""
    models = []
    for _ in range(2):
        model = tiny_model(family)
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16().float() if representable else parameter.data
        models.append(choose_trainable(model, "lora", lora_rank=4))
        with torch.no_grad():
            generator = torch.Generator().manual_seed(1)
            for parameter in trainable_parameters(models[-1]).values():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    hold_frozen_in_bfloat16(models[1])
    return models[0], models[1]


def frozen_bytes(model: torch.nn.Module) -> int:
    return sum(p.nbytes for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("family", WITH_LORA)
def test_gradients_are_the_same_under_autocast_and_in_float32(family: str) -> None:
    whole, held = lora_models(family)
    assert frozen_bytes(held) < frozen_bytes(whole)
    batch = random_batch(torch.Generator().manual_seed(0))
    for autocast in (torch.bfloat16, None):
        losses = [PromptLoss(model, autocast) for model in (whole, held)]
        expected, found = (value_and_gradient(f, trainable_parameters(f.model), batch) for f in losses)
        assert all(g.dtype == torch.float32 for g in found[1].values())
        if autocast:
            assert torch.equal(found[0], expected[0])
            assert all(torch.equal(found[1][name], g) for name, g in expected[1].items())
        else:
            assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-6)
            assert relative_error(found[1], expected[1]) < 1e-5


def test_meta_gradients_are_the_same() -> None:
    batches = [[[random_batch(torch.Generator().manual_seed(seed))]] for seed in (0, 1)]

    def gradient(model: Any, **how: Any) -> dict[str, torch.Tensor]:
        loss, step = PromptLoss(model, torch.bfloat16), AdamW(lr=1e-2, eps=1e-3)
        return meta_gradient(loss, trainable_parameters(model), *batches, step=step, **how).gradients

    whole, held = lora_models("gpt2")
    for curvature in ("central", "exact"):
        expected = gradient(whole, curvature=curvature)
        assert relative_error(gradient(held, curvature=curvature), expected) < 1e-3
        assert relative_error(gradient(held, order="first"), expected) > 1e-2


def test_linear_layers_and_embeddings_that_bfloat16_has_are_held() -> None:
    def types(model: Any) -> dict[str, torch.dtype]:
        names = {"wte.weight": "tied", "wpe.weight": "positions", "h.0.attn.c_attn.base_layer.weight": "linear"}
        names |= {"ln_f.weight": "norm", "c_attn.base_layer.bias": "bias", "c_attn.lora_A.default.weight": "A"}
        return {k: p.dtype for n, p in model.named_parameters() for end, k in names.items() if n.endswith(end)}

    held = {"tied", "positions", "linear"}
    _, model = lora_models("gpt2")
    assert {name for name, kind in types(model).items() if kind == torch.bfloat16} == held
    _, model = lora_models("gpt2", representable=False)
    assert {name for name, kind in types(model).items() if kind == torch.bfloat16} == {"linear"}
    assert types(model).keys() == held | {"norm", "bias", "A"}
    untied, model = lora_models("llama")
    assert frozen_bytes(model) < 0.55 * frozen_bytes(untied)  # norms stay


def test_no_other_copy_of_a_weight_is_kept() -> None:
    """Autocast keeps those that it makes of float32 weights."""

    def kept(model: Any, autocast: torch.dtype | None) -> int:
        """Bytes that are kept for the way back and are no parameters."""
        found: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            PromptLoss(model, autocast)(trainable_parameters(model), batch)
        for parameter in model.parameters():
            found.pop(parameter.untyped_storage().data_ptr(), None)
        return sum(tensor.untyped_storage().nbytes() for tensor in found.values())

    batch = random_batch(torch.Generator().manual_seed(0), prompts=1)
    whole, held = lora_models("llama")
    linear = sum(p.nbytes for n, p in held.named_parameters() if p.dtype == torch.bfloat16 and "embed" not in n)
    first = sum(
        p.nbytes for n, p in held.named_parameters() if "layers.0.self_attn" in n and "base" in n and "o_" not in n
    )
    # The first layers' inputs need no gradient, and so none of their weights.
    assert kept(whole, torch.bfloat16) - kept(held, torch.bfloat16) == linear - first > 0
    assert kept(held, None) <= kept(whole, None)


def test_what_was_learned_is_merged_into_the_weights_of_the_model_it_started_from(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    """Also where it is far below what bfloat16 tells apart."""

    def made(name: str, **changes: Any) -> dict[str, torch.Tensor]:
        keys = {"method": "metaicl", "lr": 1e-5, "batches": 2, **LORA, **changes}
        folder = train(train_config(collection_folder, model_folder, tmp_path / name, **keys))
        return {name: p.detach() for name, p in load_model(folder).named_parameters()}

    source = {name: p.detach() for name, p in load_model(model_folder).named_parameters()}
    merged, adapted = made("merged"), made("adapter", keep_adapter=True)
    with pytest.MonkeyPatch.context() as patch:  # this model's embeddings are not held, so that nothing changes
        patch.setattr(trainable_module, "hold_frozen_in_bfloat16", lambda network: None)
        expected = made("float32")
    assert all(torch.equal(merged[name], tensor) for name, tensor in expected.items())
    changed = [name for name in source if not torch.equal(merged[name], source[name])]
    assert len(changed) == 8
    assert all("attn.c_" in name or "mlp.c_" in name for name in changed)
    for name in changed:
        change = merged[name] - source[name]
        assert change.abs().max() < 2**-9 * source[name].abs().max()  # bfloat16 would round it away
        torch.testing.assert_close(change, adapted[name] - source[name], rtol=0, atol=1e-7)
    saved = safetensors.torch.load_file(tmp_path / "merged/model/model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
