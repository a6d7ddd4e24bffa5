"""Option scores: mean negative log-likelihood of each option's answer, behind demonstrations encoded once.

All test examples of a (task, seed) share the demonstrations, so their keys and values are computed once.  What follows
them, contexts and answers of many examples and options, is packed into one row as a prefix tree: tokens that several
prompts begin with (an example's input, the first words of its options) are computed once, and every token sees the
demonstrations, the tokens that lead to it, and nothing else.  No padding, no copies of the cache, logits only at the
positions that predict an answer token; the last token of an answer predicts nothing and is left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..prompts.layout import EncodedPrompt, EncodedTarget

LARGEST_LOGITS = 1 << 26  # elements of one logits tensor: 256 MiB in float32
# Tokens of a pack beyond which nothing gets faster, as attention within a pack grows with their square
# (docs/performance.md); a GPU needs more of them to be busy.
ENOUGH_TOKENS, ENOUGH_TOKENS_ON_GPU = 512, 4096


class Scorer:
    """Scores the options of examples with one model.

    tokens_per_forward: most tokens that one forward pass adds behind the demonstrations, whole examples if they fit,
        else some of an example's options at a time; None chooses by the free memory. Models whose attention does not
        allow packing (ALiBi, state spaces) are found out by comparing with a plain score whenever a prompt is longer
        than any before, and are scored plainly from then on.
    """

    def __init__(self, model: Any, tokens_per_forward: int | None = None) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.tokens_per_forward = tokens_per_forward or tokens_that_fit(model)
        self.packing = True
        self._checked_length = 0  # longest prompt for which packed and plain scores were compared
        self._config = model.config.get_text_config()
        self.rows_per_forward = max(1, LARGEST_LOGITS // self._config.vocab_size)

    @torch.inference_mode()
    def score(self, prefix: Sequence[int], examples: Sequence[Sequence[EncodedTarget]]) -> list[list[float]]:
        """For each example and option the mean negative log-likelihood in nats of its answer tokens behind `prefix`.

        An answer without tokens scores 0; an answer token with nothing before it is not counted.
        """
        longest = max((target for targets in examples for target in targets), key=len, default=None)
        if longest is None:
            return [[] for _ in examples]
        length = len(prefix) + len(longest)
        if self.packing and length > self._checked_length:
            self.packing, self._checked_length = self._packing_is_exact(prefix, longest), length
        if not self.packing:
            return [[self.score_plain(_joined(prefix, target)) for target in targets] for targets in examples]
        cache = self._encode(prefix[:-1])
        scores = [[0.0] * len(targets) for targets in examples]
        for pack in self._packs(examples):
            values = self._score_pack(prefix, cache, [examples[e][o] for e, o in pack])
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
        self, prefix: Sequence[int], cache: DynamicCache | None, targets: Sequence[EncodedTarget]
    ) -> list[float]:
        """Scores of the targets of one pass. The last token of `prefix` is not in `cache`: it is the tree's root."""
        root = list(prefix[-1:])
        sequences = [root + target.context + target.answer if target.answer else [] for target in targets]
        tree = PrefixTree(sequences)
        predictors, answers, owners = [], [], []
        for owner, (target, sequence, path) in enumerate(zip(targets, sequences, tree.paths, strict=True)):
            for place in range(max(1, len(sequence) - len(target.answer)), len(sequence)):
                predictors.append(path[place - 1])
                answers.append(sequence[place])
                owners.append(owner)
        if not predictors:
            return [0.0] * len(targets)
        rows, row_of = torch.tensor(predictors, device=self.device).unique(return_inverse=True)
        cached = len(prefix) - 1 if cache is not None else 0
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

    def _packing_is_exact(self, prefix: Sequence[int], target: EncodedTarget) -> bool:
        """Whether the score of `target` is its plain one also when other prompts are packed before and after it."""
        size = self._config.vocab_size
        others = [
            EncodedTarget([(t + by) % size for t in target.context], [(t + by) % size for t in target.answer])
            for by in (-1, 1)
        ]
        plain = self.score_plain(_joined(prefix, target))
        try:
            packed, *_ = self._score_pack(prefix, self._encode(prefix[:-1]), [target, *others])
        except (TypeError, ValueError, LookupError, NotImplementedError, AttributeError, RuntimeError):
            return False
        return abs(plain - packed) <= 1e-3 * max(1.0, abs(plain))


class PrefixTree:
    """Token sequences, each without its last token, as a tree in which common beginnings stand once.

    token_ids, depths, ends: of each node, depth first; `ends` is the first node that is not below it, so that node i
        is on the way to node j exactly when i <= j < ends[i]. paths: the nodes of each sequence, from the root on.
    """

    def __init__(self, sequences: Sequence[list[int]]) -> None:
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
    with contextlib.suppress(OSError, StopIteration), open("/proc/meminfo") as file:
        return 1024 * int(next(line for line in file if line.startswith("MemAvailable")).split()[1])
    return None


def _has_layer_types(config: Any) -> bool:
    return bool(getattr(config, "layer_types", None))


def packed_length(targets: Sequence[EncodedTarget]) -> int:
    """Tokens of an example in a pack, at most."""
    contexts = {tuple(target.context) for target in targets}
    return sum(map(len, contexts)) + sum(len(target.answer) for target in targets)


def _joined(prefix: Sequence[int], target: EncodedTarget) -> EncodedPrompt:
    read = len(prefix) + len(target.context)
    return EncodedPrompt([*prefix, *target.context, *target.answer], [False] * read + [True] * len(target.answer))
