"""Maps, lists and trees that share storage: as plain ones, and never changed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.tlog.merkle import Tree, leaf_hash
from tapestry_governance.rules.persistent_collections import (
    PersistentList,
    PersistentMap,
    PersistentTree,
)


class Colliding(int):
    """A key whose hash says little, so that leaves split late or never."""

    def __hash__(self) -> int:
        return int(self) % 3


# Apart, since equal keys have to have equal hashes.
keys = st.integers(-300, 300) | st.integers(1000, 1090).map(Colliding)
updates = st.lists(st.tuples(keys, st.none() | st.integers()), max_size=150)


@given(updates=updates)
def test_a_map_is_as_a_dictionary_and_its_predecessors_stay(
    updates: list[tuple[int, int | None]],
) -> None:
    made: PersistentMap[int, int] = PersistentMap()
    plain: dict[int, int] = {}
    history = [(made, dict(plain))]
    for key, value in updates:
        if value is not None:
            made, plain = made.set(key, value), {**plain, key: value}
        elif key in plain:
            made = made.without(key)
            plain = {k: v for k, v in plain.items() if k != key}
        else:
            with pytest.raises(KeyError):
                made.without(key)
        history.append((made, plain))
    for each, expected in history:
        assert each == expected
        assert list(each) == sorted(expected)
        assert len(each) == len(expected)
        assert all(each[key] == expected[key] for key in expected)
    assert made.get(1000) is None
    with pytest.raises(KeyError):
        made[1000]


def test_a_large_map_splits_and_finds_everything() -> None:
    made: PersistentMap[str, int] = PersistentMap()
    for number in range(5000):
        made = made.set(f"key {number}", number)
    assert len(made) == 5000
    assert all(made[f"key {number}"] == number for number in range(5000))
    assert "key 5000" not in made


def test_keys_of_one_hash_are_told_apart() -> None:
    class Same(int):
        __hash__ = lambda _: 7  # noqa: E731 - the hash is all there is to say

    made: PersistentMap[int, int] = PersistentMap()
    for number in range(200):
        made = made.set(Same(number), number)
    assert [made[Same(number)] for number in range(200)] == list(range(200))


def test_successors_of_one_map_do_not_see_each_other() -> None:
    start: PersistentMap[str, int] = PersistentMap()
    for number in range(100):
        start = start.set(str(number), number)
    left, right = start.set("0", -1), start.set("new", 1).without("1")
    assert (start["0"], left["0"], right["0"]) == (0, -1, 0)
    assert "new" not in start
    assert "new" not in left
    assert "1" in left
    assert "1" not in right


@given(items=st.lists(st.integers(), max_size=40), since=st.integers(0, 40))
def test_a_list_is_read_from_both_ends(items: list[int], since: int) -> None:
    made: PersistentList[tuple[int, int]] = PersistentList()
    states = [made]
    for pair in enumerate(items):
        made = made.append(pair)
        states.append(made)
    assert [value for _, value in made] == items
    assert [value for _, value in made.newest_first()] == items[::-1]
    newest = made.while_newest(lambda pair: pair[0] >= since)
    assert [value for _, value in newest] == items[since:]
    assert made.last == ((len(items) - 1, items[-1]) if items else None)
    for size, state in enumerate(states):
        assert len(state) == size
        assert [value for _, value in state] == items[:size]
    assert states[-1] == made
    assert items == [] or states[0] != made


def test_a_very_long_list_is_made_and_freed() -> None:
    made: PersistentList[int] = PersistentList()
    for number in range(300_000):
        made = made.append(number)
    assert sum(made) == 300_000 * 299_999 // 2
    del made


@settings(max_examples=60)
@given(count=st.integers(0, 300), data=st.data())
def test_a_tree_has_the_root_of_every_size(count: int, data: st.DataObject) -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(count)]
    tree, made = Tree(leaves), PersistentTree()
    states = [made]
    for leaf in leaves:
        made = made.push(leaf)
        states.append(made)
    assert [made.root(size) for size in range(count + 1)] == [
        tree.root(size) for size in range(count + 1)
    ]
    assert [made.leaf(index) for index in range(count)] == leaves
    past = data.draw(st.sampled_from(states))
    other = past.push(leaf_hash(b"another"))
    assert other.leaf(past.size) == leaf_hash(b"another")
    assert past.root(past.size) == tree.root(past.size)
    for size in (-1, count + 1):
        with pytest.raises(ValueError, match="no prefix"):
            made.root(size)
    for index in (-1, count):
        with pytest.raises(ValueError, match="no leaf"):
            made.leaf(index)
