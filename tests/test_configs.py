"""Every file in configs/ and every table of `reproduce` is what it says: it loads and has the paper's values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from maml_en_llm.config import AdaptConfig, load_yaml
from maml_en_llm.evaluation.adaptation import adapted_label
from maml_en_llm.evaluation.protocol import style_of
from maml_en_llm.experiments.rows import TABLE_NAMES, TABLES, Overrides, RowRun, read_overrides, read_table, rows_of
from maml_en_llm.methods import method_from_keys, method_of_model
from maml_en_llm.methods.maml_en_llm import MAMLenLLM
from maml_en_llm.methods.method import Method

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
PAPER = {
    "model": "openai-community/gpt2-medium",
    "batches": 50_000,
    "batch_size": 1,
    "max_tokens": 1024,
    "max_tokens_per_example": 256,
    "optimizer": "adamw",
    "lr": 1e-5,
    "inner_optimizer": "adamw",
    "inner_lr": 1e-5,
    "inner_steps": 1,
    "shares_moments": True,
    "seed": 100,
}


def resolved(path: Path) -> Method:
    flags = {"collection": "collection", "setting": "hr_to_lr", "output": "runs/one"}
    return method_from_keys(load_yaml(path) | flags, str(path))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_has_the_papers_values(path: Path) -> None:
    config = resolved(path)
    paper = {key: value for key, value in PAPER.items() if hasattr(config, key)}
    assert {key: getattr(config, key) for key in paper} == paper
    assert config.prompts().demonstrations == (0 if config.name == "multitask-zero-shot" else 16)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_file_name_is_the_row_it_trains(path: Path) -> None:
    config = resolved(path)
    assert path.stem.replace("multitask", "multi-task") == config.label().lower().replace(" ", "-")


def test_every_row_is_there_in_both_directions() -> None:
    names = {path.stem for path in CONFIGS}
    assert {"metaicl", "metaict", "multitask-zero-shot", "maml-2-1", "maml-2-4", "fomaml-2-1"} <= names
    direct = {name for name in names if not name.startswith("channel-")}
    assert {f"channel-{name}" for name in direct} == names - direct


# ---- the tables of `reproduce`

SETTINGS = (
    "hr_to_lr",
    "class_to_class",
    "non_class_to_class",
    "qa_to_qa",
    "non_qa_to_qa",
    "non_nli_to_nli",
    "non_paraphrase_to_paraphrase",
)
MAIN = ("No ICL", "Raw LM", "MetaICL", "MAML-2-1", "MAML-2-4")
MAIN += tuple(f"Channel {label}" for label in MAIN)


def rows(name: str) -> list[RowRun]:
    """The rows of a table in its first setting, for one training seed."""
    table = read_table(name)
    places = {"collection": Path("collection"), "output": Path("out")}
    return rows_of(table, Overrides(training_seeds=(100,)), settings=table.settings[:1], model=table.model, **places)


def label_of(row: RowRun) -> str:
    """The label that the row's results will have."""
    method = row.train or method_of_model(None)
    label = method.label(style_of(row.score, method))
    label = label if row.score.learner == "in-context" else row.score.learner
    label = f"{label} + PMI" if row.score.calibrate else label
    return row.score.label or (adapted_label(label, row.score.lr) if isinstance(row.score, AdaptConfig) else label)


@pytest.mark.parametrize("name", TABLE_NAMES)
def test_rows_are_trained_with_three_seeds_unless_they_set_one(name: str) -> None:
    places = {"collection": Path("collection"), "output": Path("out")}
    table, by_row = read_table(name), dict[str, list[int]]()
    for row in rows_of(table, Overrides(), settings=table.settings[:1], model=table.model, **places):
        if row.train is not None:
            by_row.setdefault(row.row, []).append(row.train.seed)
    own = {"table5": [[10], [20]], "runtime": [[100]]}.get(name, [[100, 13, 21]])
    assert all(seeds in own for seeds in by_row.values())


def test_every_table_file_is_a_table() -> None:
    assert {path.stem for path in TABLES.glob("*.yaml")} == set(TABLE_NAMES)


