"""Training data: prompts without padding against the reference procedure, in one run, on the same prompts and model.

The reference procedure, written anew after its description: the whole corpus becomes rows padded to 1,024 tokens
before the first step; a step is one row with logits over the whole vocabulary at every position.

    python benchmarks/training.py            # prompts per second and peak memory, as ratios
    python benchmarks/training.py --start-only  # time to the first step, 800,000 examples in 61 tasks
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro

from common import PADDED, emit, in_child, make_model, open_collection, open_tokenizer, seconds, table
from maml_en_llm import PromptFormat, TrainConfig
from maml_en_llm.bilevel.curvature import value_and_gradient
from maml_en_llm.methods.metaicl import MetaICL
from maml_en_llm.models import PromptLoss, save_model, trainable_parameters
from maml_en_llm.prompts.batches import Batch, MixtureSampler
from maml_en_llm.prompts.token_cache import TokenCache


def make_sampler(cache: Path | None = None, prompts_per_batch: int = 1) -> MixtureSampler:
    """The mixture of the class_to_class training tasks (else the starter's), 16 demonstrations a prompt."""
    collection, _ = open_collection()
    names = collection.setting("class_to_class" if "class_to_class" in collection.setting_names else "starter").train
    tokenizer, form = open_tokenizer(collection), PromptFormat(layout="metaicl")
    tasks = {name: collection[name].train for name in names}
    token_cache = TokenCache(tokenizer, form, cache)
    return MixtureSampler(tasks, form, tokenizer, prompts_per_batch=prompts_per_batch, token_cache=token_cache)


def reference_step(model: Any, optimizer: torch.optim.Optimizer, row: tuple[torch.Tensor, ...]) -> None:
    """One step of the reference procedure on one padded row [1, 1024]."""
    token_ids, attention_mask, answer_mask = row
    logits = model(input_ids=token_ids, attention_mask=attention_mask).logits[:, :-1].contiguous()
    losses = torch.nn.functional.cross_entropy(
        logits.view(-1, logits.shape[-1]), token_ids[:, 1:].reshape(-1), reduction="none"
    ).view(1, -1)
    mask = answer_mask[:, 1:]
    ((losses * mask).sum(dim=1) / mask.sum(dim=1)).mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def reference_row(batch: Batch) -> tuple[torch.Tensor, ...]:
    length = batch.token_ids.shape[1]
    padding = (0, PADDED - length)
    pad = torch.nn.functional.pad
    attention_mask = pad(torch.ones(1, length, dtype=torch.long), padding)
    return pad(batch.token_ids, padding), attention_mask, pad(batch.answer_mask.long(), padding)


class Reference:
    """The reference procedure on the prompts of `sampler`."""

    def __init__(self, sampler: MixtureSampler) -> None:
        self.model, self.sampler = make_model(), sampler
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)

    def step(self, number: int) -> None:
        reference_step(self.model, self.optimizer, reference_row(self.sampler.batch(number)))

    def tensorize_seconds(self) -> float:
        """To make rows of the whole corpus: each example is tokenized once on its own, then every one becomes a row."""
        examples = [e for task in list(self.sampler.tasks.values())[:8] for e in task[:100]]
        form, tokenizer = self.sampler.format, self.sampler.tokenizer
        tokenize = seconds(lambda: [form.encode_examples(tokenizer, [e], first=False) for e in examples]) / len(
            examples
        )
        batches = [self.sampler.batch(number) for number in range(20)]
        build = seconds(lambda: [reference_row(batch) for batch in batches]) / len(batches)
        return (tokenize + build) * self.rows

    @property
    def rows(self) -> int:
        return sum(len(task) for task in self.sampler.tasks.values())


