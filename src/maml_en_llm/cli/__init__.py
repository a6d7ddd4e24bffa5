"""The command line: a verb is a function, and the function's signature is its flags."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..config import DEFAULT_METHOD, AdaptConfig, EvaluateConfig, Trainable, load_yaml, typed_keys
from ..experiments import TableName
from ..hub import existing_folder, model_folder, pinned
from ..names import printable
from ..progress import console
from ..prompts.choosing import Choice
from .tasks import (
    new_model,
    tasks_build,
    tasks_check,
    tasks_choose,
    tasks_export,
    tasks_import,
    tasks_limit,
    tasks_list,
    tasks_show,
    tasks_show_prompt,
)


@dataclass(frozen=True, kw_only=True)
class TrainSwitches:
    """What `train` does with a configuration."""

    method: str = DEFAULT_METHOD
    """How batches become updates; its keys are flags, too: `train --method NAME --help` shows them."""
    resume: bool = False
    """Continue the run in --output from its newest checkpoint, or start it if there is none."""
    data_corrected: bool = False
    """With --resume: go on although the training data has changed since the run began; the record says so."""
    plan: bool = False
    """Show what memory, time and disk the run will take, and stop."""


def train(config: Any, switches: TrainSwitches) -> None:
    """Meta-train a model on the training tasks of a setting."""
    if switches.plan:
        from ..training.plan import plan

        print(plan(config))
        return
    from ..training.loop import train as run

    print(run(config, switches.resume, switches.data_corrected))


def evaluate(config: EvaluateConfig) -> None:
    """Score a model on the target tasks of a setting."""
    from ..evaluation.protocol import evaluate as run
    from ..reporting.reading import read_result
    from ..reporting.tables import rich_tables

    run(config)
    for table in rich_tables(read_result(config.output).summaries, console.width):
        console.print(table)
    print(config.output)


def adapt(config: AdaptConfig) -> None:
    """Score a model before and after it learned each target task from a few examples."""
    from ..evaluation.adaptation import adapt as run

    results = run(config)
    for subset, after in results.summary.items():
        before = (results.before or {})[subset]
        if after.average is not None and before.average is not None:
            print(f"{subset}: {100 * before.average:.2f} before, {100 * after.average:.2f} after")
    print(config.output)


def stream(
    model: str,
    documents: Path,
    output: Path,
    learner: str = "plain",
    lr: float | None = None,
    optimizer: Literal["sgd", "adamw"] | None = None,
    learned: Path | None = None,
    stored: int | None = None,
    seed: int | None = None,
    probes: Path | None = None,
    trainable: Trainable = "full",
    lora_rank: int = 8,
    keep_adapter: bool = False,
    last_blocks: int = 2,
    checkpoint_every: int = 100,
    device: str = "auto",
    revision: str | None = None,
) -> None:
    """Keep a model up to date: one gradient step a document, and what that changes.

    Args:
        model: Hugging Face folder or hub id, or starter.
        documents: JSON lines with "text" and "questions" (docs/stream.md).
        output: Folder for stream.json, results.json, metrics.jsonl and model/; the same command continues.
        learner: How a step is made: plain, weighted, learned-rates or replay.
        lr: Learning rate, by default 0.1; of learned-rates a factor of the rates, by default 1.
        optimizer: sgd (by default) or adamw; not of learned-rates.
        learned: weighted, learned-rates: model folder with what was learned for steps, by default --model.
        stored: replay: how many earlier documents a step learns from, too; by default 4.
        seed: replay: of their draw; by default 100.
        probes: Documents that are never learned: drift is how their likelihood changes.
        trainable: Which parameters learn.
        lora_rank: trainable=lora: rank of what is added to each linear layer.
        keep_adapter: trainable=lora: write the adapter alone, a PEFT folder, instead of a model with it merged.
        last_blocks: trainable=last_blocks: how many transformer blocks learn, with the final norm.
        checkpoint_every: Documents between two checkpoints.
        device: auto takes a GPU if there is one.
        revision: Branch, tag or commit of a hub id.
    """
    from ..evaluation.stream import StreamConfig
    from ..evaluation.stream import stream as run
    from ..evaluation.stream.learners import learner_from_keys

    keys = {"lr": lr, "optimizer": optimizer, "learned": learned, "stored": stored, "seed": seed}
    made = learner_from_keys(learner, {k: v for k, v in keys.items() if v is not None}, pinned(model, revision))
    flags: dict[str, Any] = {"model": model, "revision": revision, "documents": documents, "probes": probes}
    flags |= {"trainable": trainable, "lora_rank": lora_rank, "keep_adapter": keep_adapter}
    flags |= {"last_blocks": last_blocks, "checkpoint_every": checkpoint_every}
    found = run(StreamConfig(**flags, learner=made, output=output, device=device))
    for name, when in (("before", "before a document"), ("now", "straight after it"), ("later", "after all")):
        if (answers := getattr(found, name)) is not None:
            print(f"{when:18} accuracy {100 * answers.accuracy:.1f}, NLL {answers.nll:.3f}")
    if found.drift is not None:
        print(f"{'drift of probes':18} {found.drift:+.4f} nats a token")
    print(f"{output} ({found.seconds:.1f} s in steps)")


def reproduce(
    table: tyro.conf.Positional[TableName],
    setting: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    model: str | None = None,
    collection: Path = Path("collection"),
    output: Path = Path("reproduction"),
    rows: tuple[str, ...] = (),
    config: Path | None = None,
    batches: int | None = None,
    max_examples: int | None = None,
    training_seeds: tuple[int, ...] = (),
    device: str = "auto",
    plan: bool = False,
) -> None:
    """Run a table of the paper: what is finished stays, what is not is trained and scored.

    Args:
        table: Which table; baselines are the rows that the paper names but does not print.
        setting: Only this setting; can be given several times. By default all that the collection has.
        model: Hugging Face folder or hub id that every row starts from, instead of the paper's.
        collection: Folder of NLP tasks.
        output: Folder of runs, results and reports; OUTPUT/TABLE/ is this table's.
        rows: Only these rows.
        config: YAML file whose values replace those that all rows share.
        batches: Training length of every row.
        max_examples: Score only the first N examples of each task.
        training_seeds: Every row is trained once with each; by default those of the table, mostly 100 13 21.
        device: auto takes a GPU if there is one.
        plan: Show what will run and what it takes, and stop.
    """
    from ..experiments.run import Reproduction

    chosen = [name for word in rows for name in word.split(",")]
    flags: dict[str, Any] = {"setting": setting, "model": model, "rows": chosen, "config": config, "batches": batches}
    flags |= {"max_examples": max_examples, "training_seeds": training_seeds, "device": device}
    runs = Reproduction(table, collection=collection, output=output, **flags)
    if plan:
        from ..experiments.plan import plan as show

        print(show(runs))
        return
    print(runs.run())


def reproduce_inner_loops(
    output: Path = Path("reproduction"),
    rows: tuple[str, ...] = (),
    batches: int = 30_000,
    shots: tuple[int, ...] = (10, 5),
    waves: int = 600,
    training_seeds: tuple[int, ...] = (100, 13, 21),
) -> None:
    """Compare MAML, FOMAML, Reptile, ANIL, Meta-SGD, MAML++ and BMG on sine waves: what is finished stays.

    Args:
        output: OUTPUT/inner-loops/ is for the parts and the report.
        rows: Only these methods.
        batches: Training length of every row, in batches of K points.
        shots: K, points of a wave that a step learns from.
        waves: New waves that are scored.
        training_seeds: Every row is trained once with each.
    """
    from ..experiments.inner_loops import inner_loops as run

    print(run(output, rows=rows, batches=batches, shots=shots, waves=waves, training_seeds=training_seeds))


def reproduce_uptake(
    output: Path = Path("reproduction"),
    training_seeds: tuple[int, ...] = (100, 13, 21),
    documents: int = 24,
    train_documents: int = 700,
    updates: int = 150,
    probes: int = 4,
) -> None:
    """Compare learned, uniform, random and TF-IDF token weights by what one step on a document teaches.

    Args:
        output: OUTPUT/uptake/ is for models, parts and the report; what is finished in it is not done again.
        training_seeds: Models and weights are trained once with each.
        documents: New documents that are scored.
        train_documents: Documents of each of the two stages of training.
        updates: Length of the second stage; the first is three times as long.
        probes: Unrelated texts that drift is measured on.
    """
    from ..starter.uptake import Sizes
    from ..starter.uptake import uptake as run

    print(run(output, training_seeds=training_seeds, sizes=Sizes(documents, train_documents, updates, probes)))


def tune(
    table: tyro.conf.Positional[TableName],
    setting: str,
    grid: tuple[str, ...],
    model: str | None = None,
    collection: Path = Path("collection"),
    output: Path = Path("tuning"),
    rows: tuple[str, ...] = (),
    config: Path | None = None,
    batches: int | None = None,
    max_examples: int | None = None,
    training_seeds: tuple[int, ...] = (100,),
    device: str = "auto",
) -> None:
    """Choose hyper-parameters of a table's rows on training tasks, with as many tries for each.

    Args:
        table: Whose trained rows to tune.
        setting: A fifth of its training tasks are held out as validation targets; its own targets are not read.
        grid: Values to try, like lr=1e-4,1e-3 weight_decay=0,0.1; inner_lr follows lr unless it is named.
        model: Hugging Face folder or hub id that every row starts from, instead of the paper's.
        collection: Folder of NLP tasks.
        output: Folder of the tries; OUTPUT/tuned.yaml is for `reproduce --config`.
        rows: Only these rows.
        config: YAML file of `reproduce --config`, whose values tuned.yaml keeps.
        batches: Training length of every row.
        max_examples: Score only the first N examples of each task.
        training_seeds: Every try is trained once with each.
        device: auto takes a GPU if there is one.
    """
    from ..experiments.tune import tune as run
    from ..safe_yaml import parse_yaml

    if wrong := [word for word in grid if "=" not in word]:
        raise ValueError(f"--grid {wrong[0]}: give a key and its values, like lr=1e-4,1e-3")
    pairs = [word.partition("=") for word in grid]
    values = {key: [parse_yaml(text, "--grid") for text in texts.split(",") if text] for key, _, texts in pairs}
    given: dict[str, Any] = {"collection": collection, "setting": setting, "output": output, "config": config}
    given |= {"rows": [name for word in rows for name in word.split(",")], "training_seeds": training_seeds}
    given |= {"model": model, "batches": batches, "max_examples": max_examples, "device": device}
    print(run(table, values, **given))


def predict(
    model: str,
    demonstrations: Path,
    input: str | None = None,
    input_file: Path | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    output: Path | None = None,
    options: str | None = None,
    options_column: str | None = None,
    instruction: str | None = None,
    choose: Choice | Literal["given"] = "given",
    count: int = 16,
    choose_groups: int = 0,
    layer: str = "words",
    seeds: int = 1,
    learner: str = "in-context",
    calibrate: bool = False,
    device: str = "auto",
    revision: str | None = None,
) -> None:
    """Predict one input, or every row of a file, from a few labelled examples.

    Args:
        model: Hugging Face folder or hub id, or starter.
        demonstrations: Labelled examples: JSON lines with "input" and "output", or a CSV, TSV or Parquet file.
        input: The text to predict for.
        input_file: CSV, TSV, JSON lines or Parquet file whose rows to predict for.
        text_column: Column of the texts in --input-file, and in --demonstrations if that is a table.
        label_column: Column of the labels in --demonstrations.
        output: File for the rows of --input-file with their predictions, of any of these kinds.
        options: Possible outputs, separated by commas; by default those of the demonstrations.
        options_column: Column of each row's options in --input-file, where they differ: a list, or separated by | or ,.
        instruction: A sentence that says what to do; for models that were trained with instructions.
        choose: Which demonstrations a prompt shows: given is all in their order; see docs/choosing.md.
        count: How many of them, where they are chosen.
        choose_groups: bm25 and nearest: how many sets each 1,024 rows share; 0 is one for each row, which is slow.
        layer: Of the vectors that nearest, diverse and heads compare: words, middle, last or a number.
        seeds: Over how many draws of demonstrations predictions are averaged.
        learner: in-context, or a head that learns from the demonstrations (logistic, nearest, ...; docs/heads.md).
        calibrate: Subtract the score that an option has with the input "N/A".
        device: auto takes a GPU if there is one.
        revision: Branch, tag or commit of a hub id.
    """
    from ..evaluation.prediction import read_demonstrations

    if (input is None) == (input_file is None):
        raise ValueError("give --input TEXT for one prediction, or --input-file FILE for one of each row")
    if input is not None and Path(input[:255]).is_file():
        raise ValueError(
            f"--input is a text but {input} is a file; give --input-file {input} --text-column NAME --output FILE to "
            "predict its rows"
        )
    model = pinned(model, revision)
    chosen: dict[str, Any] = {
        "choose": choose,
        "choose_groups": choose_groups,
        "layer": layer,
        "seeds": seeds,
        "learner": learner,
    }
    chosen |= {"calibrate": calibrate, "instruction": instruction, "device": device, "demonstrations": count}
    if choose == "given" and (count, choose_groups, seeds) != (16, 0, 1):
        raise ValueError("choose=given does not read count, choose_groups and seeds; leave them out or set --choose")
    of_table = text_column if demonstrations.suffix.lower() != ".jsonl" or label_column else None
    examples = read_demonstrations(demonstrations, of_table, label_column)
    named = dict.fromkeys(e.output for e in examples) if options is None else [o.strip() for o in options.split(",")]
    if len(set(named)) < max(2, len(named)) or not all(option.strip() for option in named):
        raise ValueError(f"options are {', '.join(named) or 'empty'}; give at least two, all different and none empty")
    if options_column is not None and (options is not None or input_file is None):
        raise ValueError("options_column is a column of --input-file and takes the place of options; leave one out")
    if input_file is not None:
        _predict_rows(model, examples, list(named), input_file, (text_column, options_column), output, chosen)
        return
    if text_column and of_table is None:
        raise ValueError("text_column is set but no table is read; leave it out")
    if output is not None:
        raise ValueError("output is set but --input prints its prediction; leave it out or give --input-file")
    _predict_one(model, examples, list(named), str(input), chosen)


def _predict_one(model: str, examples: list[Any], options: list[str], input: str, chosen: dict[str, Any]) -> None:
    from ..evaluation.prediction import predict as run

    if (chosen["choose"], chosen["learner"], chosen["calibrate"]) == ("given", "in-context", False):
        scores = run(model, examples, options, input, chosen["device"], chosen["instruction"])
    else:
        values = _classifier(model, examples, options, chosen).scores([input], options=[options])[0]
        scores = dict(sorted(zip(options, map(float, values), strict=True), key=lambda item: item[1]))
    print(printable(next(iter(scores))))
    for option, score in scores.items():
        console.print(f"  {score:8.4f}  {option}", markup=False)


def _predict_rows(
    model: str,
    examples: list[Any],
    options: list[str],
    source: Path,
    columns: tuple[str | None, str | None],
    output: Path | None,
    chosen: dict[str, Any],
) -> None:
    from ..classifier import predict_to_file
    from ..prediction.files import Asked, check_columns, check_files

    column, own = columns
    if column is None or output is None:
        raise ValueError(f"give --{'text-column NAME' if column is None else 'output FILE'} with --input-file")
    check_files(source, output)
    check_columns(source, Asked(column, own), options)
    done = predict_to_file(_classifier(model, examples, options, chosen), source, output, column, own)
    for label, count in done.counts.most_common():
        console.print(f"  {count:8}  {label}", markup=False)
    print(output)


def _classifier(model: str, examples: list[Any], options: list[str], chosen: dict[str, Any]) -> Any:
    from ..classifier import InContextClassifier

    outputs = [example.output for example in examples]
    if unknown := [output for output in outputs if output not in options]:
        raise ValueError(
            f"the demonstration output {unknown[0]!r} is not among the options {', '.join(options)}; "
            "add it or correct it"
        )
    return InContextClassifier(model, **chosen).partial_fit([e.input for e in examples], outputs, classes=options)


def report(
    results: tyro.conf.Positional[tuple[Path, ...]], output: Path = Path("report"), compare_unlike: bool = False
) -> None:
    """Put results side by side, with tests: OUTPUT/report.html, report.md and tables/ (CSV, LaTeX).

    Args:
        results: Results of evaluate and adapt (.json), tables (.csv) with columns method, setting, average, worst, and
            folders with results and run directories.
        output: Folder to write to.
        compare_unlike: Test rows against each other that were not scored in the same way, too.
    """
    from ..reporting.report import report as run

    if not results:
        raise ValueError("no results given; name files that `evaluate` wrote, or folders with them")
    print(run(results, output, compare_unlike))


def compare(
    collection: Path,
    setting: str,
    output: Path,
    model: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    demonstrations: int = 16,
    max_examples: int = 200,
    max_tokens: int | None = None,
    device: str = "auto",
) -> None:
    """Score what the product offers, cheap rows first, and name the best with the command that predicts with it.

    Args:
        collection: Folder of NLP tasks.
        setting: Setting whose target tasks are scored, or the name of one task.
        output: Folder for results and a report; rows that are finished in it are not done again.
        model: Hugging Face folder or hub id that predicts in context, by default starter; can be given several times.
            Heads read the vectors of the first.
        demonstrations: Labelled examples of the rows that use few.
        max_examples: Score only the first N held-out examples of each task.
        max_tokens: Longest prompt; for models that read less than 1,024 tokens.
        device: auto takes a GPU if there is one.
    """
    from ..experiments.compare import compare as run

    given: dict[str, Any] = {"demonstrations": demonstrations, "max_examples": max_examples, "max_tokens": max_tokens}
    print(run(collection, setting, output, model or ("starter",), device=device, **given))


def demo(
    model: str,
    raw: str | None = None,
    demonstrations: Path | None = None,
    port: int = 8765,
    device: str = "auto",
    revision: str | None = None,
) -> None:
    """Try a model in the browser: edit demonstrations, type inputs, see probabilities.

    Args:
        model: Hugging Face folder or hub id, or starter.
        raw: Model to show next to it; by default the one that it was trained from, if that is here.
        demonstrations: File of labelled examples to begin with, as in predict.
        port: Of the page, which only this machine can open.
        device: auto takes a GPU if there is one.
        revision: Branch, tag or commit of a hub id.
    """
    if raw is not None:
        model_folder(raw)
    from ..demo import FIRST, Demo, models_to_show, serve
    from ..evaluation.prediction import read_demonstrations

    examples = read_demonstrations(demonstrations) if demonstrations is not None else []
    serve(
        Demo(models_to_show(pinned(model, revision), raw), device),
        [(example.input, example.output) for example in examples] or FIRST,
        port,
    )


def push(
    model: Path,
    repo: str,
    results: tuple[Path, ...] = (),
    private: bool = False,
    dry_run: bool = False,
) -> None:
    """Upload a model that `train` made to the Hugging Face hub, with its card.

    Args:
        model: Model folder of a finished run.
        repo: Where to: OWNER/NAME; the repository is made if it does not exist.
        results: Results of `evaluate` for this model; their scores go into the card.
        private: Make the repository private.
        dry_run: List the files and show the card, and upload nothing; needs no network.
    """
    from ..push import prepare

    prepared = prepare(model, repo, results)
    for name, size in prepared.files.items():
        print(f"{size:14,} bytes  {printable(name)}")
    if dry_run:
        print(f"\n{prepared.card}\nnothing was uploaded (--dry-run)")
        return
    print(prepared.upload(private))


def quickstart(output: Path = Path("quickstart")) -> None:
    """Run the whole job on the built-in tasks: train, evaluate, report.

    Args:
        output: Folder for everything the run makes; what is finished in it is not done again.
    """
    from ..starter.quickstart import quickstart as run

    print(run(output))


def doctor() -> None:
    """Show what this machine offers: versions, processor, memory, GPU."""
    import os

    import torch

    from ..models import pick_device
    from ..training.model_card import versions

    for name, number in versions().items():
        print(f"{name:14} {number}")
    print(f"{'device':14} {pick_device()}")
    print(f"{'cpu threads':14} {torch.get_num_threads()}")
    pages = {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(os.sysconf_names)
    if pages:
        print(f"{'memory':14} {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        print(f"{'gpu ' + str(index):14} {properties.name}, {properties.total_memory / 2**30:.1f} GiB")


VERBS: dict[str, Callable[..., None]] = {
    "quickstart": quickstart,
    "tasks list": tasks_list,
    "tasks show": tasks_show,
    "tasks check": tasks_check,
    "tasks build": tasks_build,
    "tasks import": tasks_import,
    "tasks limit": tasks_limit,
    "tasks choose": tasks_choose,
    "tasks export": tasks_export,
    "tasks show-prompt": tasks_show_prompt,
    "new-model": new_model,
    "train": train,
    "evaluate": evaluate,
    "adapt": adapt,
    "stream": stream,
    "compare": compare,
    "reproduce": reproduce,
    "reproduce inner-loops": reproduce_inner_loops,
    "reproduce uptake": reproduce_uptake,
    "tune": tune,
    "predict": predict,
    "report": report,
    "push": push,
    "demo": demo,
    "doctor": doctor,
}


SHARED = {"train", "evaluate", "predict"}  # over the processes that torchrun starts

USAGE = "usage: maml-en-llm VERB [--flags]   (VERB --help shows its flags; --debug tracebacks; --version)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns 0, 2 after a user's error (one sentence, no traceback), 130 when stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        print(f"maml-en-llm {version('maml-en-llm')}")
        return 0
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    verb = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0] if words else "--help"
    if verb not in VERBS:
        width = max(map(len, VERBS))
        lines = [f"  {name:{width}}  {(function.__doc__ or '').splitlines()[0]}" for name, function in VERBS.items()]
        listing = "\n".join([USAGE, "", *lines])
        if verb in ("-h", "--help", "tasks") and not (verb == "tasks" and len(words) > 1):
            print(listing)
            return 0
        print(f"maml-en-llm: unknown verb {' '.join(words[:2])!r}\n{listing}", file=sys.stderr)
        return 2
    try:
        check_processes(verb)
        run(VERBS[verb], words[len(verb.split()) :], verb)
    except ValueError as error:
        print(f"maml-en-llm {verb}: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"maml-en-llm {verb}: {str(interrupt) or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads has enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for the flush at the end
        return 0
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
        print(f"maml-en-llm {verb}: {printable(reason)}", file=sys.stderr)
        return 2
    except Exception as error:  # a defect
        if debug:
            raise
        text = printable(" ".join(str(error).split())[:300])
        where = "this is a defect: the same command with --debug shows where"
        print(f"maml-en-llm {verb}: {type(error).__name__}: {text}; {where}", file=sys.stderr)
        return 2
    return 0


def check_processes(verb: str) -> None:
    """ValueError when torchrun started several processes for what one does; all but the first print no results."""
    if (count := int(os.environ.get("WORLD_SIZE", "1"))) == 1:
        return
    if verb not in SHARED:
        rows = ", as often as you like: such commands share the rows of a table" if verb == "reproduce" else ""
        raise ValueError(f"torchrun started {count} processes but {verb} is for one; start it without torchrun{rows}")
    if int(os.environ.get("RANK", "0")):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives


def run(function: Callable[..., None], words: list[str], verb: str) -> None:
    program = f"maml-en-llm {verb}"
    if verb not in ("train", "evaluate", "adapt"):
        if verb != "push":
            _bring_model(words, {})
        tyro.cli(function, args=words, prog=program)
        return
    # --config FILE.yaml gives defaults that flags override.
    defaults: dict[str, Any] = {}
    for path in reversed(_values_of("--config", words)):
        defaults = {key: (value, path) for key, value in load_yaml(Path(path)).items()} | defaults
    _bring_model(words, defaults)
    if verb == "train":
        function(*training_flags(defaults, words, program))
        return
    config_type = EvaluateConfig if verb == "evaluate" else AdaptConfig
    flags = parse_flags(config_type, typed_defaults(defaults, config_type), words, program)
    function(config_type(**vars(flags)))


def _bring_model(words: list[str], defaults: dict[str, Any]) -> None:
    """Brings a model from the hub before the libraries are imported, which takes seconds: when it cannot be had, that
    is said at once."""
    named, revision = (
        _values_of(f"--{key}", list(words)) or [value for value, _ in [defaults.get(key, (None, ""))] if value]
        for key in ("model", "revision")
    )
    if named and not {"-h", "--help"} & set(words):
        existing_folder(pinned(str(named[-1]), str(revision[-1]) if revision else None))


def training_flags(defaults: dict[str, Any], words: list[str], program: str) -> tuple[Any, TrainSwitches]:
    """The method that `--method`, or else a file, names, and its keys."""
    from ..methods import method_type

    named = _values_of("--method", list(words))
    name = named[-1] if named else str(defaults.get("method", (DEFAULT_METHOD, ""))[0])
    kind = method_type(name)
    kind_and_switches: Any = dataclasses.make_dataclass("Train", (), bases=(kind, TrainSwitches), frozen=True)
    typed = typed_defaults(defaults, kind_and_switches)
    flags = vars(parse_flags(kind_and_switches, typed, words, program, kind.__doc__))
    switches = {field.name: flags.pop(field.name) for field in dataclasses.fields(TrainSwitches)}
    return kind(**flags), TrainSwitches(**switches)


def typed_defaults(defaults: dict[str, Any], config_type: type[Any]) -> dict[str, Any]:
    """The values of files, by key with the file, with the types of `config_type`'s fields."""
    typed: dict[str, Any] = {}
    for key, (value, path) in defaults.items():
        typed |= typed_keys({key: value}, config_type, path)
    return typed


