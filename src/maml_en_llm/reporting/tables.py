"""The tables of a report, for the terminal and as Markdown, CSV and LaTeX; wins are counted by the paper's rule."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from ..names import printable
from ..results import Row
from .escaping import csv_text, file_name, latex_text, markdown_text
from .reading import SUBSETS, Result, Score, subsets_of
from .statistics import PROMPT_KEYS, Comparison, SeedSpread

SETTINGS = (
    "hr_to_lr",
    "class_to_class",
    "non_class_to_class",
    "qa_to_qa",
    "non_qa_to_qa",
    "non_nli_to_nli",
    "non_paraphrase_to_paraphrase",
)
NAMES = {"maml-en-llm": "MAML-en-LLM", "metaicl": "MetaICL"}  # of methods, as papers write them

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Fractional numbers are shown with two decimals, or as `digits` says of their column; CSV has them in full."""

    name: str
    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: Mapping[str, int] = field(default_factory=dict)
    long: bool = False
    """Line by line what other tables sum up, such as every task: report.md has a link to it."""

    def text(self, column: int, cell: Cell) -> str:
        if isinstance(cell, float):
            return f"{cell:.{self.digits.get(self.columns[column], 2)}f}"
        return "" if cell is None else printable(str(cell))

    def texts(self) -> list[list[str]]:
        return [[self.text(i, cell) for i, cell in enumerate(row)] for row in self.rows]

    def numeric(self, column: int) -> bool:
        return all(not isinstance(row[column], str) for row in self.rows)

    def without_empty_columns(self) -> Table:
        kept = [i for i in range(len(self.columns)) if any(row[i] not in (None, "") for row in self.rows)]
        rows = [[row[i] for i in kept] for row in self.rows]
        return replace(self, columns=[self.columns[i] for i in kept], rows=rows)

    def markdown(self) -> str:
        rule = "|".join("---:" if self.numeric(i) else "---" for i in range(len(self.columns)))
        heads = list(map(printable, self.columns))
        head, *lines = [f"| {' | '.join(map(markdown_text, line))} |\n" for line in [heads, *self.texts()]]
        title, note = markdown_text(printable(self.title)), markdown_text(printable(self.note))
        return f"\n## {title}\n\n{note}\n\n{head}|{rule}|\n{''.join(lines)}"

    def csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for line in (self.columns, *self.rows):
            writer.writerow([csv_text(printable(cell)) if isinstance(cell, str) else cell for cell in line])
        return text.getvalue()

    def latex(self) -> str:
        """A tabular for \\usepackage{booktabs}; the title and the note are comments."""
        aligned = "".join("r" if self.numeric(i) else "l" for i in range(len(self.columns)))
        comments = "".join(f"% {' '.join(text.split())}\n" for text in (self.title, self.note) if text)
        lines = [" & ".join(map(latex_text, line)) + r" \\" for line in self.texts()]
        head = " & ".join(map(latex_text, self.columns)) + r" \\"
        return (
            "\n".join([f"{comments}\\begin{{tabular}}{{@{{}}{aligned}@{{}}}}", r"\toprule", head, r"\midrule", *lines])
            + "\n\\bottomrule\n\\end{tabular}\n"
        )


def wins(scores: Sequence[Score], subset: str, direction: str) -> Iterator[tuple[str, str, int, int]]:
    """For each method with a baseline both names, and how many settings the method won of those compared.

    A setting is won when the average and the worst of one of the method's rows are both higher than the baseline's:
    the paper counts it when either MAML-2-1 or MAML-2-4 does so (tables 2 and 3). First-order rows are not counted.
    """
    here = [(s, s.row) for s in scores if s.row and s.subset == subset and s.row.direction == direction]
    tried = [(s, row.training) for s, row in here if row.training and row.training.order != "first"]
    for method, baseline in dict.fromkeys((how.method, how.baseline) for _, how in tried if how.baseline):
        won = compared = 0
        for setting in dict.fromkeys(score.setting for score, _ in tried):
            rivals = [s for s, how in tried if (s.setting, how.method) == (setting, method)]
            other = next((s for s, how in tried if (s.setting, how.method) == (setting, baseline)), None)
            if other is None or not rivals:
                continue
            compared += 1
            won += any(_beats(score, other) for score in rivals)
        if compared:
            yield NAMES.get(method, method), NAMES.get(baseline, baseline), won, compared


def _beats(score: Score, other: Score) -> bool:
    if score.worst is None or other.worst is None or score.row is None or other.row is None:
        return False
    alike = ("labels_used", "demonstrations", *PROMPT_KEYS)
    if any(getattr(score.row, key) != getattr(other.row, key) for key in alike):
        return False
    return score.average > other.average and score.worst > other.worst


