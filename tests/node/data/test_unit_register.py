"""A register of units: each stays in the block with which it first came."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import VerificationError
from tapestry_node.data.unit_register import Changes, FoundUnits, UnitRegister, as_marks
from tapestry_node.node_state import NodeState
from tests.node.data.test_data_version import VERSION
from tests.support.refusals import refused

SECRET = b"s" * 32


def found(**rows: str) -> FoundUnits:
    """The persons of a folder, each with what is read of it."""
    names = [name.encode() for name in rows]
    return FoundUnits.of(SECRET, names, [text.encode() for text in rows.values()])


def test_a_person_stays_in_its_first_block_whatever_becomes_of_its_rows() -> None:
    first = UnitRegister().grown(found(ann="a", bob="b"), block=1)
    second = first.grown(found(ann="edited", cid="c"), block=2)
    third = second.grown(found(ann="a", bob="b", cid="c", dan="d"), block=3)
    assert second.blocks(found(ann="edited", bob="b", cid="c")).tolist() == [1, 0, 2]
    back = third.blocks(found(dan="d", cid="c", bob="b", ann="a"))
    assert back.tolist() == [3, 2, 1, 1]
    assert (third.newest, third.largest) == (3, 2)


def test_between_versions_only_what_is_unchanged_may_train() -> None:
    version = UnitRegister().grown(found(ann="a", bob="b", cid="c"), block=1)
    now = found(ann="a", bob="edited", dan="d")
    assert version.blocks(now).tolist() == [1, 0, 0]
    assert version.changes(now) == Changes(new=1, changed=1, gone=1)
    assert not version.changes(found(cid="c", ann="a", bob="b"))
    assert version.left(version.grown(now, block=2)) == 1


def test_marks_tell_nobody_who_does_not_have_the_secret() -> None:
    other = FoundUnits.of(b"t" * 32, [b"ann"], [b"a"])
    assert not np.isin(other.units, found(ann="a").units).any()
    assert found(ann="a").units != found(ann="a").contents
    version = UnitRegister().grown(found(ann="a"), block=1)
    assert version.blocks_of(other.units).tolist() == [0]
    assert version.blocks_of(found(ann="another").units).tolist() == [1]


def test_a_register_is_read_as_it_was_written_or_not_at_all(tmp_path: Path) -> None:
    from dataclasses import replace

    state = NodeState(tmp_path / "node.db")
    register = UnitRegister().grown(found(ann="a", bob="b"), block=1)
    version = replace(VERSION, register=register.digest)
    register.write(state, version)
    assert UnitRegister.read(state, version).digest == register.digest
    older = register.grown(found(ann="a"), block=1)
    for change in (
        {"register": older.digest},
        {"version": version.version + 1},
    ):
        with refused(VerificationError, "unit-register-differs", match="as new"):
            UnitRegister.read(state, replace(version, **change))
    with state.database.transaction():
        state.database.execute("DELETE FROM units")
    with refused(VerificationError, "unit-register-differs"):
        UnitRegister.read(state, version)


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from("xyz")),
        min_size=1,
        max_size=6,
    )
)
def test_no_history_of_a_folder_moves_a_person_to_another_block(
    folders: list[dict[str, str]],
) -> None:
    register, first = UnitRegister(), dict[str, int]()
    for folder in folders:
        now = found(**folder)
        register = register.grown(now, block=register.newest + 1)
        for name in folder:
            first.setdefault(name, register.newest)
        blocks = dict(zip(folder, register.blocks(now).tolist(), strict=True))
        assert blocks == {name: first[name] for name in folder}
    assert len(register) == len(first)


def test_a_mark_that_ends_in_zeros_is_still_found() -> None:
    """numpy drops zeros at the end of what it hands out."""
    units = as_marks([b"\1" + bytes(15), b"\1\2" + bytes(14)])
    one = FoundUnits(units=units, contents=units)
    register = UnitRegister().grown(one, block=1)
    assert register.blocks(one).tolist() == [1, 1]
    assert register.blocks_of(as_marks([bytes(16)])).tolist() == [0]


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_register_of_any_size(count: int) -> None:
    names = [str(number).encode() for number in range(count)]
    now = FoundUnits.of(SECRET, names, names)
    register = UnitRegister().grown(now, block=1)
    assert len(register) == count
    assert register.blocks(now).tolist() == [1] * count
