from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from builders import random_batch, train_config
from maml_en_llm import SGD, AdamW, methods
from maml_en_llm.bilevel.steps import Tensors
from maml_en_llm.config import to_yaml
from maml_en_llm.methods import method_from_keys, method_names, method_type
from maml_en_llm.methods.method import GradientMethod
from maml_en_llm.models import TrainableModel, new_gpt2, trainable_parameters
from maml_en_llm.prediction.predictor import LabelledTask, LoadedModel
from maml_en_llm.prompts.batches import Batch
from maml_en_llm.tasks.collection import Example
from on_tensors import NoBatches, OnTensors
from unrolled import State, after_step, detached, maml_update, relative_error, zero_state
from unrolled import meta_gradient as unrolled

DOCS = Path(__file__).parents[2] / "docs" / "methods"
REQUIRED = {"collection": "c", "setting": "s", "model": "m", "output": "o"}
NOWHERE = Path("nowhere")
GRADIENT_METHODS = [name for name in method_names() if issubclass(method_type(name), GradientMethod)]


def config_of(method: str, **changes: Any) -> Any:
    return train_config(NOWHERE, NOWHERE, NOWHERE, method=method, **({"batches": 1000} | changes))


def learner_of(config: Any, loss: Any, parameters: Tensors) -> Any:
    return config.learner(OnTensors(loss, parameters), NoBatches())


# ---- the contract: a new method joins by its file


class Bench:
    """A method on a tiny model, with its own copy of everything."""

    def __init__(self, method: str, tokenizer: Any) -> None:
        self.config = config_of(method)
        network = new_gpt2(tokenizer, layers=2, width=16, heads=2, context=256)
        self.model = TrainableModel(network, tokenizer)
        examples = {
            f"task-{t}": [Example(f"cat {i} {t}", ("red", "blue")[i % 2], ("red", "blue")) for i in range(12)]
            for t in range(3)
        }
        style = self.config.prompts()
        sampler = self.config.sampler(
            tasks=examples,
            instructions=dict.fromkeys(examples, "Name it.") if style.instructed else {},
            format=style.format,
            tokenizer=tokenizer,
            demonstrations=style.demonstrations,
            predicted=self.config.predicted,
            prompts_per_batch=2,
            seed=1,
        )
        self.learner = self.config.learner(self.model, sampler)

    def update(self, number: int, lr_scale: float = 1.0) -> dict[str, float]:
        found: dict[str, float] = self.learner.update(self.learner.batches(number), lr_scale, measure=True)
        return found

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.learner.state_dict().items()}


@pytest.mark.parametrize("name", method_names())
class TestContract:
    def test_it_is_one_frozen_dataclass_named_as_its_file(self, name: str) -> None:
        kind = method_type(name)
        assert dataclasses.is_dataclass(kind)
        config = config_of(name)
        assert config.name == name
        assert method_from_keys(yaml.safe_load(to_yaml(config))) == config
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.batches = 1
        assert (kind.__doc__ or "").strip()
        assert config.baseline is None or config.baseline in method_names()

    def test_it_has_a_page_and_a_label(self, name: str) -> None:
        assert (DOCS / f"{name}.md").is_file()
        assert config_of(name).label()

    def test_an_update_reports_finite_figures_with_the_loss(self, name: str, tokenizer: Any) -> None:
        figures = Bench(name, tokenizer).update(0)
        assert "loss" in figures
        assert all(isinstance(value, float) and math.isfinite(value) for value in figures.values())

    def test_what_learns_is_in_its_state(self, name: str, tokenizer: Any) -> None:
        bench = Bench(name, tokenizer)
        before = bench.state()
        bench.update(0)
        after = bench.state()
        assert before.keys() == after.keys()
        assert any(not torch.equal(after[n], before[n]) for n in before)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in after.values())

    def test_it_is_deterministic_and_its_state_is_all_that_counts(self, name: str, tokenizer: Any) -> None:
        ours, theirs = Bench(name, tokenizer), Bench(name, tokenizer)
        ours.update(0)
        theirs.learner.load_state_dict(ours.state())
        assert ours.update(1) == theirs.update(1)
        mine, other = ours.state(), theirs.state()
        assert all(torch.equal(mine[n], other[n]) for n in mine)

    def test_batches_depend_on_the_number_alone(self, name: str, tokenizer: Any) -> None:
        ours, theirs = Bench(name, tokenizer), Bench(name, tokenizer)
        ours.learner.batches(5)
        assert repr(ours.learner.batches(2)) == repr(theirs.learner.batches(2))
        assert repr(ours.learner.batches(2)) != repr(ours.learner.batches(3))

    def test_it_saves_a_model_that_predicts(self, name: str, tokenizer: Any, tmp_path: Path) -> None:
        bench = Bench(name, tokenizer)
        bench.update(0)
        bench.learner.save(tmp_path / "model", {"extra.txt": "text"})
        assert (tmp_path / "model" / "extra.txt").read_text() == "text"
        model = LoadedModel(str(tmp_path / "model"), torch.device("cpu"))
        style = dataclasses.replace(bench.config.prompts_at_test(), demonstrations=4)
        predictor = bench.config.predictor(model, style)
        bank = [Example(f"dog {i}", ("red", "blue")[i % 2], ("red", "blue")) for i in range(8)]
        task = LabelledTask("t", bank, "Name it.")
        examples = [Example("cat", "red", ("red", "blue")), Example("pig", "blue", ("red", "blue"))]
        scores = predictor.scores(task, examples, seed=1)
        assert [len(row) for row in scores] == [2, 2]
        assert all(math.isfinite(value) for row in scores for value in row)
        assert scores == predictor.scores(task, examples, seed=1)
        assert 0 <= predictor.labels_used(task) <= len(bank)


