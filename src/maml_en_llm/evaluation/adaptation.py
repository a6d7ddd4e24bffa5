"""Very-few-shot adaptation: a model learns each target task from a few of its examples, and is scored before and after.

For each task (the paper's table 4): 16 examples of its train split, one AdamW step on each, behind as many of the
others as fit in 256 tokens; then the evaluation; then the model is what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from ..bilevel import AdamW, update_all_, value_and_gradient
from ..bilevel.steps import Tensors
from ..config import AdaptConfig
from ..files import check_output, only_writer
from ..models import PromptLoss, trainable_parameters
from ..progress import console, stop_on_signal, track
from ..prompts.batches import Batch
from ..prompts.demonstrations import draw_indices
from ..prompts.layout import EncodedPrompt, PromptFormat
from ..prompts.style import PromptStyle
from ..results import RESULTS_SIGN, Adaptation, PredictionStore, Results, TaskScores, write_results
from ..tasks.collection import Example, Task
from ..tasks.seeds import random_generator
from .protocol import Evaluation, demonstration_bank, prediction_store, task_result

PAPER_LR = 1e-7


def adapt(config: AdaptConfig) -> Results:
    """Scores a model on each target task before and after adapting to it, and writes the results file; returns its
    content: that of `evaluate` after adaptation, with a task's result before it under `before`.

    A task that is finished is not done again when the same command continues.  Raises ValueError for bad input.
    """
    check_output(config.output, ending=".json", sign=RESULTS_SIGN)
    for output in (config.output, unadapted(config).output):
        PredictionStore.check(output)
    with only_writer(config.output):
        return _adapt(config)


def _adapt(config: AdaptConfig) -> Results:
    job = Evaluation(config)
    job.say_what_is_scored()
    parameters = {name: p.detach() for name, p in trainable_parameters(job.model.network).items()}
    start = {name: parameter.clone() for name, parameter in parameters.items()}
    after = prediction_store(config, job)
    before = prediction_store(unadapted(config), job)
    steps = 0
    with track("adapt", 2 * len(job.tasks) * len(job.seeds), "task seeds") as progress, stop_on_signal() as stop:
        for task in job.tasks:
            prompts = adaptation_prompts(job, config, task)
            steps = max(steps, len(prompts))
            for store in (before, after):
                if store is after and not set(job.seeds) <= after.finished(task.name):
                    learn(job.model.network, parameters, prompts, config.lr)
                job.score([task], store, progress, stop)
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(start[name])
    earlier = {task.name: task_result(task, before.rows, job.seeds) for task in job.tasks}
    both = {
        task.name: replace(task_result(task, after.rows, job.seeds), before=_scores_of(earlier[task.name]))
        for task in job.tasks
    }
    adaptation = Adaptation(examples=config.adaptation_examples, steps=steps, lr=config.lr)
    row = job.row()
    row = replace(
        row,
        label=config.label or adapted_label(row.label, config.lr),
        labels_used=row.labels_used + config.adaptation_examples,
        adaptation=adaptation,
    )
    results = job.results(row, both, before=job.summary(earlier))
    for store in (before, after):
        store.write()
    write_results(config.output, results)
    notes = job.remarks(after, results)
    for store in (before, after):
        store.forget()
    for note in notes:
        console.print(f"note: {note}", markup=False)
    return results


def unadapted(config: AdaptConfig) -> AdaptConfig:
    """For the predictions before adaptation."""
    return replace(config, output=config.output.with_suffix(".before.json"))


def _scores_of(task: TaskScores) -> TaskScores:
    return TaskScores(**{field.name: getattr(task, field.name) for field in fields(TaskScores)})


def adapted_label(label: str, lr: float) -> str:
    """The row's name in reports; learning rates other than the paper's are named."""
    return f"{label} + adaptation" if lr == PAPER_LR else f"{label} + adaptation, lr {lr:g}"


def adaptation_prompts(job: Evaluation, config: AdaptConfig, task: Task) -> list[EncodedPrompt]:
    """The prompts that `task` is learned from, in order: each drawn example behind others of those drawn, as many as
    fit whole in `adaptation_tokens`.  Raises ValueError when the task has too few examples."""
    pool, count = demonstration_bank(config, task), config.adaptation_examples
    if len(pool) < count:
        raise ValueError(
            f"the task {task.name} has {len(pool)} train examples, fewer than the {count} to adapt to; "
            "lower --adaptation-examples or add examples"
        )
    generator = random_generator("adaptation", task.name, config.adaptation_seed)
    drawn = [pool[index] for index in draw_indices(generator, len(pool), count)]
    return prompts_of_each(drawn, job.style, job.model.tokenizer, task.instruction, config.adaptation_tokens, generator)


def prompts_of_each(
    drawn: Sequence[Example],
    style: PromptStyle,
    tokenizer: Any,
    instruction: str | None,
    limit: int,
    generator: np.random.Generator,
) -> list[EncodedPrompt]:
    """For each example the prompt of at most `limit` tokens that it is learned from, behind others in random order."""
    form = replace(
        style.format, max_tokens=limit, max_tokens_per_example=min(limit, style.format.max_tokens_per_example)
    )
    head = form.encode_instruction(tokenizer, instruction) if style.instructed else []
    if head:  # it may take room from the example, which is cut to what is left
        room = max(4, limit - len(head))
        form = replace(form, max_tokens_per_example=min(room, form.max_tokens_per_example))
    prompts = []
    for target in range(len(drawn)):
        others = [drawn[i] for i in generator.permutation(len(drawn)) if i != target][: style.demonstrations]
        shown = others_that_fit(form, tokenizer, others, drawn[target], head)
        prompts.append(form.encode_training(tokenizer, shown, drawn[target], head))
    return prompts


def others_that_fit(
    form: PromptFormat, tokenizer: Any, others: Sequence[Example], target: Example, head: Sequence[int]
) -> list[Example]:
    """The first of `others` that stand in front of `target` without anything being cut."""
    free = replace(form, max_tokens=1 << 30)
    count = len(others)
    while count and len(free.encode_training(tokenizer, others[:count], target, head).token_ids) > form.max_tokens:
        count -= 1
    return list(others[:count])


def learn(model: Any, parameters: Tensors, prompts: Sequence[EncodedPrompt], lr: float) -> None:
    """One AdamW step on each prompt in turn, from fresh moments; changes `parameters` in place."""
    loss, step = PromptLoss(model), AdamW(lr=lr)
    moments = step.init(parameters)
    device = next(model.parameters()).device
    for prompt in prompts:
        _, gradients = value_and_gradient(loss, parameters, Batch.from_prompts([prompt]).to(device))
        update_all_(step, parameters, gradients, moments)
