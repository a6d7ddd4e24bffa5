"""The verbs on collections of tasks, and `new-model`."""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..files import only_writer
from ..names import check_file, check_folder, check_name, printable
from ..progress import console, result

if TYPE_CHECKING:
    from ..sources.importing import Imported
    from ..sources.quality import Quality

REPORT = "maml-en-llm check 1"  # the first words of what `tasks check --report` writes


def tasks_list(collection: Path | None = None, catalogue: bool = False) -> None:
    """List a collection's tasks and settings, or with --catalogue the tasks that can be built.

    Args:
        collection: Folder of NLP tasks.
        catalogue: The paper's 142 tasks, where they come from and how sure that is.
    """
    from ..tasks.collection import SPLITS, load_collection

    if catalogue:
        _print_catalogue()
        return
    if collection is None:
        raise ValueError("give --collection DIR, or --catalogue for the tasks that can be built")
    opened = load_collection(collection)
    table = _table("task", "kind", *SPLITS)
    for name, task in opened.items():
        counts = [str(len(task.split(split))) if task.has(split) else "-" for split in SPLITS]
        table.add_row(Text(printable(name)), task.kind, *counts)
    result.print(table, soft_wrap=False)
    for name in opened.setting_names:
        _print(opened.setting(name).presence())


def _print_catalogue() -> None:
    from collections import Counter

    from ..sources.catalog import catalogue

    table = _table("task", "kind", "source on the hub", "licence", "verified")
    entries = catalogue()
    for name, entry in sorted(entries.items()):
        source = " ".join(part for part in (entry.hub, entry.config) if part) or "the paper's own files"
        table.add_row(name, entry.kind, source, entry.licence, entry.verified)
    console.print(table, soft_wrap=False)
    levels = Counter(entry.verified for entry in entries.values())
    counts = ", ".join(f"{levels[level]} {level}" for level in ("content", "documentation", "none"))
    print(f"{len(entries)} tasks; verified: {counts}")


def tasks_build(
    output: Path,
    setting: str | None = None,
    task: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    examples: int = 16_384,
    workers: int = 4,
    source: Literal["hub", "paper"] = "hub",
    hub: Path | None = None,
) -> None:
    """Build tasks of the paper from the Hugging Face hub; a build that was stopped goes on where it was.

    Args:
        output: Collection to write to.
        setting: Build all tasks of this setting (one of the paper's seven, or a file in OUTPUT/settings).
        task: Build this task; can be given several times.
        examples: Most train examples of a task.
        workers: Tasks built at the same time.
        source: hub is each dataset's own repository; paper is the paper's preprocessed files.
        hub: Folder with a copy of the repositories, OWNER/NAME/REVISION/FILE, read instead of the network.
    """
    from ..sources.build import Hub, build

    with only_writer(output.absolute()):
        failures = build(
            output, setting=setting, tasks=task, examples=examples, workers=workers, source=source, hub=Hub(hub)
        )
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures:
        raise ValueError(f"{len(failures)} tasks could not be built (see above); the others are in {output}")
    print(output)


