"""Which examples stand in front of the example in the prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..tasks.collection import Example
from ..tasks.seeds import random_generator as random_generator


def draw_indices(generator: np.random.Generator, total: int, count: int, excluded: Sequence[int] = ()) -> list[int]:
    """`count` distinct indices below `total`, none of them in `excluded`; all there are when that is fewer."""
    allowed = total - len(set(excluded))
    drawn = generator.choice(total, size=min(count, allowed) + len(set(excluded)), replace=False)
    return [int(index) for index in drawn if index not in set(excluded)][: min(count, allowed)]


def fixed_demonstrations(
    examples: Sequence[Example], count: int, task: str, seed: int, order: int = 0
) -> list[Example]:
    """The `count` demonstrations of (task, seed) at test: drawn at random without replacement, the same every time.

    order: 0 as they were drawn, which is the protocol's; others are the same examples shuffled.
    Raises ValueError when the task's train split holds fewer than `count` examples.
    """
    if len(examples) < count:
        raise ValueError(
            f"the task {task} has {len(examples)} train examples, fewer than the {count} demonstrations asked for; "
            "lower --demonstrations or add examples"
        )
    drawn = draw_indices(random_generator("demonstrations", task, seed), len(examples), count)
    if order:
        drawn = [int(index) for index in random_generator("order", task, seed, order).permutation(drawn)]
    return [examples[index] for index in drawn]
