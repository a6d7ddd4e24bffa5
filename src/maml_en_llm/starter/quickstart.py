"""The quick start: the real pipeline on the built-in tasks, from nothing to a table, in a few minutes on a CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..config import EvaluateConfig, TrainConfig
from ..evaluation.protocol import evaluate
from ..models import new_gpt2, save_model, train_tokenizer
from ..progress import console
from ..reporting.report import report
from ..tasks.check import check_collection
from ..tasks.collection import load_collection
from ..training.loop import train
from .tasks import write_starter_collection

SETTING = "starter"
SEEDS = (100, 13, 21, 42, 87)


def quickstart(output: Path = Path("quickstart"), batches: int = 400, base_batches: int = 600) -> Path:
    """Makes a small language model, meta-trains it in three ways, scores it and writes a report; returns its path.

    Everything stands in `output`; what is finished there is not done again.
    """
    folder = output / "collection"
    if not (folder / "manifest.json").is_file():
        write_starter_collection(folder)
    collection = load_collection(folder)
    assert not check_collection(collection)

    untrained = output / "untrained"
    if not untrained.is_dir():
        texts = [f"{e.input}\n{e.output}" for name in collection.setting(SETTING).train for e in collection[name].train]
        tokenizer = train_tokenizer(texts, vocabulary=512, context=512)
        save_model(new_gpt2(tokenizer, layers=4, width=64, heads=4, context=512), tokenizer, untrained)

    common = TrainConfig(
        collection=folder,
        setting=SETTING,
        model=str(untrained),
        output=output / "base",
        method="language-model",
        batches=base_batches,
        batch_size=4,
        max_tokens=512,
        max_tokens_per_example=64,
        lr=2e-3,
        warmup=0.05,
        device="cpu",
        checkpoint_every=200,
        resume=True,
    )
    console.rule("1 of 5: a base language model")
    base = train(common)
    meta = replace(common, model=str(base), batches=batches, batch_size=1, lr=3e-4, warmup=0.0)
    runs = {
        "metaicl": replace(meta, method="metaicl", output=output / "metaicl"),
        "maml-2-1": replace(meta, method="maml-en-llm", output=output / "maml-2-1", inner_lr=3e-4),
        "maml-2-4": replace(meta, method="maml-en-llm", output=output / "maml-2-4", inner_lr=3e-4, copies=4),
    }
    models = {"raw-lm": base, "no-icl": base}
    for number, (name, config) in enumerate(runs.items(), start=2):
        console.rule(f"{number} of 5: {name}")
        models[name] = train(config)

    console.rule("5 of 5: evaluation")
    results = []
    for name, model in models.items():
        path = output / "results" / f"{name}.json"
        if not path.is_file():
            evaluate(
                EvaluateConfig(
                    model=str(model),
                    collection=folder,
                    setting=SETTING,
                    output=path,
                    demonstrations=0 if name == "no-icl" else 16,
                    seeds=SEEDS,
                    device="cpu",
                )
            )
        results.append(path)
    return report([*results, common.output, *(config.output for config in runs.values())], output / "report")