def tasks_import(
    source: Path,
    collection: Path,
    task: str | None = None,
    input: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    output: str | None = None,
    options: str = "auto",
    kind: str = "auto",
    label_map: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    missing: str | None = None,
    fold_labels: bool = True,
    instruction: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    header: bool = True,
    test_share: float = 0.2,
    setting: str = "held-out",
    targets: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    held_out: float = 0.2,
    seed: int = 100,
    dry_run: bool = False,
    yes: bool = False,
    overwrite: bool = False,
) -> None:
    """Make tasks of your own files: CSV, TSV, JSON lines, Parquet, saved datasets, MetaICL or Natural Instructions.

    Args:
        source: A file, a folder with train/dev/test files, or a folder with a file or folder per task.
        collection: Collection to write to; it is made if it does not exist.
        task: Name of the task, by default that of the file.
        input: Column of the input, or a template like "{title} [SEP] {body}"; "text|message" takes the first that a
            file has. Can be given several times, for inputs of several columns.
        output: Column of the output, or a template, or alternatives like "label|category".
        options: auto finds the labels; else label words separated by commas, or {column} with a list of choices.
        kind: auto, or classification, nli, paraphrase, multiple_choice_qa, free_form.
        label_map: OLD=NEW renames a label, TASK/OLD=NEW in one task only, OLD= leaves its rows out; can be given
            several times.
        missing: Words that mean no value, separated by commas, instead of n/a, none, null, - and the like.
        fold_labels: Whether labels that differ only in case and space are one.
        instruction: What the task asks for, in a sentence.
        encoding: Of text files, by default found out.
        delimiter: Of CSV files, by default found out.
        header: Whether the first record of a CSV file names the columns; without, they are 1, 2, 3 ...
        test_share: Share of the examples of every label that becomes the test split where there is none.
        setting: Name of the setting that the tasks join, or that is made of them.
        targets: Tasks that the setting holds out as targets, separated by commas; by default they are drawn.
        held_out: Share of the tasks that are drawn as targets of a new setting.
        seed: Seed of the splits.
        dry_run: Show all that was found, and write nothing.
        yes: Write without asking.
        overwrite: Replace tasks that were imported before.
    """
    from ..sources.columns import Columns
    from ..sources.importing import check_import, read_tasks, write_tasks
    from ..sources.joining import leaks, plan_setting
    from ..sources.labels import MISSING, Cleaning
    from ..sources.layouts import left_out

    check_name(setting, "setting")
    if not 0 < test_share < 1 or not 0 < held_out < 1:
        raise ValueError("--test-share and --held-out must lie between 0 and 1")
    if wrong := [text for text in label_map if not text.partition("=")[0].strip() or "=" not in text]:
        raise ValueError(f"--label-map {wrong[0]!r} must be OLD=NEW")
    words = MISSING if missing is None else tuple(word.strip() for word in missing.split(","))
    renamed = {text.partition("=")[0].strip(): text.partition("=")[2].strip() for text in label_map}
    read = read_tasks(
        source,
        Columns(input, output, options, kind),
        Cleaning(fold_labels, words, renamed),
        task=task,
        encoding=encoding,
        delimiter="\t" if delimiter in ("\\t", "tab") else delimiter,
        header=header,
        test_share=test_share,
        seed=seed,
        instruction=instruction,
    )
    named = [name.strip() for text in targets for name in text.split(",")]
    with nullcontext() if dry_run else only_writer(collection.absolute()):
        plan = plan_setting(collection, setting, read, named, held_out, seed)
        check_import(collection, read, overwrite)
        _show_import(read, whole=dry_run)
        if others := left_out(source):
            _say(f"not read: {', '.join(others[:5])}{' ...' if len(others) > 5 else ''} (save tables as CSV)")
        _say(plan.said)
        for leak in leaks(read, plan.lists) if plan.lists is not None else ():
            _say(f"! {leak}", style="yellow")
        if dry_run:
            _say("nothing was written (--dry-run)")
            return
        if not yes and sys.stdin.isatty() and input_line("write this? [Y/n] ").strip().lower() not in ("", "y", "yes"):
            return
        write_tasks(collection, read, overwrite=overwrite, setting=setting, lists=plan.lists)
        print(collection)


Row = tuple[str, str, Mapping[str, int], Mapping[str, int]]  # name, kind, examples by split, examples by label


def _show_tasks(rows: Sequence[Row]) -> None:
    """A table of tasks on standard error that fits a terminal of 80 columns."""
    table = _table("task", "kind", "train", "test", "examples by label")
    for name, kind, splits, counts in rows:
        labels = [f"{printable(label)} {count}" for label, count in counts.items()]
        more = f" and {len(labels) - 8} more" if len(labels) > 8 else ""
        numbers = [str(splits.get(split, 0)) for split in ("train", "test")]
        table.add_row(Text(printable(name)), kind, *numbers, Text(", ".join(labels[:8]) + more))
    console.print(table, soft_wrap=False)


def _show_import(tasks: Sequence[Imported], whole: bool) -> None:
    """A table of the tasks, and for each what was done, what to look at (all of it if `whole`) and an example."""
    from ..sources.labels import look_alikes

    counts = {task.name: {split: len(examples) for split, examples in task.splits.items()} for task in tasks}
    _show_tasks([(task.name, task.kind, counts[task.name], task.labels) for task in tasks])
    for task in tasks:
        out = ", ".join(f"{count} {what}" for what, count in task.left_out.items())
        remarks = [*task.remarks, *([f"left out: {out}"] if out else [])]
        console.print()
        _say(f"{task.name}: {'; '.join(remarks) or 'as it is'}")
        for warning in task.warnings:
            first, *details = warning.split("\n")
            _say(f"! {first}", 2, "yellow")
            for detail in details if whole else details[:1]:
                _say(detail, 6)
            if len(details) > 1 and not whole:
                _say("--dry-run lists all of them", 6)
        if whole:
            example = task.splits["train"][0]
            _say(f"{example.input[:200]!r} -> {example.output[:80]!r}", 2)
    console.print()
    if pairs := dict.fromkeys(pair for task in tasks for pair in look_alikes(task.labels)):
        flags = " ".join(f"--label-map {shlex.quote(f'{less}={more}')}" for less, more in pairs)
        _say(f"if the labels that look alike are the same, add {flags}")


