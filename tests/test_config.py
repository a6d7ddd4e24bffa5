from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import evaluate_config, train_config
from maml_en_llm.config import EvaluateConfig, check_literals, load_yaml, read_yaml, to_yaml
from maml_en_llm.methods import method_from_keys
from maml_en_llm.methods.maml_en_llm import MAMLenLLM
from maml_en_llm.methods.metaicl import MetaICL
from maml_en_llm.methods.method import Method
from maml_en_llm.methods.multitask_zero_shot import MultitaskZeroShot

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
REQUIRED = {"collection": Path("c"), "setting": "s", "model": "m", "output": Path("o")}
TEXT = {key: str(value) for key, value in REQUIRED.items()}


def plain(changes: dict[str, Any]) -> dict[str, Any]:
    """As YAML has them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in changes.items()}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "config",
    [
        MAMLenLLM(**REQUIRED),
        train_config(Path("a b"), Path("m"), Path("o"), gradient_clip=None, adam_betas=(0.5, 0.25), lr=1e-7),
        train_config(Path("c"), Path("m"), Path("o"), method="metaicl", direction="channel"),
        EvaluateConfig(**REQUIRED),
        evaluate_config(Path("c"), Path("m"), Path("o.json"), label="100", seeds=(1,), direction="channel"),
    ],
    ids=["defaults", "paths-none-tuple", "metaicl", "evaluate-defaults", "evaluate"],
)
def test_a_configuration_survives_a_round_trip_through_yaml(tmp_path: Path, config: Any) -> None:
    path = written(tmp_path, to_yaml(config))
    if isinstance(config, Method):
        assert method_from_keys(load_yaml(path)) == config
    else:
        assert type(config)(**read_yaml(path, type(config))) == config


@given(
    st.builds(
        MAMLenLLM,
        **{key: st.just(value) for key, value in REQUIRED.items()},
        batches=st.integers(100, 10**6),
        lr=st.floats(0, 1),
        seed=st.integers(0, 2**40),
        gradient_clip=st.none() | st.floats(1e-3, 10),
        shared_moments=st.none() | st.booleans(),
        warmup=st.floats(0, 1),
        direction=st.sampled_from(["direct", "channel"]),
        copies=st.integers(1, 4),
    )
)
def test_any_configuration_survives_a_round_trip(tmp_path_factory: pytest.TempPathFactory, config: MAMLenLLM) -> None:
    path = written(tmp_path_factory.mktemp("config"), to_yaml(config))
    assert method_from_keys(load_yaml(path)) == config


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in CONFIGS])
def test_every_published_configuration_loads(path: Path) -> None:
    method_from_keys(TEXT | load_yaml(path), str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "learning_rate: 1",
            r"config\.yaml: unknown key 'learning_rate'; known keys are adam_betas, .*, lr,",
        ),
        ("- lr", "must hold keys and values"),
        ("lr: [", "not valid YAML"),
        ("lr: fast", r"config\.yaml: lr is 'fast'; it must be a number"),
        ("batches: 1.5", r"batches is 1\.5; it must be a whole number"),
        ("batches: true", "batches is True; it must be a whole number"),
        ("shared_moments: 1", "shared_moments is 1; it must be true or false"),
        ("batches:", "batches is None; it must be a whole number"),
        ("method: mamal", "method is 'mamal'; it must be one of .*metaicl, "),
        ("adam_betas: 0.9", r"adam_betas is 0\.9; it must be a list"),
        ("adam_betas: [0.9]", r"adam_betas is \[0\.9\]; it must be a list of 2"),
        ("adam_betas: [0.9, x]", "adam_betas is 'x'; it must be a number"),
        ("setting: true", "setting is True; it must be text"),
    ],
)
def test_a_bad_yaml_file_names_file_key_and_what_it_must_be(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        method_from_keys(load_yaml(path), str(path))


def test_yaml_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.yaml does not exist; give a YAML file"):
        load_yaml(tmp_path / "nothing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"setting: caf\xe9")
    with pytest.raises(ValueError, match=r"latin\.yaml:1: not UTF-8 text; save the file as UTF-8"):
        load_yaml(tmp_path / "latin.yaml")


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    path = written(tmp_path, "lr: 1e-5\ninner_lr: 0\nbatches: 400.0\nsetting: 7\ngradient_clip: null\n")
    assert read_yaml(path, MAMLenLLM) == {
        "lr": 1e-5,
        "inner_lr": 0.0,
        "batches": 400,
        "setting": "7",
        "gradient_clip": None,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "metaicl", "copies": 2}, "unknown key 'copies'; known keys are"),
        ({"method": "metaicl", "inner_lr": 0.1}, "unknown key 'inner_lr'"),
        ({"method": "language-model", "order": "first"}, "unknown key 'order'"),
        ({"method": "multitask-zero-shot", "demonstrations": 4}, "unknown key 'demonstrations'"),
        ({"demonstrations": 0, "label_words": "redrawn"}, "label_words is set but demonstrations=0 does not read it"),
        ({"predicted": "text"}, "predicted is 'text'; it must be one of last_answer, answers"),
        ({"method": "language-model", "predicted": "last_answer"}, "it must be one of text, answers"),
        ({"momentum": 0.9}, "momentum is set but optimizer=adamw does not read it"),
        ({"method": "metaicl", "optimizer": "sgd", "adam_eps": 1e-6}, "adam_eps is set but optimizer=sgd"),
        ({"order": "first", "curvature": "difference"}, "curvature is set but order=first"),
        ({"lora_rank": 4}, "lora_rank is set but trainable=full does not read it"),
        ({"trainable": "lora", "last_blocks": 1}, "last_blocks is set but trainable=lora"),
        ({"trainable": "lora", "lora_rank": 0}, "lora_rank is 0; it must be at least 1"),
        ({"parallel": "copies"}, "parallel is set but copies=1 does not read it"),
        (
            {"shard": True, "method": "meta-sgd"},
            "shard is set but method=meta-sgd needs whole parameters; leave it out",
        ),
        ({"shard": True, "trainable": "lora"}, "shard is set but trainable=lora needs whole parameters"),
        ({"shard": True, "curvature": "exact"}, "shard is set but curvature=exact needs whole parameters"),
        ({"shard": True, "verify_curvature": 5}, "shard is set but verify_curvature=5 needs whole parameters"),
        ({"shard": True, "validate_every": 4}, "shard is set but validate_every=4 needs whole parameters"),
        ({"shard": True, "copies": 2, "parallel": "copies"}, "shard is set but parallel=copies needs whole parameters"),
        ({"shared_moments": True, "optimizer": "sgd"}, "shared_moments needs one optimizer for both steps"),
        ({"copies": 4, "batches": 7}, r"batches is 7, less than the 8 of one update"),
        ({"max_tokens": 10}, "max_tokens_per_example"),
        ({"batches": 0}, "batches is 0; it must be at least 1"),
        ({"copies": 0}, "copies is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"lr": -1.0}, "lr is -1.0; it must not be negative"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"demonstrations": -1}, "demonstrations is -1"),
        ({"gradient_clip": 0.0}, r"gradient_clip is 0\.0; it must be above 0"),
        ({"warmup": 1.5}, r"warmup is 1\.5; it must be at most 1"),
        ({"adam_betas": (0.9, 1.0)}, r"adam_betas is \(0\.9, 1\.0\); each must be at least 0 and below 1"),
        ({"optimizer": "sgd", "momentum": 1.0}, r"momentum is 1\.0; it must be at least 0 and below 1"),
        ({"adam_eps": 0.0}, r"adam_eps is 0\.0; it must be above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method_from_keys(TEXT | plain(changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, "seeds is empty; give at least one"),
        ({"max_examples": 0}, "max_examples is 0; it must be at least 1"),
        ({"tokens_per_forward": 0}, "tokens_per_forward is 0"),
        ({"demonstrations": -1}, "demonstrations is -1; it must not be negative"),
    ],
)
def test_what_cannot_be_meant_of_an_evaluation_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**(REQUIRED | changes))


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (MAMLenLLM(**REQUIRED), {"order": None}, "order is None; it must be one of second, first"),
        (EvaluateConfig(**REQUIRED), {"subset": "train"}, "subset is 'train'; it must be one of test, unseen_domain"),
        (EvaluateConfig(**REQUIRED), {"direction": "up"}, "direction is 'up'; it must be one of direct, channel"),
    ],
)
def test_a_word_that_is_not_known_is_refused(config: Any, change: dict[str, Any], message: str) -> None:
    unchecked = object.__new__(type(config))  # past the tests' own check of types
    vars(unchecked).update(vars(config) | change)
    with pytest.raises(ValueError, match=message):
        check_literals(unchecked)


def test_what_follows_from_a_configuration() -> None:
    assert MAMLenLLM(**REQUIRED).batches_per_update == 2
    assert MAMLenLLM(**REQUIRED, copies=4, inner_steps=3).batches_per_update == 24
    assert MetaICL(**REQUIRED).batches_per_update == 1
    assert MAMLenLLM(**REQUIRED).shares_moments
    assert not MAMLenLLM(**REQUIRED, shared_moments=False).shares_moments
    assert not MAMLenLLM(**REQUIRED, inner_optimizer="sgd").shares_moments
    assert MultitaskZeroShot(**REQUIRED).prompts().demonstrations == 0
    assert MetaICL(**REQUIRED, demonstrations=5).prompts().demonstrations == 5


def test_the_defaults_are_those_of_the_paper() -> None:
    config = MAMLenLLM(**REQUIRED)
    assert (config.lr, config.inner_lr, config.batches, config.batch_size) == (1e-5, 1e-5, 50_000, 1)
    assert (config.demonstrations, config.max_tokens, config.max_tokens_per_example) == (16, 1024, 256)
    assert (config.optimizer, config.inner_optimizer, config.order, config.seed) == ("adamw", "adamw", "second", 100)
    assert EvaluateConfig(**REQUIRED).seeds == (100, 13, 21, 42, 87)
