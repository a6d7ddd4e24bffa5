"""Faults on purpose: commands are killed, stopped, robbed of disk space and given damaged files, then repeated.

Whatever happened, the same command (`train` with `--resume`) must end with exactly what an undisturbed one does, and a
fault that a command can see must be one sentence. Every case runs in forked processes and is given by its seed.

    python tests/reliability/faults.py --cases 1000 [--seed 0] [--kind train-kill]
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from builders import WORDS, evaluate_config, make_collection, train_config
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.models import new_gpt2, save_model, train_tokenizer
from maml_en_llm.training.checkpoint import read_metrics
from maml_en_llm.training.loop import train

FINE, SAID, STOPPED, OTHER = 0, 2, 130, 3  # what a command ended with: 2 is one sentence, 3 anything unforeseen
# Audit events before which a process can be killed: all that changes what names stand for on the disk.
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}


class Bench:
    """A small collection and model, and what undisturbed commands make of them, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.collection = make_collection(folder / "collection")
        tokenizer = train_tokenizer([" ".join(WORDS)] * 5, vocabulary=300, context=256)
        self.model = folder / "tiny"
        save_model(new_gpt2(tokenizer, layers=1, width=8, heads=2, context=256), tokenizer, self.model)
        self.commands: dict[str, Callable[[Path], Any]] = {"train": self.train, "evaluate": self.evaluate}
        self.whole, self.events, self.syncs, self.seconds = {}, {}, {}, {}
        for name, command in self.commands.items():
            output, counted = folder / f"whole-{name}", folder / f"counts-{name}.json"
            began = time.monotonic()
            ended, said = forked(partial(counting, counted, output, partial(command, output)))
            assert ended == FINE, said
            self.seconds[name] = time.monotonic() - began
            self.whole[name] = made(name, output)
            self.events[name], self.syncs[name] = json.loads(counted.read_text())

    def train(self, output: Path) -> None:
        keys = {"method": "metaicl", "batches": 10, "checkpoint_every": 2, "batch_size": 2}
        train(train_config(self.collection, self.model, output / "run", **keys), resume=True)

    def evaluate(self, output: Path) -> None:
        evaluate(evaluate_config(self.collection, self.model, output / "results.json", seeds=(100, 13, 21)))


def made(command: str, output: Path) -> Any:
    """What counts of what a command made; times do not."""
    if command == "train":
        metrics = [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(output / "run")]
        left = sorted(path.name for path in (output / "run").iterdir())
        return (output / "run" / "model" / "model.safetensors").read_bytes(), metrics, left
    results = json.loads((output / "results.json").read_text())
    results["config"].pop("output")
    timeless = {key: value for key, value in results.items() if key not in ("seconds", "run")}
    left = sorted(path.name for path in output.iterdir())
    return timeless, (output / "results.predictions.jsonl").read_bytes(), left


def forked(action: Callable[[], None], signal_after: float | None = None, number: int = 9) -> tuple[int, str]:
    """Runs `action` in a child process, which gets the signal `number` after some seconds; how it ended (a signal as
    -n), and what it printed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = OTHER
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            torch.set_num_threads(1)
            try:
                action()
                code = FINE
            except (ValueError, OSError) as error:
                print(error, flush=True)
                code = SAID
            except KeyboardInterrupt:
                code = STOPPED
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", flush=True)
        finally:
            os._exit(code)

    def send() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    timer = threading.Timer(1e6 if signal_after is None else signal_after, send)
    if signal_after is not None:
        timer.start()
    _, status = os.waitpid(child, 0)
    timer.cancel()
    os.close(writing)
    with os.fdopen(reading, errors="replace") as printed:
        return os.waitstatus_to_exitcode(status), printed.read()


def before_event(number: int, folder: Path, do: Callable[[], None], seen: list[int] | None = None) -> None:
    """Calls `do` before the event of that number on files in `folder`, counted from 1, of this process."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in EVENTS and any(str(folder) in str(a) for a in arguments if isinstance(a, (str, bytes, Path))):
            count += 1
            if seen is not None:
                seen[0] = count
            if count == number:
                do()

    sys.addaudithook(hook)


def before_sync(number: int, do: Callable[[], None], seen: list[int] | None = None) -> None:
    """Calls `do` in place of the fsync of that number, counted from 1."""
    sync, count = os.fsync, 0

    def counted(descriptor: int) -> None:
        nonlocal count
        count += 1
        if seen is not None:
            seen[0] = count
        if count == number:
            do()
        sync(descriptor)

    os.fsync = counted  # type: ignore[assignment]


