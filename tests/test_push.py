"""Model cards and what goes to the hub; the hub's interface is replaced, nothing leaves the machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

import maml_en_llm
from builders import evaluate_config, train_config
from maml_en_llm.cli import main
from maml_en_llm.evaluation.protocol import evaluate
from maml_en_llm.prompts.layout import PromptFormat
from maml_en_llm.push import prepare
from maml_en_llm.tasks.collection import Example
from maml_en_llm.training.loop import train
from maml_en_llm.training.model_card import licence_of


@pytest.fixture(scope="module")
def made(collection_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained from the built-in one, and its results beside it."""
    folder = tmp_path_factory.mktemp("push")
    changes: dict[str, Any] = {"batches": 2, "max_tokens": 256, "max_tokens_per_example": 64}
    model = train(train_config(collection_folder, Path("starter"), folder / "run", "metaicl", **changes))
    evaluate(evaluate_config(collection_folder, model, folder / "results.json"))
    return model


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a fake hub is sent."""
    found: dict[str, Any] = {}

    class FakeApi:
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
            found["repo"], found["private"], found["exist_ok"] = repo_id, private, exist_ok
            return f"https://hub.example/{repo_id}"

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
            found["files"] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    return found


def test_the_card_is_one_that_the_hub_reads(made: Path) -> None:
    card = ModelCard.load(made / "README.md")
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "transformers"
    assert "base_model" not in data  # the built-in model is not on the hub
    for said in ("Base model: `starter`", "Licence: apache-2.0", "Licences of the data: not stated (4 tasks)"):
        assert said in card.text


def test_the_card_shows_a_prompt_as_it_is(made: Path) -> None:
    shown = re.search(r"## Prompt layout\n.*?```\n(.*?)\n```", (made / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    assert shown[1] == "first input\nfirst label\n\n\nsecond input\n[second label]".replace("\n[", "\n[")
    channel = PromptFormat(direction="channel").pieces([Example("in", "out", ("out", "no"))] * 2)
    assert "".join(out + text for text, out in channel) == "out\nin\n\n\nout\nin"


def test_the_snippet_of_the_card_runs(made: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (made / "README.md").read_text(), re.DOTALL)
    assert code is not None
    environment = os.environ | {"PYTHONPATH": str(Path(maml_en_llm.__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-c", code[1]]
    done = subprocess.run(words, cwd=made, env=environment, capture_output=True, text=True)
    assert re.fullmatch(r"\['(bird|fish)'\]\n", done.stdout), done.stderr


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n# x\n", "mit"),
        ("---\nlicense: unknown\n---\n", None),
        ("---\ntags: [x]\n---\n", None),
        ("---\n: [\n---\n", None),
        ("---\n- a\n---\n", None),
        ("# no front matter\n", None),
        (None, None),
    ],
)
def test_the_licence_is_that_of_the_base_if_its_card_says(
    card: str | None, licence: str | None, tmp_path: Path
) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence_of(str(tmp_path)) == licence


def test_a_base_without_a_licence_is_said_to_have_none(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    folder = train(train_config(collection_folder, model_folder, tmp_path / "run", "metaicl", batches=2))
    card = ModelCard.load(folder / "README.md")
    assert card.data.to_dict()["license"] == "unknown"
    assert "Licence: unknown: see the base model" in card.text


def test_a_push_sends_the_files_and_the_card_with_scores(made: Path, sent: dict[str, Any]) -> None:
    results = made.parents[1] / "results.json"
    assert main(["push", "--model", str(made), "--repo", "me/mine", "--private", "--results", str(results)]) == 0
    assert (sent["repo"], sent["private"], sent["exist_ok"]) == ("me/mine", True, True)
    card = sent["files"].pop("README.md").decode()
    assert sent["files"] == {
        path.name: path.read_bytes() for path in made.iterdir() if path.name not in ("README.md", ".maml-en-llm.json")
    }
    assert 'InContextClassifier(model="me/mine")' in card
    record = json.loads(results.read_text())
    average = 100 * record["summary"]["test"]["average"]
    row = re.search(
        r"\| small \| 2 \| in-context, 4 demonstrations, random \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|", card
    )
    assert row is not None
    assert float(row[1]) == pytest.approx(average, abs=0.06)
    assert float(row[2]) <= float(row[1]) <= float(row[3])
    assert ModelCard(card).data.to_dict()["pipeline_tag"] == "text-generation"
    assert 'model="."' in (made / "README.md").read_text()  # the folder is as it was


def test_a_dry_run_shows_all_and_sends_nothing(
    made: Path, sent: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", "--model", str(made), "--repo", "me/mine", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert sent == {}
    size = (made / "model.safetensors").stat().st_size
    assert f"{size:,} bytes  model.safetensors" in printed
    assert "# MetaICL" in printed
    assert "nothing was uploaded" in printed
    total = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) bytes", printed)]
    assert len(total) == len(prepare(made, "me/mine").files)


def test_a_failing_hub_is_one_sentence(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def create_repo(self, *_: Any, **__: Any) -> None:
            raise OSError("401 Unauthorized\nmore")

    monkeypatch.setattr(huggingface_hub, "HfApi", Refusing)
    with pytest.raises(
        ValueError, match=r"cannot upload to me/mine: the hub answered: 401 Unauthorized more; `hf auth"
    ):
        prepare(made, "me/mine").upload(private=False)


def break_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shutil.rmtree, "is not a folder; give the model/ of a run"),
        (lambda folder: (folder / ".env").write_text("key"), r"holds \.env, which train did not write"),
        (lambda folder: (folder / "config.json").unlink(), "is not whole: it lacks config.json"),
        (lambda folder: (folder / ".maml-en-llm.json").unlink(), "is not a model that `train` made"),
        (lambda folder: (folder / "maml_en_llm.json").unlink(), "is not a model that `train` made"),
        (lambda folder: (folder / "README.md").write_text(str(folder)), r"README\.md names a folder of this machine"),
        (break_weights, r"model\.safetensors is damaged"),
    ],
)
def test_unfinished_and_foreign_folders_are_refused(change: Any, words: str, made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made, tmp_path / "model")
    change(folder)
    with pytest.raises(ValueError, match=words):
        prepare(folder, "me/mine")


def test_other_mistakes_are_said_in_a_sentence(
    made: Path, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"its model is in .*run/model"):
        prepare(made.parent, "me/mine")
    for name in ("mine", "me/mine/more", "me/mine@v1", "", "me /mine"):
        with pytest.raises(ValueError, match="it must be OWNER/NAME"):
            prepare(made, name)
    evaluate(evaluate_config(collection_folder, model_folder, tmp_path / "other.json"))
    with pytest.raises(ValueError, match=r"other\.json: these are scores of another model"):
        prepare(made, "me/mine", [tmp_path / "other.json"])
    adapter: dict[str, Any] = {"trainable": "lora", "batches": 2, "keep_adapter": True}
    kept = train(train_config(collection_folder, model_folder, tmp_path / "run", "metaicl", **adapter))
    with pytest.raises(ValueError, match=r"is an adapter of .*, which is not on the hub"):
        prepare(kept, "me/mine")
