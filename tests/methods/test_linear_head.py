from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForCausalLM

from builders import make_collection, train_config
from maml_en_llm.config import load_yaml
from maml_en_llm.methods import method_from_keys
from maml_en_llm.methods.linear_head import Episode
from maml_en_llm.models import TrainableModel, load_model
from maml_en_llm.prediction.predictor import LabelledTask, LoadedModel
from maml_en_llm.prompts.demonstrations import AsGiven
from maml_en_llm.results import read_provenance
from maml_en_llm.tasks.collection import Example
from maml_en_llm.training.loop import train

CONFIG = Path(__file__).parents[2] / "configs" / "beyond" / "linear-head.yaml"
OPTIONS = ("red", "blue")


def config_of(**changes: Any) -> Any:
    return train_config(Path("c"), Path("m"), Path("o"), method="linear-head", **changes)


def examples_of(seed: int, count: int = 20) -> list[Example]:
    words = "ant bee cat dog eel fox gnu hen".split()
    generator = np.random.default_rng(seed)
    return [Example(" ".join(map(str, generator.choice(words, size=3))), OPTIONS[i % 2], OPTIONS) for i in range(count)]


def learner_of(model_folder: Path, tokenizer: Any, tasks: dict[str, list[Example]], **changes: Any) -> Any:
    config = config_of(**({"demonstrations": 8, "queries": 6} | changes))
    own = {"format": config.prompts().format, "demonstrations": config.demonstrations, "seed": 1}
    sampler = config.sampler(tasks=tasks, tokenizer=tokenizer, **own)
    return config.learner(TrainableModel(load_model(model_folder), tokenizer), sampler)


def vectors(model_folder: Path, tokenizer: Any, texts: list[str], layer: int) -> np.ndarray:
    """Mean hidden states of a layer, one text after another; layer 0: the token embeddings alone."""
    network = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    rows = []
    for text in texts:
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            words = network.get_input_embeddings()(ids)
            states = network(ids, output_hidden_states=True).hidden_states[layer] if layer else words
        rows.append(states[0].mean(0).numpy())
    return np.stack(rows)


def nll(model_folder: Path, tokenizer: Any, episode: Episode, layer: int, C: float) -> list[list[float]]:
    """-log p of each option of each query by logistic regression on vectors less their mean, at length 1."""
    x = vectors(model_folder, tokenizer, [e.input for e in episode.support], layer)
    q = vectors(model_folder, tokenizer, [e.input for e in episode.queries], layer)
    mean = x.mean(0)
    x, q = ((v - mean) / np.linalg.norm(v - mean, axis=1, keepdims=True) for v in (x, q))
    model = LogisticRegression(C=C, max_iter=1000).fit(x, [e.output for e in episode.support])
    order = [list(model.classes_).index(option) for option in OPTIONS]
    return [[float(v) for v in row[order]] for row in -model.predict_log_proba(q)]


def test_losses_are_those_of_logistic_regression_on_each_layer(model_folder: Path, tokenizer: Any) -> None:
    learner = learner_of(model_folder, tokenizer, {"a": examples_of(0), "b": examples_of(1)}, penalties=(1.0, 30.0))
    expected = np.zeros((3, 2))
    for number in range(3):
        batches = learner.batches(number)
        (episode,) = batches
        learner.update(batches, 1.0, measure=False)
        for layer in range(3):
            for column, C in enumerate((1.0, 30.0)):
                rows = nll(model_folder, tokenizer, episode, layer, C)
                losses = [row[OPTIONS.index(q.output)] for row, q in zip(rows, episode.queries, strict=True)]
                expected[layer, column] += np.mean(losses)
    np.testing.assert_allclose(learner.losses.numpy(), expected, rtol=1e-4)
    assert int(learner.episodes) == 3


def test_prediction_is_by_the_layer_and_the_penalty_with_the_lowest_loss(
    model_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    learner = learner_of(model_folder, tokenizer, {"a": examples_of(0)}, penalties=(1.0, 30.0))
    learner.losses.copy_(torch.tensor([[3.0, 4.0], [2.0, 1.0], [5.0, 6.0]]))
    learner.save(tmp_path / "model", {})
    chosen = json.loads((tmp_path / "model" / "linear_head.json").read_text())
    assert (chosen["layer"], chosen["C"]) == (1, 30.0)
    assert chosen["losses"] == learner.losses.tolist()
    episode = Episode(examples_of(2, count=8), examples_of(3, count=5))
    config, model = config_of(demonstrations=8), LoadedModel(str(tmp_path / "model"), "cpu")
    predictor = config.predictor(model, config.prompts(), select=AsGiven())
    found = predictor.scores(LabelledTask("t", episode.support), episode.queries, seed=1)
    np.testing.assert_allclose(found, nll(model_folder, tokenizer, episode, 1, 30.0), rtol=1e-4)
    with pytest.raises(ValueError, match="a linear head reads no prompts"):
        config.predictor(model, config.prompts(), calibrate=True)


def test_episodes_are_of_one_task_and_no_example_is_in_both_parts(model_folder: Path, tokenizer: Any) -> None:
    tasks = {name: [Example(f"{name} {i}", OPTIONS[i % 2], OPTIONS) for i in range(20)] for name in "abc"}
    tasks["free"] = [Example(f"free {i}", "text") for i in range(20)]
    learner = learner_of(model_folder, tokenizer, tasks)
    seen = set()
    for number in range(20):
        (episode,) = learner.batches(number)
        texts = [example.input for example in [*episode.support, *episode.queries]]
        assert (len(episode.support), len(episode.queries), len(set(texts))) == (8, 6, 14)
        (name,) = {text.split()[0] for text in texts}
        seen.add(name)
    assert seen == {"a", "b", "c"}


def test_the_model_stays_as_it_was_and_the_record_says_so(model_folder: Path, tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "collection")
    model = train(train_config(folder, model_folder, tmp_path / "run", method="linear-head", batches=3))
    found, expected = load_file(model / "model.safetensors"), load_file(model_folder / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    provenance = read_provenance(str(model))
    assert provenance is not None
    assert (provenance.trained, provenance.trained_parameters) == ("nothing", 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainable": "bias"}, "trainable is set but method=linear-head does not read it; leave it out"),
        ({"direction": "channel"}, "direction is set but method=linear-head does not read it; leave it out"),
        ({"penalties": (1.0, 0.0)}, "penalties is (1.0, 0.0); give one or more numbers above 0"),
    ],
)
def test_keys_that_cannot_be_meant(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        config_of(**changes)


def test_the_configuration_on_its_page_loads() -> None:
    config = method_from_keys(load_yaml(CONFIG) | {"collection": "c", "setting": "s", "output": "o"})
    assert (config.name, config.label()) == ("linear-head", "Linear head")
