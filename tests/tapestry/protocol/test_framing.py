from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ProtocolError
from tapestry.protocol import framing
from tapestry.protocol.framing import pack, unpack
from tapestry.protocol.messages import BODY_LIMIT, Kind, Message
from tests.support.refusals import refused

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
            [
                *(b"[]", b"[0]", b"[16]", b"[3,14]", b"[1]", b"[0,2]", b"[-1]"),
                *(b"[true]", b"{}", b"[ 1]"),
            ]
        ),
        "bytes": st.binary(max_size=3),
    },
    optional={"more": st.just(b"")},
)
pieces = st.fixed_dictionaries({"bytes": st.binary(max_size=17)})


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "PIECE_BYTES", 16)
    monkeypatch.setattr(framing, "INLINE_BYTES", 2)


@given(messages)
def test_unpacking_inverts_packing(message: Message) -> None:
    assert unpack(pack(message)) == message


@given(messages)
def test_every_piece_but_the_last_is_full(message: Message) -> None:
    records = pack(message)
    sizes = [len(records[f"piece-{n}"]["bytes"]) for n in range(len(records) - 1)]
    assert all(size == 16 for size in sizes[:-1])
    assert all(sizes)
    small = sum(len(each) for each in message.attachments) <= 2
    assert small == (len(records) == 1)


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
    head = {"kind": "hello", "body": b"{}", "sizes": sizes, "bytes": b""}
    records = {"message": head}
    with refused(ProtocolError, "message-size-differs"):
        unpack(records)


def test_a_body_over_the_limit_is_refused() -> None:
    with refused(ProtocolError, "json-too-large", match=str(BODY_LIMIT)):
        unpack(pack(Message(kind=Kind.HELLO, body=bytes(BODY_LIMIT + 1))))


RECORDS: dict[str, tuple[Any, str]] = {
    "a kind that is not known": ({"kind": "nonsense"}, "message-kind-unknown"),
    "a body that is a text": ({"body": "{}"}, "message-records-malformed"),
    "a header with a field more": ({"more": b""}, "message-records-malformed"),
    "sizes that are no list": ({"sizes": b"{}"}, "message-records-malformed"),
    "a size below zero": ({"sizes": b"[-1]"}, "message-records-malformed"),
    "a size that is no number": ({"sizes": b"[true]"}, "message-records-malformed"),
    "bytes that are a text": ({"bytes": ""}, "message-records-malformed"),
    "bytes without a size": ({"bytes": b"x"}, "message-size-differs"),
    "more bytes than belong there": (
        {"sizes": b"[3]", "bytes": b"abc"},
        "message-records-malformed",
    ),
}


@pytest.mark.parametrize(("change", "code"), RECORDS.values(), ids=list(RECORDS))
def test_a_malformed_header_is_refused(change: Any, code: str) -> None:
    good = {"kind": "hello", "body": b"{}", "sizes": b"[]", "bytes": b""}
    assert unpack({"message": good}) == Message(kind=Kind.HELLO)
    with refused(ProtocolError, code):
        unpack({"message": {**good, **change}})


def test_records_other_than_the_header_and_its_pieces_are_refused() -> None:
    records: Any = pack(Message(kind=Kind.MASKED_INPUT, attachments=(b"abc",)))
    small: Any = pack(Message(kind=Kind.COSIGN, attachments=(b"a",)))
    for bad in (
        {"message": records["message"], "piece-00": records["piece-0"]},
        {"piece-0": records["piece-0"]},
        {**records, "piece-0": {"bytes": "abc"}},
        {**small, "piece-0": {"bytes": b"a"}},
    ):
        with refused(ProtocolError, "message-records-malformed"):
            unpack(bad)
