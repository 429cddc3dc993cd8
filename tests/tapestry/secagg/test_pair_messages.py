"""Messages between two nodes: one size for each kind, one contributor for each pair."""

import hashlib
import itertools

import pytest

from tapestry.errors import ProtocolError
from tapestry.secagg.pair_messages import (
    PairMessage,
    PairMessages,
    contributes,
    message_size,
    split_joined,
)
from tapestry.tlog.merkle import EMPTY_ROOT, node_hash
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


def signed(*messages: bytes) -> bytes:
    to = dict(zip("abc", messages, strict=False))
    return PairMessages.of(to, joined=b"".join(messages)).digest


def test_what_is_signed_follows_from_all_messages_in_order_of_name() -> None:
    long, short = bytes(i % 251 for i in range(1234)), bytes(1170)
    back = long[::-1]
    both = node_hash(long[1088:1120], back[1088:1120])
    joined = hashlib.sha256(long + short + back).digest()
    assert signed(long, short, back) == node_hash(both, joined)
    assert signed(back, short, long) != signed(long, short, back)
    alone = hashlib.sha256(short).digest()
    assert signed(short) == node_hash(EMPTY_ROOT, alone)


def test_messages_are_split_as_they_were_joined_and_have_one_size_together() -> None:
    assert split_joined(b"aabccc", {"x": 2, "y": 1, "z": 3}) == {
        "x": b"aa",
        "y": b"b",
        "z": b"ccc",
    }
    for wrong in (b"", b"aabcc", b"aabcccc"):
        with refused(ProtocolError, "ciphertext-size-invalid", match="want 6 .* 3 "):
            split_joined(wrong, {"x": 2, "y": 1, "z": 3})
