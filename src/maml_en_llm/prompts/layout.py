"""Examples to token ids: demonstrations + example, with a mask over the answer (docs/prompts.md).

Every piece (one input or one output with the separator in front of it) is tokenized on its own and the ids are
concatenated, so the ids of a piece do not depend on what stands before it.  The token ids of the layouts `metaicl`
and `spaces` equal those of the reference implementation; golden files in the tests hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from ..tasks.collection import Example

Direction = Literal["direct", "channel"]
Layout = Literal["newlines", "metaicl", "spaces"]
Overflow = Literal["fit", "left"]
Predicted = Literal["last_answer", "answers", "text"]


@dataclass(frozen=True)
class EncodedPrompt:
    """`token_ids` [tokens], and `answer_mask` [tokens]: True where the token is predicted and counts in the loss."""

    token_ids: list[int]
    answer_mask: list[bool]


@dataclass(frozen=True)
class EncodedTarget:
    """The last example of a prompt for one option: what is read, then what is predicted."""

    context: list[int]
    answer: list[int]

    def __len__(self) -> int:
        return len(self.context) + len(self.answer)


@dataclass(frozen=True)
class PromptFormat:
    """How examples become prompts.

    direction: `direct` predicts output from input, `channel` predicts input from output.
    layout: `newlines`; `metaicl`, the same but exactly as the reference implementation (no separator between input and
        output of free-form examples); `spaces`, the reference's choice for an untrained LM.
    max_tokens: limit of a whole prompt, in tokens.
    max_tokens_per_example: limit of one example, in tokens, two of which stay free; the input is cut from its end.
    overflow: when scoring, `fit` cuts the demonstrations once so that the longest example of a task still fits;
        `left` cuts each prompt from its left, as the reference does. Training prompts are always cut from the left.
    """

    direction: Direction = "direct"
    layout: Layout = "newlines"
    max_tokens: int = 1024
    max_tokens_per_example: int = 256
    overflow: Overflow = "fit"

    def __post_init__(self) -> None:
        if self.max_tokens_per_example < 4:
            raise ValueError(f"max_tokens_per_example is {self.max_tokens_per_example}; it must be at least 4")
        if self.max_tokens < self.max_tokens_per_example:
            raise ValueError(
                f"max_tokens ({self.max_tokens}) is smaller than max_tokens_per_example "
                f"({self.max_tokens_per_example}), so an example may not fit; raise the one or lower the other"
            )

    def encode_training(
        self, tokenizer: Any, demonstrations: Sequence[Example], example: Example, head: Sequence[int] = ()
    ) -> EncodedPrompt:
        """The prompt whose answer is the example's own output (channel: its input), cut from the left if too long.

        head: token ids of an instruction, which stays whole.
        """
        return self.join_training(self.encode_prompt(tokenizer, [*demonstrations, example], first=not head), head)

    def encode_prompt(self, tokenizer: Any, examples: Sequence[Example], first: bool = True) -> list[EncodedTarget]:
        """Each example with its own output, one behind the other; `first` when nothing stands before them."""
        return self._encode(tokenizer, [(e.input, e.output, e, first and i == 0) for i, e in enumerate(examples)])

    def encode_instruction(self, tokenizer: Any, instruction: str | None) -> list[int]:
        """Token ids of what stands at the head of a prompt; no example behind it counts as the first of its prompt."""
        return list(tokenizer(instruction, add_special_tokens=False)["input_ids"]) if instruction else []

    def behind(self, head: Sequence[int]) -> PromptFormat:
        """The format of what stands behind `head`; ValueError when too little room is left."""
        room = self.max_tokens - len(head)
        if head and room < self.max_tokens_per_example:
            raise ValueError(
                f"an instruction of {len(head)} tokens leaves {room} of max_tokens ({self.max_tokens}), less than "
                f"max_tokens_per_example ({self.max_tokens_per_example}); shorten it or raise max_tokens"
            )
        return replace(self, max_tokens=room)

    def encode_examples(self, tokenizer: Any, examples: Sequence[Example], first: bool) -> list[EncodedTarget]:
        """Each example with its own output, as it stands first in a prompt or behind others."""
        return self._encode(tokenizer, [(example.input, example.output, example, first) for example in examples])

    def join_training(
        self, encoded: Sequence[EncodedTarget], head: Sequence[int] = (), predicted: Predicted = "last_answer"
    ) -> EncodedPrompt:
        """The prompt of encoded demonstrations and, last, the example, cut from the left behind `head` if too long.

        head: token ids of an instruction. predicted: what the mask marks, the example's answer, those of the
        demonstrations too, or every token.
        """
        token_ids: list[int] = []
        mask: list[bool] = []
        for place, target in enumerate(encoded):
            answers = predicted != "last_answer" or place == len(encoded) - 1
            token_ids += [*target.context, *target.answer]
            mask += [predicted == "text"] * len(target.context) + [answers] * len(target.answer)
        room = self.behind(head).max_tokens
        return EncodedPrompt([*head, *token_ids[-room:]], [predicted == "text"] * len(head) + mask[-room:])

    def encode_options(
        self, tokenizer: Any, demonstrations: Sequence[Example], example: Example, longest: int | None = None
    ) -> list[EncodedPrompt]:
        """One prompt per option of the example, each with that option in the place of the output.

        longest: tokens of the longest encoded example that shares these demonstrations (overflow `fit`); by default
            this example's own longest.  Raises ValueError when the example has no options.
        """
        prefix = self.encode_demonstrations(tokenizer, demonstrations)
        targets = self.encode_targets(tokenizer, example, first=not demonstrations)
        if self.overflow == "fit":
            prefix = self.fit(prefix, max(longest or 0, *(len(target) for target in targets)))
        return [self.join(prefix, target) for target in targets]

    def encode_demonstrations(self, tokenizer: Any, demonstrations: Sequence[Example], first: bool = True) -> list[int]:
        """Token ids of the demonstrations alone, uncut; `first` when nothing stands before them."""
        shown = self.encode_prompt(tokenizer, demonstrations, first)
        return [token for target in shown for token in (*target.context, *target.answer)]

    def encode_targets(self, tokenizer: Any, example: Example, first: bool) -> list[EncodedTarget]:
        """The example alone, once per option; `first` when no demonstration stands before it."""
        return self.encode_all_targets(tokenizer, [example], first)[0]

    def encode_all_targets(self, tokenizer: Any, examples: Sequence[Example], first: bool) -> list[list[EncodedTarget]]:
        """`encode_targets` of each example, in one call of the tokenizer, which is faster."""
        for example in examples:
            if not example.options:
                raise ValueError(f"the example {example.input[:60]!r} has no options to score; it is free-form")
        pieces = [(e.input, option, e, first) for e in examples for option in e.options]
        groups = [len(e.options) for e in examples]
        encoded = iter(self._encode(tokenizer, pieces, groups))
        return [list(islice(encoded, count)) for count in groups]

    def fit(self, prefix: list[int], longest: int) -> list[int]:
        """`prefix` without the leading tokens that leave no room for a target of `longest` tokens."""
        return prefix[max(0, len(prefix) + longest - self.max_tokens) :]

    def join(self, prefix: list[int], target: EncodedTarget) -> EncodedPrompt:
        """The whole prompt, cut from its left to `max_tokens`."""
        token_ids = [*prefix, *target.context, *target.answer][-self.max_tokens :]
        unmasked = len(token_ids) - len(target.answer)
        return EncodedPrompt(token_ids, [False] * unmasked + [True] * len(target.answer))

    def _encode(
        self,
        tokenizer: Any,
        pieces: list[tuple[str, str, Example, bool]],
        groups: Sequence[int] | None = None,
    ) -> list[EncodedTarget]:
        """Tokenizes (input, output, example, first) pieces and cuts each to the limit of one example.

        groups: lengths of the runs of pieces whose inputs are cut alike, as their longest output needs; default 1.
        """
        texts = []
        for input_text, output_text, example, first in pieces:
            before_input, before_output = self._separators(example, first)
            texts += [before_input + input_text, before_output + output_text]
        if not texts:
            return []
        distinct = list(dict.fromkeys(texts))  # label words and, for each option, the input come again and again
        encoded = tokenizer(distinct, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        ids_of = dict(zip(distinct, encoded, strict=True))
        limit = self.max_tokens_per_example - 2
        targets: list[EncodedTarget] = []
        for count in groups or [1] * len(pieces):
            start = 2 * len(targets)
            inputs = [ids_of[text] for text in texts[start : start + 2 * count : 2]]
            outputs = [ids_of[text][:limit] for text in texts[start + 1 : start + 2 * count : 2]]
            room = limit - max(map(len, outputs))
            for input_ids, output_ids in zip((list(ids[:room]) for ids in inputs), outputs, strict=True):
                pair = (input_ids, output_ids) if self.direction == "direct" else (output_ids, input_ids)
                targets.append(EncodedTarget(*pair))
        return targets

    def pieces(self, examples: Sequence[Example]) -> list[tuple[str, str]]:
        """The text of the input and of the output of each example of a prompt, with the separators before them."""
        found = []
        for place, example in enumerate(examples):
            before_input, before_output = self._separators(example, place == 0)
            found.append((before_input + example.input, before_output + example.output))
        return found

    def _separators(self, example: Example, first: bool) -> tuple[str, str]:
        """What stands before the input and before the output of an example."""
        if self.layout == "spaces":
            return ("" if first else " ", " ") if self.direction == "direct" else (" ", "" if first else " ")
        # An example without label words has nothing to separate; `metaicl` counts free-form examples among these.
        unlabelled = all(option == "" for option in example.options) and (
            self.layout == "metaicl" or bool(example.options)
        )
        if self.direction == "direct":
            between = "" if first else "\n\n" if example.input == "" else "\n\n\n"
            return between, "" if unlabelled else "\n"
        return "" if unlabelled or example.input == "" else "\n", "" if first else "\n\n\n"
