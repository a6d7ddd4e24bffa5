"""Documents with questions about them, as JSON lines (docs/stream.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files import text_lines
from ...tasks.collection import Example, problems_of_record


@dataclass(frozen=True)
class Document:
    """A text and the questions that it answers."""

    text: str
    questions: tuple[Example, ...] = ()


def read_documents(path: Path) -> list[Document]:
    """The documents of a file, in order; ValueError with file and line for one that is not good."""
    try:
        lines = text_lines(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); give a file of JSON lines") from None
    documents = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"{path}:{number}: not valid JSON; give one document a line and no blank lines") from None
        if problem := _problem(record):
            raise ValueError(f"{path}:{number}: {problem}")
        questions = [Example(q["input"], q["output"], tuple(q["options"])) for q in record.get("questions", [])]
        documents.append(Document(record["text"], tuple(questions)))
    return documents


def _problem(record: Any) -> str | None:
    """What is wrong with a line, if anything."""
    if not isinstance(record, dict) or not isinstance(record.get("text"), str) or not record["text"].strip():
        return 'a document must be a JSON object with a "text" that is not empty'
    if unknown := sorted(set(record) - {"text", "questions"}):
        return f'unknown key "{unknown[0][:80]}"; a document has "text" and "questions" only'
    if not isinstance(record.get("questions", []), list):
        return '"questions" must be a list of objects with "input", "output" and "options"'
    for place, question in enumerate(record.get("questions", []), start=1):
        known = question | {"task": ""} if isinstance(question, dict) else question
        problems = problems_of_record(known, "")
        if not problems and len(question["options"]) < 2:
            problems = ["a question needs at least two options"]
        if problems:
            return f"question {place}: {problems[0]}"
    return None
