"""The MetaICL protocol (Min et al., NAACL 2022): target tasks x demonstration seeds -> predictions -> results."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import EvaluateConfig
from ..files import check_output, only_writer, write_text, writing
from ..models import check_tokenizer, load_model, load_tokenizer, pick_device
from ..prediction.scoring import Scorer, check_finite
from ..progress import StopRequest, Tracker, console, stop_on_signal, track
from ..prompts.demonstrations import fixed_demonstrations
from ..prompts.layout import EncodedTarget, PromptFormat
from ..tasks.collection import Collection, Example, Task, load_collection
from ..tasks.limited import limited, validation_split
from ..training.loop import check_context
from ..training.model_card import method_label, read_provenance, versions
from ..training.record import RunRecord, data_hash, digest
from .metrics import metric_of, score

RESULTS_FORMAT = "maml-en-llm results 1"
DEFAULTS: dict[str, Any] = {
    "direction": "direct",
    "layout": "newlines",
    "demonstrations": 16,
    "max_tokens": 1024,
    "max_tokens_per_example": 256,
}


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Scores a model and writes the results file; returns its content (docs/results-format.md).

    Every option of every example is scored behind the fixed demonstrations of each seed and the lowest mean negative
    log-likelihood is predicted. Predictions with all scores go to `OUTPUT.predictions.jsonl`; when a run is stopped,
    the same command continues where it was.  Raises ValueError for bad input.
    """
    check_output(config.output, ending=".json")
    with only_writer(config.output):
        job = Evaluation(config)
        store = PredictionStore(config, job.provenance, job.record.manifest_hash)
        with track("evaluate", len(job.tasks) * len(job.seeds), "task seeds") as progress, stop_on_signal() as stop:
            for task in job.tasks:
                job.score(task, store, progress, stop)
        results = job.results({task.name: task_result(task, store.rows, job.seeds) for task in job.tasks})
        store.write()
        write_text(config.output, json.dumps(results, indent=1, ensure_ascii=False))
        store.forget()
    return results


