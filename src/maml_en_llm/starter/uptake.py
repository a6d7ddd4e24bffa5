"""The verb `reproduce uptake`: what one gradient step on a document is worth with uniform and other token weights.

OUTPUT/uptake/models/    the models of each training seed; those with learned weights have them in token_weights.json
OUTPUT/uptake/parts/     one file a model that was trained and a row that was scored: it is not done again
OUTPUT/uptake/report/    the report, with the learned weights over a document

The starter model first becomes a language model of documents (starter/documents.py), questions and unrelated texts: it
is the `tuned` model. From there training goes on with other documents, a third as long: as before (`tuned further`); of
token weights alone, the model fixed (CaMeLS); by MAML, whose inner steps are uniform; of token weights and model
together. New documents then come, one step each from the same start. The rate of a row is chosen on other documents:
the one with the best answers, of all rates, or of those by which unrelated text drifts by at most DRIFT.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from ..bilevel import SGD, AdamW, update_all_, value_and_gradient
from ..evaluation.stream.documents import Document
from ..evaluation.stream.learners.weighted import TokenWeightedLoss
from ..evaluation.stream.reader import Reader, as_batch, whole_texts
from ..experiments.parts import distinct, once
from ..files import check_output, only_writer
from ..methods import method_from_keys
from ..models import TrainableModel, load_model, load_tokenizer
from ..progress import console
from ..prompts.batches import Batch
from ..prompts.layout import PromptFormat
from ..reporting.blocks import Section
from ..reporting.report import write_study
from ..reporting.tables import Table
from ..results import digest
from ..tasks.seeds import random_generator
from ..training.record import forget_peak, peak_memory
from .documents import draw_documents, draw_probes

FORM = PromptFormat()
ROOM = 1024  # tokens of a text
RATES = (0.03, 0.06, 0.1, 0.2, 0.3, 0.6)
DRIFT = 0.1  # nats a token
FIRST = 3  # the first stage of training is as many times as long as the second
CPU = torch.device("cpu")
# Learning rates of the model and of the token weights; none: ordinary training. The others start from the first.
MODELS: dict[str, tuple[float, float] | None] = {
    "tuned": None,
    "tuned further": None,
    "tuned, weights learned": (0.0, 0.1),
    "MAML": (1e-3, 0.0),
    "MAML, weights learned": (1e-3, 0.1),
}
# Each row's model, and how it weighs tokens.
ROWS = {
    "uniform": ("tuned", "uniform"),
    "random": ("tuned", "random"),
    "TF-IDF": ("tuned", "TF-IDF"),
    "expert over amateur": ("tuned", "expert over amateur"),
    "uniform, rewritten document": ("tuned", "uniform"),
    "learned": ("tuned, weights learned", "learned"),
    "uniform, model tuned further": ("tuned further", "uniform"),
    "uniform, model by MAML": ("MAML", "uniform"),
    "learned with the model": ("MAML, weights learned", "learned"),
}


@dataclass(frozen=True)
class Sizes:
    """How much is learned and scored."""

    documents: int = 24
    """New documents, and as many that rates are chosen on."""
    train_documents: int = 700
    """Documents of each of the two stages of training."""
    updates: int = 150
    """Of the second stage."""
    probes: int = 4
    """Unrelated texts that drift is measured on."""


@dataclass(frozen=True)
class Texts:
    """What a training seed draws; no two documents are about the same thing."""

    new: list[Document]
    chosen_on: list[Document]
    stages: tuple[list[Document], list[Document]]
    probes: list[Document]

    @staticmethod
    def drawn(sizes: Sizes, seed: int) -> Texts:
        parts: list[list[Document]] = []
        for number, count in enumerate((sizes.documents, sizes.documents, *[sizes.train_documents] * 2)):
            parts.append(draw_documents(count, 1000 * seed + number, reserved=list(itertools.chain(*parts))))
        return Texts(parts[0], parts[1], (parts[2], parts[3]), draw_probes(sizes.probes, seed))


@dataclass
class OneDocument:
    """Support is the text of a document; query are its questions and an unrelated text, so that both count."""

    documents: Sequence[Document]
    tokenizer: Any
    seed: int

    def batch(self, number: int) -> Batch:
        pair, query = divmod(number, 2)
        generator = random_generator("uptake", self.seed, pair)
        document = self.documents[int(generator.integers(len(self.documents)))]
        if not query:
            return Batch.from_prompts(whole_texts([document], self.tokenizer, ROOM, None))
        return questions_and_texts([document], draw_probes(1, unrelated(self.seed, pair)), self.tokenizer)


def unrelated(seed: int, number: int) -> int:
    """A seed of texts for training; those of probes are small."""
    return 10**6 * (1 + seed) + number


def questions_and_texts(asked: Sequence[Document], read: Sequence[Document], tokenizer: Any) -> Batch:
    """The questions of some documents, whose answers are predicted, and texts all of which are."""
    prompts = [FORM.encode_training(tokenizer, [], question) for document in asked for question in document.questions]
    return Batch.from_prompts(prompts + whole_texts(read, tokenizer, ROOM, None))


# ---- training


def tune(model: TrainableModel, documents: Sequence[Document], updates: int, seed: int) -> None:
    """Ordinary training on documents, their questions and unrelated texts: 4 documents an update."""
    optimizer = AdamW(lr=1e-3)
    moments = optimizer.init(model.parameters)
    for update in range(updates):
        drawn = random_generator("tune", seed, update).integers(len(documents), size=4)
        some = [documents[int(index)] for index in drawn]
        batch = questions_and_texts(some, [*some, *draw_probes(2, unrelated(seed, update))], model.tokenizer)
        _, gradients = value_and_gradient(model.loss, model.parameters, batch)
        update_all_(replace(optimizer, lr=1e-3 * (1 - update / updates)), model.parameters, gradients, moments)


def token_weights(
    model: TrainableModel, documents: Sequence[Document], updates: int, seed: int, lr: float, weights_lr: float
) -> Any:
    """The learner of the method token-weights after as many updates of 2 documents."""
    places = {"collection": "c", "setting": "s", "model": "m", "output": "o", "method": "token-weights"}
    keys = {"copies": 2, "batches": 4 * updates, "lr": lr, "weights_lr": weights_lr, "inner_lr": 0.1}
    learner: Any = method_from_keys(places | keys).learner(model, OneDocument(documents, model.tokenizer, seed))
    for update in range(updates):
        learner.update(learner.batches(update), 1 - update / updates, measure=False)
    return learner


def train(name: str, first: Path, folder: Path, texts: Texts, sizes: Sizes, seed: int) -> dict[str, Any]:
    """Trains the model `name` and saves it to `folder`; from the starter model if that is `first`, else from there."""
    forget_peak(CPU)
    began = time.perf_counter()
    place, documents = ("starter", texts.stages[0]) if folder == first else (str(first), texts.stages[1])
    model = TrainableModel(load_model(place), load_tokenizer(place))
    rates = MODELS[name]
    if rates is None:
        tune(model, documents, (FIRST if folder == first else 1) * sizes.updates, seed)
        model.save(folder, {})
    else:
        token_weights(model, documents, sizes.updates, seed, *rates).save(folder, {})
    return {"seconds": time.perf_counter() - began, "peak_memory_bytes": peak_memory(CPU)}


# ---- weights


def weights_of(kind: str, folder: Path, texts: Texts, seed: int) -> np.ndarray:
    """A weight for each entry of the vocabulary, with a mean of 1 over the tokens of documents."""
    tokenizer, documents = load_tokenizer(str(folder)), texts.stages[1]
    tokens = [token for d in documents for token in ids_of(d.text, tokenizer)]
    rows = load_model(str(folder)).get_input_embeddings().weight.shape[0]
    if kind == "uniform":
        weights = np.ones(rows)
    elif kind == "random":
        weights = random_generator("weights", seed).gamma(1.0, size=rows)
    elif kind == "TF-IDF":
        weights = tf_idf([ids_of(d.text, tokenizer) for d in documents], rows)
    elif kind == "learned":
        weights = np.array(json.loads((folder / "token_weights.json").read_text(encoding="utf-8")))
    else:
        read = [ids_of(d.text, tokenizer) for d in documents]
        weights = salience(load_model(str(folder)), load_model("starter"), read)
    return weights / (weights[tokens].mean() or 1.0)


def tf_idf(texts: Sequence[Sequence[int]], rows: int) -> np.ndarray:
    """Inverse document frequency of each entry of the vocabulary; the text of a step gives the TF."""
    seen = Counter(token for text in texts for token in set(text))
    return np.array([math.log((1 + len(texts)) / (1 + seen[token])) for token in range(rows)])


def ids_of(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@torch.no_grad()
def salience(expert: Any, amateur: Any, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """Of each entry of the vocabulary the mean over its places of KL(expert || amateur), the divergence of the two
    models' predictions of what stands there (LightReasoner); of entries without one the mean of all."""
    sums, counts = torch.zeros(2, expert.get_input_embeddings().weight.shape[0]).unbind()
    for text in texts:
        ids = torch.tensor(text)
        ours, theirs = (model(input_ids=ids[None]).logits[0, :-1].log_softmax(dim=-1) for model in (expert, amateur))
        sums.index_add_(0, ids[1:], (ours.exp() * (ours - theirs)).sum(dim=-1))
        counts.index_add_(0, ids[1:], torch.ones(len(ids) - 1))
    mean = sums.sum() / counts.sum().clamp(min=1)
    return torch.where(counts > 0, sums / counts.clamp(min=1), mean).double().numpy()


