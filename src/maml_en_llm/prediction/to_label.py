"""Which rows of an unlabelled pool to label, when only a few can be.

random     any
centres    one of each cluster: k-means, the row nearest to the centre
mixture    one of each component of a Gaussian mixture with round components: the row nearest to the mean
What is labelled already counts: its clusters, or components, are taken.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.mixture import GaussianMixture

from ..files import write_text
from ..models import pick_device
from ..progress import console
from ..prompts.choosing import unit
from ..sources.reading import read_table
from ..tasks.seeds import random_generator
from .features import features_of
from .predictor import LoadedModel

By = Literal["random", "centres", "mixture"]


@dataclass(frozen=True)
class RowToLabel:
    """A row of the pool, by its index, and why it was chosen."""

    index: int
    reason: str


def to_label(
    texts: Sequence[str],
    count: int,
    by: By,
    vectors: Float[np.ndarray, "texts width"] | None = None,
    labelled: Sequence[int] = (),
    seed: int = 100,
) -> list[RowToLabel]:
    """`count` rows to label, the same for the same arguments: no two with the same text, none that is labelled or has
    the text of one that is.

    vectors: of the texts, for all but `random`. labelled: indices of rows that have a label. Raises ValueError when
    fewer than `count` different rows are left.
    """
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        first.setdefault(text, index)
    known = {texts[index] for index in labelled}
    free = [index for text, index in first.items() if text not in known]
    if len(free) < count:
        raise ValueError(f"{count} rows are to be chosen but only {len(free)} different unlabelled ones are there")
    if count == 0:
        return []
    if by == "random":
        drawn = random_generator("to-label", seed).permutation(len(free))[:count]
        return [RowToLabel(free[place], "drawn at random") for place in drawn]
    assert vectors is not None, "all ways but `random` compare vectors"
    rows = [*free, *(first[text] for text in dict.fromkeys(texts[index] for index in labelled))]
    x = unit(np.asarray(vectors, dtype=np.float64)[rows])
    parts = min(count + len(rows) - len(free), len(np.unique(x, axis=0)))
    fit = _mixture if by == "mixture" and parts > 1 else _centres  # the two are the same for one
    part_of, closeness = fit(x, parts, seed)
    taken = set(part_of[len(free) :])
    sizes = np.bincount(part_of, minlength=closeness.shape[1])
    word = "cluster" if by == "centres" else "component"
    chosen: dict[int, str] = {}
    for part in sorted(set(range(closeness.shape[1])) - taken, key=lambda part: (-sizes[part], part)):
        members = np.flatnonzero(part_of[: len(free)] == part)
        if len(members) and len(chosen) < count:
            best = int(members[np.argmax(np.round(closeness[members, part], 9))])
            chosen[best] = f"at the centre of a {word} of {sizes[part]} rows, none of which is labelled"
    # Fewer parts than rows that are wanted, as when texts look alike to the model: the rest are far from all of these.
    while len(chosen) < count:
        near = [*chosen, *range(len(free), len(rows))]
        similarity = (x[: len(free)] @ x[near].T).max(axis=1) if near else np.zeros(len(free))
        similarity[list(chosen)] = np.inf
        chosen[int(np.argmin(np.round(similarity, 9)))] = "least similar to all rows that are chosen or labelled"
    return [RowToLabel(free[place], reason) for place, reason in chosen.items()]


def choose_from_file(
    source: Path,
    column: str,
    output: Path,
    count: int,
    by: By,
    label_column: str | None = None,
    model: str = "starter",
    layer: str | int = "words",
    seed: int = 100,
    device: str = "auto",
) -> list[RowToLabel]:
    """Chooses among the texts in `column` of a file and writes the chosen rows to a new CSV file.

    label_column: rows with something in it are labelled already. Raises ValueError for bad input.
    """
    if output.exists():
        raise ValueError(f"{output} exists already; choose another --output or delete it")
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")
    table = read_table(source)
    for name in (column, label_column):
        if name is not None and name not in table.columns:
            raise ValueError(f"{source}: there is no column {name!r}; the columns are {', '.join(table.columns)}")
    rows = [(place, row) for place, row in table.rows if not _empty(row.get(column))]
    if left_out := len(table.rows) - len(rows):
        console.print(f"{left_out} rows have nothing in {column!r} and are left out", markup=False)
    texts = [str(row[column]) for _, row in rows]
    labelled = [i for i, (_, row) in enumerate(rows) if label_column and not _empty(row.get(label_column))]
    vectors = None
    if by != "random":
        vectors = features_of(LoadedModel(model, pick_device(device)), layer).vectors(texts)
    chosen = to_label(texts, count, by, vectors, labelled, seed)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", column, label_column or "label", "reason"])
    number = {place: index for index, (place, _) in enumerate(table.rows)}
    found = [RowToLabel(number[rows[row.index][0]], row.reason) for row in chosen]
    for row, original in zip(found, chosen, strict=True):
        writer.writerow([row.index + 1, texts[original.index], "", row.reason])
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, text.getvalue())
    return found


def _empty(value: object) -> bool:
    return value is None or not str(value).strip()


def _centres(x: np.ndarray, parts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each row, and minus its distance to each centre [rows, clusters]."""
    model = KMeans(parts, n_init=10, random_state=seed).fit(x)
    return model.labels_, -model.transform(x)


def _mixture(x: np.ndarray, parts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The most probable component of each row, and minus its distance to the mean of each [rows, components]."""
    model = GaussianMixture(parts, covariance_type="spherical", reg_covar=1e-4, n_init=3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x)
    return model.predict(x), -euclidean_distances(x, model.means_)
