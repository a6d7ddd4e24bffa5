"""The MetaICL protocol (Min et al., NAACL 2022): target tasks x demonstration seeds -> predictions -> results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import EvaluateConfig
from ..models import load_model, load_tokenizer, pick_device
from ..prediction.scoring import Scorer
from ..progress import StopRequest, Tracker, console, stop_on_signal, track
from ..prompts.demonstrations import fixed_demonstrations
from ..prompts.layout import EncodedTarget, PromptFormat
from ..results import (
    Prediction,
    PredictionStore,
    Provenance,
    Results,
    Row,
    Subset,
    Summary,
    TaskResult,
    confusion,
    digest,
    read_provenance,
    summarize,
    write_results,
)
from ..tasks.collection import Collection, Example, Task, load_collection
from ..tasks.limited import limited, validation_split
from ..training.loop import check_context
from ..training.model_card import method_label, versions
from ..training.record import FREE, Measurement, data_hash
from .metrics import guessing, metric_of, score

DEFAULTS: dict[str, Any] = {
    "direction": "direct",
    "layout": "newlines",
    "demonstrations": 16,
    "max_tokens": 1024,
    "max_tokens_per_example": 256,
}


def evaluate(config: EvaluateConfig) -> Results:
    """Scores a model and writes the results file; returns its content (docs/results-format.md).

    Every option of every example is scored behind the fixed demonstrations of each seed and the lowest mean negative
    log-likelihood is predicted. Predictions with all scores go to `OUTPUT.predictions.jsonl`; when a run is stopped,
    the same command continues where it was.  Raises ValueError for bad input.
    """
    job = Evaluation(config)
    store = prediction_store(config, job)
    with track("evaluate", len(job.tasks) * len(job.seeds), "task seeds") as progress, stop_on_signal() as stop:
        for task in job.tasks:
            job.score(task, store, progress, stop)
    results = job.results(job.row(), {task.name: task_result(task, store.rows, job.seeds) for task in job.tasks})
    store.finish()
    write_results(config.output, results)
    return results


class Evaluation:
    """An evaluation with all that can be wrong with it found, its model loaded and its clock running."""

    def __init__(self, config: EvaluateConfig) -> None:
        self.config = config
        collection = load_collection(config.collection)
        self.setting = collection.setting(config.setting)
        console.print(self.setting.presence())
        self.provenance = read_provenance(config.model)
        self.form, self.shown, self.instructed = as_trained(config, trained_config(self.provenance))
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
        self.record = Measurement(config, target_data_hash(config, collection), device)
        self.tokenizer = load_tokenizer(config.model)
        self.model = load_model(config.model, device)
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

    def predict(self, task: Task, finished: set[int]) -> Iterator[tuple[int, list[Prediction] | None]]:
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
                if self.config.calibrate:
                    scores = self._calibrated(prefix, head, examples, scores)
                for index, (example, values) in enumerate(zip(examples, scores, strict=True)):
                    lowest = min(range(len(values)), key=values.__getitem__)
                    prediction = Prediction(
                        task=task.name,
                        seed=seed,
                        index=index,
                        output=example.output,
                        predicted=example.options[lowest],
                        scores=tuple(round(v, 6) for v in values),
                        order=order,
                        shared_prefix=index not in alone,
                    )
                    rows.append(prediction)
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

    def row(self) -> Row:
        """What tells the results from others in a report."""
        config, form, trained = self.config, self.form, self.provenance
        told = method_label(trained_method(trained), form.direction, self.shown, trained.config if trained else {})
        return Row(
            label=config.label or (f"{told} + PMI" if config.calibrate else told),
            training=trained.training if trained else None,
            model=trained.start if trained and trained.training else config.model,
            direction=form.direction,
            demonstrations=self.shown,
            labels_used=self.shown,
            calibrated=config.calibrate,
            instructions=self.instructed,
            layout=form.layout,
            max_tokens=form.max_tokens,
            max_tokens_per_example=form.max_tokens_per_example,
            overflow=form.overflow,
            split=config.split,
            data_amount=config.data_amount,
            max_examples=config.max_examples,
        )

    def results(
        self, row: Row, by_task: Mapping[str, TaskResult], before: dict[Subset, Summary] | None = None
    ) -> Results:
        """The content of the results file, from the result of each task."""
        config, unseen = self.config, self.setting.unseen_domain_test
        resolved = vars(config) | vars(self.form) | {"demonstrations": self.shown, "instructions": self.instructed}
        return Results(
            setting=config.setting,
            row=row,
            seeds=tuple(self.seeds),
            summary=self.summary(by_task),
            before=before,
            tasks={name: replace(result, unseen_domain=name in unseen) for name, result in by_task.items()},
            config={key: str(value) if isinstance(value, Path) else value for key, value in resolved.items()},
            provenance=self.provenance,
            versions=versions(),
            run=self.record.now(),
        )

    def summary(self, by_task: Mapping[str, TaskResult]) -> dict[Subset, Summary]:
        """The means over the tasks of each subset."""
        unseen = {n: result for n, result in by_task.items() if n in self.setting.unseen_domain_test}
        subsets: dict[Subset, Mapping[str, TaskResult]] = {"test": by_task} if self.config.subset == "test" else {}
        return {
            subset: summarize(list(results.values()), named=self.setting.named[subset])
            for subset, results in (subsets | {"unseen_domain_test": unseen}).items()
        }


def trained_method(provenance: Provenance | None) -> str:
    return str(provenance.config["method"]) if provenance else ""


def trained_config(provenance: Provenance | None) -> dict[str, Any]:
    """What `as_trained` reads of how a model was made."""
    return {"config": provenance.config} if provenance else {}


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


def task_result(task: Task, rows: Mapping[tuple[str, int], list[Prediction]], seeds: Sequence[int]) -> TaskResult:
    """The metric of one task per seed, its average and its worst (fractions, not percent)."""
    metric = metric_of(task.kind)
    by_order: dict[str, tuple[float, ...]] = {}  # of each seed
    first: list[Prediction] = []
    for seed in seeds:
        orders: dict[int, list[Prediction]] = {}
        for row in rows[task.name, seed]:
            orders.setdefault(row.order, []).append(row)
        first += orders[0]
        by_order[str(seed)] = tuple(
            score(metric, [r.output for r in predictions], [r.predicted for r in predictions])
            for predictions in orders.values()
        )
    by_seed = {seed: scores[0] for seed, scores in by_order.items()}
    return TaskResult(
        kind=task.kind,
        metric=metric,
        examples=len(first) // len(seeds),
        scores=by_seed,
        scores_by_order=by_order if len(by_order[str(seeds[0])]) > 1 else None,
        average=sum(by_seed.values()) / len(by_seed),
        worst=min(by_seed.values()),
        guess=guessing(metric, [row.output for row in first], [len(row.scores) for row in first]),
        confusion=confusion(first) if metric == "macro_f1" else None,
        prompts_cut_alone=sum(not row.shared_prefix for row in first),
    )


def prediction_store(config: EvaluateConfig, job: Evaluation) -> PredictionStore:
    """The predictions of `config.output`, with what is left there of an evaluation of the same model and data."""
    computed = {key: value for key, value in vars(config).items() if key not in FREE | {"label"}}
    weights = sorted(Path(config.model).glob("*.safetensors"))
    stamp = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in weights]
    return PredictionStore(config.output, digest([computed, repr(job.provenance), stamp, job.record.manifest_hash]))
