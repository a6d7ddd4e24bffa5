"""The tables of a report, for the terminal and as Markdown, CSV and LaTeX; wins are counted by the paper's rule."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rich.markup import escape as rich_escape
from rich.table import Table as RichTable

from .reading import SUBSETS, Result, Row, subsets_of
from .statistics import Comparison, SeedSpread

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
    "Raw LM + PMI",
    "Multi-task zero-shot",
    "MetaICL",
    "MetaICT",
    "FOMAML",
    "MAML",
)
COPIES = re.compile(r"((?:Channel )?(?:FO)?MAML-\d+)-(\d+)")

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
        return "" if cell is None else str(cell)

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
        lines = [[text.replace("|", "\\|").replace("\n", " ") for text in line] for line in self.texts()]
        body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        return f"\n## {self.title}\n\n{self.note}\n\n| {' | '.join(self.columns)} |\n|{rule}|\n{body}"

    def csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([self.columns, *self.rows])
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


_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\n": " ",
}


def latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


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


def wins_text(rows: Sequence[Row], subset: str) -> str:
    texts = []
    for words, channel in (("direct", False), ("channel", True)):
        won, compared = wins(rows, subset, channel)
        if compared:
            texts.append(f"{words}: MAML-en-LLM wins {won} of {compared} settings against MetaICL")
    return "; ".join(texts)


def method_order(method: str) -> tuple[bool, int, str]:
    """Direct before channel, in the order of METHODS; behind each what is made of it, such as "+ adaptation"."""
    channel = method.startswith("Channel ")
    name = method.removeprefix("Channel ")
    known = name if name in METHODS else re.split(r" \+ |, ", name)[0]
    known = re.sub(r"-\d+-\d+$", "", known)
    by_numbers = re.sub(r"\d+", lambda digits: digits[0].zfill(9), name)
    return channel, METHODS.index(known) if known in METHODS else len(METHODS), by_numbers


def setting_order(setting: str) -> tuple[int, str]:
    return (SETTINGS.index(setting) if setting in SETTINGS else len(SETTINGS), setting)


def subsets(rows: Sequence[Row]) -> list[str]:
    return [subset for subset in SUBSETS if any(row.subset == subset for row in rows)]


def beside(rows: Sequence[Row], published: Sequence[Row]) -> list[Row]:
    """Rows of the tables of a report: measured ones, and published ones of the same settings; all published ones when
    nothing was measured."""
    measured = {row.setting for row in rows}
    return [*rows, *(row for row in published if not measured or row.setting in measured)]


def grid(rows: Sequence[Row], subset: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of one subset; the last line counts tasks and examples."""
    here = [row for row in rows if row.subset == subset]
    cells = {(row.method, row.source, row.setting): row for row in here}
    several = len({row.source for row in rows}) > 1
    settings = sorted({row.setting for row in here}, key=setting_order)
    methods = sorted({(row.method, row.source) for row in here}, key=lambda key: (method_order(key[0]), key[1]))
    lines = [
        [
            f"{method} [{source}]" if several and source else method,
            *(_cell(cells.get((method, source, setting))) for setting in settings),
        ]
        for method, source in methods
    ]
    counts = []
    for setting in settings:
        row = next((r for (_, _, s), r in cells.items() if s == setting and r.tasks is not None), None)
        counts.append("" if row is None else f"{row.tasks} of {row.tasks_named} tasks, {row.examples} examples")
    if any(counts):
        lines.append(["data", *counts])
    return ["method", *settings], lines


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.average:.2f}" if row.worst is None else f"{row.average:.2f} / {row.worst:.2f}"


def _characters(lines: Sequence[Sequence[str]]) -> int:
    """Width of a table with these cells."""
    return 1 + sum(max(map(len, column)) + 3 for column in zip(*lines, strict=True))


