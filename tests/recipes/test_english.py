from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from builders import line, write_lines, write_setting
from interruptions import weights
from maml_en_llm.models import load_model, load_tokenizer, word_tokenizer
from maml_en_llm.prediction.scoring import Scorer
from maml_en_llm.prompts.layout import PromptFormat
from maml_en_llm.tasks.collection import Example, load_collection
from recipes.english import gpu, text
from recipes.english.base_model import DEMONSTRATIONS, Options, make_base_model
from recipes.english.circuit import INPUT, MEANING, POOLED, circuit

TOPICS = {
    "sea": "ship sail wave harbour salt deck anchor tide".split(),
    "farm": "cow field barn plough hay horse sheep tractor".split(),
    "town": "street tram square shop office bridge tower crowd".split(),
}
NAMES = "red blue very green".split()


def sentence(generator: np.random.Generator, topic: str, length: int) -> str:
    return " ".join(str(word) for word in generator.choice(TOPICS[topic], size=length))


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Two training tasks about the topics, and a target task whose words are in no other."""
    generator, folder = np.random.default_rng(0), tmp_path / "collection"
    for name, count in (("one", 120), ("two", 100)):
        topics = generator.choice(list(TOPICS), size=count)
        lines = [
            line(name, sentence(generator, topic, 8), f"label{topic}", [f"label{t}" for t in TOPICS])
            for topic in topics
        ]
        write_lines(folder / "data" / name / "train.jsonl", lines)
    for split in ("train", "test"):
        write_lines(
            folder / "data" / "target" / f"{split}.jsonl", [line("target", "secret words", "x", ["x", "y"])] * 20
        )
    write_setting(folder, "small", ["one", "two"], ["target"], [])
    (folder / "manifest.json").write_text('{"tasks": [], "missing": []}')
    return folder


def test_raw_text_is_inputs_of_training_tasks_alone(collection: Path) -> None:
    texts = text.raw_texts(load_collection(collection), "small")
    assert set(" ".join(texts).split()) == {word for words in TOPICS.values() for word in words}


def test_word_vectors_put_together_what_occurs_together(collection: Path) -> None:
    texts = text.raw_texts(load_collection(collection), "small")
    words = text.frequent_words(texts, 100)
    tokenizer = word_tokenizer(words)
    vectors = text.word_vectors(text.token_ids(tokenizer, texts), len(tokenizer), 5)
    assert np.linalg.norm(vectors, axis=1).max() == pytest.approx(1)
    assert not vectors[tokenizer.convert_tokens_to_ids("!")].any()  # it is not in the text
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)
    of = {topic: unit[tokenizer.convert_tokens_to_ids(words)] for topic, words in TOPICS.items()}
    assert (of["sea"] @ of["sea"].T).min() > 0.5 > (of["sea"] @ of["farm"].T).max()


@pytest.fixture(scope="module")
def made() -> tuple[object, torch.Tensor, object]:
    """A circuit on word vectors that say the topic and, smaller, the word."""
    tokenizer = word_tokenizer([*NAMES, *(word for words in TOPICS.values() for word in words)])
    meaning = torch.zeros(len(tokenizer), MEANING)
    for place, words in enumerate(TOPICS.values()):
        for number, word in enumerate(words):
            meaning[tokenizer.convert_tokens_to_ids(word), [place, 3 + number]] = torch.tensor([0.5, 0.2])
    return tokenizer, meaning, circuit(tokenizer, meaning)


def demonstrations(generator: np.random.Generator, labels: dict[str, str], count: int) -> list[Example]:
    topics = [*labels, *generator.choice(list(labels), size=count - len(labels))]
    lengths = generator.integers(1, 12, size=count)
    options = tuple(labels.values())
    return [Example(sentence(generator, t, int(n)), labels[t], options) for t, n in zip(topics, lengths, strict=True)]


def test_means_of_word_vectors_go_from_inputs_to_their_answers(made) -> None:  # type: ignore[no-untyped-def]
    tokenizer, meaning, model = made
    shown = demonstrations(np.random.default_rng(0), {"sea": "red", "farm": "very green"}, 6)
    form = PromptFormat()
    ids = form.encode_demonstrations(tokenizer, shown)
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    place = 0
    for example, target in zip(shown, form.encode_prompt(tokenizer, shown), strict=True):
        place += len(target.context)
        expected = normalize(meaning[tokenizer(example.input)["input_ids"]].mean(dim=0), dim=0)
        pooled = normalize((states[3][0, place] @ POOLED)[:MEANING], dim=0)
        taken = normalize((states[4][0, place + 1] @ INPUT)[:MEANING], dim=0)
        assert pooled @ expected > 0.98
        assert taken @ expected > 0.98
        place += len(target.answer)


@pytest.mark.parametrize("labels", [("red", "blue", "green"), ("red", "very green", "very red")])
def test_the_circuit_answers_as_after_similar_inputs(made, labels: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    tokenizer, _, model = made
    generator, form, right = np.random.default_rng(1), PromptFormat(), 0
    for _ in range(20):
        *shown, asked = demonstrations(generator, dict(zip(TOPICS, generator.permutation(labels), strict=True)), 13)
        prefix = form.encode_demonstrations(tokenizer, shown)
        first = [target.answer[:2] for target in form.encode_targets(tokenizer, asked, first=False)]
        (scores,) = Scorer(model).score(prefix, form.encode_all_targets(tokenizer, [asked], first=False))
        best = int(np.argmin(scores))
        right += first[best] == first[asked.options.index(asked.output)]  # its first word, where others may share it
    assert right >= 18


def test_the_recipe_is_resumed_and_repeatable(collection: Path, tmp_path: Path) -> None:
    options = Options(
        collection, "small", tmp_path / "made", words=100, groups=4, episodes=6, batches=2, prompts=2, held_out=1
    )
    model = make_base_model(options)
    stamp = (model / "model.safetensors").stat().st_mtime_ns
    assert make_base_model(options) == model
    assert (model / "model.safetensors").stat().st_mtime_ns == stamp
    assert set(json.loads((options.output / "accuracy.json").read_text())) == {"circuit", "episodes"}

    before, after = (load_model(folder).state_dict() for folder in (options.output / "circuit", model))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("wte" in name or "wpe" in name for name in changed)
    assert sum(weight.numel() for weight in after.values()) < 12e6

    shutil.copytree(options.output / "circuit", tmp_path / "again" / "circuit")
    again = load_model(make_base_model(dataclasses.replace(options, output=tmp_path / "again"))).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in after.items())
    assert "secret" not in load_tokenizer(model).get_vocab()


def test_the_recipe_for_a_gpu_makes_a_base_and_meta_trains_it(collection: Path, tmp_path: Path) -> None:
    write_setting(collection, "small", ["one", "two"], ["target"], ["target"])
    options = gpu.Options(
        collection,
        "small",
        tmp_path / "made",
        width=64,
        blocks=1,
        words=100,
        prompts=2,
        text_batches=2,
        batches=2,
        episodes=6,
        held_out=1,
        meta_batches=8,
        meta_prompts=1,
        rows=("raw-lm", "maml-2-1"),
        max_examples=2,
        device="cpu",
        precision="float32",
    )
    base = tmp_path / "made/base"
    reports = gpu.main(options)
    assert [path.parts[-3] for path in reports] == ["table2a", "table3a"]
    for report in reports:
        assert "MAML-2-1" in (report.parent / "report.md").read_text()
    first, text_model, last = (weights(base / name) for name in ("untrained", "text/model", "run/model"))
    assert sum(tensor.numel() for tensor in last.values()) < 1e6
    for before, after in ((first, text_model), (text_model, last)):
        assert all(not torch.equal(before[name], tensor) for name, tensor in after.items() if "wte" in name)
    config = (tmp_path / "made/table2a/runs/small/maml-2-1/config.yaml").read_text()
    assert f"model: {base / 'run/model'}\n" in config
    stamp = (base / "run/model/model.safetensors").stat().st_mtime_ns
    assert gpu.main(options) == reports
    assert (base / "run/model/model.safetensors").stat().st_mtime_ns == stamp


def test_episodes_show_every_class_under_a_name_of_its_own(collection: Path) -> None:
    texts = text.raw_texts(load_collection(collection), "small")
    words = [*text.frequent_words(texts, 100), *NAMES]
    labels = [f"{a}{b}" for a in "bdfgklmn" for b in "aeiou"]
    documents = [t.split() for t in texts]
    senses = [[*words[i::3]] for i in range(3)]
    made = text.Corpus(documents, [np.arange(i, len(documents), 4) for i in range(4)], senses, labels)
    generator = np.random.default_rng(0)
    for kind in text.KINDS * 5:
        found = text.episode(generator, made, kind, DEMONSTRATIONS + 1)
        assert len(found) == DEMONSTRATIONS + 1
        assert all(e.output in e.options and e.options == found[0].options and e.input for e in found)
        assert len(set(found[0].options)) == len(found[0].options)
