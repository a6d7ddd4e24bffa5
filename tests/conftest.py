from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sklearn.linear_model  # noqa: F401  # before ours: jaxtyping compiles anew what ours import first
import torch._dynamo
import transformers.masking_utils  # noqa: F401
from hypothesis import settings

import maml_en_llm
from builders import WORDS, make_collection
from maml_en_llm.models import new_gpt2, save_model, train_tokenizer
from maml_en_llm.starter.tasks import write_starter_collection

torch.set_num_threads(1)  # the models are tiny
settings.register_profile("suite", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("suite")

SHARED = Path(__file__).parents[2] / "shared"  # reference files beside the checkout; they do not travel with it


def pytest_collection_finish() -> None:
    """What has been imported is never garbage; looking through it took a quarter of the time of a test that trains."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Path of a reference file; the test is skipped where it is not at hand."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"needs {name} in a folder `shared` beside the checkout")
        return SHARED / name

    return find


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests, and commands that they start, keep token ids in a folder of their own."""
    os.environ["MAML_EN_LLM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    """What a library draws from torch's global generator (LoRA's A) is the same in any order of the tests."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE tokenizer with a few merges."""
    return train_tokenizer([" ".join(WORDS), "\n\n\n".join(WORDS)] * 5, vocabulary=300, context=256)


@pytest.fixture(scope="session")
def model_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained GPT-2 with `tokenizer`, on disk."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(new_gpt2(tokenizer, layers=2, width=16, heads=2, context=256), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def collection_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_collection(tmp_path_factory.mktemp("collections") / "small")


@pytest.fixture(scope="session")
def starter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in tasks, to be read only."""
    folder = tmp_path_factory.mktemp("collections") / "starter"
    write_starter_collection(folder)
    return folder


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.Popen[str]]:
    """Starts `maml-en-llm ARGUMENTS` as a user would, in a process of its own."""
    source = str(Path(maml_en_llm.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "maml_en_llm", *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, text=True)

    return start


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a window that logs its console and its requests."""
    pytest.importorskip("selenium", reason="needs selenium to drive a browser")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs chromium and chromedriver (on Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()