class Evaluation:
    """An evaluation with all that can be wrong with it found, its model loaded and its clock running."""

    def __init__(self, config: EvaluateConfig) -> None:
        self.config, self.started = config, time.monotonic()
        collection = load_collection(config.collection)
        self.setting = collection.setting(config.setting)
        console.print(self.setting.presence())
        self.provenance = read_provenance(config.model)
        self.form, self.shown, self.instructed = as_trained(config, self.provenance)
        # Without demonstrations all seeds and orders are equal.
        self.seeds, self.orders = (config.seeds, config.orders) if self.shown else (config.seeds[:1], 1)
        tasks = [collection[name] for name in getattr(self.setting, config.subset)]
        self.tasks = [task for task in tasks if task.kind != "free_form"]
        if skipped := [task.name for task in tasks if task.kind == "free_form"]:
            console.print(f"left out, because free-form tasks have no options to score: {', '.join(skipped)}")
        if not self.tasks:
            raise ValueError(f"no target task of {config.setting} can be scored: {self.setting.presence()}")
        for task in self.tasks:  # what is not there must not be found halfway
            task.split("train" if config.split == "validation" else config.split)
            self.demonstrations(task, config.seeds[0])
        if self.instructed and (without := [task.name for task in self.tasks if not task.instruction]):
            console.print(f"scored without an instruction, because the manifest has none: {', '.join(without)}")

        device = pick_device(config.device)
        self.record = RunRecord(config, target_data_hash(config, collection), device)
        self.tokenizer = load_tokenizer(config.model)
        self.model = load_model(config.model, device)
        check_tokenizer(self.tokenizer, self.model, config.model)
        check_context(self.model, self.form.max_tokens, config.model)
        self.scorer = Scorer(self.model, config.tokens_per_forward)

    def demonstrations(self, task: Task, seed: int, order: int = 0) -> list[Example]:
        if not self.shown:
            return []
        return fixed_demonstrations(demonstration_pool(self.config, task), self.shown, task.name, seed, order)

    def score(self, task: Task, store: PredictionStore, progress: Tracker, stop: StopRequest) -> None:
        """Predicts for every seed of `task` that `store` does not have; KeyboardInterrupt when asked to stop."""
        for seed, rows in self.predict(task, store.finished(task.name)):
            if rows is not None:
                store.add(task.name, seed, rows)
            progress.advance(figures=task.name)
            if stop.requested:
                raise KeyboardInterrupt("stopped; the same command continues where it was")

    def predict(self, task: Task, finished: set[int]) -> Iterator[tuple[int, list[dict[str, Any]] | None]]:
        """For each seed the predictions of the task's examples, once for every order of the demonstrations, or None for
        seeds that are `finished`."""
        if set(self.seeds) <= finished:
            yield from ((seed, None) for seed in self.seeds)
            return
        form, tokenizer, examples = self.form, self.tokenizer, scored_examples(self.config, task)
        head = form.encode_instruction(tokenizer, task.instruction) if self.instructed else []
        targets = form.encode_all_targets(tokenizer, examples, first=self.shown == 0 and not head)
        for seed in self.seeds:
            if seed in finished:
                yield seed, None
                continue
            rows = []
            for order in range(self.orders):
                demonstrations = self.demonstrations(task, seed, order)
                prefix = form.encode_demonstrations(tokenizer, demonstrations, first=not head)
                scores, alone = score_targets(form, self.scorer, prefix, targets, head)
                check_finite(scores, f"task {task.name}, seed {seed}")
                if self.config.calibrate:
                    scores = self._calibrated(prefix, head, examples, scores)
                for index, (example, values) in enumerate(zip(examples, scores, strict=True)):
                    lowest = min(range(len(values)), key=values.__getitem__)
                    row = {"index": index, "output": example.output, "predicted": example.options[lowest]}
                    row |= {"scores": [round(v, 6) for v in values], "shared_prefix": index not in alone}
                    rows.append(row | ({"order": order} if order else {}))
            yield seed, rows

    def _calibrated(
        self, prefix: list[int], head: list[int], examples: Sequence[Example], scores: list[list[float]]
    ) -> list[list[float]]:
        """Scores less those that the same options have with the input "N/A" (Holtzman et al., EMNLP 2021)."""
        distinct = list(dict.fromkeys(example.options for example in examples))
        texts = [Example("N/A", options[0], options) for options in distinct]
        neutral = self.form.encode_all_targets(self.tokenizer, texts, first=not prefix and not head)
        base = dict(zip(distinct, score_targets(self.form, self.scorer, prefix, neutral, head)[0], strict=True))
        return [
            [s - b for s, b in zip(values, base[e.options], strict=True)]
            for e, values in zip(examples, scores, strict=True)
        ]

    def results(self, by_task: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """The content of the results file, from the result of each task."""
        config, setting = self.config, self.setting
        per_task = {n: result | {"unseen_domain": n in setting.unseen_domain_test} for n, result in by_task.items()}
        trained = self.provenance.get("config", {})
        label = method_label(trained.get("method", ""), self.form.direction, self.shown, trained)
        resolved = vars(config) | vars(self.form) | {"demonstrations": self.shown, "instructions": self.instructed}
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in resolved.items()}
        return {
            "format": RESULTS_FORMAT,
            "label": config.label or (f"{label} + PMI" if config.calibrate else label),
            "setting": config.setting,
            "seeds": list(self.seeds),
            "summary": self.summary(per_task),
            "tasks": per_task,
            "config": plain,
            "model": self.provenance,
            "versions": versions(),
            "seconds": round(time.monotonic() - self.started, 1),
            "run": self.record.now(),
        }

    def summary(self, by_task: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The means over the tasks of each subset."""
        unseen = {n: result for n, result in by_task.items() if n in self.setting.unseen_domain_test}
        subsets = {"test": by_task} if self.config.subset == "test" else {}
        return {
            subset: summarize(list(results.values()), named=self.setting.named[subset])
            for subset, results in (subsets | {"unseen_domain_test": unseen}).items()
        }


def demonstration_pool(config: EvaluateConfig, task: Task) -> Sequence[Example]:
    """The examples that demonstrations are drawn from."""
    return validation_split(task.train, task.name)[0] if config.split == "validation" else task.train


def scored_examples(config: EvaluateConfig, task: Task) -> Sequence[Example]:
    """The examples that are scored."""
    held_out = config.split == "validation"
    found = validation_split(task.train, task.name)[1] if held_out else task.split(config.split)
    chosen = limited(found, task.name) if config.data_amount == "limited" else found
    return chosen[: config.max_examples]


def target_data_hash(config: EvaluateConfig, collection: Collection) -> str:
    """Hash of what an evaluation reads of its collection."""
    setting = collection.setting(config.setting)
    tasks = data_hash(collection, getattr(setting, config.subset), instructions=True)
    return digest([setting.unseen_domain_test, tasks])


def as_trained(config: EvaluateConfig, provenance: Mapping[str, Any]) -> tuple[PromptFormat, int, bool]:
    """Prompt format, number of demonstrations and whether prompts have an instruction at their head: what `config`
    says, else as the model was trained, else defaults."""
    trained = dict(provenance.get("config", {}))
    if trained.get("method") == "multitask-zero-shot":
        trained["demonstrations"] = 0
    if trained.get("method") == "language-model":  # it was not trained for a direction or a number of demonstrations
        del trained["direction"], trained["demonstrations"]
    said = {key: value for key, value in vars(config).items() if value is not None}
    known = {key: (DEFAULTS | trained | said)[key] for key in DEFAULTS}
    shown = int(known.pop("demonstrations"))
    if config.calibrate and known["direction"] == "channel":
        raise ValueError("calibrate is read in the direct direction only; leave it out")
    instructed = trained.get("method") == "metaict" if config.instructions is None else config.instructions
    return PromptFormat(**known, overflow=config.overflow), shown, instructed


def score_targets(
    form: PromptFormat,
    scorer: Scorer,
    prefix: list[int],
    targets: Sequence[Sequence[EncodedTarget]],
    head: Sequence[int] = (),
) -> tuple[list[list[float]], set[int]]:
    """Scores of all options of all examples behind `head`, which is never cut, and `prefix`, and the indices of
    examples whose prompts could not share `prefix`."""
    form = form.behind(head)
    if form.overflow == "fit":
        longest = max(len(target) for options in targets for target in options)
        return scorer.score([*head, *form.fit(prefix, longest)], targets), set()
    # Prompts that lose the same number of leading tokens still share all that is left of the demonstrations.
    by_cut: dict[int, list[tuple[int, int]]] = {}
    for e, options in enumerate(targets):
        for o, target in enumerate(options):
            cut = max(0, len(prefix) + len(target) - form.max_tokens)
            by_cut.setdefault(cut, []).append((e, o))
    scores = [[0.0] * len(options) for options in targets]
    for cut, members in by_cut.items():
        values = scorer.score([*head, *prefix[cut:]], [[targets[e][o]] for e, o in members])
        for (e, o), (value,) in zip(members, values, strict=True):
            scores[e][o] = value
    alone = {e for cut, members in by_cut.items() if cut for e, _ in members}
    return scores, alone


def task_result(
    task: Task, rows: Mapping[tuple[str, int], list[dict[str, Any]]], seeds: Sequence[int]
) -> dict[str, Any]:
    """The metric of one task per seed, its average and its worst (fractions, not percent)."""
    metric = metric_of(task.kind)
    by_order: dict[str, list[float]] = {}  # of each seed
    first: list[dict[str, Any]] = []
    for seed in seeds:
        orders: dict[int, list[dict[str, Any]]] = {}
        for row in rows[task.name, seed]:
            orders.setdefault(row.get("order", 0), []).append(row)
        first += orders[0]
        by_order[str(seed)] = [
            score(metric, [r["output"] for r in predictions], [r["predicted"] for r in predictions])
            for predictions in orders.values()
        ]
    by_seed = {seed: scores[0] for seed, scores in by_order.items()}
    several = {"scores_by_order": by_order} if len(by_order[str(seeds[0])]) > 1 else {}
    return {
        "kind": task.kind,
        "metric": metric,
        "examples": len(first) // len(seeds),
        "scores": by_seed,
        **several,
        "average": sum(by_seed.values()) / len(by_seed),
        "worst": min(by_seed.values()),
        "prompts_cut_alone": sum(not row["shared_prefix"] for row in first),
    }


def summarize(task_results: Sequence[Mapping[str, Any]], named: int) -> dict[str, Any]:
    """Means over tasks of their average and their worst; None where no task is present."""
    count = len(task_results)
    return {
        "average": sum(r["average"] for r in task_results) / count if count else None,
        "worst": sum(r["worst"] for r in task_results) / count if count else None,
        "tasks": count,
        "tasks_named": named,
        "examples": sum(r["examples"] for r in task_results),
    }


class PredictionStore:
    """Predictions of a results file, kept as they come: nothing computed is lost when an evaluation stops.

    Until the end they stand in `OUTPUT.unfinished.jsonl`, whose first line says what they belong to: configuration,
    model and `data`, the hash of the tasks.
    """

    def __init__(self, config: EvaluateConfig, provenance: Mapping[str, Any], data: str) -> None:
        config.output.parent.mkdir(parents=True, exist_ok=True)
        self._final = config.output.with_suffix(".predictions.jsonl")
        self._partial = config.output.with_suffix(".unfinished.jsonl")
        self.rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
        computed = {
            k: v for k, v in vars(config).items() if k not in ("output", "label", "device", "tokens_per_forward")
        }
        weights = sorted(Path(config.model).glob("*.safetensors"))
        stamp = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in weights]
        header = hashlib.sha256(repr((sorted(computed.items()), provenance, stamp, data)).encode()).hexdigest()
        if self._partial.is_file():
            first, *lines = self._partial.read_text(encoding="utf-8", errors="replace").split("\n")
            if first == json.dumps({"of": header}):
                kept = [first]
                for line in lines[:-1]:  # the last piece is empty, or was cut off
                    with contextlib.suppress(ValueError, KeyError, TypeError):  # what is damaged is scored again
                        group = json.loads(line)
                        self.rows[group["task"], group["seed"]] = group["rows"]
                        kept.append(line)
                write_text(self._partial, "\n".join(kept) + "\n")
                return
        write_text(self._partial, json.dumps({"of": header}) + "\n")

    def finished(self, task: str) -> set[int]:
        return {seed for name, seed in self.rows if name == task}

    def add(self, task: str, seed: int, rows: list[dict[str, Any]]) -> None:
        self.rows[task, seed] = rows
        with writing(self._partial), self._partial.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"task": task, "seed": seed, "rows": rows}, ensure_ascii=False) + "\n")

    def write(self) -> None:
        """Writes one line per prediction to the final file."""
        lines = [
            json.dumps({"task": task, "seed": seed, **row}, ensure_ascii=False)
            for (task, seed), rows in self.rows.items()
            for row in rows
        ]
        write_text(self._final, "\n".join(lines) + "\n")

    def forget(self) -> None:
        """Deletes what is kept of an unfinished evaluation, once its results are written."""
        self._partial.unlink()
