"""A section of the page is a list of blocks, of the kinds that report.html knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from .tables import Cell, Table

MANY_ROWS = 24  # of several settings: a table with more has a part for each


@dataclass
class Section:
    """One part of the page. A block is a dict of one of the kinds that report.html knows."""

    id: str
    title: str
    blocks: list[dict[str, Any]] = field(default_factory=list)
    folded: bool = False
    """Whether it is a part that can be opened and closed, in another section."""
    tables: list[Table] = field(default_factory=list)
    """Those shown in it and in its parts: they are written as files, too."""

    def parts(self, titles: Iterable[str], first_open: bool = True) -> Iterator[tuple[str, Section]]:
        """For each of the titles, once, a part that can be opened and closed; for a single one the section itself."""
        different = list(dict.fromkeys(titles))
        for number, title in enumerate(different):
            if len(different) == 1:
                yield title, self
                return
            part = Section("", title, folded=True, tables=self.tables)
            self.blocks.append({"kind": "part", "part": part, "open": first_open and number == 0})
            yield title, part

    def text(self, *paragraphs: str) -> None:
        self.blocks += [{"kind": "text", "text": text} for text in paragraphs]

    def charts(self, charts: Sequence[Markup]) -> None:
        if shown := [chart for chart in charts if chart]:
            self.blocks.append({"kind": "charts", "charts": shown})

    def table(
        self,
        table: Table,
        style: Callable[[int, int], str] | None = None,
        extra: Mapping[str, Sequence[Markup]] | None = None,
        charts: Mapping[str, Sequence[Markup]] | None = None,
    ) -> None:
        """A long table of several settings has a part for each.

        style: CSS of a cell by row and column; extra: columns of SVG behind the others; charts: above it, by setting.
        """
        self.tables.append(table)
        columns = [{"name": name, "numeric": table.numeric(i)} for i, name in enumerate(table.columns)]
        lines = [
            [
                {"text": _minus(text, cell), "value": cell, "style": style(r, c) if style else ""}
                for c, (text, cell) in enumerate(zip(texts, row, strict=True))
            ]
            for r, (texts, row) in enumerate(zip(table.texts(), table.rows, strict=True))
        ]
        drawn = {name: list(cells) for name, cells in (extra or {}).items()}
        block = {"kind": "table", "columns": columns, "label": table.title}
        place = table.columns.index("setting") if "setting" in table.columns else None
        settings = [str(row[place]) for row in table.rows] if place is not None else []
        if place is None or len(lines) <= MANY_ROWS or len(set(settings)) < 2:
            self.charts([chart for some in (charts or {}).values() for chart in some])
            self._heading(table)
            self.blocks.append(block | {"rows": lines, "drawn": drawn})
        else:
            self._heading(table)
            block["columns"] = columns[:place] + columns[place + 1 :]
            for setting, part in self.parts(settings, first_open=not table.long):
                here = [i for i, name in enumerate(settings) if name == setting]
                part.charts((charts or {}).get(setting, []))
                rows = [lines[i][:place] + lines[i][place + 1 :] for i in here]
                cells = {name: [column[i] for i in here] for name, column in drawn.items()}
                part.blocks.append(block | {"rows": rows, "drawn": cells, "label": f"{table.title}, {setting}"})
        self.blocks.append({"kind": "files", "name": table.name})

    def _heading(self, table: Table) -> None:
        if not self.folded:
            self.blocks.append({"kind": "heading", "text": table.title})
        self.text(table.note)


def _minus(text: str, cell: Cell) -> str:
    return text if isinstance(cell, str) else text.replace("-", "\N{MINUS SIGN}")
