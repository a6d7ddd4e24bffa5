from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders import make_collection, tiny_language_model
from maml_en_llm.models import load_model
from maml_en_llm.prediction import features
from maml_en_llm.prediction.features import Features
from maml_en_llm.tasks.collection import load_collection

TEXTS = ["ant bee", "cat", "", "dog eel fox gnu", "cat", "hen owl", "a much longer text than any other one, " * 9]


@pytest.fixture(autouse=True)
def _keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "FEWEST_KEPT", 1)


@pytest.mark.parametrize(("layer", "index"), [("words", None), ("middle", 1), ("last", 2), (0, 0), (2, 2)])
def test_a_vector_is_the_mean_over_tokens_of_a_layer(
    layer: Any, index: int | None, model_folder: Path, tokenizer: Any
) -> None:
    model = load_model(model_folder)
    found = Features(model, tokenizer, layer, max_tokens=40).vectors(TEXTS)
    assert found.dtype == np.float32
    for text, vector in zip(TEXTS, found, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"][:40]], dtype=torch.long)
        if ids.shape[1] == 0:
            assert not vector.any()
            continue
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states
        expected = model.transformer.wte(ids) if index is None else states[index]
        np.testing.assert_allclose(vector, expected[0].mean(dim=0).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("layer", ["words", "last"])
def test_kept_vectors_are_those_of_this_model_and_these_texts(
    layer: Any, model_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    model = load_model(model_folder)
    fresh = Features(model, tokenizer, layer).vectors(TEXTS)
    keeping = Features(model, tokenizer, layer, tmp_path)
    first, again = keeping.vectors(TEXTS), keeping.vectors(TEXTS)
    assert isinstance(again, np.memmap)
    assert len(list(tmp_path.rglob("*.*"))) == 1
    np.testing.assert_array_equal(first, fresh)
    np.testing.assert_array_equal(again, fresh)
    np.testing.assert_array_equal(keeping.vectors(TEXTS[::-1]), fresh[::-1])
    with torch.no_grad():
        model.transformer.wte.weight += torch.randn_like(model.transformer.wte.weight)
    assert not np.allclose(keeping.vectors(TEXTS), fresh)


def test_a_file_that_is_not_whole_is_made_anew(model_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    keeping = Features(load_model(model_folder), tokenizer, "words", tmp_path)
    fresh = np.array(keeping.vectors(TEXTS))
    (path,) = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:200])
    np.testing.assert_array_equal(keeping.vectors(TEXTS), fresh)


def test_no_folder_to_write_to_is_no_error(model_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    keeping = Features(load_model(model_folder), tokenizer, "words", tmp_path / "file")
    assert keeping.vectors(TEXTS).shape == (7, 16)


def test_the_examples_of_a_split_are_their_inputs(model_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    train = load_collection(make_collection(tmp_path / "tasks"))["mood"].train
    keeping = Features(load_model(model_folder), tokenizer, "words", tmp_path / "cache")
    np.testing.assert_array_equal(keeping.vectors(train), keeping.vectors([e.input for e in train]))


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gemma3", "opt", "bloom"])
def test_other_models_have_layers_too(family: str, tokenizer: Any) -> None:
    model = tiny_language_model(family)
    model.resize_token_embeddings(len(tokenizer))
    vectors = [
        Features(model, tokenizer, layer, max_tokens=100).vectors(TEXTS) for layer in ("words", "middle", "last")
    ]
    assert all(v.shape == (7, 16) and np.isfinite(v).all() for v in vectors)


def test_a_layer_that_is_not_there_is_an_error(model_folder: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="layer is 3; it must be words, middle, last or a number from 0 to 2"):
        Features(load_model(model_folder), tokenizer, 3)
