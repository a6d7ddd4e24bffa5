"""Cached token ids are those of tokenizing anew, whatever happens to the files."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from maml_en_llm import PromptFormat
from maml_en_llm.models import train_tokenizer
from maml_en_llm.prompts.batches import MixtureSampler, SameTaskSampler
from maml_en_llm.prompts.token_cache import TokenCache, TokenizedExamples, cache_folder
from maml_en_llm.tasks.collection import Examples

TEXTS = ["good film", "the plot\n\nwas thin", "", "\n\n\nthree lines ahead", "naïve café", "very " * 60]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 5 + ["\n\n\n the very good"] * 5, vocabulary=320)


@pytest.fixture
def tasks(tmp_path):
    found = {}
    for name, options in (("labelled", ["yes", "no, not"]), ("free", []), ("blank", [""])):
        path = tmp_path / name / "train.jsonl"
        path.parent.mkdir()
        outputs = options or ["free text", "more of it"]
        records = [
            {"task": name, "input": f"{text}{i or ''}", "output": outputs[i % len(outputs)], "options": options}
            for i in range(3)
            for text in TEXTS
        ]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        found[name] = Examples(path, name)
    return found


@pytest.mark.parametrize("direction", ["direct", "channel"])
@pytest.mark.parametrize("layout", ["newlines", "metaicl", "spaces"])
def test_batches_are_the_same_with_a_cache(tasks, tokenizer, tmp_path, direction, layout, monkeypatch):
    monkeypatch.setattr("maml_en_llm.prompts.token_cache.EXAMPLES_PER_CHUNK", 4)
    form = PromptFormat(direction, layout, max_tokens=100, max_tokens_per_example=24)
    data = {"tasks": tasks, "format": form, "tokenizer": tokenizer, "demonstrations": 5, "prompts_per_batch": 2}
    for sampler in (MixtureSampler, SameTaskSampler):
        anew, cached = sampler(**data), sampler(**data, token_cache=TokenCache(tokenizer, form, tmp_path / "cache"))
        for number in range(12):
            a, b = anew.batch(number), cached.batch(number)
            assert torch.equal(a.token_ids, b.token_ids)
            assert torch.equal(a.answer_mask, b.answer_mask)
            assert number > 0 or not (tmp_path / "cache").exists() or sampler is SameTaskSampler
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 3


def test_what_decides_token_ids_decides_the_file(tasks, tokenizer, tmp_path):
    path = tasks["labelled"].path

    def files(form: PromptFormat, tokenizer=tokenizer) -> set[Path]:
        assert TokenCache(tokenizer, form, tmp_path).open(Examples(path, "labelled")) is not None
        return set((tmp_path / "tokens").iterdir())

    first = files(PromptFormat())
    assert files(PromptFormat(max_tokens=512)) == first  # the limit of a whole prompt is not in it
    assert len(files(PromptFormat(direction="channel"))) == 2
    assert len(files(PromptFormat(layout="spaces"))) == 3
    assert len(files(PromptFormat(max_tokens_per_example=64))) == 4
    assert len(files(PromptFormat(), train_tokenizer(TEXTS, vocabulary=260))) == 5
    record = {"task": "labelled", "input": "new", "output": "yes", "options": ["yes", "no, not"]}
    path.write_text(json.dumps(record) + "\n")
    assert len(files(PromptFormat())) == 6


def test_a_finished_file_is_used_and_a_broken_one_made_anew(tasks, tokenizer, tmp_path, monkeypatch):
    form, examples = PromptFormat(), tasks["labelled"]
    expected = form.encode_examples(tokenizer, examples[:], first=False)
    TokenCache(tokenizer, form, tmp_path).open(examples)
    (path,) = (tmp_path / "tokens").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(PromptFormat, "encode_examples", lambda *_: pytest.fail("tokenized again"))
        kept = TokenCache(tokenizer, form, tmp_path).open(examples)
    assert [kept.encoded(i, first=False) for i in range(len(kept))] == expected
    path.write_bytes(path.read_bytes()[:100])
    made = TokenCache(tokenizer, form, tmp_path).open(examples)
    assert [made.encoded(i, first=False) for i in range(len(made))] == expected


def test_an_interruption_leaves_no_half_file(tasks, tokenizer, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    cache = TokenCache(tokenizer, PromptFormat(), tmp_path)
    monkeypatch.setattr(PromptFormat, "encode_examples", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.open(tasks["labelled"])
    assert list((tmp_path / "tokens").iterdir()) == []


def test_several_at_once_make_one_file(tasks, tokenizer, tmp_path):
    caches = [TokenCache(train_tokenizer(TEXTS, 300), PromptFormat(), tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda cache: cache.open(tasks["labelled"]), caches))
    assert [len(tokenized) for tokenized in opened] == [18] * 4
    (path,) = (tmp_path / "tokens").iterdir()
    assert len(TokenizedExamples(path)) == 18


def test_without_a_usable_folder_nothing_is_kept(tasks, tokenizer, tmp_path):
    (tmp_path / "tokens").write_text("a file where the folder should be")
    assert TokenCache(tokenizer, PromptFormat(), tmp_path).open(tasks["labelled"]) is None
    assert TokenCache(tokenizer, PromptFormat(), None).open(tasks["labelled"]) is None


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MAML_EN_LLM_CACHE", raising=False)
    assert cache_folder() == tmp_path / "maml-en-llm"
    monkeypatch.setenv("MAML_EN_LLM_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.setenv("MAML_EN_LLM_CACHE", "")
    assert cache_folder() is None
