"""Examples in physical batches: whole, within limits, with rows of like length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.workloads.language.tokens import TokenExample
from tapestry_node.training.microbatches import BatchLimits, alike, pack


def example(*lengths: int) -> TokenExample:
    return TokenExample(rows=tuple((1,) * length for length in lengths))


def cut(lengths: list[int], limits: BatchLimits) -> list[list[int]]:
    """Return the lengths of the rows of each batch."""
    rows = [(1,) * length for length in lengths]
    return [[lengths[place] for place in batch] for batch in alike(rows, limits)]


@pytest.mark.parametrize(
    ("width", "rows"), [(1, 4), (10, 4), (11, 3), (20, 2), (21, 1), (41, 1), (999, 1)]
)
def test_rows_at_once_are_bounded_by_number_and_elements(width: int, rows: int) -> None:
    assert BatchLimits(rows=4, elements=40).rows_of(width) == rows


def test_examples_are_held_by_their_longest_row_with_padding() -> None:
    limits = BatchLimits(rows=3, elements=30)
    assert limits.hold([example(10), example(1, 1)])
    assert not limits.hold([example(10), example(1, 1), example(1)])  # four rows
    assert not limits.hold([example(11), example(1, 1)])  # 33 with padding


def test_an_example_larger_than_the_limits_stands_alone() -> None:
    limits = BatchLimits(rows=2, elements=100)
    large, small = example(5, 5, 5), example(4)
    assert list(pack([small, large, small], limits)) == [[large], [small, small]]


def test_examples_of_like_length_are_packed_together() -> None:
    limits = BatchLimits(rows=2, elements=1000)
    found = list(pack([example(n) for n in (1, 9, 2, 8)], limits))
    assert [[len(e.rows[0]) for e in group] for group in found] == [[9, 8], [2, 1]]


def test_no_examples_make_no_batch() -> None:
    assert list(pack([], BatchLimits())) == []
    assert list(alike([], BatchLimits())) == []


def test_a_batch_ends_where_padding_gets_too_large() -> None:
    limits = BatchLimits(rows=16, elements=4096)
    # 300 elements are enough for a batch, and 200 is less than 3/4 of 300.
    assert cut([200, 300, 290], limits) == [[300, 290], [200]]
    assert cut([230, 300, 290], limits) == [[300, 290, 230]]


def test_a_small_batch_takes_short_rows_rather_than_end() -> None:
    limits = BatchLimits(rows=16, elements=4096)
    assert cut([10, 2, 1], limits) == [[10, 2, 1]]


@given(
    st.lists(
        st.lists(st.integers(2, 12), min_size=1, max_size=6), min_size=1, max_size=20
    ),
    st.integers(1, 8),
    st.integers(4, 40),
)
def test_packing_keeps_every_example_whole_and_within_limits(
    lengths: list[list[int]], rows: int, elements: int
) -> None:
    examples = [example(*each) for each in lengths]
    limits = BatchLimits(rows=rows, elements=elements)
    groups = list(pack(examples, limits))
    assert sorted(map(id, examples)) == sorted(id(e) for g in groups for e in g)
    for group in groups:
        assert len(group) == 1 or limits.hold(group)


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=40),
    st.integers(1, 16),
    st.integers(4, 2048),
)
def test_batches_take_every_row_once_and_little_padding(
    lengths: list[int], rows: int, elements: int
) -> None:
    limits = BatchLimits(rows=rows, elements=elements)
    batches = list(alike([(1,) * length for length in lengths], limits))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        widest = max(lengths[place] for place in batch)
        assert len(batch) <= limits.rows_of(widest)
        for at, place in enumerate(batch):  # 256 elements are enough to keep busy
            assert lengths[place] >= 0.75 * widest or at * widest < 256
