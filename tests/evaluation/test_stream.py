from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from builders import write_lines
from maml_en_llm.cli import main
from maml_en_llm.evaluation import stream as module
from maml_en_llm.evaluation.stream import StreamConfig, stream
from maml_en_llm.evaluation.stream.documents import read_documents
from maml_en_llm.evaluation.stream.figures import StreamResults
from maml_en_llm.evaluation.stream.learners import learner_from_keys, learner_names
from maml_en_llm.models import load_model, load_tokenizer
from maml_en_llm.starter.documents import draw_documents, draw_probes, passages_of, to_lines
from maml_en_llm.tasks.collection import load_collection

TEXTS = ["ant bee cat dog eel", "red fox near big owl", "pig rat yak far", "glad gnu sad hen", "blue cat small dog red"]


def question(input: str, output: str) -> dict[str, Any]:
    return {"input": input, "output": output, "options": ["red", "blue", "glad"]}


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    records = [{"text": text, "questions": [question(text[:3], "red"), question(text[4:], "blue")]} for text in TEXTS]
    records[2] = {"text": TEXTS[2]}
    return write_lines(tmp_path / "documents.jsonl", records)


@pytest.fixture
def probes(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "probes.jsonl", [{"text": "yak owl hen"}, {"text": "far near red blue"}])


def run(documents: Path, model: Path, output: Path, learner: str = "plain", **keys: Any) -> StreamResults:
    of_the_stream = ("probes", "checkpoint_every", "trainable", "lora_rank", "keep_adapter")
    own = {key: keys.pop(key) for key in of_the_stream if key in keys}
    made = learner_from_keys(learner, keys, str(model))
    return stream(StreamConfig(model=str(model), documents=documents, learner=made, output=output, device="cpu", **own))


def weights_of(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model" / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    ours, theirs = weights_of(one), weights_of(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


# ---- documents


def test_filler_can_be_real_text(tmp_path: Path) -> None:
    real = [f"They paid {number} dollars for it." for number in range(70)]
    unfit = ["Too short.", "one two three [SEP] four five", "one two three\nfour five six"]
    lines = [{"task": "t", "input": text, "output": "yes", "options": []} for text in [*real, *unfit, *real]]
    write_lines(tmp_path / "data" / "t" / "train.jsonl", lines)
    passages = passages_of(load_collection(tmp_path))
    assert sorted(passages) == sorted(real)
    assert passages != real
    for document in draw_documents(3, passages=passages[:10]):
        rest = document.text
        for used in [passage for passage in passages if passage in document.text]:
            rest = rest.replace(used, "")
        assert sum(passage in document.text for passage in passages[:10]) == 4
        assert rest.strip().endswith(f"{document.questions[0].output} .")  # the fact alone
    write_lines(tmp_path / "data" / "t" / "train.jsonl", lines[:9])
    with pytest.raises(ValueError, match="has 9 inputs of 5 to 40 words; 64 are needed"):
        passages_of(load_collection(tmp_path))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "not valid JSON"),
        ("[1]", '"text" that is not empty'),
        ('{"text": " "}', '"text" that is not empty'),
        ('{"text": "a", "question": []}', 'unknown key "question"'),
        ('{"text": "a", "questions": {}}', '"questions" must be a list'),
        ('{"text": "a", "questions": [3]}', "question 1: a line must be a JSON object"),
        ('{"text": "a", "questions": [{"input": "b", "output": "c"}]}', 'the key "options" is missing'),
        ('{"text": "a", "questions": [{"input": "b", "output": "c", "options": ["d", "e"]}]}', "not among the options"),
        ('{"text": "a", "questions": [{"input": "b", "output": "c", "options": ["c"]}]}', "at least two options"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path: Path, line: str, problem: str) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"text": "good"}, line, {"text": "good"}])
    with pytest.raises(ValueError, match=r"d\.jsonl:2: ") as error:
        read_documents(path)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_a_text_that_the_model_cannot_read_whole_is_refused(model_folder: Path, tmp_path: Path) -> None:
    for text, count in (("a", 1), ("a" * 400, 400)):
        path = write_lines(tmp_path / "d.jsonl", [{"text": "ant bee"}, {"text": text}])
        with pytest.raises(ValueError, match=rf"d\.jsonl:2: the text has {count} tokens; give 2 to 256, or split it"):
            run(path, model_folder, tmp_path / "out")