def wins_text(scores: Sequence[Score], subset: str) -> str:
    return "; ".join(
        f"{direction}: {name} wins {won} of {compared} settings against {baseline}"
        for direction in ("direct", "channel")
        for name, baseline, won, compared in wins(scores, subset, direction)
    )


def row_order(row: Row | None) -> tuple[Any, ...]:
    """Direct before channel; raw models, then what is compared with them, then what is compared with that."""
    if row is None:
        return (2,)
    how, adaptation = row.training, row.adaptation
    if how is None:
        trained: tuple[Any, ...] = (0,)
    else:
        trained = (1 + bool(how.baseline), how.method, how.order or "", how.inner_steps or 0, how.copies or 0, how.seed)
    scored = (row.calibrated, adaptation is not None, adaptation.lr if adaptation else 0.0)
    cheap_first = row.learner == "in-context"
    return (row.direction == "channel", cheap_first, trained, row.demonstrations, *scored, row.label)


def in_order(rows: Iterable[tuple[str, Row | None]]) -> list[str]:
    """Labels, each once, in the order of their rows."""
    known: dict[str, Row | None] = {}
    for label, row in rows:
        known[label] = known.get(label) or row
    return sorted(known, key=lambda label: (row_order(known[label]), label))


def setting_order(setting: str) -> tuple[int, str]:
    return (SETTINGS.index(setting) if setting in SETTINGS else len(SETTINGS), setting)


def subsets(scores: Sequence[Score]) -> list[str]:
    return [subset for subset in SUBSETS if any(score.subset == subset for score in scores)]


