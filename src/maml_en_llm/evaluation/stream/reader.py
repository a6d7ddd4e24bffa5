"""Texts that are learned, and questions that are asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...models import PromptLoss
from ...prediction.scoring import Scorer, check_finite
from ...prompts.batches import Batch
from ...prompts.layout import EncodedPrompt, PromptFormat
from ...tasks.collection import Example
from .documents import Document
from .figures import Answers


def whole_texts(documents: Sequence[Document], tokenizer: Any, limit: int, path: Path | None) -> list[EncodedPrompt]:
    """The token ids of texts, all to be predicted but the first; ValueError for one that does not fit whole."""
    found = []
    for number, document in enumerate(documents, start=1):
        ids = list(tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"])
        if not 2 <= len(ids) <= limit:
            raise ValueError(f"{path}:{number}: the text has {len(ids)} tokens; give 2 to {limit}, or split it")
        found.append(EncodedPrompt(ids, [True] * len(ids)))
    return found


def as_batch(prompts: Sequence[EncodedPrompt], device: torch.device) -> Batch:
    return Batch.from_prompts(prompts).to(device)


class Reader:
    """Asks a model, as it now is."""

    def __init__(self, network: Any, tokenizer: Any, form: PromptFormat, probes: Sequence[EncodedPrompt]) -> None:
        self.scorer, self.loss, self.tokenizer, self.form = Scorer(network), PromptLoss(network), tokenizer, form
        self.probes = [as_batch(probes[i : i + 16], self.scorer.device) for i in range(0, len(probes), 16)]

    def answers(self, questions: Sequence[Example]) -> Answers | None:
        """Without demonstrations; None without questions."""
        if not questions:
            return None
        scores = self.scorer.score([], self.form.encode_all_targets(self.tokenizer, questions, first=True))
        check_finite(scores, "questions")
        gold = [question.options.index(question.output) for question in questions]
        right = [values.index(min(values)) == place for values, place in zip(scores, gold, strict=True)]
        nll = sum(values[place] for values, place in zip(scores, gold, strict=True)) / len(scores)
        return Answers(accuracy=sum(right) / len(right), nll=nll)

    @torch.no_grad()
    def probes_nll(self) -> float | None:
        """Mean over the probes of their NLL per token; None without probes."""
        if not self.probes:
            return None
        sums = [float(self.loss({}, batch)) * len(batch.token_ids) for batch in self.probes]
        return sum(sums) / sum(len(batch.token_ids) for batch in self.probes)