# ---- learners


def by_hand(model: Path, steps: list[list[int]], optimizer: str, lr: float) -> dict[str, torch.Tensor]:
    """The weights after one torch step on each group of documents: the first's loss, plus the mean of the others'."""
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    made: Any = kinds[optimizer](network.parameters(), lr=lr, weight_decay=0.0)
    for first, *others in steps:

        def loss(number: int) -> Any:
            ids = torch.tensor([tokenizer(TEXTS[number], add_special_tokens=False)["input_ids"]])
            return network(input_ids=ids, labels=ids).loss

        made.zero_grad()
        total = loss(first)
        if others:
            total = total + torch.stack([loss(number) for number in others]).mean()
        total.backward()
        made.step()
    return {name: p.detach() for name, p in network.named_parameters()}


def far(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    return max(float((found[name] - p).abs().max()) for name, p in expected.items())


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.5), ("adamw", 1e-3)])
def test_plain_steps_are_those_of_torch(
    documents: Path, model_folder: Path, tmp_path: Path, optimizer: str, lr: float
) -> None:
    run(documents, model_folder, tmp_path / "out", optimizer=optimizer, lr=lr)
    expected = by_hand(model_folder, [[number] for number in range(5)], optimizer, lr)
    assert far(weights_of(tmp_path / "out"), expected) < 1e-5


def test_replay_adds_the_mean_loss_of_earlier_documents(documents: Path, model_folder: Path, tmp_path: Path) -> None:
    learner = learner_from_keys("replay", {"stored": 2, "lr": 0.5}, str(model_folder))
    drawn = [learner.replayed(number) for number in range(5)]
    assert [len(d) for d in drawn] == [0, 1, 2, 2, 2]
    assert all(set(d) <= set(range(number)) and len(set(d)) == len(d) for number, d in enumerate(drawn))
    run(documents, model_folder, tmp_path / "out", "replay", stored=2, lr=0.5)
    expected = by_hand(model_folder, [[number, *d] for number, d in enumerate(drawn)], "sgd", 0.5)
    assert far(weights_of(tmp_path / "out"), expected) < 1e-5


def test_p045_weights_of_1_are_the_plain_step_and_of_0_change_nothing(
    documents: Path, probes: Path, model_folder: Path, tmp_path: Path
) -> None:
    run(documents, model_folder, tmp_path / "plain", lr=0.5)
    for weight in (0, 1):
        (tmp_path / f"{weight}.json").write_text(json.dumps([weight] * 300))
    run(documents, model_folder, tmp_path / "ones", "weighted", lr=0.5, learned=tmp_path / "1.json")
    assert same(tmp_path / "plain", tmp_path / "ones")
    found = run(documents, model_folder, tmp_path / "zeros", "weighted", learned=tmp_path / "0.json", probes=probes)
    assert found.drift == 0
    assert found.before == found.now == found.later
    start = load_file(model_folder / "model.safetensors")
    assert all(torch.equal(p, start[name]) for name, p in weights_of(tmp_path / "zeros").items())


