"""The paper's tables as sets of runs: rows, locks, what is finished, what it will take and what it took."""

from typing import Literal

TableName = Literal[
    "table2a",
    "table2b",
    "table3a",
    "table3b",
    "table4",
    "table5",
    "table6",
    "runtime",
    "exploration",
    "ablations",
    "beyond",
    "baselines",
    "spread",
]
