"""The verb `report`: from results, tables and run directories to one page, and its tables as files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import check_output, content_hash, read_json, write_text
from ..progress import console
from .escaping import markdown_text, visible
from .page import Page, build, render
from .reading import Inputs, not_read_lines, read_inputs
from .tables import markdown, rich_tables

MADE = ".made-by-report.json"  # what `report` wrote to a folder: names and hashes


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
        console.print(f"not read: {line}", markup=False)
    for rich_table in [] if quiet else rich_tables(inputs.scores_shown, console.width):
        console.print(rich_table)
    text = short_markdown(inputs, page)
    if long := [table for table in page.tables if table.long]:
        text += "\n## Line by line\n\n"
        titles = [(markdown_text(visible(table.title)), table) for table in long]
        text += "".join(f"- [{title}](tables/{table.name}.md), {len(table.rows)} lines\n" for title, table in titles)
    if lines := not_read_lines(inputs):
        text += "\n## Not read\n\n" + "".join(f"- {markdown_text(line)}\n" for line in lines)
    files = {"report.html": render(page), "report.md": text}
    for table in page.tables:
        files[f"tables/{table.name}.csv"] = table.csv()
        files[f"tables/{table.name}.tex"] = table.latex()
        files[f"tables/{table.name}.md"] = table.markdown().lstrip()
    write_own(output, {name: _unicode(text) for name, text in files.items()})
    return output / "report.html"


def short_markdown(inputs: Inputs, page: Page) -> str:
    """The tables that sum up, as Markdown."""
    shown = [table for table in page.tables if not table.long and not table.name.startswith("summary-")]
    said = "".join(f"\n{markdown_text(visible(text))}\n" for text in page.verdict)
    return f"# Results\n{said}\n{markdown(inputs.scores_shown, inputs.notes)}{''.join(t.markdown() for t in shown)}"


def write_own(folder: Path, files: Mapping[str, str]) -> None:
    """Writes `files` (name -> text) to `folder`, and deletes what an earlier call wrote and this one does not.

    The list MADE says which files those are, by name and hash. ValueError, with nothing written, when a file of one of
    the names was made, or changed since, by anything else.
    """
    made = {name: hashes for name, hashes in read_json(folder / MADE).items() if isinstance(hashes, list)}

    def is_own(name: str) -> bool:
        path = folder / name
        inside = path.resolve().is_relative_to(folder.resolve())
        return inside and path.is_file() and not path.is_symlink() and content_hash(path) in made.get(name, [])

    for name in files:
        if ((folder / name).exists() or (folder / name).is_symlink()) and not is_own(name):
            raise ValueError(
                f"{folder / name} was not made by `report`, or has been changed since; choose another --output or move "
                "it away"
            )
    earlier = [name for name in made if name not in files and is_own(name)]
    new = {name: [hashlib.sha256(text.encode()).hexdigest()] for name, text in files.items()}
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    # Until all is written, a file can be the earlier or the new one.
    both = {name: [*made.get(name, []), *new.get(name, [])] for name in {**made, **new}}
    write_text(folder / MADE, json.dumps(both))
    for name, text in files.items():
        write_text(folder / name, text)
    for name in earlier:
        (folder / name).unlink()
    write_text(folder / MADE, json.dumps(new, indent=1))


def _unicode(text: str) -> str:
    """JSON can spell half of a surrogate pair, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
