"""Items are made when they are asked for, and only the last examples are kept."""

import pytest

from tapestry.workloads.language.tokens import TokenExample
from tapestry.workloads.lazy_sequence import LazyExamples, LazySequence, drawn


def test_an_item_is_made_when_it_is_asked_for() -> None:
    made: list[int] = []

    def make(place: int) -> int:
        made.append(place)
        return place * place

    found = LazySequence(5, make)
    assert (len(found), made) == (5, [])
    assert (found[2], found[-1]) == (4, 16)
    assert made == [2, 4]
    assert list(found[1:4]) == [1, 4, 9]
    with pytest.raises(IndexError):
        found[5]


def test_of_many_items_some_are_drawn_in_order_and_each_once() -> None:
    items = range(1000)
    assert drawn(items, 1000) is items
    found = [*drawn(items, 20)]
    assert found == sorted({*found})
    assert len(found) == 20
    assert [*drawn(items, 20)] != found  # by lot: alike once in 10**41 times


def test_examples_are_kept_up_to_a_bound_the_last_used_ones() -> None:
    made: list[int] = []

    def encode(place: int) -> TokenExample:
        made.append(place)
        return TokenExample(rows=((place,) * 100,))  # 4,500 bytes

    found = LazyExamples(9, encode, room=10_000)
    for place in (0, 1, 0, 2, 0, 1):
        assert found[place].rows[0][0] == place
    assert made == [0, 1, 2, 1]


def test_an_example_above_the_bound_is_made_anew_each_time() -> None:
    made: list[int] = []

    def encode(place: int) -> TokenExample:
        made.append(place)
        return TokenExample(rows=((1,) * 1000,))

    found = LazyExamples(2, encode, room=0)
    assert [len(found[place].rows[0]) for place in (0, 1, 0)] == [1000] * 3
    assert made == [0, 1, 0]
