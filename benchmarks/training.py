"""Training data: prompts in groups against the reference procedure, in one run, on the same prompts and model.

The reference procedure, written anew after its description: the whole corpus becomes rows padded to 1,024 tokens
before the first step; a step is one row with logits over the whole vocabulary at every position.

    python benchmarks/training.py                 # prompts per second and peak memory, as ratios
    python benchmarks/training.py --start-only    # time to the first step, 800,000 examples in 61 tasks
    python benchmarks/training.py --groups-only   # prompts of a batch one by one and in groups
    python benchmarks/training.py --drawing-only --prompts 400  # what kept token ids save
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
from transformers import GPT2Config, GPT2LMHeadModel

from common import PADDED, emit, in_child, make_model, open_collection, open_tokenizer, seconds, table
from maml_en_llm import PromptFormat
from maml_en_llm.bilevel.curvature import value_and_gradient
from maml_en_llm.methods.metaicl import MetaICL
from maml_en_llm.models import PromptLoss, TrainableModel, keep_freed_memory, save_model, trainable_parameters
from maml_en_llm.prompts.batches import Batch, MixtureSampler
from maml_en_llm.prompts.layout import EncodedPrompt
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
        self.model = make_model()
        method = MetaICL(collection=Path(), setting="", model="", output=Path())
        self.learner = method.learner(TrainableModel(self.model, sampler.tokenizer), sampler)

    def step(self, number: int) -> None:
        self.learner.update(self.learner.batches(number), 1.0, measure=False)


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


def compare_groups(repeats: int) -> None:
    """Processor time of a gradient by what a forward pass may hold, for batches of several shapes, all in turn."""
    keep_freed_memory()
    generator, budgets = torch.Generator().manual_seed(0), (1, None, 1024)

    def between(low: int, high: int, count: int) -> list[int]:
        return torch.randint(low, high + 1, (count,), generator=generator).tolist()

    shapes = {
        "32 prompts of 60 tokens": [60] * 32,
        "32 of 40 to 80": between(40, 80, 32),
        "4 of 200": [200] * 4,
        "16 of 100 to 300": between(100, 300, 16),
        "16 of 20 to 400": between(20, 400, 16),
        "8 of 500": [500] * 8,
    }
    config = GPT2Config(vocab_size=2000, n_embd=192, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    parameters = {name: p.detach() for name, p in trainable_parameters(model).items()}
    losses = {budget: PromptLoss(model, tokens_per_forward=budget) for budget in budgets}
    lines = []
    for name, lengths in shapes.items():
        ids = [torch.randint(2000, (n,), generator=generator).tolist() for n in lengths]
        batch = Batch.from_prompts([EncodedPrompt(i, [False] * (len(i) - 2) + [True] * 2) for i in ids])
        times: dict[int | None, list[float]] = {budget: [] for budget in budgets}
        for budget in [*budgets] * (repeats + 1):
            before = time.process_time()
            value_and_gradient(losses[budget], parameters, batch)
            times[budget].append(time.process_time() - before)
        median = {budget: statistics.median(found[1:]) for budget, found in times.items()}
        ratios = [f"{median[budget] / median[None]:.2f}" for budget in budgets]
        lines.append([name, *ratios, f"{median[None]:.2f}"])
    print(table(["time / that of 512 tokens", "one by one", "512", "1,024", "seconds"], lines))


def compare_drawing(prompts: int) -> None:
    """Processor time of drawing prompts without kept token ids, with all of them kept, and of making them."""
    with tempfile.TemporaryDirectory() as folder:
        anew, kept = make_sampler(), make_sampler(Path(folder))
        before = time.process_time()
        for examples in kept.tasks.values():
            kept.token_cache.open(examples)
        making = time.process_time() - before
        count = sum(len(task) for task in kept.tasks.values())
        print(f"{len(kept.tasks)} tasks, {count:,} examples: {making:.0f} s to make all token ids")
        for name, sampler in (("anew", anew), ("kept", kept)):
            sampler.batch(0)
            before = time.process_time()
            for number in range(prompts):
                sampler.batch(number)
            print(f"{name}: {1e3 * (time.process_time() - before) / prompts:.2f} ms a prompt")


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
        setting = {"train": names, "test": [], "unseen_domain_test": []}
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
    groups_only: tyro.conf.FlagCreatePairsOff[bool] = False,
    drawing_only: tyro.conf.FlagCreatePairsOff[bool] = False,
    examples: int = 800_000,
    tasks: int = 61,
    side: str | None = None,
) -> None:
    """Prints the table of ratios, or the time to the first step.

    Args:
        prompts: Prompts of the natural length mix that we train on.
        reference_prompts: Prompts that the reference procedure trains on; all its rows cost the same.
        repeats: Measurements of groups, of which the median counts.
        start_only: Measure the time to the first step instead, on a made-up collection.
        groups_only: Measure what prompts of a batch take in groups instead.
        drawing_only: Measure what kept token ids save instead.
        examples: Size of that collection.
        tasks: Its tasks.
        side: Measure only speed, reference or ours in this process and print JSON lines; the table uses it.
    """
    if start_only:
        start(examples, tasks)
    elif groups_only:
        compare_groups(repeats)
    elif drawing_only:
        compare_drawing(prompts)
    elif side == "speed":
        compare_speed(prompts, reference_prompts)
    elif side in ("reference", "ours"):
        trained = (Reference if side == "reference" else Ours)(make_sampler())
        for number in range(5):  # the longest prompt there can be is among them
            trained.step(number)
    else:
        words = ["--prompts", str(prompts), "--reference-prompts", str(reference_prompts)]
        (speed,), _ = in_child(sys.argv[0], "--side", "speed", *words)
        _, their_memory = in_child(sys.argv[0], "--side", "reference")
        _, our_memory = in_child(sys.argv[0], "--side", "ours")
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
        ]
        print(table(["", ""], lines))
        print(f"\npeak memory {our_memory:.0f} / {their_memory:.0f} MiB, the reference's corpus of", end=" ")
        print(f"{speed['rows']:,} rows ({speed['rows'] * 3 * 8 * PADDED / 2**20:.0f} MiB) not counted")


if __name__ == "__main__":
    tyro.cli(main)
