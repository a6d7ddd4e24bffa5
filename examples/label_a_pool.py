"""A pool labelled by a model in its context trains a small head (after Zhao et al., LMTurk, 2022).

    python examples/label_a_pool.py LABELLED.csv POOL.csv BUDGET OUTPUT.csv

LABELLED has the columns text and label, POOL the column text.  The model reads all of LABELLED in its prompt and labels
BUDGET rows of POOL, which are chosen to cover it (one of each component of a Gaussian mixture); a logistic regression
learns from both and predicts all of POOL.  Every use of the model is counted.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from maml_en_llm import InContextClassifier
from maml_en_llm.evaluation.prediction import read_demonstrations
from maml_en_llm.files import write_text
from maml_en_llm.models import pick_device
from maml_en_llm.prediction.features import features_of
from maml_en_llm.prediction.predictor import LoadedModel
from maml_en_llm.prediction.to_label import to_label
from maml_en_llm.sources.reading import read_table


def label_pool(
    texts: Sequence[str], labels: Sequence[str], pool: Sequence[str], budget: int, model: str = "starter"
) -> tuple[InContextClassifier, dict[str, str]]:
    """A head that learned from the labelled texts and `budget` rows of the pool, and what the model said of these.

    Raises ValueError when the pool has fewer than `budget` different texts.
    """
    vectors = features_of(LoadedModel(model, pick_device("auto"))).vectors(list(pool))
    chosen = [pool[row.index] for row in to_label(pool, budget, "mixture", vectors)]
    teacher = InContextClassifier(model, choose="given").fit(list(texts), list(labels))
    said = dict(zip(chosen, map(str, teacher.predict(chosen)), strict=True)) if chosen else {}
    count = len(texts) + len(said)
    student = InContextClassifier(model, learner="logistic", demonstrations=count)
    return student.fit([*texts, *said], [*labels, *said.values()]), said


def main(labelled: Path, source: Path, budget: int, output: Path) -> None:
    examples = read_demonstrations(labelled, "text", "label")
    pool = [str(row["text"]) for _, row in read_table(source).rows if str(row.get("text") or "").strip()]
    head, said = label_pool([e.input for e in examples], [e.output for e in examples], pool, budget)
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["text", "prediction", "labelled_by_model"])
    for text, prediction in zip(pool, head.predict(pool), strict=True):
        writer.writerow([text, prediction, said.get(text, "")])
    write_text(output, written.getvalue())
    print(f"{len(examples)} labels by hand, {len(said)} by the model, {len(pool)} rows predicted")


if __name__ == "__main__":
    if len(sys.argv) != 5 or not sys.argv[3].isdigit():
        sys.exit("usage: python examples/label_a_pool.py LABELLED.csv POOL.csv BUDGET OUTPUT.csv")
    if Path(sys.argv[4]).exists():
        sys.exit(f"{sys.argv[4]} exists already; choose another name")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    except ValueError as error:
        sys.exit(str(error))
