"""Redrawn label words: in every training prompt the labels of its task have other names, the same for all its examples.

So nothing but the examples tells which label belongs to what, and a model that is trained on few tasks cannot learn
their label words by heart (symbol tuning, Wei et al., EMNLP 2023; label shuffling, Yin et al., ICLR 2020).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ..tasks.collection import Example
from .layout import EncodedTarget, PromptFormat

LabelWords = Literal["task", "redrawn"]

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
DIGITS = tuple("0123456789")
_WORD = re.compile("[a-z]{3,12}")


class LabelRedraw:
    """Draws new label words and puts them into encoded examples.

    words: the words to draw from besides letters and digits, by default those of the tokenizer (`vocabulary_words`).
    """

    def __init__(self, tokenizer: Any, format: PromptFormat, words: Sequence[str] | None = None) -> None:
        self.tokenizer = tokenizer
        self.format = format
        self.words = vocabulary_words(tokenizer) if words is None else tuple(words)
        self._pieces: dict[tuple[str, bool], list[int]] = {}

    def draw(self, examples: Sequence[Example], generator: np.random.Generator) -> dict[str, str]:
        """New words by label, all different and of one sort: letters, digits or words; else numbers.

        Empty when the examples have no labels to tell apart or do not share their options: in multiple choice an option
        is a part of the question and no name of a class.
        """
        labels = sorted(examples[0].options)
        if len(labels) < 2 or any(sorted(example.options) != labels for example in examples):
            return {}
        sorts = [sort for sort in (LETTERS, DIGITS, self.words) if len(sort) >= len(labels)]
        sorts = sorts or [tuple(map(str, range(len(labels))))]
        sort = sorts[int(generator.integers(len(sorts)))]
        drawn = generator.choice(len(sort), size=len(labels), replace=False)
        return {label: sort[int(index)] for label, index in zip(labels, drawn, strict=True)}

    def relabel(
        self, encoded: Sequence[EncodedTarget], examples: Sequence[Example], drawn: Mapping[str, str], first: bool
    ) -> list[EncodedTarget]:
        """The encoded examples of one prompt with new words for their labels.

        The input's token ids stay; its end is cut where a longer label leaves too little room in an example.
        first: whether nothing stands in front of the examples.
        """
        if not drawn:
            return list(encoded)
        limit = self.format.max_tokens_per_example - 2
        relabelled = []
        for place, (target, example) in enumerate(zip(encoded, examples, strict=True)):
            label = self._piece(drawn[example.output], first and place == 0)[:limit]
            if self.format.direction == "direct":
                relabelled.append(EncodedTarget(target.context[: limit - len(label)], label))
            else:
                relabelled.append(EncodedTarget(label, target.answer[: limit - len(label)]))
        return relabelled

    def _piece(self, word: str, first: bool) -> list[int]:
        """Token ids of a label with the separator in front of it."""
        if (word, first) not in self._pieces:
            (target,) = self.format.encode_examples(self.tokenizer, [Example("", word, (word,))], first)
            self._pieces[word, first] = target.answer if self.format.direction == "direct" else target.context
        return self._pieces[word, first]


def rename(text: str, drawn: Mapping[str, str]) -> str:
    """`text`, an instruction, with new words for the labels that it names."""
    if not drawn:
        return text
    longest_first = sorted(map(re.escape, drawn), key=len, reverse=True)
    return re.sub(rf"(?<!\w)(?:{'|'.join(longest_first)})(?!\w)", lambda found: drawn[found[0]], text)


def vocabulary_words(tokenizer: Any) -> tuple[str, ...]:
    """The lower-case words of 3 to 12 letters that begin a word in the tokenizer's vocabulary, in alphabetical order.

    Where tokens mark the blank in front of them (`Ġ`, `▁`), those that do; else those that continue no word (`##`).
    """
    vocabulary = tokenizer.get_vocab()
    marked = {token[1:] for token in vocabulary if token[:1] in ("Ġ", "▁")}
    return tuple(sorted(token for token in marked or vocabulary if _WORD.fullmatch(token)))
