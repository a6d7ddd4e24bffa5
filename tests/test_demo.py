"""The page to try a model: what it computes, and the page itself in a real browser."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from scipy.special import softmax

import maml_en_llm
from builders import train_config
from maml_en_llm.demo import Demo, Settings, models_to_show, serve
from maml_en_llm.evaluation.prediction import predict
from maml_en_llm.models import new_gpt2, save_model
from maml_en_llm.tasks.collection import Example
from maml_en_llm.training.loop import train

PAIRS = [("ant bee", "glad"), ("cat dog", "sad"), ("eel fox", "glad"), ("gnu hen", "sad")]
HOSTILE = "<img src=x onerror=\"document.title='broken'\">"


@pytest.fixture(scope="module")
def two(model_folder: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    other = tmp_path_factory.mktemp("demo") / "other"
    save_model(new_gpt2(tokenizer, layers=1, width=16, heads=2, context=256, seed=5), tokenizer, other)
    return Demo({"trained": str(other), "raw": str(model_folder)}, "cpu")


def test_probabilities_are_those_of_predict_for_each_model(two: Demo) -> None:
    answers, remarks = two.answers(PAIRS, ["ant dog", "", "  owl pig "], Settings())
    assert remarks == []
    assert [answer.input for answer in answers] == ["ant dog", "owl pig"]
    for answer in answers:
        for name, folder in two.models.items():
            examples = [Example(*pair) for pair in PAIRS]
            scores = predict(folder, examples, ["glad", "sad"], answer.input, "cpu")
            expected = softmax([-scores["glad"], -scores["sad"]])
            assert list(answer.probabilities[name]) == ["glad", "sad"]
            np.testing.assert_allclose(list(answer.probabilities[name].values()), expected, atol=1e-5)
    assert answers[0].probabilities["trained"] != answers[0].probabilities["raw"]


def test_k_order_choice_and_direction_change_what_the_model_reads(two: Demo) -> None:
    def of(**changes: Any) -> tuple[float, ...]:
        answers, _ = two.answers(PAIRS, ["ant dog"], Settings(**changes))
        return tuple(answers[0].probabilities["trained"].values())

    everything = of()
    first_two = two.answers(PAIRS[:2], ["ant dog"], Settings())[0][0].probabilities["trained"]
    assert of(count=2) == pytest.approx(tuple(first_two.values()))
    changed = [of(count=2), of(order=1), of(direction="channel"), of(choose="nearest", count=1)]
    assert all(values != pytest.approx(everything) for values in changed)
    for choose in ("random", "balanced", "bm25", "nearest", "diverse"):
        assert sum(of(choose=choose, count=2)) == pytest.approx(1)


def test_a_pasted_table_comes_back_with_predictions(two: Demo) -> None:
    pasted = 'id,text\n1,"ant, ""dog"""\n2,\n3,owl\n'
    text, bad = two.predict_csv(PAIRS, pasted, "", Settings())
    rows = list(csv.DictReader(io.StringIO(text)))
    assert (bad, [row["id"] for row in rows]) == (1, ["1", "3"])
    answers, _ = two.answers(PAIRS, ['ant, "dog"', "owl"], Settings())
    for row, answer in zip(rows, answers, strict=True):
        found = answer.probabilities["trained"]
        assert row["prediction"] == max(found, key=found.__getitem__)
        assert float(row["probability"]) == pytest.approx(max(found.values()), abs=1e-5)


@pytest.mark.parametrize(
    ("pairs", "inputs", "words"),
    [
        (PAIRS, [" "], "there is no input"),
        (PAIRS[:1], ["x"], "fewer than two labels"),
        ([*PAIRS, ("x", "")], ["x"], "demonstration 5 has no label"),
        (PAIRS, ["x"] * 101, "there are 101 inputs"),
    ],
)
def test_bad_input_is_said_in_a_sentence(pairs: Any, inputs: list[str], words: str, two: Demo) -> None:
    with pytest.raises(ValueError, match=words):
        two.answers(pairs, inputs, Settings())


@pytest.mark.parametrize(
    ("pasted", "column", "words"),
    [
        (" ", "", "there is no table"),
        ("a,b\n1,2\n", "text", r"the table: there is no column 'text'; the columns are a, b"),
        ("text,prediction\nx,y\n", "", "the table: has a column 'prediction' already"),
    ],
)
def test_a_bad_table_is_said_in_a_sentence(pasted: str, column: str, words: str, two: Demo) -> None:
    with pytest.raises(ValueError, match=words) as error:
        two.predict_csv(PAIRS, pasted, column, Settings())
    assert "/tmp" not in str(error.value)


def test_the_raw_model_is_the_one_that_training_started_from(collection_folder: Path, tmp_path: Path) -> None:
    changes = {"batches": 4, "max_tokens": 256, "max_tokens_per_example": 64}
    folder = train(train_config(collection_folder, Path("starter"), tmp_path / "run", "metaicl", **changes))
    assert models_to_show(str(folder), None) == {"trained": str(folder), "raw": "starter"}
    assert models_to_show(str(folder), "elsewhere") == {"trained": str(folder), "raw": "elsewhere"}
    assert models_to_show("starter", None) == {"model": "starter"}