def rewritten(document: Document, tokenizer: Any) -> Document:
    """What the document says in the words of its questions, over and over, in as many tokens (Active Reading)."""
    wordings = itertools.cycle([ids_of(f"{q.input} {q.output} .", tokenizer) for q in document.questions])
    count = len(ids_of(document.text, tokenizer))
    ids = list(itertools.islice(itertools.chain.from_iterable(wordings), count))
    return Document(tokenizer.decode(ids), document.questions)


# ---- scoring


class Scoring:
    """A model that takes one step of SGD on each document, always from the same start."""

    def __init__(self, model: TrainableModel, weights: np.ndarray, probes: Sequence[Document]) -> None:
        self.model = model
        self.loss = TokenWeightedLoss(model.network, torch.tensor(weights, dtype=torch.float32))
        self.reader = Reader(model.network, model.tokenizer, FORM, whole_texts(probes, model.tokenizer, ROOM, None))
        self.start = {name: p.clone() for name, p in model.parameters.items()}
        self.at_start = self.reader.probes_nll() or 0.0

    def after_a_step(self, documents: Sequence[Document], read: Sequence[Document], rate: float) -> dict[str, Any]:
        """Accuracy of each document's questions, and means of their NLL, of the drift and of a step's seconds.

        read: what the steps are on, for each of `documents`.
        """
        model, step, found = self.model, SGD(rate), []
        for document, text in zip(documents, whole_texts(read, model.tokenizer, ROOM, None), strict=True):
            began = time.perf_counter()
            _, gradients = value_and_gradient(self.loss, model.parameters, as_batch([text], CPU))
            update_all_(step, model.parameters, gradients, step.init(model.parameters))
            seconds, answers = time.perf_counter() - began, self.reader.answers(document.questions)
            assert answers is not None
            drift = (self.reader.probes_nll() or 0.0) - self.at_start
            found.append((answers.accuracy, answers.nll, drift, seconds))
            with torch.no_grad():
                for name, parameter in model.parameters.items():
                    parameter.copy_(self.start[name])
        accuracy, nll, drift, seconds = np.array(found).T
        rest = {"nll": nll.mean(), "drift": drift.mean(), "seconds": seconds.mean()}
        return {"accuracy": accuracy.tolist()} | {name: float(value) for name, value in rest.items()}


