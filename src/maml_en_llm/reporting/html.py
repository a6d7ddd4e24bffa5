"""The page: its sections in their order, and their way into HTML. How they look is in report.html beside this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from . import sections, tables
from .browser import Predictions
from .reading import Inputs, subsets_of
from .section import Section
from .statistics import against_baselines, comparisons, pooled_comparisons
from .tables import Table


@dataclass
class Page:
    sections: list[Section]
    tables: list[Table]  # what is written as files too
    browser: dict[str, Any]  # data of the predictions' browser
    facts: str  # one line below the title


def build(inputs: Inputs) -> Page:
    """Everything that the report shows; files found broken on the way are added to `inputs.not_read`."""
    inputs.results.sort(key=lambda r: (tables.setting_order(r.setting), tables.method_order(r.method)))
    written: list[Table] = []
    predictions = Predictions(inputs)
    browser = predictions.data()
    subsets = subsets_of(inputs.results).items()
    pairs = {subset: list(against_baselines(scored, subset)) for subset, scored in subsets}
    compared = {subset: tables.ordered_comparisons(comparisons(some)) for subset, some in pairs.items()}
    pooled = {subset: tables.ordered_comparisons(pooled_comparisons(some)) for subset, some in pairs.items()}
    found = [
        sections.summary_section(inputs, written),
        sections.comparisons_section(pooled, compared, written),
        sections.forgetting_section(compared, written),
        sections.tasks_section(inputs, written),
        sections.seeds_section(inputs, written),
        sections.learning_section(inputs),
        sections.exploration_section(inputs, written),
        sections.adaptation_section(inputs, written),
        sections.cost_section(inputs, written),
        sections.data_section(inputs, predictions, written),
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
    return Page([section for section in found if section.blocks], written, browser, facts)


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