def _say(text: str, indent: int = 0, style: str = "") -> None:
    """A sentence on standard error, wrapped to the terminal; what the data holds is shown, not obeyed."""
    space = " " * indent
    lines = textwrap.wrap(
        printable(text), console.width, initial_indent=space, subsequent_indent=space, break_on_hyphens=False
    )
    console.print(Text("\n".join(lines), style=style))


def _table(*columns: str) -> Table:
    """A table that fits a terminal; the last column takes what room is left, numbers go to the right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        number = name in ("train", "dev", "test", "count")
        table.add_column(name, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def _print(text: str) -> None:
    """What was asked for, on standard output; what the data holds is shown, not obeyed."""
    print(printable(text, keep="\n"))


def input_line(question: str) -> str:
    """A line that the user types; empty when there is none."""
    console.print(question, end="", markup=False)
    return sys.stdin.readline()


def tasks_limit(collection: Path, output: Path, share: float = 0.1, seed: int = 100) -> None:
    """Write a copy of a collection with a share of every train split, stratified by label.

    Args:
        collection: Folder of NLP tasks.
        output: Collection to write.
        share: Share of the train examples that is kept.
        seed: Seed of the draw.
    """
    from ..tasks.collection import load_collection
    from ..tasks.limited import write_limited

    with only_writer(output.absolute()):
        write_limited(load_collection(collection), output, share, seed)
    print(output)


def tasks_export(
    collection: Path,
    output: Path,
    setting: str | None = None,
    task: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    format: Literal["lm-eval"] = "lm-eval",
    demonstrations: int = 16,
    seed: int = 100,
    layout: Literal["newlines", "spaces"] = "newlines",
) -> None:
    """Write tasks for another program: EleutherAI's lm-evaluation-harness.

    Args:
        collection: Folder of NLP tasks.
        output: Folder to write; lm_eval reads it with --include_path.
        setting: Write the target tasks of this setting.
        task: Write this task; can be given several times.
        format: Whose format; lm-eval is multiple choice in YAML and JSON lines.
        demonstrations: Labelled examples in front of each example, the same as in evaluate; 0 is zero-shot.
        seed: Seed of their draw.
        layout: How examples are joined.
    """
    from ..harness import export
    from ..tasks.collection import load_collection

    opened = load_collection(collection)
    if (setting is None) == (not task):
        raise ValueError("give --setting NAME for its target tasks, or --task NAME")
    if demonstrations < 0:
        raise ValueError(f"--demonstrations is {demonstrations}; it must not be negative")
    if unknown := [name for name in task if name not in opened]:
        raise ValueError(f"{collection} has no task {unknown[0]!r}; `tasks list` shows them")
    named = dict.fromkeys(opened.setting(setting).test if setting is not None else task)
    chosen = [name for name in named if setting is None or opened[name].kind != "free_form"]
    if left := [name for name in named if name not in chosen]:
        console.print(f"left out, because free-form tasks have no options: {', '.join(left)}", markup=False)
    if not chosen:
        raise ValueError(f"no target task of {setting} can be written; choose another setting")
    with only_writer(output.absolute()):
        names = export(opened, chosen, output, setting or output.name, demonstrations, seed, layout)
    group, *others = names
    print(f"{output}: {len(others)} tasks; all: lm_eval --include_path {output} --tasks {group}")


def tasks_choose(
    input: Path,
    column: str,
    output: Path,
    count: int = 16,
    by: Literal["random", "centres", "mixture"] = "mixture",
    label_column: str | None = None,
    model: str = "starter",
    layer: str = "words",
    seed: int = 100,
    device: str = "auto",
) -> None:
    """Choose which rows of an unlabelled file to label.

    Args:
        input: CSV, TSV, JSON lines or Parquet file of texts.
        column: Column of the texts.
        output: CSV file to write: the chosen rows, each with its number in the input, the reason, and an empty label.
        count: How many rows to choose.
        by: random; centres (one of each cluster); mixture (one of each component of a Gaussian mixture).
        label_column: Column that holds the labels there are already; rows like these are not chosen.
        model: Hugging Face folder or hub id, or starter, whose vectors are compared.
        layer: Of these vectors: words (input embeddings), middle, last or a number.
        seed: The same seed chooses the same rows.
        device: auto takes a GPU if there is one.
    """
    from ..prediction.to_label import choose_from_file

    chosen = choose_from_file(input, column, output, count, by, label_column, model, layer, seed, device)
    for row in chosen:
        console.print(f"row {row.index + 1}: {row.reason}", markup=False)
    print(output)


def tasks_show(collection: Path, task: tyro.conf.Positional[str], examples: int = 3) -> None:
    """Show a task's numbers and some of its examples.

    Args:
        collection: Folder of NLP tasks.
        task: Name of the task.
        examples: How many examples to show.
    """
    from ..sources.quality import statistics_of
    from ..tasks.collection import load_collection

    opened = load_collection(collection)
    if task not in opened:
        raise ValueError(f"{collection} has no task {task!r}; `tasks list` shows them")
    numbers = statistics_of(opened, [task])[task]
    _print(f"{task}: {numbers.kind}")
    _print("examples: " + ", ".join(f"{count} {split}" for split, count in numbers.examples.items()))
    if numbers.labels:
        total = max(sum(numbers.labels.values()), 1)
        for label, count in sorted(numbers.labels.items(), key=lambda item: -item[1]):
            _print(f"  {count:7} {100 * count / total:5.1f} %  {label}")
    elif numbers.options[1]:
        _print(f"options: {numbers.options[0]} to {numbers.options[1]} an example")
    for name, spread in (("input", numbers.input_characters), ("output", numbers.output_characters)):
        _print(f"{name} characters: {spread[0]} to {spread[2]}, median {spread[1]}")
    line: dict[str, Any] = next((t for t in opened.manifest.get("tasks", ()) if t.get("name") == task), {})
    for key in ("instruction", "licence", "verified", "note"):
        if line.get(key):
            _print(f"{key}: {line[key]}")
    split = "train" if opened[task].has("train") else next(s for s in numbers.examples)
    for example in opened[task].split(split)[:examples]:
        _print(f"\ninput:   {example.input}\noutput:  {example.output}")
        if example.options and not numbers.labels:
            _print(f"options: {' | '.join(example.options)}")


def tasks_check(
    collection: Path, model: str | None = None, report: Path | None = None, max_tokens_per_example: int = 256
) -> None:
    """Check every rule that a collection must obey, and what else spoils results; exits with 2 when a rule is broken.

    Args:
        collection: Folder of NLP tasks.
        model: Hugging Face folder or hub id whose tokenizer is used to check labels and lengths.
        report: JSON file to write all statistics and findings to.
        max_tokens_per_example: Limit of one example, for lengths.
    """
    from ..sources.quality import examine
    from ..tasks.check import check_collection
    from ..tasks.collection import load_collection
    from ..tasks.writing import write_json

    if report is not None:
        check_file(report, REPORT)
    opened = load_collection(collection)
    tokenizer = None
    if model is not None:
        from ..models import load_tokenizer

        tokenizer = load_tokenizer(model)
    found = check_collection(opened)
    for violation in found:
        print(printable(str(violation)))
    errors = [violation.path.name for violation in found if violation.severity == "error"]
    listed = [{"file": str(v.path), "line": v.line, "severity": v.severity, "message": v.message} for v in found]
    record: dict[str, Any] = {"format": REPORT, "violations": listed}
    if "manifest.json" not in errors:
        quality = examine(opened, tokenizer, max_tokens_per_example)
        record |= quality.as_json()
        _show_quality(quality)
    if report is not None:
        write_json(report, record)
    if errors:
        raise SystemExit(2)
    for name in opened.setting_names:
        _print(opened.setting(name).presence())
    print(f"{len(opened)} tasks are good")


def _show_quality(quality: Quality) -> None:
    """A table of the tasks, and below it what was found in each."""
    _show_tasks([(n.name, n.kind, n.examples, n.labels) for n in quality.statistics.values()])
    for task in quality.statistics:
        findings = quality.of(task)
        if findings:
            _say(task)
        for finding in findings:
            first = f" ({finding.places[0]})" if finding.places else ""
            _say(f"{finding.what}, {finding.count}: {finding.message}{first}", 2)


def tasks_show_prompt(
    collection: Path,
    task: str,
    model: str,
    direction: Literal["direct", "channel"] = "direct",
    layout: Literal["newlines", "metaicl", "spaces"] = "newlines",
    demonstrations: int = 2,
    example: int = 0,
    seed: int = 100,
    max_tokens: int = 1024,
    max_tokens_per_example: int = 256,
    instructions: bool = False,
    label_words: Literal["task", "redrawn"] = "task",
    predicted: Literal["last_answer", "answers", "text"] = "last_answer",
) -> None:
    """Show a prompt as a model reads it, with what is predicted marked.

    Args:
        collection: Folder of NLP tasks.
        task: Name of the task.
        model: Hugging Face folder or hub id whose tokenizer is used.
        direction: direct predicts output from input; channel predicts input from output.
        layout: How examples are joined.
        demonstrations: Labelled examples in front of the example.
        example: Which test example, from 0 (of the train split if there is no test split).
        seed: Seed of the demonstrations.
        max_tokens: Limit of the prompt.
        max_tokens_per_example: Limit of one example.
        instructions: The task's instruction at the head, as MetaICT has it.
        label_words: redrawn gives the labels other names, as in training with that key.
        predicted: What is marked: the last answer, the answers of all examples, or every token, as in training.
    """
    from itertools import groupby

    from ..models import load_tokenizer
    from ..prompts.demonstrations import fixed_demonstrations
    from ..prompts.label_words import LabelRedraw, rename
    from ..prompts.layout import PromptFormat
    from ..tasks.collection import load_collection
    from ..tasks.seeds import random_generator

    opened = load_collection(collection)
    if task not in opened:
        raise ValueError(f"{collection} has no task {task!r}; `tasks list` shows them")
    form = PromptFormat(direction, layout, max_tokens, max_tokens_per_example)
    tokenizer = load_tokenizer(model)
    examples = opened[task].split("test" if opened[task].has("test") else "train")
    if not 0 <= example < len(examples):
        raise ValueError(f"example is {example} but {examples.path} has {len(examples)} (0 to {len(examples) - 1})")
    shown = fixed_demonstrations(opened[task].train, demonstrations, task, seed) if demonstrations else []
    if instructions and not opened[task].instruction:
        raise ValueError(f"the manifest of {collection} has no instruction for {task}; leave --instructions out")
    head = opened[task].instruction if instructions else None
    read, drawn = [*shown, examples[example]], dict[str, str]()
    encoded = form.encode_prompt(tokenizer, read, first=not head)
    if label_words == "redrawn":
        redraw = LabelRedraw(tokenizer, form)
        drawn = redraw.draw(read, random_generator("label_words", seed, task, example))
        encoded = redraw.relabel(encoded, read, drawn, first=not head)
    instruction = form.encode_instruction(tokenizer, rename(head, drawn) if head else None)
    prompt = form.join_training(encoded, instruction, predicted)
    text = Text()
    for marked, run in groupby(zip(prompt.answer_mask, prompt.token_ids, strict=True), key=lambda pair: pair[0]):
        words = printable(tokenizer.decode([token for _, token in run]), keep="\n")
        text.append(words, style="reverse" if marked else "")
    result.print(text)
    what = {"last_answer": "the answer", "answers": "answers", "text": "predicted"}[predicted]
    print(f"{len(prompt.token_ids)} tokens, {sum(prompt.answer_mask)} of them {what} (shown reversed)")


def new_model(
    collection: Path,
    setting: str,
    output: Path,
    vocabulary: int = 8000,
    layers: int = 6,
    width: int = 256,
    heads: int = 4,
    context: int = 1024,
    seed: int = 0,
) -> None:
    """Make an untrained GPT-2-shaped model with its own byte-level BPE learned from a setting's training tasks.

    Args:
        collection: Folder of NLP tasks.
        setting: Name of the setting whose training tasks the tokenizer is learned from.
        output: Model folder to write.
        vocabulary: Most tokens of the tokenizer.
        layers: Transformer blocks.
        width: Size of a token's hidden state.
        heads: Attention heads.
        context: Longest prompt, in tokens.
        seed: Seed of the weights.
    """
    from ..models import new_gpt2, save_model, train_tokenizer
    from ..tasks.collection import load_collection

    sizes = {"vocabulary": vocabulary, "layers": layers, "width": width, "heads": heads, "context": context}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"--{name} is {size}; it must be at least 1")
    if width % heads:
        raise ValueError(f"--width is {width}; it must be a multiple of --heads, {heads}")
    check_folder(output, "new-model")
    opened = load_collection(collection)
    tasks = opened.setting(setting)
    console.print(tasks.presence(), markup=False)
    texts = (f"{e.input}\n{e.output}" for name in tasks.train for e in opened[name].train)
    tokenizer = train_tokenizer(texts, vocabulary, context)
    model = new_gpt2(tokenizer, layers=layers, width=width, heads=heads, context=context, seed=seed)
    save_model(model, tokenizer, output, maker="new-model")
    print(f"{output}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens")