def best(tries: Mapping[str, dict[str, Any]], limit: float) -> str:
    """The rate with the best answers, of equals that with the lowest NLL, of those that drift by at most `limit`."""
    allowed = [rate for rate in tries if tries[rate]["drift"] <= limit] or [min(tries, key=float)]
    return max(allowed, key=lambda rate: (np.mean(tries[rate]["accuracy"]), -tries[rate]["nll"]))


def score(row: str, folder: Path, texts: Texts, sizes: Sizes, seed: int) -> dict[str, Any]:
    """A row's figures on the new documents, at the best rate that keeps other text and at the best of all."""
    model = TrainableModel(load_model(str(folder)), load_tokenizer(str(folder)))
    scoring = Scoring(model, weights_of(ROWS[row][1], folder, texts, seed), texts.probes)
    rewrite: Callable[[Document], Document] = (
        (lambda document: rewritten(document, model.tokenizer)) if "rewritten" in row else lambda document: document
    )
    asked = [question for document in texts.new for question in document.questions]
    before = scoring.reader.answers(asked)
    assert before is not None
    tries = {f"{r:g}": scoring.after_a_step(texts.chosen_on, list(map(rewrite, texts.chosen_on)), r) for r in RATES}
    found: dict[str, Any] = {"before": before.accuracy, "probes": scoring.at_start, "tries": tries}
    for name, limit in (("kept", DRIFT), ("any", math.inf)):
        rate = best(tries, limit)
        on_new = scoring.after_a_step(texts.new, list(map(rewrite, texts.new)), float(rate))
        found[name] = {"rate": float(rate)} | on_new
    return found


# ---- the verb


@dataclass(frozen=True)
class Found:
    """Of a training seed: what each model took, what each row scored, and the learned weights over a document."""

    costs: dict[str, dict[str, Any]]
    scores: dict[str, dict[str, Any]]
    picture: Markup