def test_weights_count_by_the_vocabulary_entry_of_what_is_predicted(model_folder: Path, tmp_path: Path) -> None:
    """Only one predicted token has a weight, so the step is that of its NLL alone, over the number of tokens."""
    path = write_lines(tmp_path / "d.jsonl", [{"text": "ant bee cat"}])
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model_folder).eval(), load_tokenizer(model_folder)
    ids = tokenizer("ant bee cat", add_special_tokens=False)["input_ids"]
    weights = [0.0] * 300
    weights[ids[-1]] = 2.0
    (tmp_path / "w.json").write_text(json.dumps(weights))
    run(path, model_folder, tmp_path / "out", "weighted", lr=0.5, learned=tmp_path / "w.json")
    logits = network(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(dim=-1)
    chosen = [place for place, token in enumerate(ids[1:]) if token == ids[-1]]
    loss = -2.0 * torch.stack([logits[place, ids[-1]] for place in chosen]).sum() / (len(ids) - 1)
    loss.backward()
    expected = {name: p.detach() - 0.5 * p.grad for name, p in network.named_parameters()}
    assert far(weights_of(tmp_path / "out"), expected) < 1e-5


def test_p075_equal_learned_rates_are_the_plain_step_and_rates_of_0_are_static(
    documents: Path, model_folder: Path, tmp_path: Path
) -> None:
    names = dict(AutoModelForCausalLM.from_pretrained(model_folder).named_parameters())
    run(documents, model_folder, tmp_path / "plain", lr=0.5)
    rates = {"of a step": dict.fromkeys(names, 0.5), "of steps": {name: [0.5, 9.0] for name in names}}
    for name, record in rates.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
        run(documents, model_folder, tmp_path / name, "learned-rates", learned=tmp_path / f"{name}.json")
        assert same(tmp_path / "plain", tmp_path / name)
    (tmp_path / "0.json").write_text(json.dumps(dict.fromkeys(names, 0.0)))
    found = run(documents, model_folder, tmp_path / "static", "learned-rates", learned=tmp_path / "0.json")
    assert found.before == found.now == found.later


@pytest.mark.parametrize("record", ["{}", "[1, 2]", '{"wte": "x"}', '{"nothing": 0.5}', "nonsense"])
@pytest.mark.parametrize("learner", ["weighted", "learned-rates"])
def test_what_is_no_record_of_learned_steps_is_refused(
    documents: Path, model_folder: Path, tmp_path: Path, learner: str, record: str
) -> None:
    (tmp_path / "r.json").write_text(record)
    with pytest.raises(ValueError, match=r"r\.json"):
        run(documents, model_folder, tmp_path / "out", learner, learned=tmp_path / "r.json")
    assert not (tmp_path / "out").exists()


def test_a_learner_reads_its_own_keys_alone() -> None:
    assert learner_names() == ["learned-rates", "plain", "replay", "weighted"]
    with pytest.raises(ValueError, match="stored is set but learner=plain does not read it"):
        learner_from_keys("plain", {"stored": 3}, "starter")
    with pytest.raises(ValueError, match="must be one of learned-rates, plain"):
        learner_from_keys("adam", {}, "starter")


# ---- figures


def test_figures_are_those_of_the_model_before_and_after(
    documents: Path, probes: Path, model_folder: Path, tmp_path: Path
) -> None:
    """Retention and drift computed by hand from the saved model; of the last document, now is later."""
    found = run(documents, model_folder, tmp_path / "out", lr=0.5, probes=probes)
    tokenizer = load_tokenizer(model_folder)

    def nll(model: Any, read: str, predicted: str = "") -> float:
        one, two = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (read, predicted))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([one + two])).logits[0].log_softmax(dim=-1)
        places = range(max(1, len(one)) if predicted else 1, len(one + two))
        return -float(torch.stack([logits[t - 1, (one + two)[t]] for t in places]).mean())

    start, end = (AutoModelForCausalLM.from_pretrained(f).eval() for f in (model_folder, tmp_path / "out" / "model"))
    asked = [d for d in read_documents(documents) if d.questions]
    scores = [[nll(end, q.input, f"\n{o}") for o in q.options] for d in asked for q in d.questions]
    gold = [q.options.index(q.output) for d in asked for q in d.questions]
    right = [values.index(min(values)) == place for values, place in zip(scores, gold, strict=True)]
    assert found.later is not None
    assert found.later.accuracy == pytest.approx(sum(right) / len(right))
    right_nll = [values[place] for values, place in zip(scores, gold, strict=True)]
    assert found.later.nll == pytest.approx(sum(right_nll) / len(right_nll), abs=1e-4)
    lines = [document.text for document in read_documents(probes)]
    drift = sum(nll(end, line) - nll(start, line) for line in lines) / len(lines)
    assert found.drift == pytest.approx(drift, abs=1e-4)
    assert found.documents[-1].now == found.documents[-1].later
    assert found.documents[2].now is None
    metrics = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["document"] for line in metrics] == [1, 2, 3, 4, 5]


