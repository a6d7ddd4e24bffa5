from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from conftest import SHARED
from maml_en_llm.models import load_tokenizer
from maml_en_llm.prompts.layout import PromptFormat
from maml_en_llm.tasks.collection import Example

SHOWN = [Example("the cat", "red", ("red", "blue")), Example("the dog", "blue", ("red", "blue"))]
TARGET = Example("the fox", "red", ("red", "blue"))
FREE = Example("the fox", "ran", ())
NO_INPUT = Example("", "red", ("red", "blue"))
NO_LABELS = Example("the fox", "", ("", ""))
ROOMY = {"max_tokens": 4096, "max_tokens_per_example": 1024}

# layout, direction, demonstrations, example -> what is read, what is predicted. Written by hand from method.md.
BY_HAND = [
    ("newlines", "direct", SHOWN, TARGET, "the cat\nred\n\n\nthe dog\nblue\n\n\nthe fox", "\nred"),
    ("metaicl", "direct", SHOWN, TARGET, "the cat\nred\n\n\nthe dog\nblue\n\n\nthe fox", "\nred"),
    ("spaces", "direct", SHOWN, TARGET, "the cat red the dog blue the fox", " red"),
    ("newlines", "channel", SHOWN, TARGET, "red\nthe cat\n\n\nblue\nthe dog\n\n\nred", "\nthe fox"),
    ("metaicl", "channel", SHOWN, TARGET, "red\nthe cat\n\n\nblue\nthe dog\n\n\nred", "\nthe fox"),
    ("spaces", "channel", SHOWN, TARGET, "red the cat blue the dog red", " the fox"),
    ("newlines", "direct", [], TARGET, "the fox", "\nred"),
    ("spaces", "direct", [], TARGET, "the fox", " red"),
    ("newlines", "channel", [], TARGET, "red", "\nthe fox"),
    ("spaces", "channel", [], TARGET, "red", " the fox"),
    # free-form: the reference implementation puts nothing between input and output, `newlines` does
    ("newlines", "direct", [FREE], FREE, "the fox\nran\n\n\nthe fox", "\nran"),
    ("metaicl", "direct", [FREE], FREE, "the foxran\n\n\nthe fox", "ran"),
    ("newlines", "channel", [FREE], FREE, "ran\nthe fox\n\n\nran", "\nthe fox"),
    ("metaicl", "channel", [FREE], FREE, "ranthe fox\n\n\nran", "the fox"),
    # an empty input
    ("newlines", "direct", SHOWN[:1], NO_INPUT, "the cat\nred\n\n", "\nred"),
    ("metaicl", "direct", [], NO_INPUT, "", "\nred"),
    ("newlines", "channel", SHOWN[:1], NO_INPUT, "red\nthe cat\n\n\nred", ""),
    # options that are all empty
    ("newlines", "direct", [NO_LABELS], NO_LABELS, "the fox\n\n\nthe fox", ""),
    ("metaicl", "channel", [NO_LABELS], NO_LABELS, "the fox\n\n\n", "the fox"),
]


@pytest.mark.parametrize(("layout", "direction", "demonstrations", "example", "read", "predicted"), BY_HAND)
def test_prompts_written_by_hand(
    tokenizer: Any,
    layout: Any,
    direction: Any,
    demonstrations: list[Example],
    example: Example,
    read: str,
    predicted: str,
) -> None:
    prompt = PromptFormat(direction, layout, **ROOMY).encode_training(tokenizer, demonstrations, example)
    answer = sum(prompt.answer_mask)
    assert prompt.answer_mask == [False] * (len(prompt.token_ids) - answer) + [True] * answer
    assert tokenizer.decode(prompt.token_ids[: len(prompt.token_ids) - answer]) == read
    assert tokenizer.decode(prompt.token_ids[len(prompt.token_ids) - answer :]) == predicted


def test_one_prompt_per_option(tokenizer: Any) -> None:
    direct = PromptFormat("direct", **ROOMY).encode_options(tokenizer, SHOWN, TARGET)
    read = "the cat\nred\n\n\nthe dog\nblue\n\n\nthe fox"
    assert [tokenizer.decode(prompt.token_ids) for prompt in direct] == [read + "\nred", read + "\nblue"]
    channel = PromptFormat("channel", **ROOMY).encode_options(tokenizer, SHOWN, TARGET)
    read = "red\nthe cat\n\n\nblue\nthe dog\n\n\n"
    texts = [tokenizer.decode(prompt.token_ids) for prompt in channel]
    assert texts == [read + "red\nthe fox", read + "blue\nthe fox"]


