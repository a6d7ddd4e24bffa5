"""Option scores: mean negative log-likelihood of each option's answer, behind demonstrations encoded once.

All test examples of a (task, seed) share the demonstrations, so their keys and values are computed once.  What follows
them, contexts and answers of many examples and options, is packed into one row as a prefix tree: tokens that several
prompts begin with (an example's input, the first words of its options) are computed once, and every token sees the
demonstrations, the tokens that lead to it, and nothing else.  No padding, no copies of the cache, logits only at the
positions that predict an answer token; the last token of an answer predicts nothing and is left out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import DynamicCache

from ..progress import console
from ..prompts.layout import EncodedPrompt, EncodedTarget

LARGEST_LOGITS = 1 << 26  # elements of one logits tensor: 256 MiB in float32
# Tokens of a pack beyond which nothing gets faster, as attention within a pack grows with their square
# (docs/performance.md); a GPU needs more of them to be busy.
ENOUGH_TOKENS, ENOUGH_TOKENS_ON_GPU = 512, 4096


class Scorer:
    """Scores the options of examples with one model.

    tokens_per_forward: most tokens that one forward pass adds behind the demonstrations, whole examples if they fit,
        else some of an example's options at a time; None chooses by the free memory.

    Not every model can be packed: positions may count columns (ALiBi), attention may be local or in chunks, and states
    see all that came before. What goes wrong then depends on the size of a pack and of the prompts in it, and from some
    size on. So a pack that is larger in any way than those before is compared with plain scores before any of its own
    count; from the first that differs on, everything is scored plainly.
    """

    def __init__(self, model: Any, tokens_per_forward: int | None = None) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.tokens_per_forward = tokens_per_forward or tokens_that_fit(model)
        self.packing = True
        self._checked = [0, 0, 0]  # the largest `_extent` at which packed and plain scores were equal
        self._config = model.config.get_text_config()
        # Packed and plain scores of models that can be packed differ by some 2e-6 in float32, of others by 5e-3 and
        # more (tests/prediction/test_scoring.py).
        self._tolerance = 2e-5 if torch.finfo(model.dtype).bits >= 32 else 3e-2
        self.rows_per_forward = max(1, LARGEST_LOGITS // self._config.vocab_size)

    @torch.inference_mode()
    def score(self, prefix: Sequence[int], examples: Sequence[Sequence[EncodedTarget]]) -> list[list[float]]:
        """For each example and option the mean negative log-likelihood in nats of its answer tokens behind `prefix`.

        An answer without tokens scores 0; an answer token with nothing before it is not counted.
        """
        if self.packing:
            scores = self._score_packed(prefix, examples)
            if scores is not None:
                return scores
            self.packing = False
            console.print("prompts are scored one by one: this model gives other scores when they share a pass")
        return [[self.score_plain(_joined(prefix, target)) for target in targets] for targets in examples]

    def _score_packed(
        self, prefix: Sequence[int], examples: Sequence[Sequence[EncodedTarget]]
    ) -> list[list[float]] | None:
        """Scores by packs; None when they turn out to differ from plain ones."""
        scores = [[0.0] * len(targets) for targets in examples]
        cache: DynamicCache | None = None
        for number, pack in enumerate(self._packs(examples)):
            targets = [examples[e][o] for e, o in pack]
            tree = _tree(prefix, targets)
            extent = _extent(prefix, tree)
            larger = any(now > before for now, before in zip(extent, self._checked, strict=True))
            try:
                if number == 0:
                    cache = self._encode(prefix[:-1])
                values = self._score_pack(len(prefix), cache, targets, tree)
            except (TypeError, ValueError, LookupError, NotImplementedError, AttributeError, RuntimeError):
                if not larger or isinstance(sys.exception(), torch.OutOfMemoryError):
                    raise
                return None
            if larger:
                if not self._equal_plain(prefix, targets, values):
                    return None
                self._checked = [max(pair) for pair in zip(extent, self._checked, strict=True)]
            for (e, o), value in zip(pack, values, strict=True):
                scores[e][o] = value
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

    def _encode(self, token_ids: Sequence[int]) -> DynamicCache | None:
        """Keys and values of `token_ids`; None when there are none.

        Layers with a sliding window keep all of them too: a pack's mask says which are seen.
        """
        if not token_ids:
            return None
        cache = DynamicCache()
        ids = torch.tensor([list(token_ids)], device=self.device)
        self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def _packs(self, examples: Sequence[Sequence[EncodedTarget]]) -> Iterator[list[tuple[int, int]]]:
        """(example, option) of each forward pass: the longest examples first, so that memory is at its peak early."""
        sizes = [packed_length(targets) for targets in examples]
        pack: list[tuple[int, int]] = []
        tokens = rows = 0
        for e in sorted(range(len(examples)), key=lambda e: -sizes[e]):
            if pack and tokens + sizes[e] > self.tokens_per_forward:  # rather a new pass than an example in two
                yield pack
                pack, tokens, rows = [], 0, 0
            contexts: set[tuple[int, ...]] = set()
            for o, target in enumerate(examples[e]):
                context = tuple(target.context)
                added = len(target.answer) + (0 if context in contexts else len(context))
                full = tokens + added > self.tokens_per_forward or rows + len(target.answer) > self.rows_per_forward
                if pack and full:
                    yield pack
                    pack, tokens, rows, contexts, added = [], 0, 0, set(), len(target)
                pack.append((e, o))
                contexts.add(context)
                tokens, rows = tokens + added, rows + len(target.answer)
        if pack:
            yield pack

    def _score_pack(
        self, behind: int, cache: DynamicCache | None, targets: Sequence[EncodedTarget], tree: PrefixTree
    ) -> list[float]:
        """Scores of the targets of one pass, `behind` so many tokens. The last of those is not in `cache`: it is the
        tree's root."""
        predictors, answers, owners = [], [], []
        for owner, (target, sequence, path) in enumerate(zip(targets, tree.sequences, tree.paths, strict=True)):
            for place in range(max(1, len(sequence) - len(target.answer)), len(sequence)):
                predictors.append(path[place - 1])
                answers.append(sequence[place])
                owners.append(owner)
        if not predictors:
            return [0.0] * len(targets)
        rows, row_of = torch.tensor(predictors, device=self.device).unique(return_inverse=True)
        cached = behind - 1 if cache is not None else 0
        position_ids = torch.tensor(tree.depths, device=self.device) + cached
        output = self.model(
            input_ids=torch.tensor([tree.token_ids], device=self.device),
            attention_mask=self._mask(tree, cached, position_ids),
            position_ids=position_ids[None],
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=rows,
        )
        if cache is not None:
            cache.crop(-len(tree.token_ids))  # as it was: the demonstrations alone
        logits = output.logits[0].float()  # [rows, vocabulary]
        losses = logits.logsumexp(dim=-1)[row_of] - logits[row_of, torch.tensor(answers, device=self.device)]
        owner_of = torch.tensor(owners, device=self.device)
        sums = torch.zeros(len(targets), device=self.device).index_add_(0, owner_of, losses)
        return (sums / torch.bincount(owner_of, minlength=len(targets)).clamp(min=1)).tolist()

    def _mask(self, tree: PrefixTree, cached: int, position_ids: Tensor) -> Tensor | dict[str, Tensor]:
        """What is added to attention scores [1, 1, T, cached + T], for each kind of layer if the model has several."""
        smallest = torch.finfo(self.model.dtype).min
        count = len(tree.token_ids)
        index = torch.arange(count, device=self.device)
        ends = torch.tensor(tree.ends, device=self.device)
        visible = (index[:, None] >= index) & (index[:, None] < ends)
        mask = torch.zeros(1, 1, count, cached + count, dtype=self.model.dtype, device=self.device)
        mask[..., cached:].masked_fill_(~visible, smallest)
        window = getattr(self._config, "sliding_window", None)
        if window is None:
            return mask
        keys = torch.cat([torch.arange(cached, device=self.device), position_ids])
        sliding = mask.masked_fill(position_ids[:, None] - keys >= window, smallest)
        return {"full_attention": mask, "sliding_attention": sliding} if _has_layer_types(self._config) else sliding

    def _equal_plain(self, prefix: Sequence[int], targets: Sequence[EncodedTarget], values: Sequence[float]) -> bool:
        """Whether the scores of a pack's longest prompt, and of its first and last in the row, are the plain ones."""
        numbers = range(len(targets))
        in_row = sorted(numbers, key=lambda n: targets[n].context + targets[n].answer)
        for number in {max(numbers, key=lambda n: len(targets[n])), in_row[0], in_row[-1]}:
            plain = self.score_plain(_joined(prefix, targets[number]))
            if not abs(plain - values[number]) <= self._tolerance * max(1.0, abs(plain)) and math.isfinite(plain):
                return False
        return True