def rich_tables(rows: Sequence[Row], width: int) -> list[RichTable]:
    """For a terminal of `width` characters; where average and worst do not fit beside each other, averages alone."""
    tables = []
    for subset in subsets(rows):
        header, lines = grid(rows, subset)
        figures = "average / worst over seeds"
        scores = [line for line in lines if line[0] != "data"]
        if _characters(scores) > width:
            figures = "average over seeds"
            lines = [[line[0], *(cell.split(" / ")[0] for cell in line[1:])] for line in scores]
        if _characters([header, *lines]) > width:
            header = [name.replace("_", " ") for name in header]  # lines break at blanks
        table = RichTable(title=f"{SUBSETS[subset]}: {figures}", caption=wins_text(own(rows), subset) or None)
        for i, name in enumerate(header):
            table.add_column(rich_escape(name), justify="left" if i == 0 else "right", no_wrap=i == 0)
        for line in lines:
            table.add_row(*map(rich_escape, line))
        tables.append(table)
    return tables


def own(rows: Sequence[Row]) -> list[Row]:
    """The measured rows, or those of the one table that there is: wins are counted within one source."""
    sources = {row.source for row in rows}
    return [row for row in rows if not row.source or len(sources) == 1]


def markdown(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    parts = [
        "# Results\n\nMacro-F1 or accuracy in percent, average / worst over demonstration seeds, mean over tasks.\n",
        *(f"\n{note}\n" for note in notes),
    ]
    for subset in subsets(rows):
        header, lines = grid(rows, subset)
        parts.append(f"\n## {SUBSETS[subset]}\n\n| {' | '.join(header)} |\n|---|{'---:|' * (len(header) - 1)}\n")
        parts += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines]
        if text := wins_text(own(rows), subset):
            parts.append(f"\n{text} (a setting is won when average and worst are both higher).\n")
    return "".join(parts)


def summary_tables(rows: Sequence[Row]) -> list[Table]:
    """The grid of every subset, and all of its numbers line by line in a form that `report` reads again."""
    tables = []
    for subset in subsets(rows):
        header, lines = grid(rows, subset)
        note = f"Average / worst over demonstration seeds, in percent. {wins_text(own(rows), subset)}"
        tables.append(Table(f"summary-{subset}", SUBSETS[subset], note, header, lines))
    columns = ("method", "setting", "subset", "average", "worst", "tasks", "examples", "source")
    ordered = sorted(rows, key=lambda r: (r.subset, setting_order(r.setting), method_order(r.method), r.source))
    lines_ = [(r.method, r.setting, r.subset, r.average, r.worst, r.tasks, r.examples, r.source) for r in ordered]
    return [*tables, Table("numbers", "All numbers", "In percent.", columns, lines_, long=True)]


def comparison_table(name: str, title: str, note: str, comparisons: Sequence[Comparison]) -> Table:
    columns = ("method", "baseline", "setting", "tasks", "difference", "low", "high", "p", "p (Holm)", "tasks below")
    rows = [
        (c.method, c.baseline, c.setting, len(c.differences), c.difference, c.low, c.high, c.p, c.p_holm, len(c.below))
        for c in comparisons
    ]
    return Table(name, title, note, columns, rows, {"p": 4, "p (Holm)": 4})


