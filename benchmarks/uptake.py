"""What learned token weights are worth: answers about a document straight after one gradient step on it.

    python benchmarks/uptake.py --seeds 0 1 2                # minutes on one core for each seed

The starter model first learns to answer questions about documents (starter/documents.py) of which it has just read
one, with uniform weights (`--warm-up` updates of the method token-weights with weights_lr 0). From there the method
learns weights (`--updates`, lr 0). Then new documents come, each to that same model: one step of `stream --learner
weighted` at the best of four rates, which is chosen on other documents. Random and TF-IDF weights have a mean of 1 over
the tokens of documents, as uniform ones have.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

sys.path.insert(0, str(Path(__file__).parent))
from common import table
from maml_en_llm.bilevel import update_all_, value_and_gradient
from maml_en_llm.evaluation.stream.documents import Document
from maml_en_llm.evaluation.stream.learners.weighted import Weighted
from maml_en_llm.evaluation.stream.reader import Reader, as_batch, whole_texts
from maml_en_llm.methods import method_from_keys
from maml_en_llm.methods.token_weights import WEIGHTS
from maml_en_llm.models import TrainableModel, load_model, load_tokenizer
from maml_en_llm.prompts.batches import Batch
from maml_en_llm.prompts.layout import PromptFormat
from maml_en_llm.starter.documents import draw_documents, draw_probes
from maml_en_llm.tasks.seeds import random_generator

RATES = (0.03, 0.1, 0.3, 1.0)
FORM = PromptFormat()


@dataclass
class OneDocument:
    """Support is the text of a document, query its questions: what the method token-weights learns from here."""

    documents: Sequence[Document]
    tokenizer: Any
    seed: int

    def batch(self, number: int) -> Batch:
        pair, query = divmod(number, 2)
        document = self.documents[int(random_generator("uptake", self.seed, pair).integers(len(self.documents)))]
        if not query:
            return Batch.from_prompts(whole_texts([document], self.tokenizer, 1024, None))
        return Batch.from_prompts([FORM.encode_training(self.tokenizer, [], q) for q in document.questions])


def learn(model: TrainableModel, documents: Sequence[Document], updates: int, seed: int, **keys: Any) -> Any:
    places = {"collection": "c", "setting": "s", "model": "m", "output": "o", "method": "token-weights"}
    method = method_from_keys(places | {"copies": 2, "batches": 4 * max(updates, 1)} | keys)
    learner: Any = method.learner(model, OneDocument(documents, model.tokenizer, seed))
    for update in range(updates):
        figures = learner.update(learner.batches(update), 1 - update / updates, measure=False)
        if update % 50 == 0:
            print(f"update {update}: loss {figures['loss']:.3f}", file=sys.stderr, flush=True)
    return learner


def after_one_step(
    model: TrainableModel, documents: Sequence[Document], probes: Sequence[Document], learner: Weighted
) -> tuple[float, float, float]:
    """Accuracy and NLL over all documents, each learned from the same start, and the mean drift of the probes."""
    reader = Reader(model.network, model.tokenizer, FORM, whole_texts(probes, model.tokenizer, 1024, None))
    start = {name: p.clone() for name, p in model.parameters.items()}
    loss, step, before, found = learner.loss(model), learner.step(model), reader.probes_nll() or 0.0, []
    for text, document in zip(whole_texts(documents, model.tokenizer, 1024, None), documents, strict=True):
        _, gradients = value_and_gradient(loss, model.parameters, as_batch([text], model.device))
        update_all_(step, model.parameters, gradients, step.init(model.parameters))
        answers = reader.answers(document.questions)
        assert answers is not None
        found.append((answers.accuracy, answers.nll, (reader.probes_nll() or 0.0) - before))
        put_back(model.parameters, start)
    return tuple(float(value) for value in np.mean(found, axis=0))  # type: ignore[return-value]


def put_back(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def tf_idf(documents: Sequence[Document], tokenizer: Any, rows: int) -> np.ndarray:
    """Inverse document frequency of each vocabulary entry over the training documents; a step's text gives the TF."""
    seen = Counter(token for d in documents for token in set(tokenizer(d.text, add_special_tokens=False)["input_ids"]))
    return np.array([math.log((1 + len(documents)) / (1 + seen[token])) for token in range(rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--documents", type=int, default=34, help="new documents that are scored")
    parser.add_argument("--warm-up", type=int, default=300)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--train-documents", type=int, default=400)
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--save", type=Path, help="folder for the model with token_weights.json, for `stream`")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[tuple[float, ...]]] = {}
    for seed in arguments.seeds:
        model = TrainableModel(load_model("starter"), load_tokenizer("starter"))
        new = draw_documents(arguments.documents, seed)
        chosen_on = draw_documents(arguments.documents, seed + 1000, reserved=new)
        known = draw_documents(arguments.train_documents, seed + 2000, reserved=[*new, *chosen_on])
        probes = draw_probes(arguments.probes, seed)
        learn(model, known, arguments.warm_up, seed, lr=1e-3, weights_lr=0.0, inner_lr=0.1)
        learner = learn(model, known, arguments.updates, seed + 1, lr=0.0, weights_lr=0.03, inner_lr=0.3)
        learned = softplus(learner.parameters[WEIGHTS]).numpy()
        idf = tf_idf(known, model.tokenizer, len(learned))
        tokens = [t for d in known for t in model.tokenizer(d.text, add_special_tokens=False)["input_ids"]]
        random = random_generator("weights", seed).gamma(1.0, size=len(learned))
        ways = {"uniform": np.ones(len(learned)), "random": random, "TF-IDF": idf, "learned": learned}
        for name, weights in ways.items():
            if name != "learned":
                weights = weights / weights[tokens].mean()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "weights.json"
                path.write_text(json.dumps([float(weight) for weight in weights]))
                step = Weighted(learned=path)
                tried = {rate: after_one_step(model, chosen_on, [], replace(step, lr=rate)) for rate in RATES}
                best = max(tried, key=lambda rate: tried[rate][0] - 1e-3 * tried[rate][1])
                found = after_one_step(model, new, probes, replace(step, lr=best))
            rows.setdefault(name, []).append((best, *found))
            print(f"seed {seed}, {name}: rate {best:g}, accuracy {found[0]:.3f}", file=sys.stderr, flush=True)
        print_weights(new[0].text, model.tokenizer, learned)
        if arguments.save:
            learner.save(arguments.save, {})
    lines = [
        [name, ", ".join(f"{run[0]:g}" for run in runs), *(f"{v:.3f}" for v in np.mean([r[1:] for r in runs], axis=0))]
        for name, runs in rows.items()
    ]
    print(table(["weights", "rates", "accuracy", "NLL", "drift"], lines))


def print_weights(text: str, tokenizer: Any, weights: np.ndarray) -> None:
    """The learned weight of each token of a text."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    print(" ".join(f"{tokenizer.decode([token])}({weights[token]:.2f})" for token in ids))


if __name__ == "__main__":
    main()
