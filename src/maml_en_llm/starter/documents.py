"""Documents for `stream`, drawn by rule from the words of the starter model: new facts among filler, and questions.

    python -m maml_en_llm.starter.documents FOLDER [--documents 40] [--seed 0] [--collection COLLECTION]

writes FOLDER/documents.jsonl and FOLDER/probes.jsonl. A document has one fact, at a random place; no two documents of
a collection have a fact about the same thing, and filler says nothing about any. Probes are solved examples of the
starter tasks, which have nothing to do with the documents. With a collection of tasks, filler and probes are inputs of
its training examples: real text, for a model that reads more than the starter's words.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..evaluation.stream.documents import Document
from ..files import write_text
from ..tasks.collection import Collection, Example, load_collection
from ..tasks.seeds import random_generator
from .drawing import NAMES, SLOTS, fill, pick, sample, shuffled
from .tasks import TASKS

# Slots of thing and answer, the fact, and a question that repeats its words and one that does not.
FACTS = (
    (
        ("thing", "colour"),
        "the {thing} of {name} is {answer} .",
        ("the {thing} of {name} is", "which colour has the {thing} of {name} ?"),
    ),
    (
        ("garment", "room"),
        "{name} left the {thing} in the {answer} .",
        ("{name} left the {thing} in the", "where is the {thing} of {name} ?"),
    ),
    (
        ("animal", "city"),
        "the {thing} of {name} lives in {answer} .",
        ("the {thing} of {name} lives in", "in which city is the {thing} of {name} ?"),
    ),
)
FILLER = (
    "on {day} there was a {event} in the {place} .",
    "{number} people came by {vehicle} .",
    "the {job} talked about {sport} and {subject} .",
    "the {relative} played the {instrument} after the {event} .",
    "they had {food} and {drink} on {day} .",
    "it was a {good} {period} for the {job} .",
)
OPTIONS = 4
PROBES = 32


def draw_documents(
    count: int, seed: int = 0, filler: int = 4, reserved: Sequence[Document] = (), passages: Sequence[str] = ()
) -> list[Document]:
    """`count` documents of one fact and `filler` sentences, with two questions each.

    reserved: documents whose things no new one is about. passages: what filler is drawn from, in place of sentences in
    the starter's words. ValueError when there are too few things.
    """
    generator = random_generator("documents", seed)
    taken = {question.input for document in reserved for question in document.questions}
    found: list[Document] = []
    for _ in range(100 * count):
        if len(found) == count:
            return found
        (things, answers), sentence, questions = pick(generator, FACTS)
        slots = {"thing": pick(generator, SLOTS[things]), "name": pick(generator, NAMES)}
        options = tuple(sample(generator, SLOTS[answers], OPTIONS))
        answer = options[0]
        between = sample(generator, passages, filler) if passages else filler_sentences(generator, filler)
        text = shuffled(generator, [sentence.format(**slots, answer=answer), *between])
        asked = [question.format(**slots) for question in questions]
        options = tuple(shuffled(generator, options))
        if not taken & set(asked):
            taken |= set(asked)
            found.append(Document(" ".join(text), tuple(Example(question, answer, options) for question in asked)))
    raise ValueError(f"there are not {count} different facts left to draw; ask for fewer documents")


def draw_probes(count: int, seed: int = 0) -> list[Document]:
    """Texts of starter tasks: four solved examples of one of them each."""
    generator = random_generator("probes", seed)
    drawn = [[task.draw(generator) for _ in range(4)] for task in (pick(generator, TASKS) for _ in range(count))]
    return [Document("\n\n\n".join(f"{example.input}\n{example.output}" for example in four)) for four in drawn]


def filler_sentences(generator: np.random.Generator, count: int) -> list[str]:
    return [fill(generator, frame) for frame in sample(generator, FILLER, count)]


def passages_of(collection: Collection, seed: int = 0) -> list[str]:
    """Inputs of one part and 5 to 40 words, of at most 200 training examples of each task, in random order.

    ValueError when there are too few for filler and probes.
    """
    inputs = {example.input: None for task in collection.values() if task.has("train") for example in task.train[:200]}
    fitting = [text for text in inputs if 5 <= len(text.split()) <= 40 and not re.search(r"[\n\r]|\[SEP\]", text)]
    if len(fitting) < 2 * PROBES:
        raise ValueError(f"{collection.path} has {len(fitting)} inputs of 5 to 40 words; {2 * PROBES} are needed")
    return [fitting[index] for index in random_generator("passages", seed).permutation(len(fitting))]


def to_lines(documents: Sequence[Document]) -> str:
    """JSON lines that `read_documents` reads."""
    lines = []
    for document in documents:
        questions = [{"input": q.input, "output": q.output, "options": list(q.options)} for q in document.questions]
        lines.append(json.dumps({"text": document.text, "questions": questions}) + "\n")
    return "".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--collection", type=Path)
    arguments = parser.parse_args()
    passages, probes = [], draw_probes(PROBES, arguments.seed)
    try:
        if arguments.collection is not None:
            passages = passages_of(load_collection(arguments.collection), arguments.seed)
            probes, passages = [Document(text) for text in passages[:PROBES]], passages[PROBES:]
        documents = draw_documents(arguments.documents, arguments.seed, passages=passages)
    except ValueError as error:
        parser.error(str(error))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_text(arguments.folder / "documents.jsonl", to_lines(documents))
    write_text(arguments.folder / "probes.jsonl", to_lines(probes))
