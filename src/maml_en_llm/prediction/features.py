"""Vectors of texts from the language model in use: what heads classify and what nearest demonstrations are found by."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..files import content_hash
from ..progress import console
from ..prompts.choosing import Choice, needs_vectors, selection
from ..prompts.demonstrations import Select
from ..prompts.token_cache import cache_folder
from ..tasks.collection import Examples
from .predictor import LoadedModel

TEXTS_PER_CHUNK = 4096  # read and tokenized at once
TOKENS_PER_FORWARD = 8192
FEWEST_KEPT = 256  # fewer texts are computed faster than looked up
VERSION = 1  # of a file's content; a new one makes new files


class Features:
    """Vectors of texts: the mean over a text's tokens of one layer of a causal language model.

    layer: `words` (input embeddings, for which no model runs), `middle`, `last`, or the index of a layer's output (0
        comes before the first block). folder: where vectors are kept; None keeps none. max_tokens: a longer text is
        cut.

    A file belongs to its texts, tokenizer, weights and layer, so that no other run computes it again and none reads
    another model's.  Only texts of equal length share a forward pass: there is no padding for a model to see.
    """

    def __init__(
        self, model: Any, tokenizer: Any, layer: str | int = "words", folder: Path | None = None, max_tokens: int = 256
    ) -> None:
        layers = model.config.get_text_config().num_hidden_layers
        if layer not in ("words", "middle", "last", *range(layers + 1)):
            raise ValueError(f"layer is {layer}; it must be words, middle, last or a number from 0 to {layers}")
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens
        self.layer = {"middle": layers // 2, "last": layers}.get(str(layer), layer)
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        # A tokenizer written in Python has no full description to tell it from others by.
        self.folder = folder / "vectors" if folder is not None and hasattr(backend, "to_str") else None

    def vectors(self, texts: Sequence[str] | Examples) -> Float[np.ndarray, "texts width"]:
        """One float32 vector per text (of Examples: per input), memory-mapped where they are kept; zeros for a text
        without tokens."""
        width = self.model.get_input_embeddings().weight.shape[1]
        if self.folder is None or len(texts) < FEWEST_KEPT:
            found = np.zeros((len(texts), width), np.float32)
            self._fill(found, texts)
            return found
        path = self.folder / f"{self._key(texts)}.npy"
        try:
            with contextlib.suppress(FileNotFoundError, ValueError):
                return np.load(path, mmap_mode="r")
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
            try:
                rows = np.lib.format.open_memmap(beside, mode="w+", dtype=np.float32, shape=(len(texts), width))
                self._fill(rows, texts)
                rows.flush()
                os.replace(beside, path)
            finally:
                beside.unlink(missing_ok=True)
            return np.load(path, mmap_mode="r")
        except OSError as error:
            console.print(f"no vectors are kept, because {path.parent} cannot be used: {error.strerror or error}")
            self.folder = None
            return self.vectors(texts)

    def _fill(self, rows: np.ndarray, texts: Sequence[str] | Examples) -> None:
        for start in range(0, len(texts), TEXTS_PER_CHUNK):
            chunk = [text if isinstance(text, str) else text.input for text in texts[start : start + TEXTS_PER_CHUNK]]
            distinct = {text: place for place, text in enumerate(dict.fromkeys(chunk))}
            rows[start : start + len(chunk)] = self._of_distinct(list(distinct))[[distinct[text] for text in chunk]]

    @torch.inference_mode()
    def _of_distinct(self, texts: list[str]) -> np.ndarray:
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        ids = [list(tokens[: self.max_tokens]) for tokens in encoded]
        device = self.model.get_input_embeddings().weight.device
        rows = np.zeros((len(texts), self.model.get_input_embeddings().weight.shape[1]), np.float32)
        for length, members in _runs(ids):
            size = max(1, TOKENS_PER_FORWARD // length)
            for first in range(0, len(members), size):
                part = members[first : first + size]
                states = self._states(torch.tensor([ids[i] for i in part], device=device))
                rows[part] = states.float().mean(dim=1).cpu().numpy()
        return rows

    def _states(self, token_ids: Int[Tensor, "texts tokens"]) -> Float[Tensor, "texts tokens width"]:
        if self.layer == "words":
            return self.model.get_input_embeddings()(token_ids)
        output = self.model(input_ids=token_ids, output_hidden_states=True, use_cache=False, logits_to_keep=1)
        return output.hidden_states[int(self.layer)]

    def _key(self, texts: Sequence[str] | Examples) -> str:
        """Hash of all that the vectors depend on."""
        described = (VERSION, self.layer, self.max_tokens, self.tokenizer.backend_tokenizer.to_str())
        digest = hashlib.sha256(repr(described).encode())
        if self.layer == "words":
            parameters = [("words", self.model.get_input_embeddings().weight)]
        else:
            digest.update(self.model.config.to_json_string().encode())
            parameters = sorted(self.model.named_parameters())
        for name, parameter in parameters:
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        if isinstance(texts, Examples):
            digest.update(content_hash(texts.path).encode())
        else:
            for text in texts:
                encoded = text.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()[:32]


def features_of(model: LoadedModel, layer: str | int = "words") -> Features:
    """Vectors from a loaded model, kept in the user's cache folder; `layer` may be a number as text."""
    number = int(layer) if str(layer).isdigit() else layer
    return Features(model.network, model.tokenizer, number, cache_folder())


def selection_with(model: LoadedModel, choose: Choice, groups: int = 0, layer: str | int = "words") -> Select:
    """A way to choose demonstrations that compares texts by vectors from `model`."""
    vectors = features_of(model, layer).vectors if needs_vectors(choose, groups) else None
    return selection(choose, vectors, groups)


def _runs(ids: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[int]]]:
    """(length, indices) of the texts of each length but 0."""
    order = sorted((i for i in range(len(ids)) if ids[i]), key=lambda i: len(ids[i]))
    for length, members in groupby(order, key=lambda i: len(ids[i])):
        yield length, list(members)