def _tree(prefix: Sequence[int], targets: Sequence[EncodedTarget]) -> PrefixTree:
    """The prompts of a pack behind the last token of `prefix`; nothing of those without an answer."""
    root = list(prefix[-1:])
    return PrefixTree([root + target.context + target.answer if target.answer else [] for target in targets])


def _extent(prefix: Sequence[int], tree: PrefixTree) -> list[int]:
    """How large a pack is: tokens of the whole row, of its longest prompt, and of what that prompt must not see."""
    cached, deepest = max(0, len(prefix) - 1), max(tree.depths, default=-1) + 1
    return [cached + len(tree.token_ids), cached + deepest, len(tree.token_ids) - deepest]


def check_finite(scores: Sequence[Sequence[float]], what: str) -> None:
    """Raises ValueError naming the first example, by `what` and its number from 0, with a score that is not finite."""
    for number, values in enumerate(scores):
        for value in values:
            if not math.isfinite(value):
                raise ValueError(
                    f"{what}, example {number}: a score is {value}; the model computes no numbers there, so look for "
                    "weights that are not finite"
                )


class PrefixTree:
    """Token sequences, each without its last token, as a tree in which common beginnings stand once.

    token_ids, depths, ends: of each node, depth first; `ends` is the first node that is not below it, so that node i
        is on the way to node j exactly when i <= j < ends[i]. paths: the nodes of each sequence, from the root on.
    """

    def __init__(self, sequences: Sequence[list[int]]) -> None:
        self.sequences = sequences
        self.token_ids: list[int] = []
        self.depths: list[int] = []
        self.ends: list[int] = []
        self.paths: list[list[int]] = [[] for _ in sequences]
        path: list[int] = []
        for s in sorted(range(len(sequences)), key=lambda s: sequences[s][:-1]):  # what begins alike stands together
            sequence = sequences[s][:-1]
            pairs = zip(path, sequence, strict=False)
            shared = next(
                (d for d, (i, t) in enumerate(pairs) if self.token_ids[i] != t), min(len(path), len(sequence))
            )
            first = len(self.token_ids)
            for node in path[shared:]:
                self.ends[node] = first
            self.token_ids += sequence[shared:]
            self.depths += range(shared, len(sequence))
            self.ends += [0] * (len(sequence) - shared)
            path = self.paths[s] = path[:shared] + list(range(first, len(self.token_ids)))
        for node in path:
            self.ends[node] = len(self.token_ids)


