from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ProtocolError
from tapestry.protocol import framing
from tapestry.protocol.framing import pack, unpack
from tapestry.protocol.messages import BODY_LIMIT, Kind, Message

messages = st.builds(
    Message,
    kind=st.sampled_from(Kind),
    body=st.binary(max_size=40),
    attachments=st.lists(st.binary(max_size=40), max_size=12).map(tuple),
)
heads = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([*(kind.value for kind in Kind), "nonsense", 7]),
        "body": st.sampled_from([b"{}", "{}"]),
        "sizes": st.sampled_from(
            [b"[]", b"[0]", b"[16]", b"[3,14]", b"[-1]", b"[true]", b"{}", b"[ 1]"]
        ),
    },
    optional={"more": st.just(b"")},
)
pieces = st.fixed_dictionaries({"bytes": st.binary(max_size=17)})


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "PIECE_BYTES", 16)


@given(messages)
def test_unpacking_inverts_packing(message: Message) -> None:
    assert unpack(pack(message)) == message


@given(messages)
def test_every_piece_but_the_last_is_full(message: Message) -> None:
    records = pack(message)
    sizes = [len(records[f"piece-{n}"]["bytes"]) for n in range(len(records) - 1)]
    assert all(size == 16 for size in sizes[:-1])
    assert all(sizes)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "message": heads,
            "piece-0": pieces,
            "piece-1": pieces,
            "piece-00": pieces,
        },
    )
)
def test_what_unpacks_is_exactly_what_would_be_packed(records: Any) -> None:
    try:
        message = unpack(records)
    except ProtocolError:
        return
    assert pack(message) == records


def test_views_of_wider_items_travel_as_their_bytes() -> None:
    view = memoryview(b"12345678").cast("I")
    message = Message(kind=Kind.MASKED_INPUT, attachments=(view,))
    assert unpack(pack(message)).attachments == (b"12345678",)


@pytest.mark.parametrize("sizes", [b"[9007199254740991]", b"[1]", b"[0,0,17]"])
def test_a_header_that_claims_more_than_there_is_is_refused(sizes: bytes) -> None:
    records = {"message": {"kind": "hello", "body": b"{}", "sizes": sizes}}
    with pytest.raises(ProtocolError, match="add up"):
        unpack(records)


def test_a_body_over_the_limit_is_refused() -> None:
    with pytest.raises(ProtocolError, match="over"):
        unpack(pack(Message(kind=Kind.HELLO, body=bytes(BODY_LIMIT + 1))))
