from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import maml_en_llm
from builders import evaluate_config, make_collection, train_config, write_lines
from maml_en_llm import cli
from maml_en_llm.cli import VERBS, main
from maml_en_llm.config import to_yaml
from maml_en_llm.evaluation.prediction import read_demonstrations
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.prompts.demonstrations import fixed_demonstrations
from maml_en_llm.tasks.collection import Example, load_collection
from maml_en_llm.training.checkpoint import read_metrics
from maml_en_llm.training.loop import train


class Shell:
    """Runs verbs in this process; remembers what they printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: str | Path) -> int:
        self.capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        self.out, self.err = self.capsys.readouterr()
        return code


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture(scope="module")
def trained(collection_folder: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("cli") / "run"
    return train(train_config(collection_folder, model_folder, output))


def test_help_lists_every_verb_with_what_it_does(shell: Shell) -> None:
    assert shell("--help") == 0
    for verb, function in VERBS.items():
        assert any(line.split()[: len(verb.split())] == verb.split() for line in shell.out.splitlines()[2:])
        assert (function.__doc__ or "").splitlines()[0] in shell.out
    listing = shell.out
    assert shell() == 0
    assert shell.out == listing
    assert shell("tasks") == 0
    assert shell.out == listing


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_explains_its_flags(shell: Shell, verb: str) -> None:
    assert shell(*verb.split(), "--help") == 0
    assert f"usage: maml-en-llm {verb}" in shell.out


@pytest.mark.parametrize("words", [["fly"], ["tasks", "fly"], ["taskscheck"]])
def test_an_unknown_verb_is_an_error(shell: Shell, words: list[str]) -> None:
    assert shell(*words) == 2
    assert shell.err.startswith(f"maml-en-llm: unknown verb {' '.join(words)!r}\n")


def train_words(collection: Path, model: Path, output: Path) -> list[str | Path]:
    flags = "--batches 4 --demonstrations 2 --max-tokens 96 --max-tokens-per-example 24 --device cpu --log-every 1"
    return [
        "train",
        "--collection",
        collection,
        "--setting",
        "small",
        "--model",
        model,
        "--output",
        output,
        *flags.split(),
    ]


def test_a_user_sees_one_sentence_and_no_traceback(
    command: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = command(*train_words(tmp_path / "nowhere", tmp_path, tmp_path / "run"))
    out, err = process.communicate(timeout=100)
    assert process.returncode == 2
    assert out == ""
    assert err.startswith(f"maml-en-llm train: {tmp_path / 'nowhere'} is not a collection")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("study", "words", "message"),
    [
        ("inner-loops", ["--rows", "MAMA"], "inner-loops has no row 'MAMA'; its rows are MAML, FOMAML"),
        ("inner-loops", ["--batches", "10"], "batches is 10; it must be at least"),
        ("inner-loops", ["--shots", "0"], "shots is 0"),
        ("inner-loops", ["--training-seeds", "-1"], "training_seeds must be one or more numbers of at least 0"),
        ("inner-loops", ["--setting", "starter"], "--setting"),
        ("uptake", ["--documents", "0"], "documents is 0"),
        ("uptake", ["--training-seeds", "-1"], "training_seeds"),
        ("uptake", ["--rows", "a"], "--rows"),
    ],
)
def test_studies_refuse_flags_that_cannot_be_meant(
    shell: Shell, tmp_path: Path, study: str, words: list[str], message: str
) -> None:
    assert shell("reproduce", study, "--output", tmp_path / "new", *words) == 2
    assert message in shell.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--setting", "nothing"], "there is no setting 'nothing'; known settings: free, small"),
        (["--model", "/nowhere/at/all"], "cannot load a model from /nowhere/at/all: "),
        (["--momentum", "0.9"], "momentum is set but optimizer=adamw does not read it; leave it out"),
        (["--batches", "1"], "batches is 1, less than the 2 of one update"),
        (["--max-tokens", "9999"], "max_tokens is 9999 but "),
        (["--device", "toaster"], "device is 'toaster'; it must be auto, cpu"),
        (["--config"], "--config needs a value"),
        (["--config", "nowhere.yaml"], "nowhere.yaml does not exist; give a YAML file"),
    ],
)
def test_a_users_error_is_one_sentence(
    shell: Shell, collection_folder: Path, model_folder: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    assert shell(*train_words(collection_folder, model_folder, tmp_path / "run"), *words) == 2
    assert shell.out == ""
    lines = [line for line in shell.err.splitlines() if not line.endswith("tasks present")]
    assert len(lines) == 1
    assert lines[0].startswith("maml-en-llm train: ")
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--learning-rate", "1"],
        ["--method", "mamal"],
        ["--batches", "many"],
        ["--lr"],
        ["stray"],
        ["--copies", "2", "--method", "metaicl"],  # a key of another method
    ],
)
def test_a_flag_that_cannot_be_read_is_an_error(
    shell: Shell, collection_folder: Path, model_folder: Path, tmp_path: Path, words: list[str]
) -> None:
    assert shell(*train_words(collection_folder, model_folder, tmp_path / "run"), *words) == 2
    assert words[0].lstrip("-") in shell.err
    assert "Traceback" not in shell.err
    assert not (tmp_path / "run").exists()


def test_flags_that_are_missing_are_named(shell: Shell) -> None:
    assert shell("train", "--batches", "4") == 2
    for flag in ("--collection", "--setting", "--model", "--output"):
        assert flag in shell.err


def test_yaml_gives_defaults_that_flags_override(
    shell: Shell, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    config = train_config(
        collection_folder, model_folder, tmp_path / "run", method="metaicl", batches=6, lr=0.5, seed=3
    )
    (tmp_path / "all.yaml").write_text(to_yaml(config))
    (tmp_path / "some.yaml").write_text("lr: 0.25\nseed: 4\n")
    words = ["train", "--config", tmp_path / "all.yaml", f"--config={tmp_path / 'some.yaml'}", "--seed", "5"]
    assert shell(*words) == 0
    assert shell.out.strip() == str(tmp_path / "run" / "model")
    saved = json.loads((tmp_path / "run" / "model" / "maml_en_llm.json").read_text())["config"]
    assert (saved["batches"], saved["lr"], saved["method"], saved["seed"]) == (6, 0.25, "metaicl", 5)
    assert len(read_metrics(tmp_path / "run")) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1", "unknown key 'learning_rate'; known keys are "),
        ("method: metaicl\ncopies: 2", "unknown key 'copies'; known keys are accumulate, adam_betas"),
        ("lr: fast", "lr is 'fast'; it must be a number"),
    ],
)
def test_a_bad_key_in_yaml_is_an_error(
    shell: Shell, collection_folder: Path, model_folder: Path, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    words = train_words(collection_folder, model_folder, tmp_path / "run")
    assert shell(*words, "--config", tmp_path / "bad.yaml") == 2
    assert message in shell.err
    assert not (tmp_path / "run").exists()


def test_train_evaluate_report(shell: Shell, collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "run" / "model"
    assert shell(*train_words(collection_folder, model_folder, tmp_path / "run"), "--copies", "2") == 0
    assert shell.out == f"{model}\n"
    words = ["evaluate", "--collection", collection_folder, "--setting", "small", "--subset", "test", "--model", model]
    words += ["--output", tmp_path / "results.json", "--max-examples", "4", "--seeds", "100", "13", "--device", "cpu"]
    assert shell(*words) == 0
    assert shell.out == f"{tmp_path / 'results.json'}\n"
    assert "MAML-2-2" in shell.err
    assert shell("report", tmp_path / "results.json", "--output", tmp_path / "report") == 0
    assert shell.out.splitlines() == [str(tmp_path / "report" / "report.html")]
    assert "| MAML-2-2 |" in (tmp_path / "report" / "report.md").read_text()

    assert shell(*train_words(collection_folder, model_folder, tmp_path / "run")) == 2
    assert "already holds a run; add --resume" in shell.err


def test_report_refuses_nothing_and_foreign_files(shell: Shell, tmp_path: Path) -> None:
    assert shell("report") == 2
    assert "no results given" in shell.err
    (tmp_path / "a.json").write_text("{}")
    assert shell("report", tmp_path / "a.json", "--output", tmp_path / "report") == 2
    assert "a.json: not a results file" in shell.err


def test_predict_prints_the_options_best_first(shell: Shell, trained: Path, tmp_path: Path) -> None:
    records = [{"input": "a red cat", "output": "red"}, {"input": "a blue dog", "output": "blue"}]
    path = write_lines(tmp_path / "shown.jsonl", records)
    words = ["predict", "--model", trained, "--demonstrations", path, "--input", "a red owl", "--device", "cpu"]
    assert shell(*words, "--options", "red, blue,neither") == 0
    rows = [line.split(maxsplit=1) for line in shell.err.splitlines()]
    assert [float(score) for score, _ in rows] == sorted(float(score) for score, _ in rows)
    assert {option for _, option in rows} == {"red", "blue", "neither"}
    assert shell.out.strip() == rows[0][1]
    assert shell(*words) == 0  # the options of the demonstrations
    assert {line.split()[1] for line in shell.err.splitlines()} == {"red", "blue"}


def test_predict_with_an_instruction_is_scored_as_evaluate_does(
    shell: Shell, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    room = {"max_tokens": 256, "max_tokens_per_example": 99}
    config = evaluate_config(
        collection_folder, model_folder, tmp_path / "r.json", instructions=True, seeds=(13,), **room
    )
    evaluate(config)
    rows = map(json.loads, (tmp_path / "r.predictions.jsonl").read_text().splitlines())
    expected = next(row["scores"] for row in rows if row["task"] == "mood")
    mood = load_collection(collection_folder)["mood"]
    shown = fixed_demonstrations(mood.train, 4, "mood", 13)
    example = mood.split("test")[0]
    path = write_lines(tmp_path / "shown.jsonl", [{"input": e.input, "output": e.output} for e in shown])
    words = ["predict", "--model", model_folder, "--demonstrations", path, "--input", example.input, "--device", "cpu"]
    words += ["--options", ",".join(example.options)]
    assert shell(*words, "--instruction", str(mood.instruction)) == 0, shell.err
    found = {option: float(score) for score, option in (line.split(maxsplit=1) for line in shell.err.splitlines())}
    assert [found[option] for option in example.options] == pytest.approx(expected, abs=1e-3)
    assert shell(*words) == 0
    without = {option: float(score) for score, option in (line.split(maxsplit=1) for line in shell.err.splitlines())}
    assert without != pytest.approx(found, abs=1e-3)


def test_demonstrations_may_hold_any_character(tmp_path: Path) -> None:
    text = "line\u2028separator, next\x85line, tab\t, é東🙂"
    path = write_lines(tmp_path / "shown.jsonl", [json.dumps({"input": text, "output": "b"}, ensure_ascii=False)])
    assert read_demonstrations(path) == [Example(text, "b")]


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ([{"input": "a", "output": "b"}, {"input": "a"}], "b,c", "shown.jsonl:2: must be JSON like"),
        (["{"], "b,c", "shown.jsonl:1: must be JSON like"),
        (["[]"], "b,c", "shown.jsonl:1: must be JSON like"),
        ([b'{"input": "\xff", "output": "b"}'], "b,c", "shown.jsonl: not UTF-8"),
        ([{"input": 1, "output": "b"}], "b,c", "shown.jsonl:1: must be JSON like"),
        ([{"input": "a", "output": "b"}], "b", "give at least two, all different"),
        ([{"input": "a", "output": "b"}], "b,b", "give at least two, all different"),
        ([{"input": "a", "output": "b"}], "c,d", "the demonstration output 'b' is not among the options c, d"),
    ],
)
def test_predict_refuses(
    shell: Shell, trained: Path, tmp_path: Path, lines: list[object], options: str, message: str
) -> None:
    path = write_lines(tmp_path / "shown.jsonl", lines)  # type: ignore[arg-type]
    words = ["predict", "--model", trained, "--demonstrations", path, "--options", options, "--input", "x"]
    assert shell(*words) == 2
    assert message in shell.err
    assert shell.err.count("\n") == 1


def test_predict_without_demonstrations_file(shell: Shell, trained: Path, tmp_path: Path) -> None:
    words = ["predict", "--model", trained, "--demonstrations", tmp_path / "nothing.jsonl", "--input", "x"]
    assert shell(*words) == 2
    assert "nothing.jsonl does not exist; give --demonstrations a file of lines like" in shell.err


def test_tasks_list(shell: Shell, collection_folder: Path) -> None:
    assert shell("tasks", "list", "--collection", collection_folder) == 0
    (mood,) = [line for line in shell.out.splitlines() if "mood" in line]
    assert mood.replace("│", " ").split() == ["mood", "classification", "20", "-", "8"]
    assert "small: 4 of 4 train, 2 of 2 test, 1 of 1 unseen-domain test tasks present" in shell.out


def test_tasks_list_of_a_collection_with_a_hollow_task(shell: Shell, tmp_path: Path) -> None:
    folder = make_collection(tmp_path)
    (folder / "data" / "hollow").mkdir()
    assert shell("tasks", "list", "--collection", folder) == 2
    assert "hollow has none of train.jsonl, dev.jsonl and test.jsonl" in shell.err


def test_show_prompt_shows_what_the_model_reads(shell: Shell, collection_folder: Path, model_folder: Path) -> None:
    words = ["tasks", "show-prompt", "--collection", collection_folder, "--task", "mood", "--model", model_folder]
    assert shell(*words, "--demonstrations", "1", "--example", "2") == 0
    example = json.loads((collection_folder / "data" / "mood" / "test.jsonl").read_text().splitlines()[2])
    prompt, _, count = shell.out.rstrip("\n").rpartition("\n")
    assert prompt.endswith(f"\n\n\n{example['input']}\n{example['output']}")
    assert "tokens" in count
    assert shell(*words, "--example", "8") == 2
    assert "example is 8 but" in shell.err
    assert shell(*words[:5], "nothing", *words[6:]) == 2
    assert "has no task 'nothing'; `tasks list` shows them" in shell.err


def test_show_prompt_with_redrawn_labels(shell: Shell, collection_folder: Path, model_folder: Path) -> None:
    words = ["tasks", "show-prompt", "--collection", collection_folder, "--task", "size", "--model", model_folder]
    words += ["--demonstrations", "3", "--example", "2"]
    assert shell(*words) == 0
    own = [piece.split("\n") for piece in shell.out.split("\n\n\n")]
    assert shell(*words, "--label-words", "redrawn", "--predicted", "answers") == 0
    ours = [piece.split("\n") for piece in shell.out.split("\n\n\n")]
    assert [piece[0] for piece in ours] == [piece[0] for piece in own]
    assert {piece[1] for piece in own} == {"big", "small"}
    pairs = {(before[1], after[1]) for before, after in zip(own, ours, strict=True)}
    assert len(pairs) == len({after for _, after in pairs}) == 2
    assert not {"big", "small"} & {after for _, after in pairs}
    assert "answers (shown reversed)" in shell.out


def test_show_prompt_with_the_tasks_instruction(shell: Shell, model_folder: Path, tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "collection")
    words = ["tasks", "show-prompt", "--collection", folder, "--task", "mood", "--model", model_folder]
    words += ["--instructions"]
    assert shell(*words) == 0
    assert shell.out.startswith(f"{load_collection(folder)['mood'].instruction}\n\n\n")
    (folder / "manifest.json").write_text('{"tasks": []}')
    assert shell(*words) == 2
    assert "has no instruction for mood; leave --instructions out" in shell.err


def test_new_model_can_be_trained(shell: Shell, collection_folder: Path, tmp_path: Path) -> None:
    words = ["new-model", "--collection", collection_folder, "--setting", "small", "--output", tmp_path / "new"]
    assert shell(*words, *"--vocabulary 280 --layers 1 --width 8 --heads 2 --context 128".split()) == 0
    assert "280 tokens" in shell.out
    assert shell(*train_words(collection_folder, tmp_path / "new", tmp_path / "run")) == 0


def test_doctor(shell: Shell) -> None:
    assert shell("doctor") == 0
    assert {"python", "torch", "transformers", "device"} <= {line.split()[0] for line in shell.out.splitlines()}


def test_the_version_is_said(shell: Shell) -> None:
    assert shell("--version") == 0
    assert shell.out.strip() == f"maml-en-llm {maml_en_llm.__version__}"


@pytest.mark.parametrize("verb", sorted(cli.VERBS.keys() - cli.SHARED))
def test_what_one_process_does_refuses_to_be_done_by_several(
    verb: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert shell(*verb.split()) == 2
    assert f"torchrun started 2 processes but {verb} is for one; start it without torchrun" in shell.err


def test_a_defect_is_one_sentence_and_a_traceback_with_debug(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        """Break."""
        raise LookupError("no such \x1b[31mthing")

    monkeypatch.setitem(cli.VERBS, "doctor", broken)
    assert shell("doctor") == 2
    assert "maml-en-llm doctor: LookupError: no such \\x1b[31mthing; this is a defect" in shell.err
    assert "Traceback" not in shell.err
    with pytest.raises(LookupError):
        shell("doctor", "--debug")


def test_a_reader_that_has_enough_is_no_error(command: Callable[..., subprocess.Popen[str]]) -> None:
    with command("tasks", "list", "--catalogue") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
