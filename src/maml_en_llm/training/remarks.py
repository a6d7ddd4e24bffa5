"""What a user should know at the end of training, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, variance

FEWEST = 20  # updates


def moved_nothing(losses: Sequence[float]) -> str | None:
    """Says when the loss of the last quarter of the updates is not below that of the first by more than twice the
    standard error of the difference.

    losses: one for each update, in order.
    """
    if len(losses) < FEWEST:
        return None
    quarter = len(losses) // 4
    first, last = losses[:quarter], losses[-quarter:]
    noise = ((variance(first) + variance(last)) / quarter) ** 0.5
    if fmean(first) - fmean(last) > 2 * noise:
        return None
    return (
        f"the loss did not fall beyond its noise ({fmean(first):.3f} in the first quarter, {fmean(last):.3f} in the "
        "last), so that the model may be no better than before; try a higher --lr or more --batches"
    )