@pytest.mark.parametrize("name", TABLE_NAMES)
def test_table_has_the_papers_values(name: str) -> None:
    assert read_table(name).settings == {"table5": ("non_nli_to_nli",), "runtime": ("hr_to_lr",)}.get(name, SETTINGS)
    amount = "limited" if name in ("table2b", "table3b", "table5") else "complete"
    for row in rows(name):
        assert row.score.seeds == (100, 13, 21, 42, 87) or name in ("table5", "runtime")
        assert row.score.subset == (
            "test" if name in ("table3a", "table3b", "table5", "table6") else "unseen_domain_test"
        )
        if row.train is None:
            assert row.score.model == "openai-community/gpt2-medium"
            assert row.score.layout == ("spaces" if row.score.learner == "in-context" else None)
            continue
        free = {
            "table5": ("optimizer", "inner_optimizer", "shares_moments", "seed"),
            "runtime": ("batches",),
            "ablations": ("shares_moments",),
            "beyond": ("inner_optimizer", "inner_lr", "inner_steps", "shares_moments"),
        }
        keys = {key for key in PAPER if hasattr(row.train, key)} - {*free.get(name, ())}
        assert {key: getattr(row.train, key) for key in keys} == {key: PAPER[key] for key in keys}
        assert row.train.layout == "metaicl"
        assert row.train.data_amount == amount
        assert row.train.prompts().demonstrations == (0 if row.train.name == "multitask-zero-shot" else 16)


@pytest.mark.parametrize("name", TABLE_NAMES)
def test_labels_of_a_table_tell_its_rows_apart(name: str) -> None:
    labels = [label_of(row) for row in rows(name)]
    assert len(set(labels)) == len(labels)
    expected = {
        "table2a": MAIN,
        "table2b": MAIN,
        "table3a": MAIN,
        "table3b": MAIN,
        "table6": [label for label in MAIN if "MAML" in label],
        "exploration": [
            *("MetaICL", "MetaICL, 2 batches an update", "MetaICL, 8 batches an update"),
            *(f"MAML-2-{n}" for n in (1, 2, 4, 8)),
        ],
        "ablations": ["MetaICL", "MAML-2-1", "FOMAML-2-1", "MAML-2-1, separate moments"],
        "beyond": [
            *("Raw LM", "MetaICL", "MAML-2-1", "FOMAML-2-1"),
            *("Reptile", "ANIL", "Meta-SGD", "MAML++", "BMG"),
        ],
    }
    if name in expected:
        assert labels == list(expected[name])
    if name == "table4":
        adapted = [f"{label} + adaptation" for label in MAIN if label.startswith(("M", "Channel M"))]
        assert labels == [*adapted, *(f"{label}, lr 1e-05" for label in adapted)]


def test_rows_train_as_the_files_in_configs_say() -> None:
    configs = {path.stem: resolved(path) for path in CONFIGS}
    trained = [row for name in ("table2a", "baselines") for row in rows(name) if row.train is not None]
    names = {row.name.replace("multi-task", "multitask") for row in trained}
    assert names == set(configs)
    for row in trained:
        assert row.train is not None
        config = configs[row.name.replace("multi-task", "multitask")]
        places = {key: getattr(row.train, key) for key in ("collection", "output", "device", "setting")}
        assert replace(config, **places) == row.train


def test_table_5_has_the_papers_optimizers() -> None:
    found = set()
    for row in rows("table5"):
        if row.train is None:
            continue
        assert row.score.seeds == (row.train.seed,)
        assert row.score.data_amount == "limited"
        inner = None
        if isinstance(row.train, MAMLenLLM):
            inner = (row.train.inner_optimizer, row.train.shares_moments)
        found.add((row.train.name, inner, row.train.optimizer, row.train.seed))
    pairs = [(inner, outer) for inner in ("sgd", "adamw") for outer in ("sgd", "adamw")]
    expected = {("maml-en-llm", (inner, False), outer, seed) for inner, outer in pairs for seed in (10, 20)}
    expected |= {("maml-en-llm", ("adamw", True), "adamw", seed) for seed in (10, 20)}
    expected |= {("metaicl", None, outer, seed) for outer in ("sgd", "adamw") for seed in (10, 20)}
    assert found == expected


@pytest.mark.parametrize("name", TABLE_NAMES)
@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "results").glob("*.yaml")), ids=lambda p: p.stem)
def test_files_of_what_was_run_fit_every_table(path: Path, name: str) -> None:
    table, changed = read_table(name), read_overrides(path)
    places = {"collection": Path("collection"), "output": Path("out")}
    for row in rows_of(table, changed, settings=["hr_to_lr"], model="m", **places):
        if row.train is None:
            assert row.score.layout == "newlines" or row.name not in changed.rows
        else:
            run = row.train.output.name.partition("-seed")[0]
            values = changed.sections["train"] | changed.rows.get(run, {}).get("train", {})
            assert (row.train.lr, row.train.batches) == (values["lr"], values["batches"])
        assert row.score.max_examples == changed.sections["evaluate"]["max_examples"]
