from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from maml_en_llm.models import load_model, load_tokenizer
from maml_en_llm.prompts.layout import PromptFormat
from maml_en_llm.starter import starter_model
from maml_en_llm.starter.drawing import domains
from maml_en_llm.starter.tasks import HELD_OUT_DOMAINS
from recipes.starter import text
from recipes.starter.language_model import STAGES, Stage, make_language_model, package, untrained_model
from recipes.starter.text import Difficulty

# Of the weights that `make starter-model` made last; docs/starter-model.md has its figures.
SHA256 = "e45e1f28ccd4995b6ff8e9374c7d16950fc83e5b376eeb6299c0d0744314ebed"


def test_the_built_in_model_is_the_one_that_was_measured() -> None:
    files = list(starter_model().iterdir())
    assert sum(path.stat().st_size for path in files) < 12e6
    assert hashlib.sha256((starter_model() / "model.safetensors").read_bytes()).hexdigest() == SHA256


def test_the_built_in_model_loads_and_learns_from_its_prompt() -> None:
    model, tokenizer = load_model(starter_model()), load_tokenizer(starter_model())
    assert next(model.parameters()).dtype == torch.float32
    assert text.every_word() <= set(tokenizer.get_vocab())
    generator, form = np.random.default_rng(0), PromptFormat()
    right = {0: 0, 12: 0}
    for _ in range(20):
        *shown, asked = text.episode(generator, Difficulty((2, 2), 1), 13)
        for count in right:
            losses = []
            for prompt in form.encode_options(tokenizer, shown[12 - count :], asked):
                ids, predicted = torch.tensor([prompt.token_ids]), torch.tensor(prompt.answer_mask).nonzero()[:, 0]
                with torch.no_grad():
                    scores = model(input_ids=ids).logits[0].log_softmax(-1)
                losses.append(-float(scores[predicted - 1, ids[0, predicted]].mean()))
            right[count] += asked.options[int(np.argmin(losses))] == asked.output
    assert right[12] >= 18 > right[0]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_no_episode_has_a_held_out_word(stage: Stage) -> None:
    held, others = set[str](), set[str]()
    for domain, categories in domains().items():
        side = held if set(domain.split()) & set(HELD_OUT_DOMAINS) else others
        side.update(word for words in categories.values() for word in words)
    generator = np.random.default_rng(1)
    read: set[str] = set()
    for _ in range(300):
        episode = text.episode(generator, stage.difficulty, 8)
        assert all(example.output in example.options for example in episode)
        assert len(set(episode[0].options)) == len(episode[0].options)
        read |= {word for example in episode for part in (example.input, *example.options) for word in part.split()}
    assert read & others
    assert not read & (held - others)


def test_attention_begins_by_looking_back_and_for_the_same_word() -> None:
    model, tokenizer = untrained_model(layers=2)
    model.set_attn_implementation("eager")
    ids = tokenizer("robin\nfoo\n\n\ntable\nbar\n\n\nsnow\nbaz\n\n\ntable\n")["input_ids"]
    first, second = model(input_ids=torch.tensor([ids]), output_attentions=True).attentions
    assert [len(ids) - 1 - int(head[-1].argmax()) for head in first[0]] == [1, 2, 3, 4]
    assert ids[int(second[0, 0, -1].argmax())] == tokenizer.convert_tokens_to_ids("bar")
    vectors = torch.nn.functional.normalize(model.get_input_embeddings().weight[:, :64], dim=1)
    robin, eagle, table = (vectors[tokenizer.convert_tokens_to_ids(word)] for word in ("robin", "eagle", "table"))
    assert robin @ eagle > 0.8 > 0.3 > robin @ table


@pytest.mark.slow
def test_the_recipe_runs_stage_by_stage_and_is_packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.starter.language_model.PASSAGES_FOR_VECTORS", 2000)
    stages = [
        Stage("one", Difficulty((2, 2), 1), 4, batches=3, prompts=2, tasks=6),
        Stage("two", Difficulty((2, 3)), 4, batches=3, prompts=2, tasks=8),
    ]
    model = make_language_model(tmp_path / "made", stages)
    assert model == tmp_path / "made" / "two" / "run" / "model"
    stamp = (model / "model.safetensors").stat().st_mtime_ns
    assert make_language_model(tmp_path / "made", stages) == model
    assert (model / "model.safetensors").stat().st_mtime_ns == stamp
    before, after = (load_model(tmp_path / "made" / part).state_dict() for part in ("untrained", "two/run/model"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("embed" in name for name in changed)

    package(model, tmp_path / "packaged")
    packaged = load_model(tmp_path / "packaged").state_dict()
    assert all(torch.equal(packaged[name], weight.half().float()) for name, weight in after.items())
    assert str(tmp_path) not in "".join(p.read_text() for p in (tmp_path / "packaged").glob("*.json"))
