"""Sets of runs through the command line: finished, stopped, shared, failed and changed rows."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders import make_collection, write_lines
from maml_en_llm.cli import main
from maml_en_llm.files import lock
from maml_en_llm.prompts.batches import MixtureSampler
from maml_en_llm.tasks.collection import load_collection
from maml_en_llm.training.checkpoint import read_metrics

SMALL = """
training_seeds: [100]
demonstrations: 3
max_tokens: 96
max_tokens_per_example: 24
seeds: [100, 13]
lr: 1e-3
inner_lr: 1e-3
log_every: 1
checkpoint_every: 0
"""


class Reproduction:
    """`reproduce` on a small collection and a tiny model; remembers what it printed."""

    def __init__(self, folder: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.output, self.capsys = folder, folder / "out", capsys
        self.collection = make_collection(folder / "collection")
        self.config = folder / "small.yaml"
        self.config.write_text(SMALL, encoding="utf-8")
        self.model = model
        self.out = self.err = ""

    def words(self, table: str, *more: str | Path) -> list[str]:
        flags = ["--collection", self.collection, "--model", self.model, "--config", self.config]
        fixed = ["--setting", "small", "--batches", "8", "--device", "cpu", "--output", self.output]
        return [str(word) for word in ("reproduce", table, *flags, *fixed, *more)]

    def __call__(self, table: str, *more: str | Path) -> int:
        self.capsys.readouterr()
        code = main(self.words(table, *more))
        self.out, self.err = self.capsys.readouterr()
        return code

    def results(self, table: str, row: str) -> dict[str, Any]:
        return json.loads((self.output / table / "results" / "small" / f"{row}.json").read_text())

    def run(self, table: str, row: str) -> Path:
        return self.output / table / "runs" / "small" / row

    def state(self) -> dict[str, int]:
        """Every file of runs and results with the time it was written."""
        files = [p for part in ("runs", "results") for p in self.output.glob(f"*/{part}/**/*") if p.is_file()]
        return {str(path.relative_to(self.output)): path.stat().st_mtime_ns for path in files}

    def done(self) -> list[str]:
        """The rows that the last command worked on."""
        return [line.split("/")[1].split()[0] for line in self.err.splitlines() if line.startswith("──")]


@pytest.fixture
def reproduction(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Reproduction:
    return Reproduction(tmp_path, model_folder, capsys)


def test_rows_are_trained_scored_and_reported_once(reproduction: Reproduction) -> None:
    rows = ("raw-lm", "metaicl", "channel-maml-2-1")
    assert reproduction("table2a", "--rows", *rows) == 0, reproduction.err
    assert reproduction.done() == list(rows)
    report = reproduction.output / "table2a" / "report" / "report.html"
    assert reproduction.out.splitlines()[-1] == str(report)
    labels = ["Raw LM", "MetaICL", "Channel MAML-2-1"]
    assert [reproduction.results("table2a", row)["row"]["label"] for row in rows] == labels
    assert all(f"| {label} |" in report.with_name("report.md").read_text() for label in labels)
    results = reproduction.results("table2a", "channel-maml-2-1")
    assert results["seeds"] == [100, 13]
    assert results["summary"].keys() == {"unseen_domain_test"}
    assert results["row"]["direction"] == "channel"
    assert results["provenance"]["config"]["lr"] == results["provenance"]["config"]["inner_lr"] == 1e-3
    measured = {
        "data_changes",
        "model_commit",
        "config_hash",
        "manifest_hash",
        "code_version",
        "hardware",
        "wall_seconds",
        "peak_memory_bytes",
    }
    assert results["run"].keys() == measured
    trained = json.loads((reproduction.run("table2a", "metaicl") / "run.json").read_text())
    assert trained.keys() == measured
    assert all(record["wall_seconds"] > 0 and record["peak_memory_bytes"] > 1e6 for record in (trained, results["run"]))
    with (report.parent / "tables" / "cost.csv").open() as file:
        costs = {row["method"]: row for row in csv.DictReader(file)}
    assert [costs[label]["batches"] for label in labels] == ["", "8", "8"]
    metaicl, maml = (float(costs[label]["weights held (GB)"]) for label in labels[1:])
    assert maml / metaicl == pytest.approx(3 / 2)
    weights = reproduction.run("table2a", "metaicl") / "model" / "model.safetensors"
    assert metaicl == pytest.approx(2 * weights.stat().st_size / 1e9, rel=0.05)
    assert costs["MetaICL"]["of baseline's"] == "1.0"
    assert costs["Channel MAML-2-1"]["of baseline's"] == ""  # of the other direction

    before = reproduction.state()
    assert reproduction("table2a", "--rows", ",".join(rows)) == 0
    assert reproduction.done() == []
    assert reproduction.state() == before
    shutil.rmtree(reproduction.output / "table2a" / "runs")  # results stay finished without the models
    assert reproduction("table2a", "--rows", *rows) == 0
    assert reproduction.done() == []


def test_rows_are_trained_with_several_seeds_and_reported_as_one(reproduction: Reproduction) -> None:
    rows = ("--rows", "raw-lm", "metaicl")
    assert reproduction("table2a", *rows) == 0, reproduction.err
    before = reproduction.state()
    assert reproduction("table2a", *rows, "--training-seeds", "100", "13") == 0, reproduction.err
    assert reproduction.done() == ["metaicl-seed13"]
    assert before.items() <= reproduction.state().items()
    one, other = (reproduction.results("table2a", name) for name in ("metaicl", "metaicl-seed13"))
    assert [found["row"]["training"].pop("seed") for found in (one, other)] == [100, 13]
    assert one["row"] == other["row"]
    assert one["tasks"] != other["tasks"]
    with (reproduction.output / "table2a" / "report" / "tables" / "comparisons-unseen_domain_test.csv").open() as file:
        assert [(row["method"], row["training runs"]) for row in csv.DictReader(file)] == [("MetaICL", "2 and 1")]
    assert reproduction("table2a", *rows, "--training-seeds", "100", "13", "--plan") == 0
    assert "3 rows: 3 finished" in reproduction.out
    reproduction.config.write_text(SMALL.replace("[100]", "[100, 100]"), encoding="utf-8")
    assert reproduction("table2a", *rows) == 2
    assert "training_seeds is [100, 100]; it must be a list of different seeds" in reproduction.err


def test_a_stopped_set_continues_where_it_was(reproduction: Reproduction, monkeypatch: pytest.MonkeyPatch) -> None:
    original = MixtureSampler.batch
    seen: list[int] = []

    def batch(self: MixtureSampler, number: int) -> Any:
        seen.append(number)
        if len(seen) == 4:
            signal.raise_signal(signal.SIGINT)
        return original(self, number)

    monkeypatch.setattr(MixtureSampler, "batch", batch)
    assert reproduction("table2a", "--rows", "metaicl", "raw-lm") == 130
    assert "the same command continues" in reproduction.err
    assert not list(reproduction.output.glob("**/*.lock"))
    assert reproduction.done() == ["metaicl"] or reproduction.done() == ["raw-lm", "metaicl"]
    assert reproduction("table2a", "--rows", "metaicl", "raw-lm") == 0
    assert seen == list(range(8))
    assert [line["batches"] for line in read_metrics(reproduction.run("table2a", "metaicl"))] == list(range(1, 9))


def test_a_row_that_fails_does_not_keep_others_from_being_done(reproduction: Reproduction) -> None:
    manifest = reproduction.collection / "manifest.json"
    manifest.write_text('{"tasks": []}')
    assert reproduction("baselines", "--rows", "metaict", "--plan") == 0
    assert "will fail: no training task of small has an instruction" in reproduction.out
    assert reproduction("baselines", "--rows", "metaict", "fomaml-2-1") == 2
    assert (reproduction.output / "baselines" / "results" / "small" / "fomaml-2-1.json").is_file()
    last = reproduction.err.splitlines()[-2:]
    assert last[0].startswith("small/metaict: no training task of small has an instruction")
    assert "maml-en-llm reproduce: 1 of 2 rows failed (see above), 1 are finished" in last[1]
    assert "Traceback" not in reproduction.err
    tasks = [{"name": name, "instruction": "Do it."} for name in ("colour", "size")]
    manifest.write_text(json.dumps({"tasks": tasks}))
    assert reproduction("baselines", "--rows", "metaict", "fomaml-2-1") == 0
    assert reproduction.done() == ["metaict"]


def test_what_changed_inputs_made_is_made_again_and_the_earlier_run_kept(reproduction: Reproduction) -> None:
    rows = ("--rows", "raw-lm", "metaicl")
    assert reproduction("table2a", *rows) == 0
    task = load_collection(reproduction.collection)["colour"]
    example = task.train[0]
    line = {"task": "colour", "input": "one more", "output": example.output, "options": list(example.options)}
    path = reproduction.collection / "data" / "colour" / "train.jsonl"
    write_lines(path, [*path.read_text().splitlines(), json.dumps(line)])
    assert reproduction("table2a", *rows) == 0
    assert reproduction.done() == ["metaicl"]  # no target task has changed
    kept = [p.name for p in (reproduction.output / "table2a" / "runs" / "small").iterdir() if "replaced" in p.name]
    assert len(kept) == 1
    assert kept[0].startswith("metaicl.replaced-")

    path = reproduction.collection / "data" / "choice" / "test.jsonl"
    write_lines(path, path.read_text().splitlines()[:-1])
    trained = reproduction.run("table2a", "metaicl").stat().st_mtime_ns
    assert reproduction("table2a", *rows) == 0
    assert reproduction.done() == ["raw-lm", "metaicl"]
    assert reproduction.run("table2a", "metaicl").stat().st_mtime_ns == trained  # scored again only
    assert reproduction.results("table2a", "metaicl")["tasks"]["choice"]["examples"] == 7

    assert reproduction("table2a", *rows, "--max-examples", "2") == 0
    assert reproduction.done() == ["raw-lm", "metaicl"]
    assert reproduction.results("table2a", "metaicl")["tasks"]["choice"]["examples"] == 2


def test_a_collection_or_model_that_lies_elsewhere_is_the_same(reproduction: Reproduction) -> None:
    assert reproduction("table2a", "--rows", "raw-lm", "metaicl") == 0
    reproduction.collection = reproduction.collection.rename(reproduction.folder / "moved")
    reproduction.model = Path(shutil.copytree(reproduction.model, reproduction.folder / "copied"))
    assert reproduction("table2a", "--rows", "raw-lm", "metaicl") == 0
    assert reproduction.done() == []


@pytest.mark.slow
def test_processes_share_a_set(reproduction: Reproduction, command: Callable[..., subprocess.Popen[str]]) -> None:
    rows = ["raw-lm", "metaicl", "maml-2-1", "channel-raw-lm", "channel-metaicl"]
    words = reproduction.words("table2a", "--rows", *rows)
    ended = [(*process.communicate(timeout=200), process) for process in [command(*words), command(*words)]]
    assert [process.returncode for _, _, process in ended] == [0, 0], ended
    done = []
    for _, reproduction.err, _ in ended:
        done += reproduction.done()
    assert sorted(done) == sorted(rows)
    assert not list(reproduction.output.glob("**/*.lock"))
    assert reproduction("table2a", "--rows", *rows) == 0
    assert reproduction.done() == []


def test_a_row_that_another_process_is_at_is_left_to_it(reproduction: Reproduction) -> None:
    held = reproduction.output / "table2a" / "runs" / "small" / "metaicl.lock"
    with lock(held) as ours:
        assert ours
        assert reproduction("table2a", "--rows", "metaicl", "raw-lm") == 0
        assert held.exists()
    assert f"small/metaicl is being done by process {os.getpid()} on " in reproduction.err
    assert (reproduction.output / "table2a" / "results" / "small" / "raw-lm.json").is_file()
    assert not reproduction.run("table2a", "metaicl").exists()


def test_tables_share_trained_models(reproduction: Reproduction) -> None:
    assert reproduction("table4", "--rows", "metaicl", "metaicl-scaled") == 0, reproduction.err
    run = reproduction.run("table2a", "metaicl")
    trained = (run / "model" / "model.safetensors").stat().st_mtime_ns
    for table, row in (("table2a", "metaicl"), ("table3a", "metaicl"), ("table6", "maml-2-1")):
        assert reproduction(table, "--rows", row) == 0, reproduction.err
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == trained
    assert reproduction.run("table2a", "maml-2-1").is_dir()
    assert not list(reproduction.output.glob("table[346]*/runs"))
    paper, chosen = (reproduction.results("table4", row) for row in ("metaicl", "metaicl-scaled"))
    assert (paper["row"]["label"], paper["row"]["adaptation"]["lr"]) == ("MetaICL + adaptation", 1e-7)
    assert (chosen["row"]["label"], chosen["row"]["adaptation"]["lr"]) == ("MetaICL + adaptation, lr 1e-05", 1e-5)
    assert paper["tasks"]["choice"]["before"] == chosen["tasks"]["choice"]["before"]
    with (reproduction.output / "table4" / "report" / "tables" / "adaptation-scores.csv").open() as file:
        before_and_after = {row["method"]: row for row in csv.DictReader(file)}
    assert before_and_after.keys() == {"MetaICL + adaptation", "MetaICL + adaptation, lr 1e-05"}
    row = before_and_after["MetaICL + adaptation"]
    assert float(row["average before"]) == 100 * paper["before"]["unseen_domain_test"]["average"]
    assert float(row["worst after"]) == 100 * paper["summary"]["unseen_domain_test"]["worst"]
    assert reproduction.results("table6", "maml-2-1")["config"]["split"] == "validation"
    assert set(reproduction.results("table3a", "metaicl")["tasks"]) == {"mood", "choice"}


def test_a_file_changes_single_rows(reproduction: Reproduction) -> None:
    changed = ("raw-lm: {evaluate: {layout: newlines}}", "metaicl: {train: {lr: 0.002}}", "maml-shared-10: {train: {}}")
    reproduction.config.write_text(f"{SMALL}rows: {{{', '.join(changed)}}}", encoding="utf-8")
    assert reproduction("table2a", "--rows", "raw-lm", "channel-raw-lm", "metaicl", "maml-2-1") == 0, reproduction.err
    layouts = [reproduction.results("table2a", row)["config"]["layout"] for row in ("raw-lm", "channel-raw-lm")]
    assert layouts == ["newlines", "spaces"]
    rates = [reproduction.results("table2a", row)["provenance"]["config"]["lr"] for row in ("metaicl", "maml-2-1")]
    assert rates == [0.002, 0.001]
    assert reproduction("table6", "--rows", "maml-2-1") == 0, reproduction.err  # which has no raw-lm


def test_orders_of_demonstrations_are_told_from_their_choice(reproduction: Reproduction) -> None:
    assert reproduction("spread", "--rows", "raw-lm") == 0, reproduction.err
    by_order = reproduction.results("spread", "raw-lm")["tasks"]["choice"]["scores_by_order"]
    assert {seed: len(scores) for seed, scores in by_order.items()} == {"100": 4, "13": 4}
    assert "| by choice | by order |" in (reproduction.output / "spread" / "report" / "report.md").read_text()


def test_the_plan_says_what_will_run_and_writes_nothing(reproduction: Reproduction) -> None:
    assert reproduction("table2a", "--rows", "raw-lm") == 0
    reproduction.run("table2a", "metaicl").mkdir(parents=True)
    before = reproduction.state()
    assert reproduction("table2a", "--rows", "raw-lm", "metaicl", "channel-raw-lm", "--plan") == 0
    assert reproduction.state() == before
    assert reproduction.done() == []
    head, raw, trained, channel, last = (line.split() for line in reproduction.out.splitlines())
    assert head == ["setting", "row", "training", "scoring", "status", "time", "memory"]
    assert raw == ["small", "raw-lm", "none", "1", "tasks", "x", "2", "seeds", "finished"]
    assert trained[:9] == ["small", "metaicl", "8", "batches", "1", "tasks", "x", "2", "seeds"]
    assert trained[9] == "partial"
    assert trained[-1] == "GiB"
    assert channel[8:10] == ["to", "do"]
    assert " ".join(last).startswith("3 rows: 1 finished, 1 partial, 1 to do; about ")


def test_a_plan_needs_neither_collection_nor_model(reproduction: Reproduction) -> None:
    shutil.rmtree(reproduction.collection)
    assert reproduction("table2b", "--plan") == 0
    assert len(reproduction.out.splitlines()) == 12
    assert "no estimates: " in reproduction.out
    assert reproduction("table2b") == 2
    assert "is not a collection" in reproduction.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "metaicle"], "table2a has no row 'metaicle'; its rows are no-icl, raw-lm, metaicl, "),
        (["--setting", "nowhere"], "has no setting 'nowhere'; known settings: free, small"),
        (["--config", "nowhere.yaml"], "nowhere.yaml does not exist"),
        ("colour: 1", "unknown key 'colour'; known keys are "),
        ("train: {colour: 1}", "train: unknown key 'colour'"),
        ("train: {output: here}", "train: output is not a value of a table; use the flags"),
        ("momentum: 0.9", "momentum is read by no row of table2a; leave it out"),
        ("adapt: {lr: 1}", "lr is read by no row of table2a; leave it out"),
        ("lr: -1", "table2a.yaml: row metaicl: lr is -1.0; it must not be negative"),
        ("train: 3", "train must hold keys and values"),
        ("rows: 3", "rows must hold names of rows"),
        ("rows: {raw: {evaluate: {layout: newlines}}}", "no table has a row 'raw'"),
        ("rows: {raw-lm: {evaluate: {colour: 1}}}", "row raw-lm: evaluate: unknown key 'colour'"),
        ("rows: {raw-lm: {layout: newlines}}", "row raw-lm: unknown key 'layout'"),
        ("rows: {raw-lm: {train: {lr: 1}}}", "row raw-lm: unknown key 'train'; known keys are evaluate"),
        ("rows: {metaicl-scaled: {train: {lr: 1}}}", "unknown key 'train'; known keys are adapt, evaluate"),
        ("rows: {raw-lm: 3}", "row raw-lm must hold sections"),
        ("settings: small", "settings is 'small'; it must be a list of names"),
    ],
)
def test_mistakes_are_one_sentence(reproduction: Reproduction, words: list[str] | str, message: str) -> None:
    if isinstance(words, str):
        reproduction.config.write_text(words, encoding="utf-8")
        words = []
    assert reproduction("table2a", *words) == 2
    lines = reproduction.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("maml-en-llm reproduce: ")
    assert message in lines[0]
    assert not reproduction.output.exists()