def test_what_lora_learned_is_merged_or_kept_as_an_adapter_of_the_model(
    documents: Path, model_folder: Path, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"trainable": "lora", "lora_rank": 2, "lr": 0.5}
    merged = run(documents, model_folder, tmp_path / "merged", **keys)
    kept = run(documents, model_folder, tmp_path / "kept", **keys, keep_adapter=True)
    assert merged.now == kept.now
    assert merged.now != merged.before
    assert not (tmp_path / "kept" / "model" / "model.safetensors").exists()
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        ours, theirs, start = (
            load_model(str(folder))(input_ids=ids).logits
            for folder in (tmp_path / "merged" / "model", tmp_path / "kept" / "model", model_folder)
        )
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, start, atol=1e-3)
    with pytest.raises(ValueError, match="keep_adapter is set but trainable=full"):
        run(documents, model_folder, tmp_path / "full", keep_adapter=True)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_stream_that_was_killed_goes_on_to_the_same_result(
    documents: Path, probes: Path, model_folder: Path, tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"optimizer": optimizer, "lr": 1e-2, "probes": probes, "checkpoint_every": 2}
    whole = run(documents, model_folder, tmp_path / "whole", **keys)
    real, calls = module.value_and_gradient, iter(range(100))

    def killed(*arguments: Any) -> Any:
        if next(calls) == 3:
            raise RuntimeError("killed")
        return real(*arguments)

    monkeypatch.setattr(module, "value_and_gradient", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run(documents, model_folder, tmp_path / "parts", **keys)
    parts = run(documents, model_folder, tmp_path / "parts", **keys)
    assert next(calls) == 7  # of 5 documents, the third twice, and the one that was killed
    assert (parts.before, parts.now, parts.later, parts.drift) == (whole.before, whole.now, whole.later, whole.drift)
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert len((tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()) == 5
    assert run(documents, model_folder, tmp_path / "parts", **keys) == parts  # it is not done again


def test_what_another_command_wrote_is_left_alone(documents: Path, model_folder: Path, tmp_path: Path) -> None:
    run(documents, model_folder, tmp_path / "out", lr=0.5)
    with pytest.raises(ValueError, match="choose another --output"):
        run(documents, model_folder, tmp_path / "out", lr=0.25)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="choose another --output"):
        run(documents, model_folder, tmp_path / "mine")


# ---- the command


def test_the_command_writes_a_model_and_rows_that_a_report_reads(
    documents: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "a"
    words = ["stream", "--model", str(model_folder), "--documents", str(documents), "--device", "cpu"]
    assert main([*words, "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "straight after it  accuracy" in printed
    assert "| now | " in (out / "model" / "README.md").read_text()
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Raw LM + plain, lr 0.1" in text
    assert "uptake" in text + (tmp_path / "report" / "report.html").read_text()
    again = [*words[:2], str(out / "model"), *words[3:], "--output", str(tmp_path / "b")]
    assert main(again) == 0
    label = json.loads((tmp_path / "b" / "stream.json").read_text())["label"]
    assert label == "Raw LM + plain, lr 0.1 + plain, lr 0.1"
    assert main([*words, "--output", str(tmp_path / "c"), "--learner", "plain", "--stored", "3"]) == 2
    assert "stored is set but learner=plain" in capsys.readouterr().err
    assert main([*words, "--output", str(tmp_path / "c"), "--learner", "weighted"]) == 2
    assert "token_weights.json does not exist; give --learned" in capsys.readouterr().err


# ---- the generator


def test_drawn_documents_answer_their_questions_in_words_of_the_starter_model(tmp_path: Path) -> None:
    found = draw_documents(60, seed=3)
    assert found == draw_documents(60, seed=3)
    assert found != draw_documents(60, seed=4)
    tokenizer = load_tokenizer("starter")
    asked = [question.input for document in found for question in document.questions]
    assert len(set(asked)) == len(asked) == 120
    for document in found:
        for q in document.questions:
            assert q.output in document.text.split()
            assert sum(option in document.text.split() for option in q.options) == 1
            for word in (*document.text.split(), *q.input.split(), *q.options):
                assert len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1, word
    more = draw_documents(60, seed=5, reserved=found)
    assert not {q.input for d in more for q in d.questions} & set(asked)
    (tmp_path / "d.jsonl").write_text(to_lines(found + draw_probes(5)))
    assert read_documents(tmp_path / "d.jsonl") == found + draw_probes(5)
