"""Option scores: mean negative log-likelihood of each option's answer, behind demonstrations encoded once.

All test examples of a (task, seed) share the demonstrations, so their keys and values are computed once.  Examples and
their options are then packed into one row as a tree: every token sees the demonstrations, the context of its own
option and the answer tokens before it, and nothing else.  No padding, no copies of the cache, and logits only at the
positions that predict an answer token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..prompts.layout import EncodedPrompt, EncodedTarget

LARGEST_LOGITS = 1 << 26  # elements of one logits tensor: 256 MiB in float32


class Scorer:
    """Scores the options of examples with one model.

    tokens_per_forward: most tokens that one forward pass adds behind the demonstrations (an example that is longer
        gets a pass of its own). Models whose attention does not allow packing are found out by comparing with plain
        scores whenever a prompt is longer than any before, and are scored plainly from then on.
    """

    def __init__(self, model: Any, tokens_per_forward: int = 1024) -> None:
        self.model = model
        self.tokens_per_forward = tokens_per_forward
        self.packing = True
        self._checked_length = 0  # longest prompt for which packed and plain scores were compared
        self.device = next(model.parameters()).device
        self.positions_per_forward = max(1, LARGEST_LOGITS // model.config.get_text_config().vocab_size)

    @torch.inference_mode()
    def score(self, prefix: Sequence[int], examples: Sequence[Sequence[EncodedTarget]]) -> list[list[float]]:
        """For each example and option the mean negative log-likelihood in nats of its answer tokens behind `prefix`.

        An answer without tokens scores 0; an answer token with nothing before it is not counted.
        """
        if not examples:
            return []
        longest = max(examples, key=lambda targets: max(map(len, targets), default=0))
        length = len(prefix) + max(map(len, longest), default=0)
        if self.packing and length > self._checked_length:
            self.packing, self._checked_length = self._packing_is_exact(prefix, longest), length
        if not self.packing:
            return [[self.score_plain(_joined(prefix, target)) for target in targets] for targets in examples]
        cache = self._encode(prefix[:-1]) if len(prefix) > 1 else None
        scores: list[list[float]] = [[] for _ in examples]
        order = sorted(range(len(examples)), key=lambda i: -_packed_length(examples[i]))
        for pack in self._packs(examples, order):
            for index, values in zip(pack, self._score_pack(prefix, cache, [examples[i] for i in pack]), strict=True):
                scores[index] = values
        return scores

    @torch.inference_mode()
    def score_plain(self, prompt: EncodedPrompt) -> float:
        """The same for one whole prompt, encoded on its own."""
        positions = [i for i, answered in enumerate(prompt.answer_mask) if answered and i > 0]
        if not positions:
            return 0.0
        token_ids = torch.tensor([prompt.token_ids], device=self.device)
        keep = torch.tensor(positions, device=self.device) - 1
        logits = self.model(input_ids=token_ids, use_cache=False, logits_to_keep=keep).logits[0].float()
        return float(torch.nn.functional.cross_entropy(logits, token_ids[0, keep + 1]))

    def _encode(self, token_ids: Sequence[int]) -> DynamicCache:
        cache = DynamicCache()  # of full layers: a sliding one forgets the demonstrations when a pack passes through
        ids = torch.tensor([list(token_ids)], device=self.device)
        self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def _packs(self, examples: Sequence[Sequence[EncodedTarget]], order: Sequence[int]) -> Iterator[list[int]]:
        """Indices of the examples of each forward pass."""
        pack: list[int] = []
        tokens = positions = 0
        for index in order:
            length = _packed_length(examples[index])
            answers = sum(len(target.answer) for target in examples[index])
            full = tokens + length > self.tokens_per_forward or positions + answers > self.positions_per_forward
            if pack and full:
                yield pack
                pack, tokens, positions = [], 0, 0
            pack.append(index)
            tokens, positions = tokens + length, positions + answers
        if pack:
            yield pack

    def _score_pack(
        self, prefix: Sequence[int], cache: DynamicCache | None, examples: Sequence[Sequence[EncodedTarget]]
    ) -> list[list[float]]:
        """Scores of the examples of one pass. The last token of `prefix` is not in `cache`: it leads every pack."""
        cached = len(prefix) - 1 if cache is not None else 0
        tree = _Tree(prefix[-1:], start=cached)
        owners: list[tuple[int, int]] = []  # (example, option) of each answer
        for e, targets in enumerate(examples):
            contexts: dict[tuple[int, ...], int] = {}
            for o, target in enumerate(targets):
                key = tuple(target.context)
                if key not in contexts:
                    contexts[key] = tree.add_context(target.context)
                tree.add_answer(contexts[key], target.answer)
                owners.append((e, o))
        token_ids, positions, visible, predictors, answers, owner = tree.tensors(self.device)
        rows, row_of = predictors.unique(return_inverse=True)
        scores = [[0.0] * len(targets) for targets in examples]
        if len(rows) == 0:
            return scores
        mask = torch.zeros(visible.shape[0], cached + visible.shape[1], dtype=self.model.dtype, device=self.device)
        mask[:, cached:].masked_fill_(~visible, torch.finfo(self.model.dtype).min)
        logits = (
            self.model(
                input_ids=token_ids[None],
                attention_mask=mask[None, None],
                position_ids=positions[None],
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=rows,
            )
            .logits[0]
            .float()
        )  # [rows, vocabulary]
        if cache is not None:
            cache.crop(-len(token_ids))  # as it was: the demonstrations alone
        losses = logits.logsumexp(dim=-1)[row_of] - logits[row_of, answers]
        counts = torch.bincount(owner, minlength=len(owners))
        sums = torch.zeros(len(owners), device=self.device).index_add_(0, owner, losses)
        for (e, o), value in zip(owners, (sums / counts.clamp(min=1)).tolist(), strict=True):
            scores[e][o] = value
        return scores

    def _packing_is_exact(self, prefix: Sequence[int], targets: Sequence[EncodedTarget]) -> bool:
        """Whether this model's packed scores are its plain scores (not with ALiBi or short sliding windows)."""
        plain = [self.score_plain(_joined(prefix, target)) for target in targets]
        try:
            cache = self._encode(prefix[:-1]) if len(prefix) > 1 else None
            packed = self._score_pack(prefix, cache, [targets, targets])[1]
        except (TypeError, ValueError, NotImplementedError, AttributeError, RuntimeError):
            return False
        return all(abs(a - b) <= 1e-3 * max(1.0, abs(a)) for a, b in zip(plain, packed, strict=True))


