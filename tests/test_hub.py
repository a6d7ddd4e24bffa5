"""Models from the hub: found at once or refused at once, pinned, and recorded; the hub itself is played by a fake."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from peft import PeftModel

import maml_en_llm
from builders import evaluate_config, train_config
from maml_en_llm import InContextClassifier, hub
from maml_en_llm.evaluation.prediction import predict
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.models import load_model, load_tokenizer, new_gpt2, save_model
from maml_en_llm.results import read_run
from maml_en_llm.tasks.collection import Example
from maml_en_llm.training.loop import train

SHOWN = [Example("ant bee", "glad"), Example("cat dog", "sad")]
NEW, OLD = "a" * 40, "b" * 40  # commits


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    hub._snapshot.cache_clear()
    yield
    hub._snapshot.cache_clear()


class Response:
    """What the hub's errors want to have of an HTTP response."""

    headers: dict[str, str] = {}  # noqa: RUF012
    request = None
    status_code = 404


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch, model_folder: Path, tokenizer: Any, tmp_path: Path) -> list[str]:
    """The hub with the repository org/tiny, whose commits NEW (main) and OLD (tag v1) differ; returns what is asked."""
    cache, asked = tmp_path / "cache" / "snapshots", []
    shutil.copytree(model_folder, cache / NEW)
    save_model(new_gpt2(tokenizer, layers=1, width=16, heads=2, context=256, seed=9), tokenizer, cache / OLD)

    class Info:
        def __init__(self, sha: str) -> None:
            self.sha = sha

    class FakeApi:
        def model_info(self, repository: str, revision: str | None = None, timeout: float | None = None) -> Info:
            assert timeout is not None
            asked.append(f"{repository} {revision}")
            if repository != "org/tiny":
                raise RepositoryNotFoundError("no such repository", response=Response())  # type: ignore[arg-type]
            commits = {None: NEW, "main": NEW, "v1": OLD, NEW: NEW, OLD: OLD}
            if revision not in commits:
                raise RevisionNotFoundError("no such revision", response=Response())  # type: ignore[arg-type]
            return Info(commits[revision])

    def snapshot(repository: str, revision: str, local_files_only: bool, **_: Any) -> str:
        if repository != "org/tiny" or local_files_only:
            raise FileNotFoundError("not in the cache")
        return str(cache / revision)

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return asked


COMMANDS = [
    "predict --demonstrations {shown} --input x --model no-such-org/no-such-model",
    "evaluate --collection {collection} --setting small --output {out}.json --model no-such-org/no-such-model",
    "train --collection {collection} --setting small --output {out} --model no-such-org/no-such-model",
    "tasks build --task glue-rte --output {out}",
]


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words.split(" --")[0])
def test_what_the_hub_cannot_give_is_said_at_once(
    words: str, offline: bool, collection_folder: Path, tmp_path: Path
) -> None:
    shown = tmp_path / "shown.jsonl"
    shown.write_text('{"input": "x", "output": "a"}\n{"input": "y", "output": "b"}\n')
    filled = words.format(shown=shown, collection=collection_folder, out=tmp_path / "out").split()
    environment = os.environ | {"PYTHONPATH": str(Path(maml_en_llm.__file__).parents[1]), "HF_HOME": str(tmp_path)}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody is there
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "maml_en_llm", *filled], env=environment, capture_output=True, text=True
    )
    assert time.monotonic() - started < 5
    assert done.returncode == 2
    assert "Retrying" not in done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()
    assert any("HF_HUB_OFFLINE" in line or "cannot be reached" in line for line in last), done.stderr
    assert not (tmp_path / "out").exists() or words.startswith("tasks")


def test_a_hub_id_is_a_folder_of_its_commit(fake_hub: list[str], model_folder: Path) -> None:
    options = ["glad", "sad"]
    assert predict("org/tiny", SHOWN, options, "owl", "cpu") == predict(str(model_folder), SHOWN, options, "owl", "cpu")
    assert hub.commit_of("org/tiny") == NEW
    assert hub.commit_of("org/tiny@v1") == OLD
    assert hub.commit_of(str(model_folder)) is None
    assert hub.commit_of("starter") is None
    assert fake_hub == ["org/tiny None", "org/tiny v1"]  # each once


def test_revisions_are_pinned_everywhere_and_recorded(
    fake_hub: list[str], collection_folder: Path, tmp_path: Path
) -> None:
    texts, labels = ["ant bee", "cat dog"], ["glad", "sad"]
    new, old = (InContextClassifier("org/tiny", revision=r, device="cpu").fit(texts, labels) for r in (None, "v1"))
    assert not (new.predict_proba(["owl"]) == old.predict_proba(["owl"])).all()

    config = train_config(
        collection_folder, Path("org/tiny"), tmp_path / "run", "metaicl", revision="v1", batches=2, lr=0.0
    )
    folder = train(config)
    assert read_run(tmp_path / "run" / "run.json").model_commit == OLD
    assert f"commit `{OLD}`" in (folder / "README.md").read_text()
    assert "base_model: org/tiny\n" in (folder / "README.md").read_text()
    weights = [model.transformer.wte.weight for model in (load_model(folder), load_model("org/tiny@v1"))]
    assert torch.equal(*weights)

    results = evaluate(evaluate_config(collection_folder, Path("org/tiny"), tmp_path / "r.json", revision="v1"))
    assert results.run.model_commit == OLD
    with pytest.raises(ValueError, match="the run to resume has revision=v1, now it is None"):
        train(train_config(collection_folder, Path("org/tiny"), tmp_path / "run", "metaicl", batches=2, lr=0.0), True)