def tokens_that_fit(model: Any) -> int:
    """Tokens of one forward pass that need at most a quarter of the free memory, and no more than make it faster."""
    device, config = next(model.parameters()).device, model.config.get_text_config()
    enough = ENOUGH_TOKENS if device.type == "cpu" else ENOUGH_TOKENS_ON_GPU
    free = _free_memory(device)
    if free is None:
        return enough
    width, layers = getattr(config, "hidden_size", 1024), getattr(config, "num_hidden_layers", 24)
    # Per token, in numbers: activations of a block, keys and values of all, a row of a mask, logits twice.
    numbers = 16 * width + 2 * layers * width + 2 * 1024 + 2 * config.vocab_size
    return max(64, min(enough, int(free / 4 / numbers / model.dtype.itemsize)))


def _free_memory(device: torch.device) -> int | None:
    """Bytes that can be had on `device`; None where it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available if device.type == "cpu" else None


def _has_layer_types(config: Any) -> bool:
    return bool(getattr(config, "layer_types", None))


def packed_length(targets: Sequence[EncodedTarget]) -> int:
    """Tokens of an example in a pack, at most."""
    contexts = {tuple(target.context) for target in targets}
    return sum(map(len, contexts)) + sum(len(target.answer) for target in targets)


def _joined(prefix: Sequence[int], target: EncodedTarget) -> EncodedPrompt:
    read = len(prefix) + len(target.context)
    return EncodedPrompt([*prefix, *target.context, *target.answer], [False] * read + [True] * len(target.answer))
