"""The figures of a stream, and how reports and model folders tell them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ...names import public_name
from ...prompts.layout import PromptFormat
from ...results import (
    PROVENANCE,
    Adaptation,
    Amount,
    Count,
    Finite,
    Fraction,
    Provenance,
    Results,
    Row,
    RunRecord,
    TaskResult,
    TaskScores,
    summarize,
)
from ...training.model_card import versions
from .config import StreamConfig
from .documents import Document


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Of some questions."""

    accuracy: Fraction
    """Share whose likeliest option is the right one."""
    nll: Finite
    """Mean negative log-likelihood in nats of the right options' tokens."""


@dataclass(frozen=True, kw_only=True)
class DocumentFigures:
    """What a document changed."""

    document: Count
    """Its line, from 1."""
    questions: Count
    before: Answers | None
    """Straight before its step; None without questions."""
    now: Answers | None
    """Straight after its step: uptake."""
    later: Answers | None = None
    """After all documents: retention."""
    drift: Finite | None
    """NLL of the probes so far less that at the start; None without probes."""
    loss: Finite
    """Next-token loss of the document before its step, as the learner weighs it."""
    seconds: Amount
    """Of the step."""


@dataclass(frozen=True, kw_only=True)
class StreamResults:
    """The content of stream.json."""

    format: Literal["maml-en-llm stream 1"] = "maml-en-llm stream 1"
    label: str
    documents: tuple[DocumentFigures, ...]
    before: Answers | None
    """Over all questions, as are the others."""
    now: Answers | None
    later: Answers | None
    drift: Finite | None
    """After the last document."""
    seconds: Amount
    """Of all steps."""
    config: dict[str, Any]
    run: RunRecord


def over_all(some: Sequence[tuple[Answers | None, int]]) -> Answers | None:
    """The mean over questions, from those of documents with their numbers of questions."""
    asked = [(answers, count) for answers, count in some if answers is not None]
    total = sum(count for _, count in asked)
    if not total:
        return None
    accuracy = sum(answers.accuracy * count for answers, count in asked) / total
    return Answers(accuracy=accuracy, nll=sum(answers.nll * count for answers, count in asked) / total)


def results_of(
    config: StreamConfig, rows: Sequence[DocumentFigures], run: RunRecord, made: Provenance | None
) -> StreamResults:
    """made: how the model that learned was made."""
    keys = {key: value for key, value in vars(config).items() if key != "revision"}
    keys |= {"model": public_name(config.pinned_model)}
    keys |= {"learner": {"learner": config.learner.name} | asdict(config.learner)}
    return StreamResults(
        label=f"{made.label if made else 'Raw LM'} + {config.learner.label}",
        documents=tuple(rows),
        before=over_all([(row.before, row.questions) for row in rows]),
        now=over_all([(row.now, row.questions) for row in rows]),
        later=over_all([(row.later, row.questions) for row in rows]),
        drift=rows[-1].drift,
        seconds=sum(row.seconds for row in rows),
        config=json.loads(json.dumps(keys, default=public_name)),
        run=run,
    )


def provenance_of(config: StreamConfig, results: StreamResults, trained: int, made: Provenance | None) -> Provenance:
    """How the model was made: as the one that it was, with the stream behind it. It is asked in the same way."""
    earlier: dict[str, Any] = made.config if made else {"method": "language-model"}
    return Provenance(
        label=results.label,
        training=made.training if made else None,
        config=earlier | {"model": public_name(config.pinned_model), "stream": results.config},
        trained=f"{config.trainable}, one step on each of {len(results.documents)} documents",
        trained_parameters=trained,
        training_tasks=made.training_tasks if made else (),
        training_tasks_named=made.training_tasks_named if made else 0,
        started_from=made or public_name(config.pinned_model),
        versions=versions(),
        run=results.run,
    )


def card(results: StreamResults) -> str:
    """The model card."""
    found = [(when, getattr(results, when)) for when in ("before", "now", "later")]
    rows = "".join(f"| {when} | {100 * a.accuracy:.1f} | {a.nll:.3f} |\n" for when, a in found if a is not None)
    table = f"\n| questions asked | accuracy in % | NLL in nats a token |\n|---|---:|---:|\n{rows}" if rows else ""
    drift = "" if results.drift is None else f"\nDrift on unrelated text: {results.drift:+.4f} nats a token.\n"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---

# {results.label}

A causal language model that learned {len(results.documents)} documents, one gradient step each, from
`{results.config["model"]}` by `maml-en-llm stream`; `{PROVENANCE}` says how, and how it was made before.
{table}{drift}"""


def rows_of_a_report(
    config: StreamConfig,
    results: StreamResults,
    documents: Sequence[Document],
    form: PromptFormat,
    made: Provenance | None,
) -> Results | None:
    """Uptake and retention as two tasks of a setting named after the documents; None without questions."""
    if results.before is None or results.now is None or results.later is None:
        return None
    questions = [question for document in documents for question in document.questions]

    def scores(answers: Answers) -> dict[str, Any]:
        return {"scores": {"0": answers.accuracy}, "average": answers.accuracy, "worst": answers.accuracy}

    def task(answers: Answers, before: TaskScores) -> TaskResult:
        about: dict[str, Any] = {"kind": "multiple_choice_qa", "metric": "accuracy", "examples": len(questions)}
        guess = sum(1 / len(question.options) for question in questions) / len(questions)
        return TaskResult(**scores(answers), **about, guess=guess, before=before)

    before = TaskScores(**scores(results.before))
    tasks = {name: task(a, before) for name, a in (("uptake", results.now), ("retention", results.later))}
    at_first = [TaskResult(**vars(task) | scores(results.before)) for task in tasks.values()]
    count = len(results.documents)
    row = Row(
        label=results.label,
        training=made.training if made else None,
        model=made.start if made and made.training else public_name(config.pinned_model),
        direction=form.direction,
        demonstrations=0,
        labels_used=0,
        adaptation=Adaptation(examples=count, steps=count, lr=config.learner.lr),
        layout=form.layout,
        max_tokens=form.max_tokens,
        max_tokens_per_example=form.max_tokens_per_example,
    )
    return Results(
        setting=config.documents.stem,
        row=row,
        seeds=(0,),
        summary={"test": summarize(list(tasks.values()), 2)},
        before={"test": summarize(at_first, 2)},
        tasks=tasks,
        config=results.config,
        provenance=made,
        versions=versions(),
        run=results.run,
    )
