"""Only what is to be trained learns, and the result is a plain Hugging Face folder whatever that was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

from builders import random_batch, tiny_language_model, train_config
from families import FAMILIES, tiny_model
from maml_en_llm import AdamW, Moments, meta_gradient
from maml_en_llm.bilevel import value_and_gradient
from maml_en_llm.methods.method import GradientMethod
from maml_en_llm.models import PromptLoss, choose_trainable, merge_trained, prompt_loss, trainable_parameters
from maml_en_llm.models import trainable as trainable_module
from maml_en_llm.training.loop import train
from unrolled import State, relative_error
from unrolled import meta_gradient as unrolled_meta_gradient

TRAINED: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"trainable": "lora", "lora_rank": 4},
    "bias": {"trainable": "bias"},
    "last_blocks": {"trainable": "last_blocks", "last_blocks": 1},
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def learns(trainable: str, name: str) -> bool:
    """Whether the parameter of GPT-2 (two blocks) of that name may change."""
    return {
        "full": True,
        "lora": ("attn.c_" in name or "mlp.c_" in name) and name.endswith("weight"),
        "bias": name.endswith("bias"),
        "last_blocks": ".h.1." in name or ".ln_f." in name,
    }[trainable]


@pytest.mark.parametrize("trainable", TRAINED)
@pytest.mark.parametrize("method", ["metaicl", "maml-en-llm"])
def test_what_is_trained_changes_and_nothing_else(
    method: str, trainable: str, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    models = []

    def keep(model: Any) -> Any:
        ids = torch.arange(20).view(1, 20)
        with torch.no_grad():
            models.append(model(input_ids=ids).logits)  # as it was trained, before merging
        return merge_trained(model)

    changes = {"method": method, **TRAINED[trainable]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainable_module, "merge_trained", keep)
        folder = train(train_config(collection_folder, model_folder, tmp_path / "run", **changes))
    before, after = weights(model_folder), weights(folder)
    assert after.keys() == before.keys()
    for name in before:
        assert torch.equal(after[name], before[name]) != learns(trainable, name), name

    opened = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits = opened(input_ids=torch.arange(20).view(1, 20)).logits
    torch.testing.assert_close(logits, models[0], rtol=1e-5, atol=1e-5)
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "README.md"}
    assert not (folder / "adapter_config.json").exists()


@pytest.mark.parametrize("trainable", TRAINED)
@pytest.mark.parametrize("method", ["metaicl", "maml-en-llm"])
def test_an_interrupted_run_is_resumed_bitwise_from_the_trained_parameters_alone(
    method: str, trainable: str, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    changes = {"method": method, "checkpoint_every": 2, **TRAINED[trainable]}
    whole = train(train_config(collection_folder, model_folder, tmp_path / "whole", **changes))

    original = GradientMethod.learning_rate_scale

    def crash(config: GradientMethod, update: int, updates: int) -> float:
        if update == 3:
            raise MemoryError
        return original(config, update, updates)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GradientMethod, "learning_rate_scale", crash)
        with pytest.raises(MemoryError):
            train(train_config(collection_folder, model_folder, tmp_path / "cut", **changes))
    *_, checkpoint = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    saved = safetensors.torch.load_file(checkpoint)
    names = [name.removeprefix("parameters.") for name in saved if name.startswith("parameters.")]
    assert names
    assert all("lora_" in name if trainable == "lora" else learns(trainable, name) for name in names)
    cut = train(train_config(collection_folder, model_folder, tmp_path / "cut", **changes), resume=True)
    found, expected = weights(cut), weights(whole)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_model_card_says_what_was_trained(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    folder = train(train_config(collection_folder, model_folder, tmp_path / "run", **TRAINED["lora"], batches=2))
    numbers = 2 * 4 * ((16 + 48) + (16 + 16) + (16 + 64) + (64 + 16))  # two blocks, rank 4, (in + out) of each layer
    words = "LoRA of rank 4 on every linear layer, merged into the weights"
    assert f"Trained: {words} ({numbers:,} numbers)" in (folder / "README.md").read_text(encoding="utf-8")
    record = json.loads((folder / "maml_en_llm.json").read_text(encoding="utf-8"))
    assert record["trained"] == words
    assert record["trained_parameters"] == numbers


@pytest.mark.parametrize("k", [1, 2])
def test_the_meta_gradient_of_lora_equals_autograd_through_the_whole_update(k: int) -> None:
    model = choose_trainable(tiny_language_model("gpt2").double(), "lora", lora_rank=3)
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: p.detach() + 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)  # B is zero at first
        for name, p in trainable_parameters(model).items()
    }
    assert all("lora_" in name and p.dtype == torch.float64 for name, p in parameters.items())
    batches = [[[random_batch(generator) for _ in range(k)] for _ in range(2)] for _ in range(2)]
    loss, step = PromptLoss(model), AdamW(lr=1e-2, weight_decay=0.1)
    # Warm moments: from zero ones the derivative by a gradient that is next to nothing by chance is left out.
    first = {name: 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in parameters.items()}
    second = {name: m**2 + 0.01 for name, m in first.items()}
    found = meta_gradient(loss, parameters, *batches, step=step, state=Moments(first, second, step=3))
    expected, value, _ = unrolled_meta_gradient(loss, parameters, *batches, step, State(first, second, step=3))
    assert relative_error(found.gradients, expected) < 1e-8
    assert float(found.query_loss) == pytest.approx(float(value), rel=1e-12)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gpt_neox", "qwen3", "gemma", "bloom"])
def test_the_last_block_and_the_final_norm_are_found_in_any_family(family: str) -> None:
    model = choose_trainable(tiny_language_model(family), "last_blocks", last_blocks=1)
    names = set(trainable_parameters(model))
    final = {name for name in names if ".1." not in name}
    assert names - final == {name for name, _ in model.named_parameters() if ".1." in name}
    assert {name.rsplit(".", 2)[-2] for name in final} <= {"ln_f", "norm", "final_layer_norm"}
    assert final


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_of_any_family_learns_and_merges_or_is_refused(family: str) -> None:
    model, batch = tiny_model(family), random_batch(torch.Generator().manual_seed(0))
    names = set(model.state_dict())
    if "mamba" in family:
        with pytest.raises(
            ValueError, match=r"trainable is lora but peft refuses a .*Mamba.*; use last_blocks or full"
        ):
            choose_trainable(model, "lora")
        return
    wrapped = choose_trainable(model, "lora")
    parameters, loss = trainable_parameters(wrapped), PromptLoss(wrapped)
    _, gradient = value_and_gradient(loss, parameters, batch)
    assert any(g.any() for g in gradient.values())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(0.05)
    learned = loss(parameters, batch).item()
    merged = merge_trained(wrapped)
    assert set(merged.state_dict()) == names
    assert prompt_loss(merged, batch).item() == pytest.approx(learned, abs=1e-5)


def test_statistics_that_every_pass_changes_are_refused() -> None:
    model = tiny_model("gpt2")
    model.transformer.h[0].mlp.norm = torch.nn.BatchNorm1d(3)
    PromptLoss(model.eval())
    with pytest.raises(ValueError, match=r"transformer\.h\.0\.mlp\.norm updates running statistics .* call \.eval\(\)"):
        PromptLoss(model.train())


def test_what_a_model_does_not_have_cannot_be_trained() -> None:
    with pytest.raises(ValueError, match="trainable is bias but a LlamaForCausalLM has no biases; choose another"):
        choose_trainable(tiny_language_model("llama"), "bias")
    with pytest.raises(ValueError, match="last_blocks is 3 but the model has 2 blocks"):
        choose_trainable(tiny_language_model("gpt2"), "last_blocks", last_blocks=3)


def test_a_batch_without_an_answer_has_a_zero_gradient_whatever_is_trained() -> None:
    model = choose_trainable(tiny_language_model("gpt2"), "last_blocks", last_blocks=1)
    batch = random_batch(torch.Generator().manual_seed(0), answer=0)
    batch.answer_mask[:] = False
    _, gradient = value_and_gradient(PromptLoss(model), trainable_parameters(model), batch)
    assert not any(g.any() for g in gradient.values())