def counting(path: Path, folder: Path, action: Callable[[], None]) -> None:
    events, syncs = [0], [0]
    before_event(0, folder, lambda: None, events)
    before_sync(0, lambda: None, syncs)
    action()
    path.write_text(json.dumps([*events, *syncs]))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def limit_files(size: int) -> None:
    """No file of this process can have more than `size` bytes from now on."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def damage(output: Path, generator: random.Random) -> None:
    """Damages the newest checkpoint of a run that has one before it."""
    written = sorted((output / "run" / "checkpoints").glob("*.safetensors"))
    if len(written) < 2:
        return
    path, content = written[-1], bytearray(written[-1].read_bytes())
    if not content:  # damaged before
        return
    how = generator.choice(["flipped", "truncated", "emptied", "zeroed", "replaced", "renamed", "removed"])
    if how == "flipped":
        bit = generator.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
    elif how == "truncated":
        path.write_bytes(content[: generator.randrange(len(content))])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "zeroed":
        start = generator.randrange(len(content))
        path.write_bytes(content[:start] + bytes(len(content) - start))
    elif how == "replaced":
        path.write_bytes(written[0].read_bytes())
    elif how == "renamed":
        path.rename(path.with_name("000000009" + path.name[9:]))
    else:
        path.unlink()


def case(bench: Bench, kind: str, seed: int) -> str:
    """Runs one case; an empty string when all that is promised held, else what did not."""
    generator = random.Random(f"{kind} {seed}")
    command, fault = kind.split("-")
    output = Path(tempfile.mkdtemp(dir=bench.folder, prefix="case-"))
    action = partial(bench.commands[command], output)

    def disturbed(disturb: Callable[..., None], *arguments: Any) -> None:
        disturb(*arguments)
        action()

    try:
        # Some are hit again as they go on; with both its checkpoints damaged a run can only say so.
        for _ in range(1 if fault == "damage" else generator.choice([1, 1, 2])):
            event, sync = 1 + generator.randrange(bench.events[command]), 1 + generator.randrange(bench.syncs[command])
            moment = generator.random() * bench.seconds[command]
            if fault == "time":
                ended, said = forked(action, moment)
            elif fault == "stop":
                ended, said = forked(action, moment, generator.choice([signal.SIGINT, signal.SIGTERM]))
            elif fault == "full" and generator.random() < 0.5:
                ended, said = forked(partial(disturbed, before_sync, sync, no_space))
            elif fault == "full":
                ended, said = forked(partial(disturbed, limit_files, int(10 ** generator.uniform(1, 4.5))))
            else:
                ended, said = forked(partial(disturbed, before_event, event, output, die))
            if fault == "damage":
                damage(output, generator)
            allowed = {"full": {FINE, SAID}, "stop": {FINE, STOPPED, -15, -2}}.get(fault, {FINE, -9})
            if ended not in allowed:
                return f"ended with {ended}: {said[-300:]}"
            if ended == SAID and str(output) not in said:
                return f"no file is named: {said[-300:]}"
        ended, said = forked(action)
        if ended != FINE:
            return f"could not go on ({ended}): {said[-300:]}"
        found, expected = made(command, output), bench.whole[command]
        for what, ours, theirs in zip(("result", "record", "files"), found, expected, strict=True):
            if ours != theirs:
                return f"another {what}: {ours if what == 'files' else ''}"
        return ""
    finally:
        shutil.rmtree(output)


KINDS = [f"{command}-{fault}" for command in ("train", "evaluate") for fault in ("kill", "time", "stop", "full")]
KINDS.append("train-damage")


def main() -> int:
    import argparse

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS)
    chosen = parser.parse_args()
    kinds = [chosen.kind] if chosen.kind else KINDS
    counts, failures, began = dict.fromkeys(kinds, 0), [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"MAML_EN_LLM_CACHE": str(Path(folder) / "cache"), "TOKENIZERS_PARALLELISM": "false"}
        bench = Bench(Path(folder))
        for number in range(chosen.cases):
            kind = kinds[number % len(kinds)]
            try:
                wrong = case(bench, kind, chosen.seed + number)
            except KeyboardInterrupt:
                break
            counts[kind] += 1
            if wrong:
                failures.append(kind)
                print(f"{kind} --seed {chosen.seed + number}: {wrong}", flush=True)
            if number % 100 == 99:
                print(f"{number + 1} cases, {len(failures)} failed, {time.monotonic() - began:.0f} s", flush=True)
        for kind, count in counts.items():
            print(f"{kind:16} {count:5} cases, {failures.count(kind)} failed")
        print(f"{sum(counts.values())} cases in {time.monotonic() - began:.0f} s, {len(failures)} failed", flush=True)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
