"""Labels as people write them in spreadsheets: what is made one, what is left out, what is only warned of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maml_en_llm.sources.labels import Cleaning, clean, folded, look_alikes, spellings


def test_case_and_space_are_folded_and_said() -> None:
    outputs = ["NO", " No", "YES", "Yes", "yes", "no  ", "Yes"] * 5
    found = clean("t", outputs, Cleaning())
    assert found.labels == ("no", "yes")
    assert found.outputs == [output.strip().lower() for output in outputs]
    (said,) = found.remarks
    assert "labels in one spelling" in said
    for spelling in ("NO", "No", "YES", "Yes"):
        assert spelling in said


def test_labels_that_need_no_folding_keep_their_case() -> None:
    found = clean("t", ["Bug", "Feature", "iOS"] * 5, Cleaning())
    assert (found.labels, found.remarks, found.warnings) == (("Bug", "Feature", "iOS"), [], [])


def test_folding_can_be_left_out() -> None:
    found = clean("t", ["IT", "it"] * 5, Cleaning(fold=False))
    assert found.labels == ("IT", "it")


def test_words_that_the_user_named_decide_the_spelling() -> None:
    found = clean("t", ["YES", "no", "yes"] * 5, Cleaning(), words=("Yes", "No"))
    assert found.outputs[:3] == ["Yes", "No", "Yes"]
    assert clean("t", ["A", "a"] * 5, Cleaning(), words=("A", "a")).outputs[:2] == ["A", "a"]
    assert clean("t", ["YES", "none"] * 5, Cleaning(), words=("yes", "none")).outputs[:2] == ["yes", "none"]


def test_missing_value_words_are_left_out_and_counted() -> None:
    found = clean("t", ["yes", "no"] * 20 + ["n/a", "N/A", "-", "NULL", "?"], Cleaning())
    assert found.labels == ("no", "yes")
    assert found.outputs[-5:] == [None] * 5
    assert found.left_out == {"without a label (-, ?, N/A, NULL, n/a)": 5}
    assert found.warnings == []


def test_a_missing_value_word_that_may_be_a_label_is_warned_of() -> None:
    outputs = ["mild", "strong", "none"] * 10
    found = clean("t", outputs, Cleaning())
    assert found.labels == ("mild", "strong")
    assert "'none' is taken for a missing value in 10 of 30 rows" in found.warnings[0]
    assert clean("t", outputs, Cleaning(missing=())).labels == ("mild", "none", "strong")


def test_labels_are_renamed_in_all_tasks_or_in_one() -> None:
    cleaning = Cleaning(renamed={"1": "yes", "0": "no", "stars/1": "poor", "junk": ""})
    found = clean("t", ["1", "0", "junk", "Yes"] * 5, cleaning)
    assert found.outputs[:4] == ["yes", "no", None, "yes"]
    assert found.used == {"1", "0", "junk"}
    other = clean("stars", ["1", "2"] * 5, cleaning)
    assert other.outputs[:2] == ["poor", "2"]
    assert other.used == {"stars/1"}


def test_a_label_with_a_slash_is_no_task() -> None:
    assert clean("t", ["n/a", "yes", "no"] * 5, Cleaning(renamed={"n/a": "open"})).labels == ("no", "open", "yes")


def test_free_text_is_left_as_it_is() -> None:
    outputs = [f"Answer {n}" for n in range(20)] + ["None", "none"]
    found = clean("t", outputs, Cleaning())
    assert (found.outputs, found.labels, found.remarks, found.left_out) == (outputs, (), [], {})
    assert clean("t", ["Yes", "yes", "n/a"] * 9, Cleaning(), kind="free_form").outputs == ["Yes", "yes", "n/a"] * 9


@pytest.mark.parametrize(
    ("one", "other"),
    [("refund", "refunds"), ("delivery", "delivary"), ("e-mail", "email"), ("café", "cafe"), ("1", "1.0"),
     ("customer service", "custommer service"), ("not_urgent", "not urgent"), ("receive", "recieve"), ("Yes", "yes")],
)  # fmt: skip
def test_labels_that_look_alike(one: str, other: str) -> None:
    assert look_alikes({one: 1, other: 9}) == [(one, other)]


@pytest.mark.parametrize(
    ("one", "other"),
    [("positive", "negative"), ("satisfied", "dissatisfied"), ("paid", "unpaid"), ("level 1", "level 2"), ("A", "B"),
     ("class a", "class b"), ("yes", "yet"), ("hotel", "motel"), ("1", "-1"), ("A-", "A+"), ("true", "false"),
     ("2024", "2025"), ("increase", "decrease"), ("male", "female"), ("inbound", "outbound")],
)  # fmt: skip
def test_labels_that_do_not(one: str, other: str) -> None:
    assert look_alikes({one: 1, other: 9}) == []


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(st.dictionaries(words, st.integers(1, 9), max_size=8))
def test_spellings_become_one_exactly_when_they_fold_to_one(counts: dict[str, int]) -> None:
    becomes = spellings(counts)
    assert becomes.keys() == counts.keys()
    for one in counts:
        for other in counts:
            if folded(one) == folded(other):
                assert becomes[one] == becomes[other]
    assert len(set(becomes.values())) <= len({folded(word) for word in counts})
    look_alikes(counts)


@given(st.lists(words, min_size=1, max_size=40), st.booleans())
def test_cleaning_keeps_every_row_in_its_place(outputs: list[str], fold: bool) -> None:
    found = clean("t", outputs, Cleaning(fold))
    assert len(found.outputs) == len(outputs)
    assert {output for output in found.outputs if output is not None} <= {*found.labels, *outputs}
    if found.labels:
        assert sum(found.left_out.values()) == found.outputs.count(None)
