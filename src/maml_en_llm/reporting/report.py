"""The verb `report`: from results, tables and run directories to one page, and its tables as files."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ..files import check_output, replace_folder, write_text
from ..names import unfinished
from ..progress import console
from .page import Page, build, render
from .reading import Inputs, not_read_lines, read_inputs
from .tables import Table, markdown, rich_tables


def report(results: Sequence[Path], output: Path) -> Path:
    """Writes report.html, report.md and tables/ (CSV, LaTeX, Markdown) to the folder `output`; returns the page's path.

    results: results files, tables (.csv), and folders that hold results and run directories. What cannot be used is
    named on standard error and in the report.  Raises ValueError when nothing can be used.
    """
    check_output(output, folder=True)
    return write_report(read_inputs(results), output)


def write_report(inputs: Inputs, output: Path) -> Path:
    """The report of what was read."""
    page = build(inputs)
    for line in not_read_lines(inputs):
        console.print(f"not read: {line}", markup=False)
    for rich_table in rich_tables(inputs.scores_shown, console.width):
        console.print(rich_table)
    output.mkdir(parents=True, exist_ok=True)
    _write_tables(output / "tables", page.tables)
    text = short_markdown(inputs, page)
    if long := [table for table in page.tables if table.long]:
        text += "\n## Line by line\n\n"
        text += "".join(f"- [{t.title}](tables/{t.name}.md), {len(t.rows)} lines\n" for t in long)
    if lines := not_read_lines(inputs):
        text += "\n## Not read\n\n" + "".join(f"- {line}\n" for line in lines)
    write_text(output / "report.md", _unicode(text))
    path = output / "report.html"
    write_text(path, _unicode(render(page)))
    return path


def short_markdown(inputs: Inputs, page: Page) -> str:
    """The tables that sum up, as Markdown."""
    shown = [table for table in page.tables if not table.long and not table.name.startswith("summary-")]
    return markdown(inputs.scores_shown, inputs.notes) + "".join(table.markdown() for table in shown)


def _write_tables(folder: Path, tables: Sequence[Table]) -> None:
    fresh = unfinished(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for table in tables:
        write_text(fresh / f"{table.name}.csv", _unicode(table.csv()))
        write_text(fresh / f"{table.name}.tex", _unicode(table.latex()))
        write_text(fresh / f"{table.name}.md", _unicode(table.markdown().lstrip()))
    replace_folder(fresh, folder, "report")


def _unicode(text: str) -> str:
    """JSON can spell half of a surrogate pair, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