def ordered_comparisons(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return sorted(
        comparisons, key=lambda c: (setting_order(c.setting), method_order(c.baseline), method_order(c.method))
    )


def forgetting_tables(subset: str, comparisons: Sequence[Comparison]) -> list[Table]:
    """The tasks where a meta-trained method is below the raw LM: how many, and which."""
    against = [c for c in comparisons if c.baseline.removeprefix("Channel ") == "Raw LM"]
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
        entries = [result.tasks().get(name) for result in here]
        scores = [100 * float(entry["average"]) if entry else None for entry in entries]
        rows.append((name, *scores, "yes" if name in marked else ""))
    columns = ("task", *(result.method for result in here), "unseen domain")
    note = "Average over demonstration seeds, in percent."
    return Table(f"tasks-{setting}", f"Tasks of {setting}", note, columns, rows, long=True).without_empty_columns()


def seeds_table(subset: str, spreads: Sequence[SeedSpread]) -> Table:
    seeds = list(dict.fromkeys(seed for spread in spreads for seed in spread.by_seed))
    figures = ("deviation", "within tasks", "by choice", "by order")
    columns = ("method", "setting", *(f"seed {seed}" for seed in seeds), *figures)
    rows = [
        (
            *(s.method, s.setting, *(s.by_seed.get(seed) for seed in seeds)),
            *(s.deviation, s.within_tasks, s.choice, s.order),
        )
        for s in spreads
    ]
    told_apart = any(s.order is not None for s in spreads)
    note = (
        "Mean over tasks by demonstration seed. A seed decides which examples are demonstrations and in which order "
        "they stand. deviation: standard deviation of these means; within tasks: mean over tasks of the standard "
        "deviation over seeds; "
        + (
            "by choice, by order: standard deviation of a task's score that comes from which examples are shown, and "
            "from their order (roots of variances that are means over tasks)."
            if told_apart
            else "choice and order are not told apart, which needs results of several orders (`--orders`)."
        )
    )
    title = f"Spread over seeds: {SUBSETS[subset].lower()}"
    return Table(f"seeds-{subset}", title, note, columns, rows).without_empty_columns()


Families = Mapping[tuple[str, str, str], Sequence[tuple[int, Row]]]


def exploration(rows: Sequence[Row]) -> Families:
    """The rows MAML-2k-n with several n: (family, setting, subset) -> n and row."""
    families: dict[tuple[str, str, str], list[tuple[int, Row]]] = {}
    for row in rows:
        if match := COPIES.fullmatch(row.method):
            families.setdefault((match[1], row.setting, row.subset), []).append((int(match[2]), row))
    return {key: sorted(members, key=lambda m: m[0]) for key, members in families.items() if len(members) > 1}


def exploration_table(families: Families) -> Table:
    numbers = sorted({copies for members in families.values() for copies, _ in members})
    cells: list[Sequence[Cell]] = []
    for (family, setting, subset), members in families.items():
        rows = dict(members)
        averages = [rows[n].average if n in rows else None for n in numbers]
        worst = [rows[n].worst if n in rows else None for n in numbers]
        cells.append((f"{family}-n", setting, subset, *averages, *worst))
    figures = [f"{words}, n = {n}" for words in ("average", "worst") for n in numbers]
    columns = ("family", "setting", "subset", *figures)
    return Table("exploration", "Numbers of copies", "Score in percent by the number n of copies.", columns, cells)


def adaptation_scores_table(results: Sequence[Result]) -> Table:
    """Average and worst of every adapted model, before and after."""
    rows = [
        (after.method, after.setting, after.subset, before.average, after.average, before.worst, after.worst)
        for subset, scored in subsets_of(results).items()
        for result in scored
        if result.adaptation
        for before, after in zip(result.before, result.rows, strict=True)
        if after.subset == subset
    ]
    columns = ("method", "setting", "subset", "average before", "average after", "worst before", "worst after")
    note = "Average over demonstration seeds, and the worst; in percent, mean over tasks."
    return Table("adaptation-scores", "Average and worst, before and after", note, columns, rows)


def adaptation_tasks_table(comparisons: Sequence[Comparison], results: Sequence[Result]) -> Table:
    """Per task the average before and after adaptation."""
    rows: list[Sequence[Cell]] = []
    by_name = {(r.method, r.setting): r for r in results}
    for c in comparisons:
        result = by_name[c.method, c.setting]
        for task, change in c.differences.items():
            entry = result.tasks()[task]
            before, after = (100 * float(e["average"]) for e in (entry["before"], entry))
            rows.append((task, c.method, c.setting, before, after, change))
    columns = ("task", "method", "setting", "before", "after", "difference")
    note = "Average over seeds, in percent."
    return Table("adaptation-tasks", "Adaptation by task", note, columns, rows, long=True)
