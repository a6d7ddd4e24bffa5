from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from builders import random_batch, tiny_language_model
from families import tiny_model
from maml_en_llm.models import (
    PromptLoss,
    check_tokenizer,
    load_model,
    load_tokenizer,
    new_gpt2,
    pick_device,
    prompt_loss,
    save_model,
    train_tokenizer,
    trainable_parameters,
    word_tokenizer,
)
from maml_en_llm.prompts.batches import Batch
from maml_en_llm.prompts.layout import EncodedPrompt


def value(loss: torch.Tensor) -> float:
    return loss.detach().item()


FAMILIES = ["gpt2", "llama", "opt", "gpt_neox", "qwen3", "gemma", "bloom"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_mean_over_prompts_of_the_mean_over_answer_tokens(family: str) -> None:
    model = tiny_language_model(family)
    prompts = [
        EncodedPrompt([1, 2, 3, 4, 5, 6, 7], [False] * 4 + [True] * 3),
        EncodedPrompt([8, 9, 10], [False, False, True]),
        EncodedPrompt([11, 12], [True, True]),  # the first token has nothing to be predicted from
    ]
    expected = []
    for prompt in prompts:
        token_ids = torch.tensor([prompt.token_ids])
        with torch.no_grad():
            log_probabilities = model(token_ids).logits[0].log_softmax(dim=-1)
        places = [i for i, answered in enumerate(prompt.answer_mask) if answered and i > 0]
        expected.append(-sum(float(log_probabilities[i - 1, token_ids[0, i]]) for i in places) / len(places))
    found = prompt_loss(model, Batch.from_prompts(prompts))
    assert value(found) == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_a_prompt_without_an_answer_counts_as_zero() -> None:
    model = tiny_language_model("gpt2")
    full, empty = EncodedPrompt([1, 2, 3], [False, True, True]), EncodedPrompt([4, 5], [False, False])
    alone = value(prompt_loss(model, Batch.from_prompts([full])))
    assert value(prompt_loss(model, Batch.from_prompts([full, empty]))) == pytest.approx(alone / 2)
    nothing = prompt_loss(model, Batch.from_prompts([empty]))
    assert value(nothing) == 0.0
    nothing.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_a_function_of_the_parameters_that_it_is_given(family: str) -> None:
    model, other = tiny_language_model(family, seed=0), tiny_language_model(family, seed=1)
    batch, loss = random_batch(torch.Generator().manual_seed(0)), PromptLoss(model)
    own = trainable_parameters(model)
    assert value(loss(own, batch)) == value(prompt_loss(model, batch))
    assert value(loss(trainable_parameters(other), batch)) == pytest.approx(value(prompt_loss(other, batch)), rel=1e-6)
    assert value(loss(own, batch)) != value(loss(trainable_parameters(other), batch))
    assert all(trainable_parameters(model)[name] is p for name, p in own.items())


def test_some_of_the_parameters_may_be_given() -> None:
    model = tiny_language_model("gpt2")
    batch, loss = random_batch(torch.Generator().manual_seed(0)), PromptLoss(model)
    name = "transformer.ln_f.weight"
    found = value(loss({name: torch.zeros(16)}, batch))
    with torch.no_grad():
        model.get_parameter(name).zero_()
    assert found == value(prompt_loss(model, batch))


def test_a_tied_weight_is_one_parameter_in_all_its_places() -> None:
    model = tiny_language_model("gpt2")
    loss, parameters = PromptLoss(model), trainable_parameters(model)
    assert "lm_head.weight" not in parameters
    given = {name: p.detach() + 1 for name, p in parameters.items()}
    with loss.substituted(given):
        assert model.get_input_embeddings().weight is given["transformer.wte.weight"]
        assert model.get_output_embeddings().weight is given["transformer.wte.weight"]
    assert model.get_output_embeddings().weight is parameters["transformer.wte.weight"]


def test_autocast_computes_in_bfloat16_and_returns_float32() -> None:
    model = tiny_language_model("gpt2")
    batch = random_batch(torch.Generator().manual_seed(0))
    plain = PromptLoss(model)(trainable_parameters(model), batch)
    cast = PromptLoss(model, autocast=torch.bfloat16)(trainable_parameters(model), batch)
    assert cast.dtype == torch.float32
    assert value(cast) != value(plain)
    assert value(cast) == pytest.approx(value(plain), rel=0.05)


def test_a_saved_model_loads_as_it_was(tokenizer: Any, tmp_path: Path) -> None:
    model = new_gpt2(tokenizer, layers=1, width=8, heads=2, context=64, seed=3)
    save_model(model, tokenizer, tmp_path / "model", {"note.txt": "é"})
    loaded = load_model(tmp_path / "model")
    assert not loaded.training
    found = dict(loaded.named_parameters())
    assert all(torch.equal(p, found[name]) for name, p in model.named_parameters())
    text = "the cat\n\n\né 東"
    assert load_tokenizer(tmp_path / "model")(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (tmp_path / "model" / "note.txt").read_text(encoding="utf-8") == "é"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_saving_again_replaces_the_folder_as_a_whole(tokenizer: Any, tmp_path: Path) -> None:
    for seed, name in ((1, "first.txt"), (2, "second.txt")):
        model = new_gpt2(tokenizer, layers=1, width=8, heads=2, context=64, seed=seed)
        save_model(model, tokenizer, tmp_path / "model", {name: ""})
    assert not (tmp_path / "model" / "first.txt").exists()
    weight = load_model(tmp_path / "model").transformer.wte.weight
    assert torch.equal(weight, model.transformer.wte.weight)


def test_new_models_depend_on_their_seed_alone(tokenizer: Any) -> None:
    def weight(seed: int) -> torch.Tensor:
        return new_gpt2(tokenizer, layers=1, width=8, heads=2, context=64, seed=seed).transformer.wte.weight

    state = torch.get_rng_state()
    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match=r"width \(9\) must be a multiple of heads \(2\)"):
        new_gpt2(tokenizer, layers=1, width=9, heads=2)


def test_a_learned_tokenizer_loses_nothing() -> None:
    tokenizer = train_tokenizer(["the cat sat"] * 3, vocabulary=270)
    assert len(tokenizer) <= 270
    for text in ("the cat sat", " \n\n\n\tÀ 東 🙂", ""):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_word_tokenizer_has_one_token_for_a_word_wherever_it_stands(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(["cat", "Sat", "hammer"], pieces=120)
    ids = tokenizer("Cat sat,\nCAT\n\n\ncat 42 é zebra", add_special_tokens=False)["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens[:9] == ["cat", "sat", ",", "\n", "cat", "\n\n\n", "cat", "4", "2"]
    assert tokens[9] == "e"
    assert "".join(token.removeprefix("##") for token in tokens[10:]) == "zebra"
    assert tokenizer("東", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)("the cat\nsat")["input_ids"] == tokenizer("the cat\nsat")["input_ids"]


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_what_is_no_model_is_named_in_one_line(load: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^cannot load a .* from .*nowhere: [^\n]+$"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^cannot load a .* from .*empty: [^\n]+$"):
        load(tmp_path / "empty")


def test_broken_weights_are_named_in_one_line(model_folder: Path, tmp_path: Path) -> None:
    for path in model_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"^cannot load a causal language model from [^\n]+$"):
        load_model(tmp_path)


def without(name: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    ("tensors", "config", "words"),
    [
        (
            without("transformer.h.0.ln_1.weight"),
            {},
            r"it lacks transformer\.h\.0\.ln_1\.weight, that its config\.json asks",
        ),
        (lambda t: t.update(extra=torch.zeros(3)), {}, r"it has extra, that its config\.json knows nothing of"),
        (lambda t: None, {"n_layer": 3}, r"it lacks transformer\.h\.2\.attn\.c_attn\.bias and 11 more"),
        (lambda t: None, {"n_layer": 1}, r"it has transformer\.h\.1\.attn\.c_attn\.weight and 10 more"),
        (lambda t: None, {"n_embd": 32}, r"its tensors have other shapes than its config\.json says"),
        (lambda t: None, {"vocab_size": 100}, r"its tensors have other shapes than its config\.json says"),
        (lambda t: None, {"tie_word_embeddings": False}, r"it lacks lm_head\.weight"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration(
    tensors: Any, config: dict[str, Any], words: str, model_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    held = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    tensors(held)
    safetensors.torch.save_file(held, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(ValueError, match=rf"^cannot load a causal language model from [^\n]+{words}[^\n]*$"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt", "gemma", "qwen2", "llama", "bloom"])
def test_a_model_without_a_tokenizer_is_given_none(family: str, tmp_path: Path) -> None:
    tiny_model(family).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot load a tokenizer from"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_of_another_model_is_named(tokenizer: Any) -> None:
    small = tiny_model("gpt2")
    with pytest.raises(
        ValueError, match=r"mine: the tokenizer has token ids up to \d+ but the model only 60 embeddings"
    ):
        check_tokenizer(tokenizer, small, "mine")
    check_tokenizer(tokenizer, new_gpt2(tokenizer, layers=1, width=8, heads=2), "mine")


def test_pickled_weights_are_not_read(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((model_folder / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot load a causal language model"):
        load_model(tmp_path)


def test_a_folder_of_nothing_but_vocab_and_merges_is_a_gpt2_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    assert load_tokenizer(tmp_path)("abba", add_special_tokens=False)["input_ids"] == [2, 1, 0]


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="device is 'toaster'; it must be auto, cpu, cuda"):
        pick_device("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device is 'cuda' but this machine has no such device"):
            pick_device("cuda")


MEMORY = """
import resource, torch
from maml_en_llm.models import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = min(faults() for _ in range(5))
keep_freed_memory()
print(before, min(faults() for _ in range(5)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library decides")
def test_freed_memory_is_used_again() -> None:
    ratios = []
    for _ in range(5):  # by chance of the address layout, the heap of a process may have no room to grow
        printed = subprocess.run([sys.executable, "-c", MEMORY], check=True, stdout=subprocess.PIPE, text=True).stdout
        before, after = map(int, printed.split())  # pages; 64 MiB are 16,384 of the smallest
        ratios.append(after / before)
        if ratios[-1] < 0.1:
            return
    raise AssertionError(ratios)