@pytest.mark.parametrize("name", GRADIENT_METHODS)
class TestGradientMethods:
    def test_an_update_changes_the_parameters_of_the_model_in_place(self, name: str, tokenizer: Any) -> None:
        bench = Bench(name, tokenizer)
        before = detached(bench.model.parameters)
        places = {n: p.data_ptr() for n, p in bench.model.parameters.items()}
        bench.update(0)
        own = trainable_parameters(bench.model.network)
        assert {n: p.data_ptr() for n, p in own.items()} == places
        assert any(not torch.equal(p, before[n]) for n, p in own.items())

    def test_it_lowers_the_loss_of_a_batch_that_it_sees_again(self, name: str, tokenizer: Any) -> None:
        bench = Bench(name, tokenizer)
        losses = [bench.update(0)["loss"] for _ in range(15)]
        assert losses[-1] < losses[0]

    def test_a_learning_rate_scaled_to_zero_moves_nothing(self, name: str, tokenizer: Any) -> None:
        bench = Bench(name, tokenizer)
        before = detached(bench.model.parameters)
        bench.update(0, lr_scale=0.0)
        assert all(torch.equal(p, before[n]) for n, p in bench.model.parameters.items())


def test_a_method_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"method is 'mamal'; it must be one of .*language-model, .*maml-en-llm"):
        method_type("mamal")