def test_a_piece_has_the_same_tokens_whatever_stands_before_it(tokenizer: Any) -> None:
    form = PromptFormat(**ROOMY)
    short, long = form.encode_training(tokenizer, SHOWN[:1], TARGET), form.encode_training(tokenizer, SHOWN, TARGET)
    (target,) = form.encode_targets(tokenizer, Example("the fox", "red", ("red",)), first=False)
    for prompt in (short, long):
        assert prompt.token_ids[-len(target) :] == target.context + target.answer


GOLDEN = Path(__file__).parent / "golden"


def golden_cases(path: Path) -> list[Any]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    return [pytest.param(c, id=f"{c['use']}-{c['direction']}-{c['layout']}-{c['task']}") for c in records]


@pytest.fixture(scope="module")
def part_of_gpt2() -> Any:
    """GPT-2's tokenizer, cut down to the merges that the texts of golden/cases.jsonl need; the ids are GPT-2's."""
    record = json.loads((GOLDEN / "gpt2_part.json").read_text(encoding="utf-8"))
    merges = [tuple(merge.split(" ")) for merge in record["merges"]]
    made = tokenizers.Tokenizer(tokenizers.models.BPE(record["vocabulary"], merges))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize("case", golden_cases(GOLDEN / "cases.jsonl"))
def test_golden_token_ids(part_of_gpt2: Any, case: dict[str, Any]) -> None:
    """A subset of the cases made with the reference implementation (MetaICL) and GPT-2's tokenizer."""
    check_golden_case(part_of_gpt2, case)


@pytest.fixture(scope="module")
def gpt2_tokenizer(shared: Callable[[str], Path]) -> Any:
    return load_tokenizer(shared("tokenizers/gpt2"))


@pytest.mark.parametrize("case", golden_cases(SHARED / "golden" / "metaicl_prompts.jsonl"))
def test_all_golden_token_ids_with_the_whole_tokenizer(gpt2_tokenizer: Any, case: dict[str, Any]) -> None:
    check_golden_case(gpt2_tokenizer, case)


def check_golden_case(gpt2_tokenizer: Any, case: dict[str, Any]) -> None:
    def example(record: dict[str, Any]) -> Example:
        return Example(record["input"], record["output"], tuple(record["options"]))

    form = PromptFormat(case["direction"], case["layout"], overflow=case["overflow"])
    shown, target = [example(d) for d in case["demonstrations"]], example(case["example"])
    if case["use"] == "training":
        prompts, expected = [form.encode_training(gpt2_tokenizer, shown, target)], [case]
    else:
        prompts, expected = form.encode_options(gpt2_tokenizer, shown, target), case["encoded"]
    assert len(prompts) == len(expected)
    for prompt, golden in zip(prompts, expected, strict=True):
        length, answer = len(golden["token_ids"]), golden["answer_length"]
        assert prompt.token_ids == golden["token_ids"]
        assert prompt.answer_mask == [False] * (length - answer) + [True] * answer


def test_there_are_golden_cases_of_every_kind() -> None:
    cases = [case.values[0] for case in golden_cases(GOLDEN / "cases.jsonl")]
    assert len(cases) >= 40
    kinds = {(case["use"], case["direction"], case["layout"]) for case in cases}
    assert len(kinds) == 6
    assert any(len(case.get("token_ids", ())) == 1024 for case in cases)  # cut from the left


# ---- properties, over examples, layouts, directions and limits

TEXT = st.text(alphabet=st.sampled_from("ab cdé\n.東"), max_size=30)
DIRECTIONS = st.sampled_from(["direct", "channel"])
LAYOUTS = st.sampled_from(["newlines", "metaicl", "spaces"])


@st.composite
def examples(draw: st.DrawFn, free_form: bool = True) -> Example:
    options = draw(st.lists(TEXT, min_size=0 if free_form else 1, max_size=3, unique=True))
    return Example(draw(TEXT), draw(st.sampled_from(options) if options else TEXT), tuple(options))


