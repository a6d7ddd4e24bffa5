"""The paper's tables as sets of runs: rows, locks, what is finished, what it will take and what it took."""
