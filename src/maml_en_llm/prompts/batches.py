"""Batches of prompts, drawn on the fly from a batch number: the same number gives the same batch, in any order.

So training can resume from a number, two methods with one seed see the same data, and nothing is pre-computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..tasks.collection import Example, Examples
from ..tasks.seeds import random_generator
from .demonstrations import Select, draw_indices
from .label_words import LabelRedraw, LabelWords, rename
from .layout import EncodedPrompt, Predicted, PromptFormat
from .token_cache import TokenCache, TokenizedExamples


@dataclass(frozen=True)
class Batch:
    """Prompts of one batch, padded on the right to the longest so that they fit in two tensors.

    The loss computes them in groups of like lengths, and nothing of what follows a prompt's last answer token.
    """

    token_ids: Int[Tensor, "prompts tokens"]
    answer_mask: Bool[Tensor, "prompts tokens"]
    task_names: tuple[str, ...] = ()

    @classmethod
    def from_prompts(cls, prompts: Sequence[EncodedPrompt], task_names: Sequence[str] = ()) -> Batch:
        longest = max(len(prompt.token_ids) for prompt in prompts)
        token_ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        answer_mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            token_ids[row, : len(prompt.token_ids)] = torch.tensor(prompt.token_ids)
            answer_mask[row, : len(prompt.token_ids)] = torch.tensor(prompt.answer_mask)
        return cls(token_ids, answer_mask, tuple(task_names))

    def to(self, device: torch.device) -> Batch:
        return Batch(self.token_ids.to(device), self.answer_mask.to(device), self.task_names)


@runtime_checkable
class Sampler(Protocol):
    """Anything that makes a batch from its number."""

    def batch(self, number: int) -> Batch: ...


@dataclass
class MixtureSampler:
    """Every prompt is a draw from the mixture of all training tasks, in proportion to their sizes.

    Targets go through a seeded permutation of all examples, a new one each epoch, so that within an epoch every
    example is a target once and batches are disjoint; demonstrations are drawn anew for every prompt.

    tasks: train examples by task name. demonstrations: how many in front of each target (all others of a task when it
    has fewer). predicted: what counts in the loss (PromptFormat.join_training). label_words: the task's own, or drawn
    anew for every prompt (label_words.py). select: how demonstrations are chosen for a target; None: at random.
    instructions: by task name, what stands at the head of its prompts.
    """

    tasks: Mapping[str, Sequence[Example]]
    format: PromptFormat
    tokenizer: Any
    demonstrations: int = 16
    prompts_per_batch: int = 1
    seed: int = 100
    predicted: Predicted = "last_answer"
    label_words: LabelWords = "task"
    select: Select | None = None
    token_cache: TokenCache | None = None
    instructions: Mapping[str, str] = field(default_factory=dict)
    _sizes: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._names = list(self.tasks)
        self._sizes = np.array([len(self.tasks[name]) for name in self._names], dtype=np.int64)
        self._ends = np.cumsum(self._sizes)
        if not self._names or self._ends[-1] == 0:
            raise ValueError("there is no training example to draw from; choose a setting with training tasks present")
        self._permutation = lru_cache(maxsize=2)(self._permutation)  # type: ignore[method-assign]
        instructions = self.instructions.items()
        self._heads = {name: self.format.encode_instruction(self.tokenizer, text) for name, text in instructions}
        self._redraw = LabelRedraw(self.tokenizer, self.format) if self.label_words == "redrawn" else None
        self._kept: dict[str, TokenizedExamples | None] = {}
        self._tokenized_anew: dict[str, int] = dict.fromkeys(self._names, 0)

    def _permutation(self, epoch: int) -> np.ndarray:
        return random_generator("mixture", self.seed, epoch).permutation(int(self._ends[-1]))

    def _tokenized(self, name: str) -> TokenizedExamples | None:
        """The kept token ids of a task, if there are any.

        They are made once as many of its examples have been tokenized anew as it has: earlier, a short run on large
        tasks would wait for what it hardly uses; like this, no run spends more than twice what it needs.
        """
        examples = self.tasks[name]
        if self.token_cache is None or not isinstance(examples, Examples):
            return None
        if name not in self._kept:
            self._kept[name] = self.token_cache.open(examples, make=False)
        if self._kept[name] is None:
            self._tokenized_anew[name] += 1 + self.demonstrations
            if self._tokenized_anew[name] > len(examples):
                self._kept[name] = self.token_cache.open(examples)
        return self._kept[name]

    def batch(self, number: int) -> Batch:
        positions = range(number * self.prompts_per_batch, (number + 1) * self.prompts_per_batch)
        prompts = [self._prompt(position) for position in positions]
        return Batch.from_prompts([prompt for prompt, _ in prompts], [name for _, name in prompts])

    def _prompt(self, position: int) -> tuple[EncodedPrompt, str]:
        epoch, offset = divmod(position, int(self._ends[-1]))
        drawn = int(self._permutation(epoch)[offset])
        task = int(np.searchsorted(self._ends, drawn, side="right"))
        target = drawn - int(self._ends[task] - self._sizes[task])
        generator = random_generator("prompt", self.seed, position)
        if self.select is None:
            shown = draw_indices(generator, int(self._sizes[task]), self.demonstrations, excluded=[target])
        else:
            bank = self.tasks[self._names[task]]
            (shown,) = self.select(bank, [bank[target]], self.demonstrations, generator, excluded=[target])
        return self.encode(self._names[task], target, shown), self._names[task]

    def encode(self, name: str, target: int, shown: Sequence[int]) -> EncodedPrompt:
        """The prompt of example `target` of task `name` behind the demonstrations `shown`, all given as indices."""
        head, examples = self._heads.get(name, []), self.tasks[name]
        if (tokenized := self._tokenized(name)) is not None:
            places = enumerate([*shown, target])
            encoded = [tokenized.encoded(i, first=place == 0 and not head) for place, i in places]
        else:
            encoded = self.format.encode_prompt(self.tokenizer, [examples[i] for i in [*shown, target]], not head)
        if self._redraw is not None:
            read = [examples[i] for i in [*shown, target]]
            drawn = self._redraw.draw(read, random_generator("label_words", self.seed, name, target, *shown))
            encoded = self._redraw.relabel(encoded, read, drawn, first=not head)
            if head and drawn:
                head = self.format.encode_instruction(self.tokenizer, rename(self.instructions[name], drawn))
        return self.format.join_training(encoded, head, self.predicted)


@dataclass
class SameTaskSampler(MixtureSampler):
    """Classic MAML: the batches of one explored copy come from one NLP task, drawn in proportion to its size.

    Of each group of `2 * inner_steps` consecutive batches the first half is support, the second query.  Targets are
    distinct within the group, and support and query draw their demonstrations from disjoint halves of the rest.
    """

    inner_steps: int = 1

    def batch(self, number: int) -> Batch:
        group, place = divmod(number, 2 * self.inner_steps)
        generator = random_generator("same_task", self.seed, group)
        needed = 2 * self.inner_steps * self.prompts_per_batch
        enough = self._sizes >= needed + 2
        if not enough.any():
            raise ValueError(
                f"no training task has {needed + 2} examples, which sampling=same_task needs for {needed} distinct "
                "targets; use sampling=mixture, fewer inner steps or a smaller batch size"
            )
        weights = np.where(enough, self._sizes, 0) / self._sizes[enough].sum()
        task = int(generator.choice(len(self._names), p=weights))
        shuffled = generator.permutation(int(self._sizes[task]))
        targets, rest = shuffled[:needed], shuffled[needed:]
        half = len(rest) // 2
        pool = rest[:half] if place < self.inner_steps else rest[half:]
        name, prompts = self._names[task], []
        for target in targets[place * self.prompts_per_batch : (place + 1) * self.prompts_per_batch]:
            shown = random_generator("prompt", self.seed, group, int(target)).permutation(pool)[: self.demonstrations]
            prompts.append(self.encode(name, int(target), [int(index) for index in shown]))
        return Batch.from_prompts(prompts, [name] * len(prompts))
