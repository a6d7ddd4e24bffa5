"""In-context learning: options scored by a language model behind demonstrations (MetaICL, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import entropy

from ..prompts.demonstrations import (
    AsGiven,
    Random,
    Select,
    candidate_orders,
    check_bank,
    queries_by_demonstrations,
)
from ..prompts.layout import EncodedTarget, PromptFormat
from ..prompts.style import PromptStyle
from ..tasks.collection import Example
from ..tasks.seeds import random_generator
from .predictor import LabelledTask, LoadedModel
from .scoring import Scorer

ORDERS, PROBES = 24, 16  # of a probe of orders


@dataclass
class InContext:
    """Scores are mean negative log-likelihoods in nats per token of the option (direct) or of the input (channel).

    style: how prompts look. select: which demonstrations an example gets. calibrate: subtract the score that an option
    has with the input "N/A" (Holtzman et al., EMNLP 2021). probe: show demonstrations in the order behind which the
    predicted labels of probes, other inputs of the bank, are most even: of 24 orders that with the highest entropy
    (GlobalE, Lu et al., ACL 2022). No label of a probe is read.
    """

    model: LoadedModel
    style: PromptStyle
    select: Select = field(default_factory=Random)
    calibrate: bool = False
    probe: bool = False

    def labels_used(self, task: LabelledTask) -> int:
        return self.select.labels_used(task.bank, self.style.demonstrations) if self.style.demonstrations else 0

    def scores(self, task: LabelledTask, examples: Sequence[Example], seed: int, order: int = 0) -> list[list[float]]:
        form, tokenizer = self.style.format, self.model.tokenizer
        head = form.encode_instruction(tokenizer, task.instruction) if self.style.instructed else []
        form = form.behind(head)
        found: list[list[float]] = [[] for _ in examples]
        for shown, members in self._groups(task, examples, seed, order).items():
            if self.probe and len({example.options for example in examples}) == 1:
                shown = self.probed(task, shown, examples[0].options, seed)
            demonstrations = [task.bank[index] for index in shown]
            prefix = form.encode_demonstrations(tokenizer, demonstrations, first=not head)
            first = not demonstrations and not head
            chosen = [examples[index] for index in members]
            values = self._score(form, head, prefix, chosen, first)
            if self.calibrate:
                options = list(dict.fromkeys(example.options for example in chosen))
                neutral = [Example("N/A", some[0], some) for some in options]
                base = dict(zip(options, self._score(form, head, prefix, neutral, first), strict=True))
                values = [
                    [score - without for score, without in zip(row, base[example.options], strict=True)]
                    for row, example in zip(values, chosen, strict=True)
                ]
            for index, row in zip(members, values, strict=True):
                found[index] = row
        return found

    def probed(self, task: LabelledTask, shown: Sequence[int], options: tuple[str, ...], seed: int) -> tuple[int, ...]:
        """`shown` in the order with the highest entropy of the probes' predicted labels; of equals the first."""
        others = [index for index in range(len(task.bank)) if index not in set(shown)] or list(shown)
        drawn = random_generator("probes", task.name, seed).permutation(len(others))[:PROBES]
        probes = [Example(task.bank[others[place]].input, options[0], options) for place in drawn]
        entropies, orders = [], candidate_orders(len(shown), ORDERS, task.name, seed)
        for order in orders:
            bank = [task.bank[shown[place]] for place in order]
            plain = replace(self, select=AsGiven(), style=replace(self.style, demonstrations=len(bank)), probe=False)
            scores = plain.scores(LabelledTask(task.name, bank, task.instruction), probes, seed)
            shares = np.bincount([int(np.argmin(row)) for row in scores], minlength=len(options)) / len(probes)
            entropies.append(round(float(entropy(shares)), 9))
        return tuple(shown[place] for place in orders[int(np.argmax(entropies))])

    def _groups(
        self, task: LabelledTask, examples: Sequence[Example], seed: int, order: int
    ) -> dict[tuple[int, ...], list[int]]:
        """Indices of examples by the indices in the bank of their demonstrations, which they share."""
        if not self.style.demonstrations:
            return {(): list(range(len(examples)))}
        check_bank(task.bank, self.style.demonstrations, task.name)
        count = self.style.demonstrations
        return queries_by_demonstrations(self.select, task.bank, examples, count, task.name, seed, order)

    def _score(
        self, form: PromptFormat, head: list[int], prefix: list[int], examples: Sequence[Example], first: bool
    ) -> list[list[float]]:
        targets = form.encode_all_targets(self.model.tokenizer, examples, first)
        return score_targets(form, self.model.scorer, prefix, targets, head)


def score_targets(
    form: PromptFormat,
    scorer: Scorer,
    prefix: list[int],
    targets: Sequence[Sequence[EncodedTarget]],
    head: Sequence[int] = (),
) -> list[list[float]]:
    """Scores of all options of all examples behind `head`, which is never cut, and `prefix`; `form`: behind `head`."""
    if form.overflow == "fit":
        longest = max(len(target) for options in targets for target in options)
        return scorer.score([*head, *form.fit(prefix, longest)], targets)
    # Prompts that lose the same number of leading tokens still share all that is left of the demonstrations.
    by_cut: dict[int, list[tuple[int, int]]] = {}
    for e, options in enumerate(targets):
        for o, target in enumerate(options):
            cut = max(0, len(prefix) + len(target) - form.max_tokens)
            by_cut.setdefault(cut, []).append((e, o))
    scores = [[0.0] * len(options) for options in targets]
    for cut, members in by_cut.items():
        values = scorer.score([*head, *prefix[cut:]], [[targets[e][o]] for e, o in members])
        for (e, o), (value,) in zip(members, values, strict=True):
            scores[e][o] = value
    return scores