class Ours:
    """MetaICL as the training loop runs it, on the prompts of `sampler`."""

    def __init__(self, sampler: MixtureSampler) -> None:
        self.model, self.sampler = make_model(), sampler
        self.parameters = {name: p.detach() for name, p in trainable_parameters(self.model).items()}
        self.loss = PromptLoss(self.model)
        unread = {"collection": Path(), "setting": "", "model": "", "output": Path()}
        self.method = MetaICL(TrainConfig(method="metaicl", **unread), self.parameters)

    def step(self, number: int) -> None:
        self.method.update(self.loss, self.parameters, [self.sampler.batch(number)], 1.0, measure=False)


def drawing_seconds(sampler: MixtureSampler, prompts: int) -> float:
    return statistics.median(seconds(partial(sampler.batch, number % prompts)) for number in range(50))


def compare_speed(prompts: int, reference_prompts: int) -> None:
    """Steps of both in turn, so that whatever else the machine does slows down both alike."""
    with tempfile.TemporaryDirectory() as folder:
        sampler = make_sampler(Path(folder))
        for examples in sampler.tasks.values():
            sampler.token_cache.open(examples)
        lengths = [sampler.batch(number).token_ids.shape[1] for number in range(prompts)]
        reference, ours = Reference(sampler), Ours(sampler)
        reference.step(0)
        ours.step(0)
        theirs, times = [], []
        for number in range(prompts):
            if number * reference_prompts // prompts == len(theirs):
                theirs.append(seconds(partial(reference.step, number)))
            times.append(seconds(partial(ours.step, number)))
        emit(
            reference=statistics.mean(theirs),
            ours=statistics.mean(times),
            tokens=statistics.mean(lengths),
            rows=reference.rows,
            tensorize=reference.tensorize_seconds(),
            draw=drawing_seconds(sampler, prompts),
            draw_anew=drawing_seconds(make_sampler(), prompts),
        )


def compare_packing(repeats: int) -> None:
    """Four prompts in a batch: one by one (what we do), packed in one row, and padded to the longest."""
    model, sampler = make_model(), make_sampler()
    loss, parameters = PromptLoss(model), {name: p.detach() for name, p in trainable_parameters(model).items()}
    batches = [sampler.batch(number) for number in range(4)]
    token_ids = torch.cat([b.token_ids[0] for b in batches])[None]
    positions = torch.cat([torch.arange(b.token_ids.shape[1]) for b in batches])[None]
    keep = torch.cat([b.answer_mask[0] for b in batches]).nonzero()[:, 0] - 1
    together = make_sampler(prompts_per_batch=4).batch(0)

    def packed(parameters, batch):
        # Position ids that start anew tell transformers where attention must not cross.
        logits = model(input_ids=token_ids, position_ids=positions, use_cache=False, logits_to_keep=keep).logits[0]
        return torch.nn.functional.cross_entropy(logits, token_ids[0, keep + 1])

    def padded(parameters, batch):
        columns = batch.answer_mask[:, 1:].any(dim=0).nonzero()[:, 0]
        logits = model(input_ids=batch.token_ids, use_cache=False, logits_to_keep=columns).logits
        labels = batch.token_ids[:, 1:][:, columns].masked_fill(~batch.answer_mask[:, 1:][:, columns], -100)
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels)

    def measure(function) -> float:
        function.substituted = loss.substituted
        run = partial(value_and_gradient, function, parameters, together)
        return statistics.median(seconds(run) for _ in range(repeats))

    run = partial(value_and_gradient, loss, parameters, together)
    one_by_one = statistics.median(seconds(run) for _ in range(repeats))
    emit(one_by_one=1.0, packed=measure(packed) / one_by_one, padded=measure(padded) / one_by_one)


