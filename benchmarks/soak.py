"""Long runs, large data and processes that are killed.

    python benchmarks/soak.py updates   # 10,000 updates of a tiny model: memory, open files and rate on the way; twice
    python benchmarks/soak.py start     # first and second start on 10 million examples in 100 tasks
    python benchmarks/soak.py killed    # 4 processes on one `reproduce` table of 100 rows, 20 of them killed at random

Each prints lines of Markdown. `--folder` is where data and runs are put; a collection that is there is used again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from common import table
from maml_en_llm.files import read_json
from maml_en_llm.models import new_gpt2, save_model, word_tokenizer
from maml_en_llm.results import read_results
from maml_en_llm.starter.tasks import write_starter_collection
from maml_en_llm.training.checkpoint import read_metrics

COMMAND = [sys.executable, "-m", "maml_en_llm"]
WORDS = "ant bee cat dog eel fox gnu hen owl pig rat yak red blue big small glad sad near far".split()


def tiny_model(folder: Path) -> Path:
    """A GPT-2 of one block of width 16."""
    if not folder.is_dir():
        tokenizer = word_tokenizer(WORDS)
        save_model(new_gpt2(tokenizer, layers=1, width=16, heads=2, context=128), tokenizer, folder)
    return folder


def starter_collection(folder: Path) -> Path:
    if not folder.is_dir():
        write_starter_collection(folder)
    return folder


def updates(folder: Path, count: int) -> None:
    """Watches a run of MAML-2-1 from outside; the first in a folder finds no kept token ids, the second all."""
    shutil.rmtree(folder / "soak", ignore_errors=True)
    words = ["--collection", starter_collection(folder / "starter"), "--setting", "starter"]
    words += ["--model", tiny_model(folder / "model"), "--output", folder / "soak", "--batches", 2 * count]
    words += ["--max-tokens", 64, "--max-tokens-per-example", 32, "--demonstrations", 2]
    words += ["--log-every", max(1, count // 200), "--checkpoint-every", count // 5]
    environment = os.environ | {"MAML_EN_LLM_CACHE": str(folder / "cache")}
    child = psutil.Popen([*COMMAND, "train", *map(str, words)], env=environment, stdout=subprocess.DEVNULL)
    # updates, processor seconds, MiB that are its own, MiB of files' pages, open files, tasks with kept token ids
    seen: list[tuple[int, float, float, float, int, int]] = []
    while child.poll() is None:
        time.sleep(0.2)
        try:
            lines = (folder / "soak" / "metrics.jsonl").read_text().splitlines()
            done = json.loads(lines[-1])["batches"] // 2 if lines else 0
            times, memory = child.cpu_times(), child.memory_info()
            own, files = (memory.rss - memory.shared) / 2**20, memory.shared / 2**20
            if done and (not seen or done > seen[-1][0]):
                kept = len(list((folder / "cache" / "tokens").glob("*.arrow")))
                seen.append((done, times.user + times.system, own, files, child.num_fds(), kept))
        except (OSError, ValueError, psutil.Error):
            continue
    if child.returncode:
        raise SystemExit(f"the run ended with {child.returncode}")
    rows = []
    for name, low, high in (("start", 0.02, 0.2), ("middle", 0.4, 0.6), ("end", 0.8, 1.0)):
        part = [point for point in seen if low * count <= point[0] <= high * count]
        (first, began, *_), (last, ended, own, files, handles, kept) = part[0], part[-1]
        rate = (last - first) / (ended - began)
        row = [name, f"{first:,} to {last:,}", f"{kept}", f"{own:.1f}", f"{files:.1f}", f"{handles}", f"{rate:.0f}"]
        rows.append(row)
    header = ["", "updates", "tasks with kept token ids", "MiB of its own", "MiB of files", "open files"]
    print(table([*header, "updates per second of processor time"], rows))


def large_collection(folder: Path, examples: int, tasks: int) -> Path:
    """Tasks with two labels and inputs of six words and a number."""
    if (folder / "settings" / "all.json").is_file():
        return folder
    generator = random.Random(0)
    tails = [" ".join(generator.choices(WORDS, k=5)) for _ in range(997)]
    names = [f"task-{number:03d}" for number in range(tasks)]
    for name in [*names, "target"]:
        (folder / "data" / name).mkdir(parents=True, exist_ok=True)
        start = f'{{"task": "{name}", "input": "{name} {generator.choice(WORDS)} '
        ends = [f'", "output": "{label}", "options": ["glad", "sad"]}}\n' for label in ("glad", "sad")]
        with (folder / "data" / name / "train.jsonl").open("w") as file:
            for i in range(examples // tasks if name != "target" else 100):
                file.write(f"{start}{i} {tails[i % 997]}{ends[i % 2]}")
    shutil.copy(folder / "data" / "target" / "train.jsonl", folder / "data" / "target" / "test.jsonl")
    (folder / "settings").mkdir(exist_ok=True)
    record = {"train": names, "test": ["target"], "unseen_domain_test": []}
    (folder / "settings" / "all.json").write_text(json.dumps(record))
    return folder


def start(folder: Path, examples: int, tasks: int) -> None:
    """Seconds from the command to the end of the first update, and the most memory, with an empty and a full cache."""
    collection, rows = large_collection(folder / "large", examples, tasks), []
    shutil.rmtree(folder / "cache", ignore_errors=True)
    for name in ("first", "second"):
        output = folder / f"run-{name}"
        shutil.rmtree(output, ignore_errors=True)
        words = ["--collection", collection, "--setting", "all", "--model", tiny_model(folder / "model")]
        words += [
            "--max-tokens",
            128,
            "--max-tokens-per-example",
            64,
            "--batches",
            2,
            "--log-every",
            1,
            "--output",
            output,
        ]
        environment = os.environ | {"MAML_EN_LLM_CACHE": str(folder / "cache")}
        began = time.time()
        child = subprocess.Popen([*COMMAND, "train", *map(str, words)], env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"the run ended with {child.returncode}")
        seconds = (output / "metrics.jsonl").stat().st_mtime - began
        processor = usage.ru_utime + usage.ru_stime
        rows.append([name, f"{seconds:.1f}", f"{processor:.1f}", f"{usage.ru_maxrss / 2**20:.2f}"])
    size = sum(path.stat().st_size for path in (collection / "data").rglob("*.jsonl")) / 2**20
    print(f"{examples:,} examples in {tasks} tasks, {size:,.0f} MiB\n")
    print(table(["start", "s to the end of the first update", "s of processor time", "peak GiB"], rows))


def killed(folder: Path, processes: int, kills: int, rows: int) -> None:
    """Lets processes share a table while some are killed; then looks whether each row was made once, as it is alone."""
    output, seeds = folder / "killed", [str(seed) for seed in range(1, rows // 2 + 1)]
    for old in (output, folder / "alone"):
        shutil.rmtree(old, ignore_errors=True)
    few = starter_collection(folder / "starter")
    record = json.loads((few / "settings" / "starter.json").read_text())
    record = {"train": record["train"][:8], "test": record["test"][:2], "unseen_domain_test": []}
    (few / "settings" / "few.json").write_text(json.dumps(record))
    (folder / "killed.yaml").write_text(
        "max_tokens: 64\nmax_tokens_per_example: 32\ndemonstrations: 2\nseeds: [100]\n"
        "train: {log_every: 1, checkpoint_every: 4}\n"
    )
    words = ["--collection", few, "--setting", "few", "--batches", 8]
    words += ["--model", tiny_model(folder / "model"), "--max-examples", 1, "--config", folder / "killed.yaml"]
    words += ["--rows", "metaicl", "maml-2-1"]

    def begin(output: Path, seeds: list[str]) -> subprocess.Popen[bytes]:
        own = ["--output", output, "--training-seeds", *seeds]
        return subprocess.Popen(
            [*COMMAND, "reproduce", "table3a", *map(str, [*words, *own])], stdout=subprocess.DEVNULL, stderr=log
        )

    def made() -> list[Path]:
        return sorted(path for path in output.glob("table3a/results/*/*.json"))

    generator, began, done = random.Random(0), time.monotonic(), 0
    due = sorted(generator.sample(range(rows - processes), kills))  # rows that are finished before each kill
    with (folder / "killed.log").open("wb") as log:
        running = [begin(output, seeds) for _ in range(processes)]
        at_kill: list[int] = []
        try:
            while done < kills and len(made()) < rows:
                time.sleep(generator.uniform(0.1, 1))
                running = [begin(output, seeds) if child.poll() is not None else child for child in running]
                owners = [read_json(path).get("pid") for path in (output / "table3a" / "results").rglob("*.lock")]
                working = [place for place, child in enumerate(running) if child.pid in owners]  # not those that start
                if working and len(made()) >= due[done]:
                    place = generator.choice(working)
                    running[place].kill()
                    running[place].wait()
                    at_kill.append(len(made()))
                    done += 1
                    running[place] = begin(output, seeds)
            codes = [child.wait() for child in running]
            if len(made()) < rows:  # what only they had begun that were killed last
                codes = [begin(output, seeds).wait()]
        finally:
            for child in running:
                child.kill()
        seconds = time.monotonic() - began
        begin(folder / "alone", seeds[:2]).wait()
    print(f"{done} kills, after {at_kill} finished rows; {seconds:.0f} s; exit codes {codes}")
    lost = rows - len(made())
    double = [path.name for path in output.rglob("*.replaced-*")]
    counts = {}
    for run in sorted(output.glob("*/runs/*/*")):
        if not run.name.endswith(".lock"):
            counts[run.name] = [line["batches"] for line in read_metrics(run)]
    broken = [name for name, batches in counts.items() if batches != sorted(set(batches)) or batches[-1] != 8]
    different = []
    for alone in (folder / "alone").glob("table3a/results/*/*.json"):
        ours = output / alone.relative_to(folder / "alone")
        if read_results(ours).tasks != read_results(alone).tasks:
            different.append(alone.name)
    left = [path.name for path in output.rglob("*") if "unfinished" in path.name or "partial" in path.name]
    print(f"rows {len(made())} of {rows}, lost {lost}; trained twice {double}; updates twice or missing {broken}")
    print(f"different from undisturbed {different}; left behind {left}")
    if lost or double or broken or different:
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["updates", "start", "killed"])
    parser.add_argument("--folder", type=Path, default=Path("soak"))
    for name, default in (("updates", 10_000), ("examples", 10_000_000), ("tasks", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("processes", 4), ("kills", 20), ("rows", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen: Any = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    if chosen.part == "updates":
        updates(chosen.folder, chosen.updates)
    elif chosen.part == "start":
        start(chosen.folder, chosen.examples, chosen.tasks)
    else:
        killed(chosen.folder, chosen.processes, chosen.kills, chosen.rows)


if __name__ == "__main__":
    main()