def grid(scores: Sequence[Score], subset: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of one subset; the last line counts tasks and examples."""
    here = [score for score in scores if score.subset == subset]
    cells = {(score.label, score.source, score.setting): score for score in here}
    several = len({score.source for score in scores}) > 1
    settings = sorted({score.setting for score in here}, key=setting_order)
    labels = in_order((score.label, score.row) for score in here)
    rows = sorted({(score.label, score.source) for score in here}, key=lambda key: (labels.index(key[0]), key[1]))
    lines = [
        [
            printable(f"{label} [{source}]" if several and source else label),
            *(_cell(cells.get((label, source, setting))) for setting in settings),
        ]
        for label, source in rows
    ]
    counts = []
    for setting in settings:
        found = next((s for (*_, where), s in cells.items() if where == setting and s.tasks is not None), None)
        counts.append("" if found is None else f"{found.tasks} of {found.tasks_named} tasks, {found.examples} examples")
    if any(counts):
        lines.append(["data", *counts])
    return ["method", *map(printable, settings)], lines


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    return f"{score.average:.2f}" if score.worst is None else f"{score.average:.2f} / {score.worst:.2f}"


def _characters(lines: Sequence[Sequence[str]]) -> int:
    """Width of a table with these cells."""
    return 1 + sum(max(map(len, column)) + 3 for column in zip(*lines, strict=True))


def rich_tables(scores: Sequence[Score], width: int) -> list[RichTable]:
    """For a terminal of `width` characters; where average and worst do not fit side by side, averages alone."""
    tables = []
    for subset in subsets(scores):
        header, lines = grid(scores, subset)
        figures = "average / worst over seeds"
        if _characters([line for line in lines if line[0] != "data"]) > width:
            figures = "average over seeds"
            averages = [replace(score, worst=None, tasks=None) for score in scores]
            header, lines = grid(averages, subset)
        if _characters([header, *lines]) > width:
            header = [name.replace("_", " ") for name in header]  # lines break at blanks
        table = RichTable(
            title=f"{SUBSETS[subset]}: {figures}",
            caption=Text(printable(wins_text(one_source(scores), subset))),
        )
        for i, name in enumerate(header):
            table.add_column(Text(name), justify="left" if i == 0 else "right", no_wrap=i == 0)
        for line in lines:
            table.add_row(*map(Text, line))
        tables.append(table)
    return tables


def one_source(scores: Sequence[Score]) -> list[Score]:
    """The measured scores, or those of the one table that there is: wins are counted within one source."""
    sources = {score.source for score in scores}
    return [score for score in scores if not score.source or len(sources) == 1]


def markdown(scores: Sequence[Score], notes: Sequence[str] = ()) -> str:
    parts = [
        "Macro-F1 or accuracy in percent, average / worst over demonstration seeds, mean over tasks.\n",
        *(f"\n{markdown_text(printable(note))}\n" for note in notes),
    ]
    for subset in subsets(scores):
        header, lines = grid(scores, subset)
        head, *body = [f"| {' | '.join(map(markdown_text, line))} |\n" for line in [header, *lines]]
        parts += [f"\n## {SUBSETS[subset]}\n\n", head, f"|---|{'---:|' * (len(header) - 1)}\n", *body]
        if text := wins_text(one_source(scores), subset):
            rule = "a setting is won when average and worst are both higher"
            parts.append(f"\n{markdown_text(printable(text))} ({rule}).\n")
    return "".join(parts)


def summary_tables(scores: Sequence[Score]) -> list[Table]:
    """The grid of every subset, and all of its numbers line by line in a form that `report` reads again."""
    tables = []
    for subset in subsets(scores):
        header, lines = grid(scores, subset)
        note = f"Average / worst over demonstration seeds, in percent. {wins_text(one_source(scores), subset)}"
        tables.append(Table(f"summary-{subset}", SUBSETS[subset], note, header, lines))
    columns = ("method", "setting", "subset", "average", "worst", "tasks", "examples", "source")
    labels = in_order((score.label, score.row) for score in scores)
    ordered = sorted(scores, key=lambda s: (s.subset, setting_order(s.setting), labels.index(s.label), s.source))
    lines_ = [(s.label, s.setting, s.subset, s.average, s.worst, s.tasks, s.examples, s.source) for s in ordered]
    return [*tables, Table("numbers", "All numbers", "In percent.", columns, lines_, long=True)]


def comparison_table(name: str, title: str, note: str, comparisons: Sequence[Comparison]) -> Table:
    figures = ("difference", "low", "high", "p", "p (Holm)", "tasks below", "training runs", "equal", "unlike in")
    rows = [
        (
            *(c.method, c.baseline, c.setting, len(c.differences), c.difference),
            *((c.low, c.high, c.p, c.p_holm) if c.tested else (None,) * 4),
            *(len(c.below), f"{c.runs[0]} and {c.runs[1]}" if max(c.runs) > 1 else "", c.equal, c.unlike),
        )
        for c in comparisons
    ]
    columns = ("method", "baseline", "setting", "tasks", *figures)
    return Table(name, title, note, columns, rows, {"p": 4, "p (Holm)": 4}).without_empty_columns()


def ordered_comparisons(comparisons: Sequence[Comparison], results: Sequence[Result]) -> list[Comparison]:
    """By setting, then as the rows are."""
    labels = in_order((result.label, result.row) for result in results)
    place = {label: number for number, label in enumerate(labels)}
    return sorted(
        comparisons, key=lambda c: (setting_order(c.setting), place.get(c.baseline, -1), place.get(c.method, -1))
    )


def forgetting_tables(subset: str, comparisons: Sequence[Comparison]) -> list[Table]:
    """The tasks where a meta-trained method is below the raw LM: how many, and which."""
    against = [c for c in comparisons if c.with_raw]
    counts: list[Sequence[Cell]] = []
    losses: list[Sequence[Cell]] = []
    for c in against:
        worst, most = next(iter(c.below.items()), ("", None))
        counts.append((c.method, c.setting, len(c.differences), len(c.below), len(c.below_in_every_seed), most, worst))
        for task, loss in c.below.items():
            losses.append((task, c.method, c.setting, loss, "yes" if task in c.below_in_every_seed else "no"))
    if not losses:
        return []
    words = SUBSETS[subset].lower()
    note = "Tasks below the raw LM: by the mean over seeds, and in every seed; the largest loss in percentage points."
    columns = ("method", "setting", "tasks", "below", "in every seed", "largest loss", "on")
    summed = Table(f"forgetting-{subset}", f"Forgetting: {words}", note, columns, counts)
    note = "Tasks whose mean over seeds is below the raw LM's, in percentage points."
    columns_by_task = ("task", "method", "setting", "difference", "in every seed")
    title = f"Forgetting by task: {words}"
    return [summed, Table(f"forgetting-tasks-{subset}", title, note, columns_by_task, losses, long=True)]


def task_table(setting: str, results: Sequence[Result]) -> Table:
    """Tasks x methods of one setting: the average over seeds."""
    here = [result for result in results if result.setting == setting]
    names = list(dict.fromkeys(name for result in here for name in result.tasks()))
    unseen = {name for result in here for name in result.tasks("unseen_domain_test")}
    marked = unseen if unseen != set(names) else set()
    rows: list[Sequence[Cell]] = []
    for name in sorted(names):
        scores = [result.average(name) for result in here]
        rows.append((name, *scores, "yes" if name in marked else ""))
    columns = ("task", *(result.label for result in here), "unseen domain")
    note = "Average over demonstration seeds, in percent."
    name = f"tasks-{file_name(setting)}"
    return Table(name, f"Tasks of {setting}", note, columns, rows, long=True).without_empty_columns()


def seeds_table(subset: str, spreads: Sequence[SeedSpread]) -> Table:
    seeds = list(dict.fromkeys(seed for spread in spreads for seed in spread.by_seed))
    figures = ("deviation", "within tasks", "by choice", "by order", "training runs", "over training runs")
    columns = ("method", "setting", *(f"seed {seed}" for seed in seeds), *figures)
    rows = [
        (
            *(s.method, s.setting, *(s.by_seed.get(seed) for seed in seeds)),
            *(s.deviation, s.within_tasks, s.choice, s.order, s.runs if s.runs > 1 else None, s.by_run),
        )
        for s in spreads
    ]
    told_apart = any(s.order is not None for s in spreads)
    note = (
        "Mean over tasks by demonstration seed. A seed decides which examples are demonstrations and in which order "
        "they stand. deviation: standard deviation of these means; within tasks: mean over tasks of the standard "
        "deviation over seeds; over training runs: standard deviation of the mean over tasks and demonstration seeds; "
        + (
            "by choice, by order: standard deviation of a task's score that comes from which examples are shown, and "
            "from their order (roots of variances that are means over tasks)."
            if told_apart
            else "choice and order are not told apart, which needs results of several orders (`--orders`)."
        )
    )
    title = f"Spread over seeds: {SUBSETS[subset].lower()}"
    return Table(f"seeds-{subset}", title, note, columns, rows).without_empty_columns()


Families = Mapping[tuple[Row, str, str], Sequence[tuple[int, Score]]]


def exploration(scores: Sequence[Score]) -> Families:
    """Rows that differ in the number of copies n alone: (the row without n, setting, subset) -> n and score."""
    families: dict[tuple[Row, str, str], list[tuple[int, Score]]] = {}
    for score in scores:
        if score.row and (how := score.row.training) and how.copies is not None:
            alike = replace(how, copies=None, updates=0, recipe_hash="")
            family = replace(score.row, label="", training=alike)
            families.setdefault((family, score.setting, score.subset), []).append((how.copies, score))
    return {key: sorted(members, key=lambda m: m[0]) for key, members in families.items() if len(members) > 1}


def family_name(members: Sequence[tuple[int, Score]]) -> str:
    """The labels of its rows."""
    return ", ".join(score.label for _, score in members)


def exploration_table(families: Families) -> Table:
    numbers = sorted({copies for members in families.values() for copies, _ in members})
    cells: list[Sequence[Cell]] = []
    for (_, setting, subset), members in families.items():
        scores = dict(members)
        averages = [scores[n].average if n in scores else None for n in numbers]
        worst = [scores[n].worst if n in scores else None for n in numbers]
        cells.append((family_name(members), setting, subset, *averages, *worst))
    figures = [f"{words}, n = {n}" for words in ("average", "worst") for n in numbers]
    columns = ("rows", "setting", "subset", *figures)
    return Table("exploration", "Numbers of copies", "Score in percent by the number n of copies.", columns, cells)


def adaptation_scores_table(results: Sequence[Result]) -> Table:
    """Average and worst of every adapted model, before and after."""
    rows = [
        (after.label, after.setting, after.subset, before.average, after.average, before.worst, after.worst)
        for subset, scored in subsets_of(results).items()
        for result in scored
        if result.row.adaptation
        for before, after in zip(result.summaries_before, result.summaries, strict=True)
        if after.subset == subset
    ]
    columns = ("method", "setting", "subset", "average before", "average after", "worst before", "worst after")
    note = "Average over demonstration seeds, and the worst; in percent, mean over tasks."
    return Table("adaptation-scores", "Average and worst, before and after", note, columns, rows)


def adaptation_tasks_table(comparisons: Sequence[Comparison], results: Sequence[Result]) -> Table:
    """Per task the average before and after adaptation."""
    rows: list[Sequence[Cell]] = []
    by_name = {(r.label, r.setting): r for r in results}
    for c in comparisons:
        result = by_name[c.method, c.setting]
        for task, change in c.differences.items():
            rows.append((task, c.method, c.setting, result.average(task, before=True), result.average(task), change))
    columns = ("task", "method", "setting", "before", "after", "difference")
    note = "Average over seeds, in percent."
    return Table("adaptation-tasks", "Adaptation by task", note, columns, rows, long=True)
