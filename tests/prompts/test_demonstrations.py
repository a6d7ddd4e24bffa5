from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maml_en_llm.prompts.demonstrations import draw_indices, fixed_demonstrations, random_generator
from maml_en_llm.tasks.collection import Example

EXAMPLES = [Example(str(i), "y") for i in range(40)]


@given(st.data())
def test_draw_is_distinct_and_leaves_out_what_it_must(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 50))
    excluded = data.draw(st.lists(st.integers(0, total - 1), max_size=3))
    count = data.draw(st.integers(0, 60))
    drawn = draw_indices(random_generator(data.draw(st.integers())), total, count, excluded)
    assert len(drawn) == len(set(drawn)) == min(count, total - len(set(excluded)))
    assert set(drawn) <= set(range(total)) - set(excluded)


def test_the_demonstrations_of_a_task_and_seed_are_always_the_same() -> None:
    ours = fixed_demonstrations(EXAMPLES, 16, "glue-rte", 100)
    assert ours == fixed_demonstrations(EXAMPLES, 16, "glue-rte", 100)
    assert len(set(ours)) == 16
    assert ours != fixed_demonstrations(EXAMPLES, 16, "glue-rte", 13)
    assert ours != fixed_demonstrations(EXAMPLES, 16, "glue-mrpc", 100)


def test_random_numbers_are_the_same_on_every_machine() -> None:
    """A golden value: a change of it changes every published number."""
    assert random_generator("prompt", 100, 0).integers(1000, size=4).tolist() == [128, 169, 474, 375]


def test_too_few_examples_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"40 train examples, fewer than the 41 .* lower --demonstrations"):
        fixed_demonstrations(EXAMPLES, 41, "glue-rte", 100)


def test_other_orders_show_the_same_examples() -> None:
    drawn = fixed_demonstrations(EXAMPLES, 16, "glue-rte", 100)
    shuffled = [fixed_demonstrations(EXAMPLES, 16, "glue-rte", 100, order) for order in range(4)]
    assert shuffled[0] == drawn
    assert len({tuple(map(repr, examples)) for examples in shuffled}) == 4
    assert all(sorted(map(repr, examples)) == sorted(map(repr, drawn)) for examples in shuffled)