def start(examples: int, tasks: int) -> None:
    """Seconds from the command to the end of the first step, at the first and at the second start."""
    collection, _ = open_collection()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = itertools.cycle(
            line for task in collection.values() for line in map(task.train.line, range(len(task.train)))
        )
        names = [f"task-{number:02d}" for number in range(tasks)]
        for task in names:
            (folder / "data" / task).mkdir(parents=True)
            with (folder / "data" / task / "train.jsonl").open("w", encoding="utf-8") as file:
                for line in itertools.islice(lines, examples // tasks):
                    file.write(json.dumps(json.loads(line) | {"task": task}) + "\n")
        (folder / "settings").mkdir()
        setting = {"train": names, "test": names[:1], "unseen_domain_test": []}
        (folder / "settings" / "all.json").write_text(json.dumps(setting))
        save_model(make_model(), open_tokenizer(collection), folder / "model")
        size = sum(path.stat().st_size for path in (folder / "data").rglob("*.jsonl"))
        print(f"{tasks} tasks, {examples // tasks * tasks:,} examples, {size / 2**20:.0f} MiB")
        for number in ("first", "second"):
            output = folder / number
            words = f"--collection {folder} --setting all --model {folder / 'model'} --method metaicl --batches 1"
            command = [sys.executable, "-m", "maml_en_llm", "train", *words.split(), "--output", str(output)]
            environment = os.environ | {"MAML_EN_LLM_CACHE": str(folder / "cache")}
            began = time.time()
            child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            total = (output / "metrics.jsonl").stat().st_mtime - began
            print(f"{number} start: {total:.1f} s to the end of the first step; the process", end=" ")
            print(f"had the processor for {usage.ru_utime + usage.ru_stime:.1f} s, saving the model included")


def main(
    prompts: int = 24,
    reference_prompts: int = 5,
    repeats: int = 3,
    start_only: tyro.conf.FlagCreatePairsOff[bool] = False,
    examples: int = 800_000,
    tasks: int = 61,
    side: str | None = None,
) -> None:
    """Prints the table of ratios, or the time to the first step.

    Args:
        prompts: Prompts of the natural length mix that we train on.
        reference_prompts: Prompts that the reference procedure trains on; all its rows cost the same.
        repeats: Measurements of packing, of which the median counts.
        start_only: Measure the time to the first step instead, on a made-up collection.
        examples: Size of that collection.
        tasks: Its tasks.
        side: Measure only speed, reference, ours or packing in this process and print JSON lines; the table uses it.
    """
    if start_only:
        start(examples, tasks)
    elif side == "speed":
        compare_speed(prompts, reference_prompts)
    elif side in ("reference", "ours"):
        trained = (Reference if side == "reference" else Ours)(make_sampler())
        for number in range(5):  # the longest prompt there can be is among them
            trained.step(number)
    elif side == "packing":
        compare_packing(repeats)
    else:
        words = ["--prompts", str(prompts), "--reference-prompts", str(reference_prompts), "--repeats", str(repeats)]
        (speed,), _ = in_child(sys.argv[0], "--side", "speed", *words)
        _, their_memory = in_child(sys.argv[0], "--side", "reference")
        _, our_memory = in_child(sys.argv[0], "--side", "ours")
        (packing,), _ = in_child(sys.argv[0], "--side", "packing", *words)
        lines = [
            ["prompts per second, ours / reference", f"{speed['reference'] / speed['ours']:.2f}"],
            ["tokens a prompt, of 1,024", f"{speed['tokens']:.0f}"],
            ["peak memory, ours / reference", f"{our_memory / their_memory:.2f}"],
            [
                "making all rows before the first step, in reference steps",
                f"{speed['tensorize'] / speed['reference']:.0f}",
            ],
            ["drawing a prompt, share of our step, cached", f"{speed['draw'] / speed['ours']:.2%}"],
            ["drawing a prompt, share of our step, tokenized anew", f"{speed['draw_anew'] / speed['ours']:.2%}"],
            ["four prompts packed in one row, time / one by one", f"{packing['packed']:.2f}"],
            ["four prompts padded to the longest, time / one by one", f"{packing['padded']:.2f}"],
        ]
        print(table(["", ""], lines))
        print(f"\npeak memory {our_memory:.0f} / {their_memory:.0f} MiB, the reference's corpus of", end=" ")
        print(f"{speed['rows']:,} rows ({speed['rows'] * 3 * 8 * PADDED / 2**20:.0f} MiB) not counted")


if __name__ == "__main__":
    tyro.cli(main)
