"""The report as a user gets it, and its page in a real browser."""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup
from sklearn.metrics import f1_score

from builders import (
    a_prediction,
    a_run,
    evaluate_config,
    line,
    make_collection,
    write_lines,
    write_results,
    write_setting,
)
from maml_en_llm.evaluation.protocol import demonstration_bank, evaluate, scored_examples
from maml_en_llm.models import load_tokenizer
from maml_en_llm.prompts.demonstrations import fixed_demonstrations
from maml_en_llm.prompts.layout import PromptFormat
from maml_en_llm.reporting import plots
from maml_en_llm.reporting.blocks import Section
from maml_en_llm.reporting.reading import read_result
from maml_en_llm.reporting.report import report
from maml_en_llm.reporting.tables import Table
from maml_en_llm.results import Adaptation, TaskScores, prediction_line, to_json
from maml_en_llm.results import write_results as write
from maml_en_llm.tasks.collection import load_collection

HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"


@pytest.fixture(scope="module")
def inputs(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with predictions, published numbers, runs, an adapted model; with hostile texts and long names."""
    folder = tmp_path_factory.mktemp("report")
    collection = make_collection(folder / "collection")
    records = [line("trap", f"{HOSTILE} & number {i}", HOSTILE if i % 2 else "no", [HOSTILE, "no"]) for i in range(30)]
    write_lines(collection / "data" / "trap" / "train.jsonl", records)
    write_lines(collection / "data" / "trap" / "test.jsonl", records)
    write_setting(collection, "traps", ["colour", "size"], ["trap", "mood"], ["mood"])
    results = folder / "results"
    evaluate(evaluate_config(collection, model_folder, results / "raw.json", setting="traps"))
    evaluate(
        evaluate_config(collection, model_folder, results / "x.json", setting="traps", label=HOSTILE, layout="spaces")
    )
    tasks = {"trap": [0.1, 0.2], "mood": [0.3, 0.25]}
    model: dict[str, Any] = {"setting": "traps", "unseen": ["mood"]}
    for copies in (1, 4):
        name = f"MAML-2-{copies}"
        made = a_run(config_hash=name, wall_seconds=3.5)
        how: dict[str, Any] = {"training": {"copies": copies}, "provenance": {"run": made}}
        path = write_results(results / f"{name}.json", name, tasks, method="maml-en-llm", **how, **model)
        path.with_suffix(".predictions.jsonl").write_text("")
        run = folder / "runs" / name
        run.mkdir(parents=True)
        (run / "run.json").write_text(to_json(made))
        (run / "config.yaml").write_text(f"method: maml-en-llm\nsetting: traps\nbatches: 9\noutput: runs/{name}\n")
        write_lines(run / "metrics.jsonl", [{"batches": i, "loss": 2 / i, "support_loss": 3 / i} for i in (1, 2, 3)])
    write_results(results / "metaicl.json", "MetaICL", tasks, method="metaicl", **model)
    after = write_results(results / "after.json", "MAML-2-1", tasks, method="maml-en-llm", **model)
    whole = read_result(after).content
    adapted = {}
    for name, task in whole.tasks.items():
        scores = {seed: score - 0.05 for seed, score in task.scores.items()}
        adapted[name] = replace(task, before=TaskScores(scores=scores, average=task.average, worst=task.worst))
    row = replace(whole.row, label="MAML-2-1 + adaptation", adaptation=Adaptation(examples=16, steps=16, lr=1e-7))
    write(after, replace(whole, row=row, tasks=adapted, before=whole.summary))
    (folder / "paper.csv").write_text("method,setting,average,worst\nMetaICL,traps,12.34,5.67\nNo ICL,elsewhere,1,1\n")
    (results / "cut.json").write_text(after.read_text()[:300])
    return folder


@pytest.fixture(scope="module")
def page(inputs: Path) -> Path:
    return report([inputs, inputs / "paper.csv"], inputs / "out")


def test_every_section_that_has_something_to_show(page: Path) -> None:
    text = page.read_text()
    titles = re.findall(r'<h2 id="[a-z-]+-title">([^<]*)</h2>', text)
    assert titles == [
        *("In short", "Summary", "Comparisons", "Forgetting", "Tasks", "Demonstration seeds", "Learning curves"),
        *("Exploration", "Adaptation", "Cost against score", "Labels", "Data", "Single predictions"),
        *("Configuration and provenance", "Not read"),
    ]
    for words in ("12.34", "5.67", "MAML-2-1 + adaptation", "support loss", "cut.json: not a results file"):
        assert words in text
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", text)  # nothing from elsewhere


def test_sections_without_content_are_left_out(tmp_path: Path) -> None:
    write_results(tmp_path / "a.json", "No ICL", {"t": [0.5]}, seeds=[100], row={"demonstrations": 0})
    text = report([tmp_path / "a.json"], tmp_path / "out").read_text()
    assert re.findall(r"<h2 [^>]*>([^<]*)</h2>", text) == [
        *("In short", "Summary", "Tasks", "Cost against score", "Data", "Configuration and provenance", "Not read")
    ]
    assert "a.predictions.jsonl: the predictions are missing" in text


def test_tasks_that_are_all_of_unseen_domains_are_shown_once(tmp_path: Path) -> None:
    tasks = {"one": [0.1, 0.2], "other": [0.3, 0.4]}
    for label, method in (("Raw LM", None), ("MetaICL", "metaicl"), ("MAML-2-1", "maml-en-llm")):
        write_results(tmp_path / "in" / f"{label}.json", label, tasks, method=method, unseen=list(tasks))
    (tmp_path / "paper.csv").write_text("method,setting,average,worst\nMetaICL,small,12.34,5.67\n")
    page = report([tmp_path / "in", tmp_path / "paper.csv"], tmp_path / "out")
    text, names = page.read_text(), {path.stem for path in (tmp_path / "out" / "tables").iterdir()}
    assert "Every target task that was scored is in an unseen domain" in text
    assert "paper does not say which tasks its numbers are of" in text  # and stands beside what was measured
    assert not {"summary-test", "comparisons-test", "forgetting-test"} & names
    assert {"summary-unseen_domain_test", "comparisons-unseen_domain_test"} <= names
    with (tmp_path / "out" / "tables" / "numbers.csv").open() as file:
        assert {row["subset"] for row in csv.DictReader(file)} == {"unseen_domain_test"}
    write_results(tmp_path / "in" / "more.json", "MetaICL", tasks, setting="other", unseen=["one"])
    both = report([tmp_path / "in"], tmp_path / "out").parent / "tables"
    assert {"summary-test", "summary-unseen_domain_test"} <= {path.stem for path in both.iterdir()}


def test_runs_alone_give_their_learning_curves(inputs: Path, tmp_path: Path) -> None:
    text = report([inputs / "runs"], tmp_path).read_text()
    assert re.findall(r"<h2 [^>]*>([^<]*)</h2>", text) == ["Learning curves", "Configuration and provenance"]


def test_the_tables_are_files_too(page: Path) -> None:
    folder = page.parent / "tables"
    with (folder / "numbers.csv").open() as file:
        numbers = {(r["method"], r["subset"], r["source"]): r["average"] for r in csv.DictReader(file)}
    assert float(numbers["MetaICL", "test", ""]) == pytest.approx((15 + 27.5) / 2)
    assert numbers["MetaICL", "test", "paper"] == "12.34"
    assert not any(source == "paper" and method == "No ICL" for method, _, source in numbers)  # not measured here
    with (folder / "comparisons-test.csv").open() as file:
        rows = {(r["method"], r["baseline"]): r for r in csv.DictReader(file)}
    assert set(rows) == {(m, "Raw LM") for m in ("MetaICL", "MAML-2-1", "MAML-2-4")} | {
        (m, "MetaICL") for m in ("MAML-2-1", "MAML-2-4")
    }
    assert float(rows["MAML-2-1", "MetaICL"]["difference"]) == 0.0
    with (folder / "adaptation.csv").open() as file:
        (adapted,) = csv.DictReader(file)
    assert (adapted["method"], adapted["baseline"]) == ("MAML-2-1 + adaptation", "MAML-2-1")
    assert float(adapted["difference"]) == pytest.approx(5.0)
    with (folder / "forgetting-test.csv").open() as file:
        lost = {r["method"]: r for r in csv.DictReader(file)}
    with (folder / "forgetting-tasks-test.csv").open() as file:
        by_task = [(r["method"], float(r["difference"]), r["task"]) for r in csv.DictReader(file)]
    assert by_task
    for method, row in lost.items():
        own = [(difference, task) for name, difference, task in by_task if name == method]
        assert int(row["below"]) == len(own)
        assert (float(row["largest loss"]), row["on"]) == min(own)
    with (folder / "exploration.csv").open() as file:
        (explored, *_) = csv.DictReader(file)
    assert (explored["rows"], float(explored["average, n = 4"])) == (
        "MAML-2-1, MAML-2-4",
        pytest.approx((15 + 27.5) / 2),
    )
    names = {path.stem for path in folder.glob("*.csv")}
    assert names == {path.stem for path in folder.glob("*.tex")} == {path.stem for path in folder.glob("*.md")}
    assert {"summary-test", "seeds-test", "tasks-traps", "exploration", "cost", "data-targets"} <= names
    assert all("\\toprule" in path.read_text() for path in folder.glob("*.tex"))
    markdown = page.with_suffix(".md").read_text()
    assert "| MetaICL [paper] | 12.34 / 5.67 |" in markdown
    assert "## Forgetting: all target tasks" in markdown
    assert "- [Tasks of traps](tables/tasks-traps.md), 2 lines" in markdown
    assert "## Not read" in markdown


def test_the_same_inputs_give_the_same_page(inputs: Path, page: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(page.parent, again)
    assert report([inputs, inputs / "paper.csv"], again).read_bytes() == page.read_bytes()
    for path in (path for path in page.parent.rglob("*") if path.is_file()):
        assert (again / path.relative_to(page.parent)).read_bytes() == path.read_bytes()


def test_what_is_not_read_is_said_on_standard_error(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report([inputs], tmp_path)
    assert f"not read: {inputs / 'results' / 'cut.json'}: not a results file" in capsys.readouterr().err


def embedded(page: Path) -> Any:
    found = re.search(r'<script type="application/json" id="predictions-data">(.*?)</script>', page.read_text(), re.S)
    assert found
    return json.loads(found[1])


def test_the_predictions_are_a_sample_with_texts_from_the_collection(page: Path, inputs: Path) -> None:
    data = embedded(page)
    traps = [e for e in data["examples"] if e["task"] == "trap"]
    assert len(traps) == 30 <= data["sample"]
    assert traps[3]["input"].startswith(HOSTILE)
    assert traps[3]["options"] == [HOSTILE, "no"]
    rows = map(json.loads, (inputs / "results" / "raw.predictions.jsonl").read_text().splitlines())
    expected = next(r for r in rows if (r["task"], r["seed"], r["index"]) == ("trap", 100, 3))
    _, seed, predicted, scores, _ = next(s for s in traps[3]["scored"] if data["methods"][s[0]] == "Raw LM")
    assert (seed, predicted, scores) == (100, expected["predicted"], expected["scores"])
    assert data["demonstrations"]["trap"]["seed"] == 100
    assert len(data["demonstrations"]["trap"]["pairs"]) == 4


@pytest.mark.parametrize("changes", [{"data_amount": "limited"}, {"split": "validation"}, {"orders": 2}])
def test_predictions_are_shown_with_the_examples_that_were_scored(
    model_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    collection = make_collection(tmp_path / "collection")
    records = [line("mood", f"number {i}", "yes" if i % 3 else "no", ["yes", "no"]) for i in range(60)]
    for split in ("train", "test"):
        write_lines(collection / "data" / "mood" / f"{split}.jsonl", records)
    config = evaluate_config(collection, model_folder, tmp_path / "r.json", **changes)
    evaluate(config)
    data = embedded(report([tmp_path / "r.json"], tmp_path / "out"))
    mood = load_collection(collection)["mood"]
    shown = [e["input"] for e in data["examples"] if e["task"] == "mood"]
    assert len(shown) == {"limited": 6, "validation": 12}.get(next(iter(changes.values())), 40)
    assert set(shown) <= {example.input for example in scored_examples(config, mood)}
    scores = {tuple(s[3]) for e in data["examples"] if e["task"] == "mood" for s in e["scored"]}
    rows = map(json.loads, (tmp_path / "r.predictions.jsonl").read_text().splitlines())
    assert scores <= {tuple(row["scores"]) for row in rows if not row["order"]}
    pool = {example.input for example in demonstration_bank(config, mood)}
    assert {pair[0] for pair in data["demonstrations"]["mood"]["pairs"]} <= pool


def test_the_sample_shrinks_until_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maml_en_llm.reporting.browser.BYTES", 30_000)
    write_results(tmp_path / "a.json", "MetaICL", {"t": [0.5, 0.5]})
    lines = [prediction_line(a_prediction(index=i, scores=(0.123456,) * 200)) for i in range(99)]
    (tmp_path / "a.predictions.jsonl").write_text("".join(lines))
    page = report([tmp_path / "a.json"], tmp_path / "out")
    data = embedded(page)
    assert data["sample"] == 10  # 20 would take 40 kB
    assert [e["index"] for e in data["examples"]] == [99 * i // 10 for i in range(10)]
    assert len(json.dumps(data)) <= 30_000
    assert "at most 10 examples of each task" in page.read_text()


def test_a_collection_that_has_changed_gives_no_texts(inputs: Path, tmp_path: Path) -> None:
    collection = tmp_path / "collection"
    shutil.copytree(inputs / "collection", collection)
    for name in ("raw.json", "raw.predictions.jsonl"):
        shutil.copy(inputs / "results" / name, tmp_path)
    record = json.loads((tmp_path / "raw.json").read_text())
    record["config"]["collection"] = str(collection)
    (tmp_path / "raw.json").write_text(json.dumps(record))
    records = [line("trap", "new text", "no", [HOSTILE, "no"]) for _ in range(30)]
    write_lines(collection / "data" / "trap" / "test.jsonl", records)
    examples = embedded(report([tmp_path / "raw.json"], tmp_path / "out"))["examples"]
    assert {e["index"] % 2 for e in examples if e["task"] == "trap" and "input" in e} == {0}  # those with equal outputs
    shutil.rmtree(collection)
    page = report([tmp_path / "raw.json"], tmp_path / "out")
    assert not any("input" in e for e in embedded(page)["examples"])
    assert f"The collection {collection} is not there" in page.read_text()


def test_the_number_in_a_cell_can_be_read_on_its_colour() -> None:
    for share in (i / 100 for i in range(101)):
        colour = plots.luminance(plots.cividis(share))
        text = 1.0 if plots.heat(share).endswith("#fff") else 0.0
        assert (max(colour, text) + 0.05) / (min(colour, text) + 0.05) >= 4.5


def test_ticks_span_what_they_are_for() -> None:
    for low, high in ((0.0, 1.0), (-17.4, 7.2), (3.0, 3.0), (1e-9, 2e-9), (0.0, 50_000.0)):
        found = plots.ticks(low, high)
        assert found[0] <= low <= high <= found[-1]
        assert 2 <= len(found) <= 7


def test_curves_skip_what_is_no_number_and_thin_what_is_too_much() -> None:
    nan = float("nan")
    assert plots.thinned([(1.0, nan), (2.0, 5.0), (nan, 1.0), (3.0, float("inf"))]) == [(2.0, 5.0)]
    assert plots.thinned([(float(i), float(i)) for i in range(8)], most=4) == [(i, i) for i in (0.5, 2.5, 4.5, 6.5)]
    assert not plots.line_chart([plots.Series("a", [(1.0, nan)])], "t", "x", "y")


def test_a_long_table_has_a_part_for_each_setting() -> None:
    rows = [(f"method {i}", "one" if i % 2 else "other", float(i)) for i in range(30)]
    section, short = Section("s", "S"), Section("s", "S")
    drawings = {"drawn": [Markup(i) for i in range(30)]}
    section.table(Table("t", "T", "note", ("method", "setting", "score"), rows), extra=drawings)
    other, one = (block["part"] for block in section.blocks if block["kind"] == "part")
    assert (other.title, one.title) == ("other", "one")
    (table,) = one.blocks
    assert [column["name"] for column in table["columns"]] == ["method", "score"]
    assert [[cell["value"] for cell in row] for row in table["rows"]] == [
        [m, s] for m, name, s in rows if name == "one"
    ]
    assert table["drawn"] == {"drawn": [str(i) for i in range(1, 30, 2)]}
    short.table(Table("t", "T", "note", ("method", "setting", "score"), rows[:24]))
    assert [block["kind"] for block in short.blocks] == ["heading", "text", "table", "files"]


def test_a_logarithmic_chart_has_powers_of_ten_and_leaves_out_what_has_no_logarithm() -> None:
    points = [(1.0, 2.0), (2.0, 0.0), (3.0, 0.02), (4.0, -1.0)]
    chart = plots.line_chart([plots.Series("a", points)], "t", "x", "y", log=True)
    assert re.findall(r'text-anchor="end">([0-9.]+)<', chart)[:4] == ["0.01", "0.1", "1", "10"]
    assert len(re.findall(r"<path class=\"mark", chart)) == 2


# In a real browser


Open = Callable[..., Any]


@pytest.fixture
def opened(chromium: Any, page: Path) -> Open:
    def open_page(width: int = 1280, scheme: str = "light") -> Any:
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        chromium.get("about:blank")
        chromium.get_log("browser"), chromium.get_log("performance")
        chromium.get(page.as_uri())
        return chromium

    return open_page


def test_it_opens_without_errors_and_asks_nobody(opened: Open, page: Path) -> None:
    browser = opened()
    assert browser.title == "Results of MAML-en-LLM"  # no text of a task was run
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert browser.execute_script("return document.querySelectorAll('img, main script:not([type])').length") == 0


def test_columns_sort_by_button(opened: Open) -> None:
    browser = opened()
    read = """const table = document.querySelector('#tasks table');
        return [...table.tBodies[0].rows].map(row => row.cells[arguments[0]].textContent)"""
    buttons = browser.find_elements("css selector", "#tasks table th button")
    sort = "return document.querySelectorAll('#tasks table th')[arguments[0]].getAttribute('aria-sort')"
    column = next(i for i, button in enumerate(buttons) if button.text.startswith("MetaICL"))
    buttons[column].send_keys("\ue007")  # Enter
    assert browser.execute_script(read, column) == ["27.50", "15.00"]
    assert browser.execute_script(sort, column) == "descending"
    buttons[column].send_keys("\ue007")
    assert browser.execute_script(read, column) == ["15.00", "27.50"]
    assert browser.execute_script(sort, column) == "ascending"
    buttons[0].send_keys("\ue007")
    assert browser.execute_script(read, 0) == ["mood", "trap"]
    assert browser.execute_script(sort, column) == "none"


def test_predictions_are_filtered(opened: Open, page: Path) -> None:
    browser = opened()
    form = browser.find_element("id", "browser")

    def choose(**values: str) -> tuple[int, list[str], list[str]]:
        for name, value in values.items():
            script = """const field = document.getElementById('browser').elements[arguments[0]];
                field.value = arguments[1]; field.dispatchEvent(new Event('input', {bubbles: true}))"""
            browser.execute_script(script, name, value)
        count = int(browser.find_element("id", "browser-count").text.split()[0])
        headings = [e.text for e in browser.find_elements("css selector", ".card h4")]
        return count, headings, [e.text for e in browser.find_elements("css selector", ".card tbody td:nth-child(2)")]

    everything, headings, _ = choose()
    assert (everything, len(headings)) == (38, 20)
    browser.find_element("id", "browser-more").send_keys("\ue007")
    assert len(choose()[1]) == 38
    assert len(choose(text="")[1]) == 20  # a filter starts again from the top
    count, headings, predicted = choose(task="mood")
    assert count == 8
    assert all(heading.startswith("mood") for heading in headings)
    assert len(predicted) == 2 * 8  # of two rows
    right, wrong = choose(right="Raw LM"), choose(right="", wrong="Raw LM")
    assert right[0] + wrong[0] == 8
    data = embedded(page)
    number, other = data["methods"].index("Raw LM"), data["methods"].index(HOSTILE)

    def was_right(example: Any, row: int) -> bool:
        return any(s[0] == row and s[2] == example["gold"] for s in example["scored"])

    expected = [e for e in data["examples"] if was_right(e, number) and not was_right(e, other)]
    assert expected
    assert choose(task="", right="Raw LM", wrong=HOSTILE)[0] == len(expected)
    assert choose(task="trap", right="", wrong="", text="NUMBER 17")[0] == 1
    assert HOSTILE in browser.find_element("css selector", ".card blockquote").text
    assert form.is_displayed()


def test_a_prediction_links_to_itself_and_shows_the_prompt(opened: Open, chromium: Any, page: Path) -> None:
    browser = opened()
    link = browser.find_elements("css selector", ".card h4 a")[3].get_attribute("href")
    browser.get("about:blank")
    browser.get(link)
    time.sleep(0.1)
    (card,) = browser.find_elements("css selector", ".card")
    assert card.find_element("css selector", "h4 a").get_attribute("href") == link
    browser.execute_script("arguments[0].querySelector('details').open = true", card)
    time.sleep(0.1)
    data = embedded(page)
    example = data["examples"][3]
    shown = card.find_element("css selector", "details blockquote").get_property("textContent")
    front, context, answer = example["scored"][0][4][0]
    assert shown == "".join(data["texts"][part] for part in (front, context, answer))
    browser.find_element("id", "browser-all").send_keys("\ue007")
    assert len(browser.find_elements("css selector", ".card")) == 20


def test_the_prompt_shown_is_the_one_that_was_scored(page: Path, inputs: Path, model_folder: Path) -> None:
    """Against the encoding of whole prompts, which scoring is tested against, too."""
    data = embedded(page)
    tokenizer, collection = load_tokenizer(model_folder), load_collection(inputs / "collection")
    form, task = PromptFormat("direct", "newlines", 128, 24), collection["mood"]
    shown = fixed_demonstrations(task.train, 4, "mood", 100)
    targets = [form.encode_targets(tokenizer, example, first=False) for example in task.test]
    longest = max(len(target) for options in targets for target in options)
    number = data["methods"].index("Raw LM")
    for example in (e for e in data["examples"] if e["task"] == "mood"):
        parts = next(s[4] for s in example["scored"] if s[0] == number)
        prompts = form.encode_options(tokenizer, shown, task.test[example["index"]], longest)
        assert len(parts) == len(prompts) == 3
        for three, prompt in zip(parts, prompts, strict=True):
            assert "".join(data["texts"][part] for part in three) == tokenizer.decode(prompt.token_ids)


def test_labels_are_counted_by_task_and_row(opened: Open, inputs: Path) -> None:
    browser = opened()
    script = """const form = document.getElementById('labels-form');
        for (const [name, value] of [['task', 'mood'], ['row', 'Raw LM']]) {
          form.elements[name].value = value; form.dispatchEvent(new Event('input'));
        }
        return [...document.querySelectorAll('#labels-shown table')].map(table =>
            [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.textContent)))"""
    by_label, matrix = browser.execute_script(script)
    rows = [json.loads(line) for line in (inputs / "results" / "raw.predictions.jsonl").read_text().splitlines()]
    mood = [row for row in rows if row["task"] == "mood"]
    labels = sorted({row[key] for row in mood for key in ("output", "predicted")})
    for label, cells in zip(labels, matrix, strict=True):
        counts = [sum((r["output"], r["predicted"]) == (label, option) for r in mood) for option in labels]
        assert cells == [label, *map(str, counts)]
    scores = f1_score([r["output"] for r in mood], [r["predicted"] for r in mood], average=None, labels=labels)
    assert [cells[5] for cells in by_label] == [f"{100 * score:.1f}" for score in scores]


def test_a_number_leads_to_where_it_is_from(opened: Open) -> None:
    browser = opened()
    link = browser.find_element("css selector", "#summary td a")
    target = link.get_attribute("href").split("#")[1]
    browser.execute_script("arguments[0].click()", link)
    time.sleep(0.1)  # the page hears of the new address a moment later
    script = "const d = document.getElementById(arguments[0]); return [d.open, d.textContent.includes('sha256')]"
    assert browser.execute_script(script, target) == [True, True]


def test_parts_open_for_a_link_and_for_printing(chromium: Any, tmp_path: Path) -> None:
    for setting in ("one", "other"):
        write_results(tmp_path / "in" / f"{setting}.json", "MetaICL", {"t": [0.1, 0.2]}, setting=setting)
    chromium.get(report([tmp_path / "in"], tmp_path / "out").as_uri())
    opened = """return ["part", "source"].map(kind =>
        [...document.querySelectorAll("#provenance details." + kind)].map(part => part.open))"""
    assert chromium.execute_script(opened) == [[False, False], [False, False]]
    chromium.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert chromium.execute_script(opened) == [[True, True], [False, False]]  # configurations stay as they are
    chromium.execute_script("dispatchEvent(new Event('afterprint'))")
    assert chromium.execute_script(opened) == [[False, False], [False, False]]
    chromium.execute_script("document.querySelector('#summary td a').click()")
    time.sleep(0.1)
    assert chromium.execute_script(opened) == [[True, False], [True, False]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_need_not_scroll_sideways(opened: Open, scheme: str) -> None:
    browser = opened(375, scheme)
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 375
    assert browser.execute_script("return innerWidth") == 375
    hidden = """return [...document.querySelectorAll('main tbody :is(td, th), main tfoot :is(td, th)')].filter(cell => {
        const box = cell.getBoundingClientRect();
        return box.width && (box.left < 0 || box.right > innerWidth + 1);
    }).map(cell => cell.textContent.slice(0, 40))"""
    assert browser.execute_script(hidden) == []  # no column out of sight


def test_light_and_dark(opened: Open) -> None:
    def contrast(scheme: str) -> tuple[float, float]:
        script = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        paper, ink = (
            plots.luminance(tuple(map(int, re.findall(r"\d+", text)[:3])))  # type: ignore[arg-type]
            for text in opened(scheme=scheme).execute_script(script)
        )
        return paper, ink

    for scheme, dark in (("light", False), ("dark", True)):
        paper, ink = contrast(scheme)
        assert (paper < ink) == dark
        assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) >= 7