def parse_flags(
    config_type: type[Any], defaults: dict[str, Any], words: list[str], program: str, about: str | None = None
) -> Any:
    """The fields of `config_type` from flags over `defaults`, unchecked: what a check says is for `main` to print."""
    members = {"__doc__": about or config_type.__doc__, "__post_init__": lambda self: None}
    unchecked_type: Any = type(config_type.__name__, (config_type,), members)
    unchecked = object.__new__(unchecked_type)
    for field in dataclasses.fields(config_type):
        default = tyro.MISSING if field.default is dataclasses.MISSING else field.default
        object.__setattr__(unchecked, field.name, defaults.get(field.name, default))
    return tyro.cli(unchecked_type, default=unchecked, args=words, prog=program)


def _values_of(flag: str, words: list[str]) -> list[str]:
    """Takes every `flag VALUE` and `flag=VALUE` out of `words`; the values in their order."""
    values: list[str] = []
    rest = iter(list(words))
    words.clear()
    for word in rest:
        if word != flag and not word.startswith(f"{flag}="):
            words.append(word)
            continue
        value = word.partition("=")[2] if "=" in word else next(rest, None)
        if value is None:
            raise ValueError(f"{flag} needs a value")
        values.append(value)
    return values


if __name__ == "__main__":
    sys.exit(main())