def test_wrong_names_and_revisions_are_said_in_a_sentence(fake_hub: list[str], model_folder: Path) -> None:
    with pytest.raises(ValueError, match="org/tiny has no revision v9 on the hub"):
        hub.model_folder("org/tiny@v9")
    with pytest.raises(ValueError, match=r"cannot get the model org/other: .* the hub has no such model"):
        hub.model_folder("org/other")
    with pytest.raises(ValueError, match=r"revision is v1 but .* is not a hub id; leave it out"):
        hub.pinned(str(model_folder), "v1")
    with pytest.raises(ValueError, match="revision is v1 but starter is not a hub id"):
        evaluate_config(Path("c"), Path("starter"), Path("o"), revision="v1")
    with pytest.raises(ValueError, match="revision is given twice, v1 and main"):
        hub.pinned("org/tiny@v1", "main")


LORA = {"trainable": "lora", "lora_rank": 2, "batches": 4, "lr": 0.1}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
@pytest.mark.parametrize("base", ["folder", "starter", "hub"])
def test_an_adapter_is_the_merged_model_in_a_peft_folder(
    base: str, fake_hub: list[str], collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    model = Path({"folder": str(model_folder), "starter": "starter", "hub": "org/tiny"}[base])
    changes: dict[str, Any] = LORA | ({"revision": "v1"} if base == "hub" else {})
    merged = train(train_config(collection_folder, model, tmp_path / "merged", "metaicl", **changes))
    kept = train(train_config(collection_folder, model, tmp_path / "kept", "metaicl", keep_adapter=True, **changes))
    assert not (kept / "config.json").exists()
    token_ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
    source = hub.pinned(str(model), changes.get("revision"))
    plain = load_model(source)(token_ids).logits
    expected = load_model(merged)(token_ids).logits
    assert not torch.allclose(plain, expected, atol=1e-3)
    torch.testing.assert_close(load_model(kept)(token_ids).logits, expected)
    theirs: Any = PeftModel.from_pretrained(load_model(source), str(kept))
    torch.testing.assert_close(theirs(token_ids).logits, expected)
    one, other = (predict(str(folder), SHOWN, ["glad", "sad"], "owl", "cpu") for folder in (merged, kept))
    assert one == pytest.approx(other, rel=1e-4)
    scores = [
        evaluate(evaluate_config(collection_folder, folder, tmp_path / f"{folder.parent.name}.json", max_examples=2))
        for folder in (merged, kept)
    ]
    assert scores[0].tasks == scores[1].tasks


def test_an_adapter_whose_base_is_gone_says_so(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(model_folder, tmp_path / "base")
    config = train_config(collection_folder, base, tmp_path / "run", "metaicl", keep_adapter=True, **LORA)
    folder = train(config)
    shutil.move(tmp_path / "run", tmp_path / "elsewhere-run")  # both are named from each other
    assert load_model(tmp_path / "elsewhere-run" / "model") is not None
    shutil.rmtree(base)
    with pytest.raises(ValueError, match=r"is an adapter of \.\./\.\./base, which cannot be loaded"):
        load_model(tmp_path / "elsewhere-run" / "model")
    (tmp_path / "elsewhere-run" / "model" / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"it has no adapter_model\.safetensors"):
        load_model(tmp_path / "elsewhere-run" / "model")
    assert not folder.exists()


def test_keep_adapter_is_for_lora_alone(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_adapter is set but trainable=full does not read it"):
        train_config(collection_folder, model_folder, tmp_path, keep_adapter=True)


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_models_are_written_with_usual_file_modes(mask: int, tokenizer: Any, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        save_model(new_gpt2(tokenizer, layers=1, width=8, heads=2, context=64), tokenizer, tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    assert modes == dict.fromkeys(modes, 0o666 & ~mask)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o777 & ~mask


def test_no_file_of_a_model_names_a_place_of_this_machine(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    first = train(train_config(collection_folder, model_folder, tmp_path / "first", "metaicl", batches=2))
    second = train(train_config(collection_folder, first, tmp_path / "second", "metaicl", keep_adapter=True, **LORA))
    for folder in (first, second):
        for path in folder.iterdir():
            if path.suffix != ".safetensors":
                text = path.read_text(encoding="utf-8")
                assert str(tmp_path) not in text, path
                assert str(collection_folder.parent) not in text, path
                assert str(model_folder.parent) not in text, path
    record = json.loads((second / "maml_en_llm.json").read_text())
    assert record["config"]["model"] == "first"
    assert load_tokenizer(second).vocab_size == load_tokenizer(first).vocab_size