class _Tree:
    """Tokens of one packed row: a root, contexts below it, answers below their context."""

    def __init__(self, root: Sequence[int], start: int) -> None:
        self.start = start
        self.token_ids: list[int] = list(root)
        self.positions = list(range(start, start + len(root)))
        self.node = [0] * len(root)  # node of each token
        self.parent = [0] * len(root)  # node above it; node 0 is the root, which everything sees
        self.ends = [len(root) - 1]  # last token index on the way from the root to the end of each node, -1: none
        self.predictors: list[int] = []
        self.answers: list[int] = []
        self.owner: list[int] = []
        self._answers_added = 0

    def add_context(self, token_ids: Sequence[int]) -> int:
        return self._add(token_ids, parent=0)

    def add_answer(self, context: int, token_ids: Sequence[int]) -> None:
        previous, first = self.ends[context], len(self.token_ids)
        self._add(token_ids, parent=context)
        for i, token in enumerate(token_ids):
            if previous >= 0:
                self.predictors.append(previous)
                self.answers.append(token)
                self.owner.append(self._answers_added)
            previous = first + i
        self._answers_added += 1

    def _add(self, token_ids: Sequence[int], parent: int) -> int:
        node, above = len(self.ends), self.ends[parent]
        position = self.positions[above] + 1 if above >= 0 else self.start
        self.ends.append(len(self.token_ids) + len(token_ids) - 1 if token_ids else above)
        self.token_ids += token_ids
        self.positions += range(position, position + len(token_ids))
        self.node += [node] * len(token_ids)
        self.parent += [parent] * len(token_ids)
        return node

    def tensors(self, device: torch.device) -> tuple[Tensor, ...]:
        """token_ids [T], positions [T], visible [T, T], and per scored token: predicting row, token, answer."""
        columns = [self.token_ids, self.positions, self.node, self.parent, self.predictors, self.answers, self.owner]
        token_ids, positions, node, parent, predictors, answers, owner = (
            torch.tensor(column, dtype=torch.long, device=device) for column in columns
        )
        above = (node[None, :] == node[:, None]) | (node[None, :] == parent[:, None]) | (node[None, :] == 0)
        return token_ids, positions, above.tril(), predictors, answers, owner


def _packed_length(targets: Sequence[EncodedTarget]) -> int:
    contexts = {tuple(target.context) for target in targets}
    return sum(map(len, contexts)) + sum(len(target.answer) for target in targets)


def _joined(prefix: Sequence[int], target: EncodedTarget) -> EncodedPrompt:
    read = len(prefix) + len(target.context)
    return EncodedPrompt([*prefix, *target.context, *target.answer], [False] * read + [True] * len(target.answer))
