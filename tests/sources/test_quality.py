"""What `tasks check` finds beyond the rules, `tasks show` and `tasks list --catalogue`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_en_llm.cli import main
from maml_en_llm.models import train_tokenizer
from maml_en_llm.sources.quality import HASHES, NEAR, Finding, TokenCounter, examine, min_hashes, statistics_of
from maml_en_llm.tasks.collection import Collection, Example, load_collection
from maml_en_llm.tasks.writing import write_setting, write_task

OPTIONS = ("a", "b")
WORDS = [f"word{number}" for number in range(400)]


def sentence(start: int, length: int = 30) -> str:
    return " ".join(WORDS[(start * 7 + n * (start + 3)) % 400] for n in range(length))


def labelled(texts: list[str]) -> list[Example]:
    return [Example(text, OPTIONS[n % 2], OPTIONS) for n, text in enumerate(texts)]


def collection(path: Path, **tasks: dict[str, list[Example]]) -> Collection:
    for name, splits in tasks.items():
        write_task(path, name.replace("_", "-"), splits)
    return load_collection(path)


def found(quality: Any, what: str) -> list[Finding]:
    return [finding for finding in quality.findings if finding.what == what]


def test_good_tasks_have_no_findings(tmp_path: Path) -> None:
    examples = labelled([sentence(n) for n in range(40)])
    assert examine(collection(tmp_path, good={"train": examples[:30], "test": examples[30:]})).findings == []


def test_duplicates_within_and_across_splits(tmp_path: Path) -> None:
    texts = [sentence(n) for n in range(40)]
    train = [*texts[:20], texts[3].upper(), texts[4] + "!"]
    quality = examine(collection(tmp_path, t={"train": labelled(train), "test": labelled([*texts[20:30], texts[5]])}))
    (within,) = found(quality, "duplicate")
    assert within.count == 2
    assert within.places[0] == "t/train.jsonl:21 and t/train.jsonl:4"
    (across,) = found(quality, "duplicate-across-splits")
    assert (across.count, across.places) == (1, ("t/test.jsonl:11 and t/train.jsonl:6",))
    assert not found(quality, "near-duplicate")


def test_near_duplicates(tmp_path: Path) -> None:
    texts = [sentence(n, 80) for n in range(40)]
    changed = texts[7].replace(texts[7].split()[40], "other", 1)
    quality = examine(
        collection(tmp_path, t={"train": labelled(texts[:20]), "test": labelled([*texts[20:30], changed])})
    )
    (across,) = found(quality, "near-duplicate-across-splits")
    assert across.places == ("t/test.jsonl:11 and t/train.jsonl:8",)
    assert not found(quality, "duplicate-across-splits")


def test_training_tasks_that_hold_test_inputs_of_targets(tmp_path: Path) -> None:
    texts = [sentence(n) for n in range(60)]
    opened = collection(
        tmp_path,
        target={"train": labelled(texts[:10]), "test": labelled(texts[10:20])},
        source={"train": labelled([*texts[30:40], texts[10], texts[11]]), "test": labelled(texts[40:45])},
        bystander={"train": labelled([*texts[50:55], texts[12]])},
    )
    write_setting(tmp_path, "s", {"train": ["source"], "test": ["target"]})
    (finding,) = examine(opened).findings
    assert (finding.task, finding.what, finding.count) == ("target", "duplicate-across-tasks", 2)
    assert "source, which s trains on" in finding.message


def test_the_same_question_with_other_options_is_no_duplicate(tmp_path: Path) -> None:
    examples = [Example("They", f"go {n}", (f"go {n}", f"stay {n}")) for n in range(6)]
    assert found(examine(collection(tmp_path, t={"train": examples})), "duplicate") == []


def test_label_distributions(tmp_path: Path) -> None:
    texts = [sentence(n) for n in range(200)]
    one_sided = [Example(text, "ab"[n == 0], OPTIONS) for n, text in enumerate(texts)]
    absent = [Example(text, "a", ("a", "b", "c")) for text in texts[:10]]
    first = [Example(text, f"x{n}", (f"x{n}", f"y{n}")) for n, text in enumerate(texts[:30])]
    constant = [Example(text, "same") for text in texts[:30]]
    quality = examine(
        collection(
            tmp_path,
            one={"train": one_sided},
            absent={"train": absent},
            first={"train": first},
            constant={"train": constant},
        )
    )
    assert {(f.task, f.what) for f in quality.findings} == {
        ("one", "label-dominant"),
        ("absent", "label-absent"),
        ("absent", "label-dominant"),
        ("first", "position-dominant"),
        ("constant", "output-constant"),
    }


@pytest.mark.parametrize(
    ("text", "odd"),
    [
        ("plain", False),
        ("naïve café \u2013 \u201cquoted\u201d 東京 🙂", False),
        ("R&D & more; fine", False),
        ("cafÃ© and more", True),
        ("itâ€™s", True),
        ("a �", True),
        ("bell \x07", True),
        ("Tom &amp; Jerry", True),
        ("it&#39;s", True),
        ("\ufeffmark", True),
    ],
)
def test_suspicious_encodings(text: str, odd: bool, tmp_path: Path) -> None:
    quality = examine(collection(tmp_path, t={"train": labelled([text, "other"])}))
    assert bool(found(quality, "encoding")) == odd


def test_a_lone_surrogate_does_not_stop_the_check(tmp_path: Path) -> None:
    collection(tmp_path, t={"train": labelled(["x", "y"])})
    lines = [{"task": "t", "input": "bad \ud800 text", "output": "a", "options": ["a", "b"]}]
    (tmp_path / "data/t/train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert examine(load_collection(tmp_path)).statistics["t"].examples == {"train": 0}  # `check_collection` names it


def test_what_depends_on_tokens(tmp_path: Path) -> None:
    opened = collection(
        tmp_path,
        long={"train": [Example("short", sentence(1, 300)), Example(sentence(2, 300), "short"), Example("x", "y")]},
        labels={"train": [Example("one", "", ("", "b")), Example("two", "b", ("", "b"))]},
    )
    quality = examine(opened, TOKENIZER, 256)
    assert {(f.task, f.what, f.count) for f in quality.findings if f.task == "long"} == {
        ("long", "output-long", 1),
        ("long", "input-truncated", 2),  # nothing is left for the input beside an output of the whole limit
    }
    assert [f.task for f in found(quality, "label-empty")] == ["labels"]
    assert quality.statistics["long"].truncated == 2

    class Folding:
        """A tokenizer that knows no capitals."""

        def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[ord(letter) for letter in text.lower()] for text in texts]}

    same = [Example("one", "Yes", ("Yes", "yes")), Example("two", "yes", ("Yes", "yes"))]
    (tmp_path / "other").mkdir()
    assert found(examine(collection(tmp_path / "other", t={"train": same}), Folding()), "label-same")


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Z"]), min_size=1, max_size=9), max_size=30)
)
def test_counting_by_words_equals_tokenizing(words: list[str]) -> None:
    text = " ".join(words)
    counted = TokenCounter(TOKENIZER).counts("\n\n\n", [text, text])
    assert counted == [len(TOKENIZER("\n\n\n" + text, add_special_tokens=False)["input_ids"])] * 2


TOKENIZER = train_tokenizer([sentence(n) for n in range(40)], 600)


def test_statistics(tmp_path: Path) -> None:
    opened = collection(tmp_path, t={"train": labelled(["x", "yy", "zzz"]), "test": labelled(["v"])})
    numbers = statistics_of(opened)["t"]
    assert numbers.examples == {"train": 3, "test": 1}
    assert numbers.labels == {"a": 2, "b": 1}
    assert numbers.input_characters == (1, 1, 3)
    assert numbers.kind == "classification"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(8, 120), st.floats(0, 1))
def test_min_hash_estimates_the_share_of_common_runs(seed: int, length: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    first = [f"w{number}" for number in generator.integers(0, 10**6, length)]
    second = list(first)
    for place in generator.permutation(length)[: int(share * length / 3)]:
        second[int(place)] = "changed"
    runs = [{tuple(words[n : n + 3]) for n in range(len(words) - 2)} for words in (first, second)]
    true = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
    hashes, long_enough = min_hashes([" ".join(words).encode() for words in (first, second)])
    assert long_enough.all()
    assert abs((hashes[0] == hashes[1]).mean() - true) < 0.55  # 24 values: five standard deviations
    assert true < 1 or (hashes[0] == hashes[1]).mean() >= NEAR


def test_min_hashes_do_not_depend_on_the_neighbours() -> None:
    texts = [sentence(n, 8 + n % 20).encode() for n in range(50)] + [b"too short"]
    together, long_enough = min_hashes(texts)
    assert together.shape == (51, HASHES)
    assert long_enough.tolist() == [True] * 50 + [False]
    for index in (0, 17, 49):
        assert (min_hashes([texts[index]])[0][0] == together[index]).all()


def test_check_prints_findings_and_writes_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection(tmp_path, t={"train": labelled([sentence(1), sentence(2)]), "test": labelled([sentence(1)])})
    report = tmp_path / "out" / "report.json"
    assert main(["tasks", "check", "--collection", str(tmp_path), "--report", str(report)]) == 0
    said = capsys.readouterr()
    assert "1 tasks are good" in said.out
    assert "duplicate-across-splits" in said.err
    record = json.loads(report.read_text())
    assert record["violations"] == []
    assert record["tasks"]["t"]["examples"] == {"train": 2, "test": 1}
    assert record["tasks"]["t"]["findings"][0]["what"] == "duplicate-across-splits"


def test_a_broken_rule_still_decides_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection(tmp_path, t={"train": labelled(["one", "two"])})
    with (tmp_path / "data/t/train.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(SystemExit) as stopped:
        main(["tasks", "check", "--collection", str(tmp_path), "--report", str(tmp_path / "r.json")])
    assert stopped.value.code == 2
    assert json.loads((tmp_path / "r.json").read_text())["violations"][0]["line"] == 3


def test_show_and_list(tmp_path: Path, starter_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "show", "messages-spam", "--collection", str(starter_folder)]) == 0
    said = capsys.readouterr().out
    assert "messages-spam: classification" in said
    assert "300 train, 100 test" in said
    assert "%  spam" in said
    assert main(["tasks", "show", "nothing", "--collection", str(tmp_path)]) == 2
    assert main(["tasks", "list", "--catalogue"]) == 0
    said = capsys.readouterr()
    assert "142 tasks; verified:" in said.out
    assert "glue-rte" in said.err
    assert main(["tasks", "list"]) == 2


def test_labels_that_look_alike_and_contradictions(tmp_path: Path) -> None:
    words = ("refund", "Refund", "refunds", "delivery", "delivary", "level 1", "level 2")
    examples = [Example(f"{sentence(n)} {n}", words[n % 7], words) for n in range(21)]
    examples.append(Example(examples[0].input.upper(), "delivery", words))
    quality = examine(collection(tmp_path, t={"train": examples}))
    (alike,) = found(quality, "label-alike")
    for pair in ("'Refund' and 'refund'", "'refund' and 'refunds'", "'delivary' and 'delivery'"):
        assert pair in alike.message
    assert "level" not in alike.message
    (contradiction,) = found(quality, "contradiction")
    assert (contradiction.count, contradiction.places) == (1, ("t/train.jsonl:1 and t/train.jsonl:22",))
