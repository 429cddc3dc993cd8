"""Messages between two nodes: one size for each kind, one contributor for each pair."""

import hashlib
import itertools

import pytest

from tapestry.errors import ProtocolError
from tapestry.secagg.pair_messages import (
    PairMessage,
    contributes,
    leaf,
    message_size,
    tree_over,
)
from tapestry.tlog.merkle import root
from tests.support.refusals import refused


def test_of_two_nodes_one_contributes_and_each_does_for_half() -> None:
    places = range(1, 202)
    for one, other in itertools.combinations(places, 2):
        assert contributes(one, other) is not contributes(other, one)
    for one in places:
        assert 99 <= sum(contributes(one, p) for p in places if p != one) <= 101


@pytest.mark.parametrize(
    ("hybrid", "contributing", "size"),
    [(False, False, 82), (True, False, 1170), (True, True, 1234)],
)
def test_a_message_has_one_size_and_its_parts_follow_one_another(
    hybrid: bool,
    contributing: bool,
    size: int,
) -> None:
    assert message_size(hybrid=hybrid, contributing=contributing) == size
    data = bytes(i % 251 for i in range(size))
    found = PairMessage.decode(data, hybrid=hybrid, contributing=contributing)
    assert found.clear + found.box == data
    assert len(found.box) == 82
    assert bool(found.kem) is hybrid
    assert len(found.committed) == len(found.wrapped) == (32 if contributing else 0)
    for wrong in (data[:-1], data + b"0", b""):
        with refused(ProtocolError, "ciphertext-size-invalid", match=f"want {size}"):
            PairMessage.decode(wrong, hybrid=hybrid, contributing=contributing)


def test_the_tree_has_commitments_in_its_leaves_and_follows_the_names() -> None:
    long, short = bytes(i % 251 for i in range(1234)), bytes(1170)
    leaves = [
        leaf(long[1088:1120], hashlib.sha256(long).digest()),
        leaf(b"", hashlib.sha256(short).digest()),
    ]
    assert tree_over({"b": short, "a": long}).root() == root(leaves)
    assert tree_over({"a": short, "b": long}).root() != root(leaves)