def joined(form: PromptFormat, examples: list[Example]) -> tuple[str, str]:
    """What is read and what is predicted, as text: an independent statement of the layouts of method.md section 3."""
    text, answer = "", ""
    for number, e in enumerate(examples):
        free_form, blank = not e.options, bool(e.options) and not any(e.options)
        text += answer
        if form.layout == "spaces":
            between, inside = "" if number == 0 else " ", " "
        else:
            between = "" if number == 0 else "\n\n\n"
            inside = "" if blank or (free_form and form.layout == "metaicl") else "\n"
            if e.input == "" and form.direction == "direct" and number:
                between = "\n\n"
            if e.input == "" and form.direction == "channel":
                inside = ""
        first, answer = (e.input, inside + e.output) if form.direction == "direct" else (e.output, inside + e.input)
        text += between + first
    return text, answer


@given(st.lists(examples(), max_size=4), examples(), LAYOUTS, DIRECTIONS)
def test_the_answer_mask_marks_exactly_the_answer(
    tokenizer: Any, shown: list[Example], target: Example, layout: Any, direction: Any
) -> None:
    form = PromptFormat(direction, layout, **ROOMY)
    prompt = form.encode_training(tokenizer, shown, target)
    read, answer = joined(form, [*shown, target])
    start = len(prompt.token_ids) - sum(prompt.answer_mask)
    assert prompt.answer_mask == [i >= start for i in range(len(prompt.token_ids))]
    assert prompt.token_ids[start:] == tokenizer(answer, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(prompt.token_ids[:start]) == read


@given(
    st.lists(examples(), max_size=4),
    examples(free_form=False),
    LAYOUTS,
    DIRECTIONS,
    st.sampled_from(["fit", "left"]),
    st.integers(4, 40),
    st.integers(0, 40),
)
def test_no_limit_is_ever_exceeded(
    tokenizer: Any,
    shown: list[Example],
    target: Example,
    layout: Any,
    direction: Any,
    overflow: Any,
    limit: int,
    spare: int,
) -> None:
    form = PromptFormat(direction, layout, limit + spare, limit, overflow)
    prompts = [form.encode_training(tokenizer, shown, target), *form.encode_options(tokenizer, shown, target)]
    for prompt in prompts:
        assert len(prompt.token_ids) == len(prompt.answer_mask) <= form.max_tokens
        assert sum(prompt.answer_mask) <= limit - 2
    for encoded in form.encode_targets(tokenizer, target, first=not shown):
        assert len(encoded) <= limit - 2


@given(examples(free_form=False), LAYOUTS, DIRECTIONS, st.integers(4, 40))
def test_all_options_of_an_example_share_one_cut_input(
    tokenizer: Any, target: Example, layout: Any, direction: Any, limit: int
) -> None:
    encoded = PromptFormat(direction, layout, 1024, limit).encode_targets(tokenizer, target, first=True)
    inputs = [e.context if direction == "direct" else e.answer for e in encoded]
    outputs = [e.answer if direction == "direct" else e.context for e in encoded]
    assert all(ids == inputs[0] for ids in inputs)
    if max(map(len, outputs)) + len(inputs[0]) < limit - 2:  # there was room for more, so nothing was cut
        assert tokenizer.decode(inputs[0]).endswith(target.input)


@given(st.lists(examples(), max_size=4), examples(free_form=False), LAYOUTS, DIRECTIONS, st.integers(20, 300))
def test_fit_equals_left_where_nothing_overflows(
    tokenizer: Any, shown: list[Example], target: Example, layout: Any, direction: Any, limit: int
) -> None:
    fit, left = (PromptFormat(direction, layout, limit, 20, overflow) for overflow in ("fit", "left"))
    ours, theirs = fit.encode_options(tokenizer, shown, target), left.encode_options(tokenizer, shown, target)
    whole = PromptFormat(direction, layout, 10_000, 20).encode_options(tokenizer, shown, target)
    assume(all(len(prompt.token_ids) <= limit for prompt in whole))
    assert ours == theirs == whole


@given(
    st.lists(examples(), min_size=1, max_size=4),
    st.lists(examples(free_form=False), min_size=1, max_size=4),
    LAYOUTS,
    DIRECTIONS,
    st.integers(20, 60),
)
def test_fit_gives_all_examples_of_a_task_one_prefix(
    tokenizer: Any, shown: list[Example], targets: list[Example], layout: Any, direction: Any, limit: int
) -> None:
    form = PromptFormat(direction, layout, limit, 20, "fit")
    encoded = [form.encode_targets(tokenizer, target, first=False) for target in targets]
    longest = max(len(e) for options in encoded for e in options)
    prefixes = [
        prompt.token_ids[: len(prompt.token_ids) - len(e)]
        for target, options in zip(targets, encoded, strict=True)
        for prompt, e in zip(form.encode_options(tokenizer, shown, target, longest), options, strict=True)
    ]
    assert all(prefix == prefixes[0] for prefix in prefixes)
    uncut = form.encode_demonstrations(tokenizer, shown)
    assert uncut[len(uncut) - len(prefixes[0]) :] == prefixes[0]  # what is missing, is missing from the left
    assert len(prefixes[0]) == min(len(uncut), limit - longest)  # and no more than needed


def test_a_training_prompt_that_is_too_long_loses_tokens_from_its_left(tokenizer: Any) -> None:
    whole = PromptFormat(**ROOMY).encode_training(tokenizer, SHOWN * 5, TARGET)
    cut = PromptFormat(max_tokens=30, max_tokens_per_example=30).encode_training(tokenizer, SHOWN * 5, TARGET)
    assert cut.token_ids == whole.token_ids[-30:]
    assert cut.answer_mask == whole.answer_mask[-30:]


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_tokens \(100\) is smaller than max_tokens_per_example \(200\)"):
        PromptFormat(max_tokens=100, max_tokens_per_example=200)
    with pytest.raises(ValueError, match="max_tokens_per_example is 3"):
        PromptFormat(max_tokens_per_example=3)


def test_an_example_without_options_cannot_be_scored(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="no options to score"):
        PromptFormat().encode_options(tokenizer, SHOWN, FREE)


# ---- an instruction at the head of a prompt


@pytest.mark.parametrize(
    ("layout", "direction", "shown", "read"),
    [
        ("newlines", "direct", SHOWN[:1], "Say the colour.\n\n\nthe cat\nred\n\n\nthe fox"),
        ("metaicl", "direct", [], "Say the colour.\n\n\nthe fox"),
        ("spaces", "direct", SHOWN[:1], "Say the colour. the cat red the fox"),
        ("newlines", "channel", SHOWN[:1], "Say the colour.\n\n\nred\nthe cat\n\n\nred"),
        ("spaces", "channel", [], "Say the colour. red"),
    ],
)
def test_prompts_with_an_instruction_written_by_hand(
    tokenizer: Any, layout: Any, direction: Any, shown: list[Example], read: str
) -> None:
    form = PromptFormat(direction, layout, **ROOMY)
    head = form.encode_instruction(tokenizer, "Say the colour.")
    prompt = form.encode_training(tokenizer, shown, TARGET, head)
    places = list(zip(prompt.token_ids, prompt.answer_mask, strict=True))
    assert tokenizer.decode([token for token, answer in places if not answer]) == read
    answer = tokenizer.decode([token for token, answer in places if answer])
    assert answer.strip() == ("red" if direction == "direct" else "the fox")
    without = form.encode_instruction(tokenizer, None)
    assert form.encode_training(tokenizer, shown, TARGET, without) == form.encode_training(tokenizer, shown, TARGET)


def test_a_prompt_that_is_too_long_keeps_its_instruction(tokenizer: Any) -> None:
    form = PromptFormat(max_tokens=40, max_tokens_per_example=24)
    head = form.encode_instruction(tokenizer, "red cat")
    prompt = form.encode_training(tokenizer, SHOWN * 10, TARGET, head)
    uncut = PromptFormat(**ROOMY).encode_training(tokenizer, SHOWN * 10, TARGET, head)
    assert len(prompt.token_ids) == 40
    assert prompt.token_ids[: len(head)] == head
    assert prompt.token_ids[len(head) :] == uncut.token_ids[len(head) - 40 :]
    with pytest.raises(ValueError, match=r"an instruction of 17 tokens leaves 23 of max_tokens \(40\), less than"):
        form.encode_training(tokenizer, [], TARGET, [0] * 17)