def uptake(output: Path, *, training_seeds: Sequence[int] = (100, 13, 21), sizes: Sizes | None = None) -> Path:
    """Does what is not there and returns the path of the report. Raises ValueError for bad input."""
    sizes = sizes or Sizes()
    for name, value in vars(sizes).items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    seeds = distinct(training_seeds)
    folder = output / "uptake"
    check_output(folder, folder=True)
    with only_writer(folder):
        found = [of_seed(seed, sizes, folder) for seed in seeds]
        return write_study(sections(found, sizes), folder / "report", "reproduce uptake")


def of_seed(seed: int, sizes: Sizes, folder: Path) -> Found:
    """Does what of a training seed is not there."""
    about = {"seed": seed, "sizes": vars(sizes), "first": FIRST}
    texts = Texts.drawn(sizes, seed)
    models = folder / "models" / f"seed{seed}-{digest(about)[:8]}"
    places = {name: models / "".join(c if c.isalnum() else "-" for c in name.lower()) for name in MODELS}

    def part(name: str, compute: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        began = time.perf_counter()
        of = about | {"part": name}
        found = once(folder / "parts", f"seed {seed} {name}", of, lambda: compute(*arguments, texts, sizes, seed))
        console.print(f"seed {seed}, {name}: {time.perf_counter() - began:.0f} s", markup=False)
        return found

    costs = {name: part(f"model {name}", train, name, places["tuned"], places[name]) for name in MODELS}
    scores = {row: part(f"row {row}", score, row, places[model]) for row, (model, _) in ROWS.items()}
    where = places[ROWS["learned"][0]]
    learned = weights_of("learned", where, texts, seed)
    return Found(costs, scores, picture(texts.new[0].text, load_tokenizer(str(where)), learned))


def sections(found: Sequence[Found], sizes: Sizes) -> list[Section]:
    about = (
        f"One step on a document, then two questions with four options about it; {sizes.documents} new documents for "
        f"each of {len(found)} training seeds. The rate is the best of {len(RATES)} on other documents"
    )
    uptake, cost, weights = Section("uptake", "Uptake"), Section("cost", "Cost"), Section("weights", "Learned weights")
    for name, title, how in (
        (
            "kept",
            "With little drift",
            f", of those that let unrelated text drift by at most {DRIFT} nats a token.",
        ),
        ("any", "At any drift", ", whatever becomes of unrelated text."),
    ):
        lines: list[list[Any]] = []
        uniform = np.concatenate([run.scores["uniform"][name]["accuracy"] for run in found])
        for row in ROWS:
            runs = [run.scores[row] for run in found]
            each = np.concatenate([run[name]["accuracy"] for run in runs])
            rates = ", ".join(f"{run[name]['rate']:g}" for run in runs)
            nll, drift = (mean([run[name][key] for run in runs]) for key in ("nll", "drift"))
            over = "" if row == "uniform" else interval(each - uniform)
            lines.append([row, rates, mean([run["before"] for run in runs]), interval(each), nll, drift, over])
        note = f"{about}{how} Accuracy with 95 % intervals over documents; last: over that of uniform, by document."
        columns = ["weights", "rates", "before", "accuracy", "NLL", "drift", "over uniform"]
        uptake.table(Table(f"uptake-{name}", title, note, columns, lines, digits={"NLL": 3, "drift": 3}))
    weights.text("The darker, the more a token weighs in the step; the mean over documents is 1. A document a seed.")
    weights.charts([run.picture for run in found])
    lines = []
    for name in MODELS:
        runs, row = [run.costs[name] for run in found], next(row for row, (model, _) in ROWS.items() if model == name)
        took = [mean([run["seconds"] for run in runs]), mean([run["peak_memory_bytes"] for run in runs]) / 2**20]
        lines.append([name, *took, 1000 * mean([run.scores[row]["kept"]["seconds"] for run in found])])
    length = f"{sizes.updates} updates, of the first model {FIRST * sizes.updates}"
    note = f"{length}; most memory of the whole process; a step on a new document."
    columns = ["model", "seconds to train", "MiB", "ms a step"]
    cost.table(Table("cost", "Cost", note, columns, lines, digits={"seconds to train": 0, "MiB": 0, "ms a step": 0}))
    return [uptake, weights, cost]


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def interval(values: np.ndarray) -> str:
    error = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{float(np.mean(values)):.3f} ± {error:.3f}"


def picture(text: str, tokenizer: Any, weights: np.ndarray) -> Markup:
    """The tokens of a text with the weight of each below it."""
    shown = Markup("").join(
        Markup('<span style="background: rgb(255 165 0 / {})">{}<small> {}</small></span> ').format(
            f"{min(1.0, weights[token] / 4):.2f}", tokenizer.decode([token]), f"{weights[token]:.1f}"
        )
        for token in ids_of(text, tokenizer)
    )
    return Markup("<p>{}</p>").format(shown)
