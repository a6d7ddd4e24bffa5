"""The verb `report`: from results, tables and run directories to one page, and its tables as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..files import check_output, write_files
from ..names import printable
from ..progress import console
from .blocks import Section
from .escaping import markdown_text
from .page import Page, build, render
from .reading import Inputs, not_read_lines, read_inputs
from .tables import markdown, rich_tables


def report(results: Sequence[Path], output: Path, compare_unlike: bool = False) -> Path:
    """Writes report.html, report.md and tables/ (CSV, LaTeX, Markdown) to the folder `output`; returns the page's path.

    results: results files, tables (.csv), and folders that hold results and run directories. What cannot be used is
    named on standard error and in the report. compare_unlike: whether rows that were not scored in the same way are
    tested against each other.  Raises ValueError when nothing can be used, or `output` holds files of others by the
    names of the report's.
    """
    check_output(output, folder=True)
    return write_report(read_inputs(results), output, compare_unlike)


def write_report(inputs: Inputs, output: Path, compare_unlike: bool = False, quiet: bool = False) -> Path:
    """The report of what was read; its tables are shown unless it is `quiet`."""
    page = build(inputs, compare_unlike)
    for line in not_read_lines(inputs):
        console.print(f"not read: {line}")
    for rich_table in [] if quiet else rich_tables(inputs.scores_shown, console.width):
        console.print(rich_table)
    text = short_markdown(inputs, page)
    if long := [table for table in page.tables if table.long]:
        text += "\n## Line by line\n\n"
        titles = [(markdown_text(printable(table.title)), table) for table in long]
        text += "".join(f"- [{title}](tables/{table.name}.md), {len(table.rows)} lines\n" for title, table in titles)
    if lines := not_read_lines(inputs):
        text += "\n## Not read\n\n" + "".join(f"- {markdown_text(line)}\n" for line in lines)
    return _write(page, text, output)


def write_study(sections: Sequence[Section], output: Path, verb: str) -> Path:
    """A report of the tables in `sections`, which is not one of results files; returns the page's path."""
    page = Page(list(sections), [table for section in sections for table in section.tables], {}, "", [], verb)
    return _write(page, "# Results\n" + "".join(table.markdown() for table in page.tables), output)


def _write(page: Page, text: str, output: Path) -> Path:
    files = {"report.html": render(page), "report.md": text}
    for table in page.tables:
        files[f"tables/{table.name}.csv"] = table.csv()
        files[f"tables/{table.name}.tex"] = table.latex()
        files[f"tables/{table.name}.md"] = table.markdown().lstrip()
    write_files(output, {name: _unicode(text) for name, text in files.items()}, "report")
    return output / "report.html"


def short_markdown(inputs: Inputs, page: Page) -> str:
    """The tables that sum up, as Markdown."""
    shown = [table for table in page.tables if not table.long and not table.name.startswith("summary-")]
    said = "".join(f"\n{markdown_text(printable(text))}\n" for text in page.verdict)
    return f"# Results\n{said}\n{markdown(inputs.scores_shown, inputs.notes)}{''.join(t.markdown() for t in shown)}"


def _unicode(text: str) -> str:
    """JSON can spell half of a surrogate pair, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