def test_a_taken_port_is_said_in_a_sentence(two: Demo) -> None:
    pytest.importorskip("nicegui")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match=r"--port \d+ cannot be had .*; give another"):
            serve(two, PAIRS, taken.getsockname()[1])
    with pytest.raises(ValueError, match="--port is 0; it must lie between"):
        serve(two, PAIRS, 0)


def test_a_missing_library_is_one_sentence(two: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nicegui", None)
    with pytest.raises(ValueError, match=r"install it with `pip install 'maml-en-llm\[demo\]'`"):
        serve(two, PAIRS, 8765)


# In a real browser


@pytest.fixture(scope="module")
def address(two: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("nicegui", reason="needs NiceGUI, which the extra `demo` installs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path_factory.mktemp("demo") / "shown.jsonl"
    file.write_text("".join(json.dumps({"input": text, "output": label}) + "\n" for text, label in PAIRS))
    trained, raw = two.models.values()
    words = ["--model", trained, "--raw", raw, "--demonstrations", file, "--port", port, "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(Path(maml_en_llm.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_CURRENT_TEST", None)  # NiceGUI behaves differently in tests
    process = subprocess.Popen(
        [sys.executable, "-m", "maml_en_llm", "demo", *map(str, words)],
        env=environment,
        cwd=file.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(600):
        try:
            urlopen(f"http://127.0.0.1:{port}", timeout=5).close()
            break
        except OSError:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/"
    process.terminate()
    process.communicate(timeout=20)
    assert [path.name for path in file.parent.iterdir()] == [file.name]  # it writes nothing where it runs


def until(found: Callable[[], Any], seconds: float = 30) -> Any:
    """What `found` returns once that is true."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.1)
    return value


def test_the_page_shows_what_the_models_make_of_it(chromium: Any, address: str, two: Demo) -> None:
    browser = chromium
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(address)

    def field(name: str, kind: str = "input") -> Any:
        return until(lambda: browser.find_elements("css selector", f"{kind}[data-name='{name}']"))[0]

    def write(element: Any, text: str) -> None:
        element.send_keys("\ue009a\ue000")  # Ctrl-A
        element.send_keys(text)

    def shown() -> dict[str, list[str]]:
        names = ("answer", "option", "probability")
        return {name: [e.text for e in browser.find_elements("css selector", f".{name}")] for name in names}

    write(field("input-0"), HOSTILE)
    write(field("label-2"), "neither")
    write(field("inputs", "textarea"), f"ant dog\n{HOSTILE}")
    field("predict", "button").click()
    until(lambda: len(shown()["probability"]) == 12)
    pairs = [(HOSTILE, "glad"), PAIRS[1], ("eel fox", "neither"), PAIRS[3]]
    expected, _ = two.answers(pairs, ["ant dog", HOSTILE], Settings())
    assert shown()["answer"] == ["ant dog", HOSTILE]
    assert shown()["option"] == ["glad", "neither", "sad"] * 2
    numbers = [
        answer.probabilities[name][label]
        for answer in expected
        for label in ("glad", "neither", "sad")
        for name in ("trained", "raw")
    ]
    assert shown()["probability"] == [f"{100 * number:.1f} %" for number in numbers]

    write(field("column"), "text")
    field("csv", "textarea").send_keys(f"text,id\nant dog,1\n{HOSTILE},2\n")
    field("predict-table", "button").click()
    text = until(lambda: field("predicted", "textarea").get_attribute("value"))
    assert text == two.predict_csv(pairs, f"text,id\nant dog,1\n{HOSTILE},2\n", "text", Settings())[0]

    assert browser.title == "MAML-en-LLM"  # no text of a user was run
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    sockets = {m["params"]["url"] for m in messages if m["method"] == "Network.webSocketCreated"}
    assert asked
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert [url for url in sockets if not url.startswith(address.replace("http", "ws"))] == []
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_bad_input_is_shown_on_the_page(chromium: Any, address: str) -> None:
    chromium.get(address)
    until(lambda: chromium.find_elements("css selector", "button[data-name='predict']"))[0].click()

    def shown() -> list[str]:
        return [one.text for one in chromium.find_elements("css selector", ".q-notification__message") if one.text]

    assert until(shown) == ["there is no input; type one a line"]


def test_the_page_answers_to_no_other_name_and_no_other_address(address: str) -> None:
    with pytest.raises(OSError, match="400"):
        urlopen(Request(address, headers={"Host": "elsewhere.example"}), timeout=5)
    port = address.rsplit(":", 1)[1].strip("/")
    own = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
    for other in own:
        with pytest.raises(OSError, match=r"refused|unreachable"):
            socket.create_connection((other, int(port)), timeout=2)
