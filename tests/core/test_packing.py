import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry import packing
from tapestry.errors import ProtocolError
from tapestry.packing import Packed, pack, unpack
from tapestry.protocol import BODY_LIMIT, Kind, Message

messages = st.builds(
    Message,
    kind=st.sampled_from(Kind),
    body=st.binary(max_size=40),
    attachments=st.lists(st.binary(max_size=40), max_size=12).map(tuple),
)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(packing, "PIECE_BYTES", 16)


@given(messages)
def test_unpacking_inverts_packing(message):
    assert unpack(pack(message)) == message


@given(messages)
def test_every_piece_but_the_last_is_full(message):
    pieces = pack(message).pieces
    assert all(len(piece) == 16 for piece in pieces[:-1])
    assert all(pieces)


@given(
    st.builds(
        Packed,
        kind=st.sampled_from([*Kind, "nonsense"]),
        body=st.binary(max_size=4),
        sizes=st.sampled_from(
            [b"[]", b"[0]", b"[16]", b"[3,14]", b"[-1]", b"[true]", b"{}", b"[ 1]"]
        ),
        pieces=st.lists(st.binary(max_size=17), max_size=3).map(tuple),
    )
)
def test_what_unpacks_is_exactly_what_would_be_packed(packed):
    try:
        message = unpack(packed)
    except ProtocolError:
        return
    assert pack(message) == packed


def test_views_of_wider_items_travel_as_their_bytes():
    message = Message(
        kind=Kind.UPLOAD, attachments=(memoryview(b"12345678").cast("I"),)
    )
    assert unpack(pack(message)).attachments == (b"12345678",)


@pytest.mark.parametrize("size", [b"[9007199254740991]", b"[1]", b"[0,0,17]"])
def test_a_header_that_claims_more_than_there_is_is_refused(size):
    packed = Packed(kind="hello", body=b"{}", sizes=size, pieces=())
    with pytest.raises(ProtocolError, match="add up"):
        unpack(packed)


def test_a_body_over_the_limit_is_refused():
    packed = pack(Message(kind=Kind.HELLO))
    with pytest.raises(ProtocolError, match="over"):
        unpack(dataclasses.replace(packed, body=bytes(BODY_LIMIT + 1)))
