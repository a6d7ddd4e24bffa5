"""Makes the report of every table in scores.parquet again; with --add, first takes up results in a folder as a table.

python results/remake.py
python results/remake.py --pages pages
python results/remake.py --add reproduction/table2a/results --table starter/table2a
"""

from __future__ import annotations

from pathlib import Path

import tyro

from maml_en_llm.files import write_text
from maml_en_llm.reporting.page import build
from maml_en_llm.reporting.reading import Inputs, Result, join_training_seeds
from maml_en_llm.reporting.report import short_markdown, write_report
from maml_en_llm.results import Results, digest, read_results, read_scores, to_json, write_scores

HERE = Path(__file__).parent
SCORES = HERE / "scores.parquet"


def remake(add: Path | None = None, table: str = "", pages: Path | None = None) -> None:
    """Make the reports of the tables in scores.parquet again.

    Args:
        add: Folder of results files that become, or replace, the table named by --table.
        table: Name of that table, such as starter/table2a.
        pages: Folder for the page of each table, with its tables line by line.
    """
    tables = read_scores(SCORES) if SCORES.is_file() else {}
    if add is not None:
        if not table:
            raise SystemExit("--add needs --table, such as --table starter/table2a")
        tables[table] = [read_results(path) for path in sorted(add.rglob("*.json"))]
        write_scores(SCORES, tables)
    for name, results in tables.items():
        report = HERE / f"{name}.md"
        report.parent.mkdir(parents=True, exist_ok=True)
        inputs = inputs_of(results)
        write_text(report, short_markdown(inputs, build(inputs, compare_unlike=True)))
        if pages is not None:
            write_report(inputs_of(results), pages / name, compare_unlike=True)
        print(report.relative_to(HERE))


def inputs_of(results: list[Results]) -> Inputs:
    inputs = Inputs([Result(SCORES, one, digest(to_json(one))) for one in results])
    join_training_seeds(inputs)
    return inputs


if __name__ == "__main__":
    tyro.cli(remake)
