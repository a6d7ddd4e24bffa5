"""Which labelled examples precede an example in its prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Protocol, runtime_checkable

import numpy as np

from ..tasks.collection import Example
from ..tasks.seeds import random_generator


@runtime_checkable
class Select(Protocol):
    """A selection of demonstrations, shared by training, evaluation and prediction."""

    def __call__(
        self,
        bank: Sequence[Example],
        queries: Sequence[Example],
        count: int,
        generator: np.random.Generator,
        excluded: Sequence[int] = (),
    ) -> list[list[int]]:
        """For each query the indices in `bank` of its demonstrations, in the order in which they are shown.

        Queries with equal demonstrations share the encoding of these. generator: all randomness, so that the same
        state gives the same selection. excluded: indices in `bank` that must not be shown.
        """

    def labels_used(self, bank: Sequence[Example], count: int) -> int:
        """How many labelled examples of a task a prediction depends on."""


class Random:
    """The same `count` examples for every query, drawn without replacement (MetaICL, section 4.1)."""

    def __call__(
        self,
        bank: Sequence[Example],
        queries: Sequence[Example],
        count: int,
        generator: np.random.Generator,
        excluded: Sequence[int] = (),
    ) -> list[list[int]]:
        return [draw_indices(generator, len(bank), count, excluded)] * len(queries)

    def labels_used(self, bank: Sequence[Example], count: int) -> int:
        return min(count, len(bank))


class AsGiven:
    """All examples of the bank in their order, for every query."""

    def __call__(
        self,
        bank: Sequence[Example],
        queries: Sequence[Example],
        count: int,
        generator: np.random.Generator,
        excluded: Sequence[int] = (),
    ) -> list[list[int]]:
        return [[index for index in range(len(bank)) if index not in excluded]] * len(queries)

    def labels_used(self, bank: Sequence[Example], count: int) -> int:
        return len(bank)


def draw_indices(generator: np.random.Generator, total: int, count: int, excluded: Sequence[int] = ()) -> list[int]:
    """`count` distinct indices below `total`, none of them in `excluded`; all there are when that is fewer."""
    allowed = total - len(set(excluded))
    drawn = generator.choice(total, size=min(count, allowed) + len(set(excluded)), replace=False)
    return [int(index) for index in drawn if index not in set(excluded)][: min(count, allowed)]


def check_bank(bank: Sequence[Example], count: int, task: str) -> None:
    """ValueError when `bank` holds fewer than `count` examples."""
    if len(bank) < count:
        raise ValueError(
            f"the task {task} has {len(bank)} train examples, fewer than the {count} demonstrations asked for; "
            "lower --demonstrations or add examples"
        )


def fixed_demonstrations(bank: Sequence[Example], count: int, task: str, seed: int, order: int = 0) -> list[Example]:
    """The demonstrations of (task, seed) at test: drawn at random without replacement, the same every time.

    order: 0 as they were drawn, which is the protocol's; others are the same examples shuffled.
    Raises ValueError when `bank` holds fewer than `count` examples.
    """
    check_bank(bank, count, task)
    (shown,) = Random()(bank, [bank[0]], count, random_generator("demonstrations", task, seed))
    return [bank[index] for index in reordered(shown, task, seed, order)]


def reordered(shown: Sequence[int], task: str, seed: int, order: int) -> list[int]:
    """The same demonstrations in another order; `order` 0 leaves them."""
    if not order:
        return list(shown)
    return [int(index) for index in random_generator("order", task, seed, order).permutation(shown)]


def candidate_orders(count: int, most: int, *key: int | str) -> list[list[int]]:
    """All orders of `count` things if they are at most `most`, else as many drawn from `key`, the first as they are."""
    if math.factorial(count) <= most:
        return [list(order) for order in permutations(range(count))]
    drawn = [random_generator("order", *key, number).permutation(count) for number in range(1, most)]
    return [list(range(count)), *([int(place) for place in order] for order in drawn)]


def queries_by_demonstrations(
    select: Select,
    bank: Sequence[Example],
    queries: Sequence[Example],
    count: int,
    task: str,
    seed: int,
    order: int = 0,
) -> dict[tuple[int, ...], list[int]]:
    """Indices of queries by the indices in `bank` of their demonstrations of (task, seed), which they share."""
    generator = random_generator("demonstrations", task, seed)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, shown in enumerate(select(bank, queries, count, generator)):
        groups.setdefault(tuple(reordered(shown, task, seed, order)), []).append(index)
    return groups
