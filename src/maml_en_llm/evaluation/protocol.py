"""The MetaICL protocol (Min et al., NAACL 2022): target tasks x demonstration seeds -> predictions -> results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..config import EvaluateConfig
from ..files import check_output, only_writer
from ..hub import weights_stamp
from ..methods import method_of_model
from ..methods.method import Method
from ..models import Processes, join, pick_device
from ..names import public_name
from ..prediction.features import Features, features_of, selection_with
from ..prediction.from_features import FromFeatures
from ..prediction.guessing import Guessing
from ..prediction.heads import head_type
from ..prediction.metrics import guessing, metric_of, score
from ..prediction.predictor import LabelledTask, LoadedModel, Predictor
from ..prediction.scoring import check_finite
from ..progress import StopRequest, Tracker, console, stop_on_signal, track
from ..prompts.demonstrations import check_bank
from ..prompts.style import PromptStyle
from ..prompts.token_cache import cache_folder
from ..results import (
    RESULTS_SIGN,
    Prediction,
    PredictionStore,
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
from ..tasks.check import check_evaluation_data
from ..tasks.collection import Collection, Example, Task, load_collection
from ..tasks.limited import limited, validation_split
from ..training.loop import check_context
from ..training.model_card import versions
from ..training.record import Measurement, data_hash
from . import remarks


def evaluate(config: EvaluateConfig, quiet: bool = False) -> Results:
    """Scores a model and writes the results file; returns its content (docs/results-format.md).

    Every option of every example is scored behind the fixed demonstrations of each seed and the lowest mean negative
    log-likelihood is predicted. Predictions with all scores go to `OUTPUT.predictions.jsonl`; when a run is stopped,
    the same command continues where it was. quiet: whether remarks are left out. Of several processes each predicts
    for other tasks and seeds, the first writes, and all return the same.  Raises ValueError for bad input.
    """
    processes = join(pick_device(config.device))
    if processes.rank > 0:
        job = Evaluation(config, processes)
        with stop_on_signal() as stop:
            job.score(job.tasks, None, None, stop)
        return processes.same(None)
    check_output(config.output, ending=".json", sign=RESULTS_SIGN)
    PredictionStore.check(config.output)
    with only_writer(config.output):
        job = Evaluation(config, processes)
        if not quiet:
            job.say_what_is_scored()
        store = prediction_store(config, job)
        with track("evaluate", len(job.tasks) * len(job.seeds), "task seeds") as progress, stop_on_signal() as stop:
            job.score(job.tasks, store, progress, stop)
        results = job.results(job.row(), {task.name: task_result(task, store.rows, job.seeds) for task in job.tasks})
        store.write()
        write_results(config.output, results)
        notes = [] if quiet else job.remarks(store, results)
        store.forget()
    for note in notes:
        console.print(f"note: {note}", markup=False)
    return processes.same(results)


class Evaluation:
    """An evaluation with all that can be wrong with it found, its model loaded and its clock running."""

    def __init__(self, config: EvaluateConfig, processes: Processes = Processes()) -> None:  # noqa: B008 (frozen)
        self.config, self.processes = config, processes
        collection = load_collection(config.collection)
        self.setting = collection.setting(config.setting)
        self.provenance = read_provenance(config.pinned_model)
        self.method = method_of_model(self.provenance)
        self.style = style_of(config, self.method)
        # Without demonstrations all seeds and orders are equal.
        several = self.style.demonstrations > 0
        self.seeds, self.orders = (config.seeds, config.orders) if several else (config.seeds[:1], 1)
        trained = self.method.choose_at_test if several and config.learner == "in-context" else "random"
        self.choose, self.layer = config.choose or trained, config.layer
        if config.choose is None and trained != "random":
            self.layer = self.method.layer
        self.draws = self.choose not in ("bm25", "nearest") or config.choose_groups > 0
        if not self.draws:
            self.seeds = config.seeds[:1]
        self.training = [collection[name] for name in self.setting.train]
        tasks = [collection[name] for name in getattr(self.setting, config.subset)]
        self.tasks = [task for task in tasks if task.kind != "free_form"]
        self.skipped = [task.name for task in tasks if task.kind == "free_form"]
        if not self.tasks:
            raise ValueError(f"no target task of {config.setting} can be scored: {self.setting.presence()}")
        for task in self.tasks:  # what is not there must not be found halfway
            task.split("train" if config.split == "validation" else config.split)
            if several and config.learner == "in-context":
                check_bank(self.labelled(task).bank, self.style.demonstrations, task.name)
        names = [task.name for task in self.tasks]
        check_evaluation_data(collection, self.setting, names, config.split, cache_folder())
        device = pick_device(config.device)
        self.record = Measurement(config, target_data_hash(config, collection), device)
        self.model = LoadedModel(config.pinned_model, device, config.tokens_per_forward)
        self._read: tuple[Task, Sequence[Example], LabelledTask] | None = None  # what `predict` read last
        self.predictor = self.in_context() if config.learner == "in-context" else self.head()

    def say_what_is_scored(self) -> None:
        console.print(self.setting.presence())
        if self.skipped:
            console.print(f"left out, because free-form tasks have no options to score: {', '.join(self.skipped)}")
        if self.style.instructed and (without := [task.name for task in self.tasks if not task.instruction]):
            console.print(f"scored without an instruction, because the manifest has none: {', '.join(without)}")
        trained = {*self.provenance.training_tasks} if self.provenance else set()
        if known := [task.name for task in self.tasks if task.name in trained]:
            console.print(f"note: not new to the model, which was trained on these tasks: {', '.join(known)}")
        if not self.draws and self.config.learner == "in-context":
            console.print(
                f"choose={self.choose}: every example has demonstrations of its own, which are encoded for it alone; "
                "--choose-groups 8 shares them among similar examples and is faster"
            )

    def in_context(self) -> Predictor:
        """The model on prompts."""
        config = self.config
        check_context(self.model.network, self.style.format.max_tokens, config.model)
        select = selection_with(self.model, self.choose, config.choose_groups, self.layer)
        options: dict[str, Any] = {"probe": True} if config.order == "probed" else {}
        return self.method.predictor(self.model, self.style, select=select, calibrate=config.calibrate, **options)

    def head(self) -> Predictor:
        """A head on the labelled examples that a prompt would show, or guessing."""
        config, count = self.config, self.style.demonstrations
        if config.learner == "uniform":
            return Guessing()
        head = head_type(config.learner)()
        if not count:
            raise ValueError(f"demonstrations is 0 but learner={config.learner} learns from them; give at least one")
        features = features_of(self.model, config.layer) if head.reads == "vectors" else None
        if head.meta_trained:
            assert features is not None
            head = head.meta_train(labelled_vectors(self.training, features), count, config.seeds[0])
        select = selection_with(self.model, self.choose, config.choose_groups, self.layer)
        return FromFeatures(head, count, features, select)

    def score(
        self, tasks: Sequence[Task], store: PredictionStore | None, progress: Tracker | None, stop: StopRequest
    ) -> None:
        """Predicts for every task and seed that `store` does not have; KeyboardInterrupt when asked to stop.

        Of several processes each predicts for one seed of a task at a time, and the first alone has `store` and
        `progress`.
        """
        every = [(task, seed) for task in tasks for seed in self.seeds]
        if store is not None and progress is not None:
            progress.advance(sum((task.name, seed) in store.rows for task, seed in every))
        left = [number for number, (task, seed) in enumerate(every) if store and (task.name, seed) not in store.rows]
        left, processes = self.processes.same(left), self.processes
        for first in range(0, len(left), processes.count):
            at_once = [every[number] for number in left[first : first + processes.count]]
            own = self.predict(*at_once[processes.rank]) if processes.rank < len(at_once) else []
            for (task, seed), rows in zip(at_once, processes.gathered(own), strict=False):
                assert store is not None
                assert progress is not None
                store.add(task.name, seed, rows)
                progress.advance(figures=task.name)
            if processes.any(stop.requested):
                raise KeyboardInterrupt("stopped; the same command continues where it was")

    def predict(self, task: Task, seed: int) -> list[Prediction]:
        """The predictions of the task's examples with one seed, once for every order of the demonstrations."""
        if self._read is None or self._read[0] is not task:
            self._read = (task, scored_examples(self.config, task), self.labelled(task))
        _, examples, labelled = self._read
        rows = []
        for order in range(self.orders):
            scores = self.predictor.scores(labelled, examples, seed, order)
            check_finite(scores, f"task {task.name}, seed {seed}")
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
                )
                rows.append(prediction)
        return rows

    def remarks(self, store: PredictionStore, results: Results) -> list[str]:
        """What a user should know about the results, as sentences."""
        scored = {}
        for task in self.tasks:
            rows = [row for seed in self.seeds for row in store.rows[task.name, seed] if row.order == 0]
            scored[task.name] = (scored_examples(self.config, task), rows)
        averages = [(result.average, result.guess or 0.0) for result in results.tasks.values()]
        average, chance = (sum(values) / len(averages) for values in zip(*averages, strict=True))
        found = [remarks.one_label(scored), remarks.at_guessing(average, chance)]
        if self.config.learner == "in-context":
            count, few = self.style.demonstrations, sum(len(examples) for examples, _ in scored.values()) <= 20_000
            found.append(remarks.length_bias(scored, lambda option: len(self.model.tokenizer(option)["input_ids"])))
            if count and few and self.config.bank == "own":
                tasks = {task.name: self.labelled(task) for task in self.tasks}
                metrics = {name: result.metric for name, result in results.tasks.items()}
                found.append(remarks.cheap_baseline(tasks, scored, metrics, count, self.seeds[0]))
        return [remark for remark in found if remark]

    def labelled(self, task: Task) -> LabelledTask:
        bank = self.all_tasks if self.config.bank == "all" else demonstration_bank(self.config, task)
        return LabelledTask(task.name, bank, task.instruction)

    @cached_property
    def all_tasks(self) -> Sequence[Example]:
        """The train examples of all training tasks."""
        return [example for task in self.training for example in task.train]

    def row(self) -> Row:
        """What tells the results from others in a report."""
        config, style, form, made = self.config, self.style, self.style.format, self.provenance
        told = self.method.label(style) if config.learner == "in-context" else head_label(config.learner)
        if config.choose is not None and {config.choose, self.method.choose_at_test} != {"random"}:
            told += f", {config.choose}" + (" of all tasks" if config.bank == "all" else "")
        told += ", probed order" if config.order == "probed" else ""
        return Row(
            label=config.label or (f"{told} + PMI" if config.calibrate else told),
            training=made.training if made else None,
            model=made.start if made and made.training else public_name(config.model),
            direction=form.direction,
            learner=config.learner,
            choose=self.choose if config.bank == "own" else f"{self.choose} of all tasks",
            demonstrations=style.demonstrations,
            labels_used=0
            if config.bank == "all"
            else max(self.predictor.labels_used(self.labelled(task)) for task in self.tasks),
            calibrated=config.calibrate,
            instructions=style.instructed,
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
        style = self.style
        resolved = vars(config) | vars(style.format)
        resolved |= {"demonstrations": style.demonstrations, "instructions": style.instructed, "choose": self.choose}
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


def demonstration_bank(config: EvaluateConfig, task: Task) -> Sequence[Example]:
    """The labelled examples that demonstrations are chosen from."""
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
    read = [setting.unseen_domain_test, tasks]
    if config.bank == "all" or config.learner in ("set-transformer", "retrieval-prototype"):
        read.append(data_hash(collection, setting.train, ("train",)))
    return digest(read)


def labelled_vectors(tasks: Sequence[Task], features: Features) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Vectors and label numbers of the train examples of each task whose examples share their options."""
    found = {}
    for task in tasks:
        if task.kind in ("classification", "nli", "paraphrase"):
            outputs = [example.output for example in task.train]
            found[task.name] = (features.vectors(task.train), np.unique(outputs, return_inverse=True)[1])
    return found


def head_label(learner: str) -> str:
    """The name of a head in tables."""
    words = learner.replace("-", " ").replace("tfidf", "TF-IDF")
    return words[0].upper() + words[1:]


def style_of(config: EvaluateConfig, method: Method) -> PromptStyle:
    """How prompts look: what `config` says, else as `method` has them."""
    if config.calibrate and (config.direction or method.prompts_at_test().format.direction) == "channel":
        raise ValueError("calibrate is read in the direct direction only; leave it out")
    style = method.prompts_at_test()
    names = ("direction", "layout", "max_tokens", "max_tokens_per_example")
    said = {name: value for name in names if (value := getattr(config, name)) is not None}
    return PromptStyle(
        replace(style.format, **said, overflow=config.overflow),
        style.demonstrations if config.demonstrations is None else config.demonstrations,
        style.instructed if config.instructions is None else config.instructions,
    )


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
    )


def prediction_store(config: EvaluateConfig, job: Evaluation) -> PredictionStore:
    """The predictions of `config.output`, with what is left there of an evaluation of the same model and data."""
    computed = {key: value for key, value in vars(config).items() if key not in config.FREE}
    stamp = weights_stamp(config.pinned_model)
    return PredictionStore(config.output, digest([computed, repr(job.provenance), stamp, job.record.manifest_hash]))
