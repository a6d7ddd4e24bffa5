"""Documents in order, one step each: what the model can then answer, what it can still answer later, and what else
has changed (docs/stream.md).

    OUTPUT/stream.json     StreamResults: the figures of each document, and of all
    OUTPUT/results.json    uptake and retention as rows of a report; only when there are questions
    OUTPUT/metrics.jsonl   the figures of a document as soon as it was learned
    OUTPUT/model/          the model after the last document
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch

from ...bilevel import update_all_, value_and_gradient
from ...files import check_output, file_hash, only_writer
from ...methods import method_of_model
from ...models import TrainableModel, check_tokenizer, choose_trainable, load_model, load_tokenizer, pick_device
from ...progress import console, stop_on_signal, track
from ...results import PROVENANCE, digest, from_json, read_provenance, to_json
from ...training.record import Measurement, config_hash
from .config import StreamConfig as StreamConfig
from .documents import read_documents
from .figures import DocumentFigures, StreamResults, card, provenance_of, results_of, rows_of_a_report
from .folder import StreamFolder
from .reader import Reader, as_batch, whole_texts


def stream(config: StreamConfig) -> StreamResults:
    """Lets a model learn documents one after another, writes the files above and returns the figures.

    The same command goes on where an earlier one was stopped, with the same result.  Raises ValueError for bad input.
    """
    check_output(config.output, folder=True)
    with only_writer(config.output):
        return _stream(config)


def _stream(config: StreamConfig) -> StreamResults:
    documents = read_documents(config.documents)
    probes = read_documents(config.probes) if config.probes else []
    files = [config.documents, *([config.probes] if config.probes else []), *config.learner.files()]
    folder = StreamFolder(config.output, digest([config_hash(config), *map(file_hash, files)]))
    if folder.results.is_file():
        console.print(f"{config.output} is finished already")
        return from_json(StreamResults, folder.results.read_bytes(), folder.results)

    device = pick_device(config.device)
    record = Measurement(config, digest([file_hash(path) for path in files]), device)
    tokenizer = load_tokenizer(config.pinned_model)
    network = load_model(config.pinned_model, device)
    check_tokenizer(tokenizer, network, config.model)
    with torch.random.fork_rng([]):  # of what LoRA begins with
        torch.manual_seed(0)
        chosen = choose_trainable(network, config.trainable, config.lora_rank, config.last_blocks)
    adapter_of = config.pinned_model if config.keep_adapter else None
    model = TrainableModel(chosen, tokenizer, adapter_of=adapter_of)
    made = read_provenance(config.pinned_model)
    form = method_of_model(made).prompts_at_test().format
    room = min(form.max_tokens, getattr(network.config, "max_position_embeddings", None) or form.max_tokens)
    form = replace(form, max_tokens=room, max_tokens_per_example=min(room, form.max_tokens_per_example))
    texts = whole_texts(documents, tokenizer, room, config.documents)
    reader = Reader(model.network, tokenizer, form, whole_texts(probes, tokenizer, room, config.probes))

    parameters, loss, step = model.parameters, config.learner.loss(model), config.learner.step(model)
    moments = step.init(parameters)
    state = parameters | {f"first moment of {n}": m for n, m in moments.first.items()}
    state |= {f"second moment of {n}": m for n, m in (moments.second or {}).items()}
    at_start = reader.probes_nll()
    folder.begin()
    rows = folder.restore(state)
    moments.step = len(rows)
    with track("stream", len(texts), "documents", done=len(rows)) as progress, stop_on_signal() as stop:
        for number in range(len(rows), len(texts)):
            questions = documents[number].questions
            before, started = reader.answers(questions), time.monotonic()
            value, gradients = value_and_gradient(loss, parameters, as_batch([texts[number]], device))
            if not math.isfinite(value):
                raise ValueError(f"{config.documents}:{number + 1}: the loss is {float(value)}; lower --lr")
            if earlier := config.learner.replayed(number):
                _, more = value_and_gradient(loss, parameters, as_batch([texts[i] for i in earlier], device))
                gradients = {name: gradient + more[name] for name, gradient in gradients.items()}
            update_all_(step, parameters, gradients, moments)
            seconds, now = round(time.monotonic() - started, 4), reader.answers(questions)
            asked: dict[str, Any] = {"questions": len(questions), "before": before, "now": now}
            probed = reader.probes_nll()
            drift = None if at_start is None or probed is None else probed - at_start
            rows.append(DocumentFigures(document=number + 1, **asked, drift=drift, loss=float(value), seconds=seconds))
            folder.log(rows[-1])
            progress.advance(1, f"loss {float(value):.3f}")
            if stop.requested or len(rows) == len(texts) or len(rows) % config.checkpoint_every == 0:
                folder.save(rows, state)
            if stop.requested and len(rows) < len(texts):
                raise KeyboardInterrupt(f"stopped after {len(rows)} documents; the same command continues")

    rows = [replace(row, later=reader.answers(d.questions)) for row, d in zip(rows, documents, strict=True)]
    results = results_of(config, rows, record.now(), made)
    provenance = provenance_of(config, results, sum(p.numel() for p in parameters.values()), made)
    row = rows_of_a_report(config, results, documents, form, made)
    folder.finish(model, {PROVENANCE: to_json(provenance), "README.md": card(results)}, results, row)
    return results