def test_a_new_method_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beside the others is a method: no list names it."""
    source = '''
from dataclasses import dataclass

from maml_en_llm.methods.metaicl import MetaICL


@dataclass(frozen=True, kw_only=True)
class Mine(MetaICL):
    """Mine."""

    strength: float = 2.0
'''
    (tmp_path / "my_method.py").write_text(source)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    assert "my-method" in method_names()
    made = method_from_keys({"method": "my-method", "strength": "3", **REQUIRED})
    assert (made.name, vars(made)["strength"]) == ("my-method", 3.0)
    with pytest.raises(ValueError, match="unknown key 'copies'"):
        method_from_keys({"method": "my-method", "copies": 2, **REQUIRED})


# ---- whole updates against an independent statement of them, in float64


def network_loss(p: Tensors, batch: Batch) -> Tensor:
    """A small network on one-hot tokens; float64 throughout."""
    hidden = torch.tanh(p["w1"][batch.token_ids].sum(dim=1) + p["b1"])
    return torch.nn.functional.cross_entropy(hidden @ p["w2"], batch.token_ids[:, 0] % 3)


def network(generator: torch.Generator) -> dict[str, Tensor]:
    shapes = {"w1": (40, 6), "b1": (6,), "w2": (6, 3)}
    return {n: torch.randn(s, generator=generator, dtype=torch.float64) * 0.3 for n, s in shapes.items()}


def step_of(config: Any, optimizer: str, lr: float) -> SGD | AdamW:
    if optimizer == "sgd":
        return SGD(lr, config.momentum, config.weight_decay)
    return AdamW(lr, config.adam_betas, config.adam_eps, config.weight_decay)


PAIRS = [
    (inner, outer, shared)
    for inner, outer, shared in itertools.product(["sgd", "adamw"], ["sgd", "adamw"], [None, True, False])
    if not (shared and inner != outer)
]


@pytest.mark.parametrize(("inner", "outer", "shared"), PAIRS)
@pytest.mark.parametrize("details", ["plain", "decay-momentum-clip-schedule"])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (2, 3)])
def test_maml_en_llm_updates_equal_the_formulas(
    inner: str, outer: str, shared: bool | None, details: str, k: int, n: int
) -> None:
    changes: dict[str, Any] = {"gradient_clip": None}
    if details != "plain":
        changes = {"weight_decay": 0.1, "gradient_clip": 0.05}
        if "sgd" in (inner, outer):
            changes["momentum"] = 0.9
    lrs = {"sgd": 0.1, "adamw": 0.01}
    config = config_of(
        "maml-en-llm",
        inner_optimizer=inner,
        optimizer=outer,
        shared_moments=shared,
        inner_steps=k,
        copies=n,
        lr=lrs[outer],
        inner_lr=lrs[inner],
        curvature="exact",
        **changes,
    )
    generator = torch.Generator().manual_seed(0)
    parameters = network(generator)
    expected, state = detached(parameters), zero_state(parameters)
    method = learner_of(config, network_loss, parameters)
    for lr_scale in (1.0, 0.7, 0.3):
        batches = [random_batch(generator, prompts=4) for _ in range(2 * k * n)]
        copies = [batches[i * 2 * k : (i + 1) * 2 * k] for i in range(n)]
        expected, state, loss = maml_update(
            network_loss,
            expected,
            [copy[:k] for copy in copies],
            [copy[k:] for copy in copies],
            step_of(config, inner, config.inner_lr),
            step_of(config, outer, config.lr),
            state,
            shared if shared is not None else inner == outer,
            config.gradient_clip,
            lr_scale,
        )
        figures = method.update(batches, lr_scale, measure=False)
        assert relative_error(parameters, expected) < 1e-9
        assert figures["loss"] == pytest.approx(float(loss), rel=1e-9)
    assert method.moments.step == state.step == (3 * (n * k + 1) if config.shares_moments else 3)


@pytest.mark.parametrize("shared", [True, False])
def test_copies_at_once_start_from_the_same_moments_and_leave_their_mean(shared: bool) -> None:
    n, k, clip = 3, 2, 0.05
    config = config_of(
        "maml-en-llm",
        copies=n,
        inner_steps=k,
        parallel="copies",
        shared_moments=shared,
        curvature="exact",
        gradient_clip=clip,
        lr=0.01,
        inner_lr=0.02,
    )
    generator = torch.Generator().manual_seed(0)
    parameters = network(generator)
    expected, state = detached(parameters), zero_state(parameters)
    method = learner_of(config, network_loss, parameters)
    inner, outer = step_of(config, "adamw", 0.02), step_of(config, "adamw", 0.01)
    for _ in range(3):
        batches = [random_batch(generator, prompts=4) for _ in range(2 * k * n)]
        found = []
        for i in range(0, 2 * k * n, 2 * k):
            support, query = batches[i : i + k], batches[i + k : i + 2 * k]
            found.append(unrolled(network_loss, expected, [support], [query], inner, state if shared else None))
        gradients = {name: torch.stack([copy[0][name] for copy in found]).mean(dim=0) for name in expected}
        norm = torch.cat([g.flatten() for g in gradients.values()]).norm()
        assert norm > clip
        gradients = {name: g * clip / norm for name, g in gradients.items()}
        if shared:
            first, second = (
                {name: torch.stack([getattr(copy[2], moment)[name] for copy in found]).mean(dim=0) for name in expected}
                for moment in ("first", "second")
            )
            state = State(first, second, state.step + k)
        expected, state = after_step(outer, expected, gradients, state)
        figures = method.update(batches, 1.0, measure=True)
        assert relative_error(parameters, expected) < 1e-9
        assert figures["loss"] == pytest.approx(float(torch.stack([copy[1] for copy in found]).mean()), rel=1e-9)
    assert method.moments.step == state.step


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_metaicl_updates_equal_the_formulas(accumulate: int, optimizer: str, clip: float | None) -> None:
    changes = {"optimizer": optimizer, "gradient_clip": clip, "weight_decay": 0.1, "lr": 0.05}
    config = config_of("metaicl", accumulate=accumulate, **changes)
    assert config.batches_per_update == accumulate
    generator = torch.Generator().manual_seed(0)
    parameters = network(generator)
    expected, state = detached(parameters), zero_state(parameters)
    method = learner_of(config, network_loss, parameters)
    for _ in range(3):
        batches = [random_batch(generator, prompts=4) for _ in range(accumulate)]
        leaves = {n: p.clone().requires_grad_() for n, p in expected.items()}
        loss = torch.stack([network_loss(leaves, batch) for batch in batches]).mean()
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        norm = float(torch.cat([g.flatten() for g in gradients.values()]).norm())
        if clip is not None:
            assert norm > clip
            gradients = {n: g * clip / norm for n, g in gradients.items()}
        expected, state = after_step(step_of(config, optimizer, 0.05), expected, gradients, state)
        figures = method.update(batches, 1.0, measure=False)
        assert figures["loss"] == pytest.approx(float(loss.detach()))
        assert figures["gradient_norm"] == pytest.approx(norm)
        assert relative_error(parameters, expected) < 1e-12


def test_support_and_query_come_in_this_order() -> None:
    """Of the 2k batches of a copy the first k adapt it and the others measure it."""
    seen: list[int] = []

    def loss(p: Tensors, batch: Batch) -> Tensor:
        seen.append(int(batch.token_ids))
        return (p["x"] ** 2).sum()

    config = config_of("maml-en-llm", inner_steps=2, copies=2, order="first")
    parameters = {"x": torch.ones(2)}
    batches = [Batch(torch.tensor([[number]]), torch.tensor([[True]])) for number in range(1, 9)]
    learner_of(config, loss, parameters).update(batches, 1.0, measure=False)
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]


def test_state_that_is_not_shared_starts_anew_in_every_copy() -> None:
    config = config_of("maml-en-llm", shared_moments=False, copies=2)
    generator = torch.Generator().manual_seed(1)
    parameters = network(generator)
    method = learner_of(config, network_loss, parameters)
    method.update([random_batch(generator) for _ in range(4)], 1.0, measure=False)
    assert method.moments.step == 1
