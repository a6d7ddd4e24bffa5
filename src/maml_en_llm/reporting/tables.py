"""Methods x settings, average / worst, and wins by the paper's rule, for the terminal and as Markdown."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..evaluation.protocol import RESULTS_FORMAT
from ..files import write_text

SETTINGS = (
    "hr_to_lr",
    "class_to_class",
    "non_class_to_class",
    "qa_to_qa",
    "non_qa_to_qa",
    "non_nli_to_nli",
    "non_paraphrase_to_paraphrase",
)
METHODS = (
    "No ICL",
    "Raw LM",
    "Multi-task zero-shot",
    "MetaICL",
    "MetaICT",
    "FOMAML-2-1",
    "FOMAML-2-4",
    "MAML-2-1",
    "MAML-2-4",
)
SUBSETS = {"unseen_domain_test": "Target tasks in unseen domains", "test": "All target tasks"}


@dataclass(frozen=True)
class Row:
    """One cell of the table: a method in a setting. Scores in percent; worst is None where it has no meaning."""

    method: str
    setting: str
    subset: str
    average: float
    worst: float | None
    tasks: int | None = None
    tasks_named: int | None = None
    examples: int | None = None


def read_rows(path: Path) -> list[Row]:
    """The rows of a results file (.json), or of a table (.csv) with the columns method, setting, average, worst and,
    if it is not about all target tasks, subset.  Raises ValueError naming the file when it is neither."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: cannot be read as text ({type(error).__name__}); give results of `evaluate`"
        ) from None
    if path.suffix == ".csv":
        return _rows_of_csv(path, text)
    try:
        results = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); give results of `evaluate`") from None
    if not isinstance(results, dict) or results.get("format") != RESULTS_FORMAT:
        raise ValueError(f"{path}: not a results file of `evaluate` (no format {RESULTS_FORMAT!r})")
    rows = []
    try:
        for subset, s in results["summary"].items():
            if s["tasks"]:
                worst = 100 * s["worst"] if len(results["seeds"]) > 1 else None
                scores = (100 * s["average"], worst)
                counts = (s["tasks"], s["tasks_named"], s["examples"])
                rows.append(Row(results["label"], results["setting"], subset, *scores, *counts))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a whole results file of `evaluate`: its summary, seeds, label or setting lacks "
            f"{error}; evaluate again"
        ) from None
    return rows


def _rows_of_csv(path: Path, text: str) -> list[Row]:
    rows = []
    for number, record in enumerate(csv.DictReader(text.splitlines()), start=2):
        try:
            worst = float(record["worst"]) if record["worst"] else None
            subset = record.get("subset") or "test"
            rows.append(Row(record["method"], record["setting"], subset, float(record["average"]), worst))
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path}:{number}: needs the columns method, setting, average and worst") from None
    return rows


def wins(rows: Sequence[Row], subset: str, channel: bool) -> tuple[int, int]:
    """(won, compared) settings: won when one MAML row's average and worst are both higher than MetaICL's.

    The paper counts a setting as won when either MAML-2-1 or MAML-2-4 wins it (tables 2 and 3).
    """
    prefix = "Channel " if channel else ""
    cells = {(row.method, row.setting): row for row in rows if row.subset == subset}
    won = compared = 0
    for setting in sorted({row.setting for row in rows}):
        baseline = cells.get((prefix + "MetaICL", setting))
        rivals = [row for (m, s), row in cells.items() if s == setting and m.startswith(prefix + "MAML-")]
        if baseline is None or not rivals:
            continue
        compared += 1
        won += any(_beats(row, baseline) for row in rivals)
    return won, compared


def _beats(row: Row, other: Row) -> bool:
    if row.worst is None or other.worst is None:
        return False
    return row.average > other.average and row.worst > other.worst


def report(results: Sequence[Path], output: Path) -> Path:
    """Prints the table of the results files and writes it to `output/report.md`; returns that path.

    Raises ValueError when a file is not a results file, or two hold the same method and setting.
    """
    rows = [row for path in results for row in read_rows(path)]
    seen: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        key = (row.method, row.setting, row.subset)
        if key in seen:
            raise ValueError(
                f"two results are of {row.method} on {row.setting}; name one of them with evaluate --label"
            )
        seen[key] = row
    for table in rich_tables(rows):
        Console().print(table)
    output.mkdir(parents=True, exist_ok=True)
    path = output / "report.md"
    write_text(path, markdown(rows))
    return path


def _grid(rows: Sequence[Row], subset: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of one subset; the last line counts tasks and examples."""
    cells = {(row.method, row.setting): row for row in rows if row.subset == subset}
    settings = sorted({s for _, s in cells}, key=lambda s: (SETTINGS.index(s) if s in SETTINGS else len(SETTINGS), s))
    methods = sorted({m for m, _ in cells}, key=_method_order)
    lines = [[method, *(_cell(cells.get((method, setting))) for setting in settings)] for method in methods]
    counts = []
    for setting in settings:
        row = next((r for (_, s), r in cells.items() if s == setting and r.tasks is not None), None)
        counts.append("" if row is None else f"{row.tasks} of {row.tasks_named} tasks, {row.examples} examples")
    if any(counts):
        lines.append(["data", *counts])
    return ["method", *settings], lines


def _method_order(method: str) -> tuple[bool, int, str]:
    channel = method.startswith("Channel ")
    name = method.removeprefix("Channel ")
    return channel, METHODS.index(name) if name in METHODS else len(METHODS), name


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.average:.2f}" if row.worst is None else f"{row.average:.2f} / {row.worst:.2f}"


def _wins_text(rows: Sequence[Row], subset: str) -> str:
    texts = []
    for words, channel in (("direct", False), ("channel", True)):
        won, compared = wins(rows, subset, channel)
        if compared:
            texts.append(f"{words}: MAML-en-LLM wins {won} of {compared} settings against MetaICL")
    return "; ".join(texts)


def _subsets(rows: Sequence[Row]) -> list[str]:
    return [subset for subset in SUBSETS if any(row.subset == subset for row in rows)]


def rich_tables(rows: Sequence[Row]) -> list[Table]:
    tables = []
    for subset in _subsets(rows):
        header, lines = _grid(rows, subset)
        table = Table(title=f"{SUBSETS[subset]}: average / worst over seeds", caption=_wins_text(rows, subset) or None)
        for i, name in enumerate(header):
            table.add_column(name, justify="left" if i == 0 else "right", no_wrap=i == 0)
        for line in lines:
            table.add_row(*line)
        tables.append(table)
    return tables


def markdown(rows: Sequence[Row]) -> str:
    parts = [
        "# Results\n\nMacro-F1 or accuracy in percent, average / worst over demonstration seeds, mean over tasks.\n"
    ]
    for subset in _subsets(rows):
        header, lines = _grid(rows, subset)
        parts.append(f"\n## {SUBSETS[subset]}\n\n| {' | '.join(header)} |\n|---|{'---:|' * (len(header) - 1)}\n")
        parts += [f"| {' | '.join(line)} |\n" for line in lines]
        if text := _wins_text(rows, subset):
            parts.append(f"\n{text} (a setting is won when average and worst are both higher).\n")
    return "".join(parts)
