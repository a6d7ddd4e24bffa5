"""The page: its sections in their order, rendered by report.html."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from . import sections, tables
from .blocks import Section
from .browser import Predictions
from .reading import Inputs, subsets_of
from .statistics import against_baselines, comparisons, pooled_comparisons
from .tables import Table
from .verdict import overview


@dataclass
class Page:
    sections: list[Section]
    tables: list[Table]  # what is written as files too
    browser: dict[str, Any]  # data of the predictions' browser
    facts: str  # one line below the title
    verdict: list[str]  # what came out, in sentences
    verb: str = "report"  # that made it


def build(inputs: Inputs, compare_unlike: bool = False) -> Page:
    """Everything that the report shows; files found broken on the way are added to `inputs.not_read`."""
    inputs.results.sort(key=lambda r: (tables.setting_order(r.setting), tables.row_order(r.row)))
    predictions = Predictions(inputs)
    browser = predictions.data()
    subsets = subsets_of(inputs.results).items()
    pairs = {subset: list(against_baselines(scored, subset, compare_unlike)) for subset, scored in subsets}
    compared, pooled = (
        {subset: tables.ordered_comparisons(made(some), inputs.results) for subset, some in pairs.items()}
        for made in (comparisons, pooled_comparisons)
    )
    first = next(iter(pairs), None)
    view = overview(inputs.results, first) if first else None
    deciding = pooled if view and len(view.settings) > 1 else compared
    about = [c for c in deciding.get(first or "", []) if deciding is pooled or (view and c.setting in view.settings)]
    found = [
        sections.verdict_section(view, about, inputs),
        sections.summary_section(inputs),
        sections.comparisons_section(pooled, compared),
        sections.forgetting_section(compared),
        sections.tasks_section(inputs),
        sections.seeds_section(inputs),
        sections.learning_section(inputs),
        sections.exploration_section(inputs),
        sections.adaptation_section(inputs),
        sections.cost_section(inputs),
        sections.labels_section(inputs),
        sections.data_section(inputs, predictions),
        sections.browser_section(browser),
        sections.provenance_section(inputs),
        sections.not_read_section(inputs),
    ]
    counts = (
        (len(inputs.results), "results file"),
        (len(inputs.runs), "training run"),
        (len(inputs.published), "published number"),
    )
    facts = ", ".join(f"{count} {words}{'' if count == 1 else 's'}" for count, words in counts if count)
    shown = [section for section in found if section.blocks]
    blocks = [block for section in shown if section.id == "verdict" for block in section.blocks]
    said = [text for block in blocks for text in block.get("items", [block.get("text")]) if text]
    tables_shown = [table for section in shown for table in section.tables]
    return Page(shown, tables_shown, browser, facts, said)


def render(page: Page) -> str:
    """The page as HTML. Every text is escaped; the browser's data is JSON that cannot end its script element."""
    environment = Environment(
        loader=PackageLoader("maml_en_llm", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(page=page)
