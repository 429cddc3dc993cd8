import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.encoding import canonical_json, decode_base64, encode_base64
from tapestry.errors import IncompleteError, ProtocolError, VerificationError
from tapestry.keys import SigningKey, VerifyKey
from tapestry_governance.events import envelope as envelope_module
from tapestry_governance.events.envelope import (
    BODIES,
    EVENT_LIMIT,
    Author,
    DecodedEvents,
    Event,
    new_identifier,
    open_entry,
    sign_entry,
)
from tapestry_governance.events.model_events import EvaluationRecorded
from tapestry_governance.events.privacy_events import DataDeclared
from tapestry_governance.events.round_events import RoundClosed
from tests.support.event_samples import render
from tests.support.log_world import START, World, changed, fake_digest
from tests.support.refusals import refused

VECTORS = Path(__file__).parents[2] / "vectors"
KEY = SigningKey.generate("fr.example/node")
AUTHOR = Author(federation="tapestry", actor="fr", role="node")
DATA = DataDeclared(
    dataset=fake_digest("data"),
    version=1,
    block=1,
    records=7,
    withdrawn=0,
    modality="text",
    unit="record",
    max_rows=None,
    languages=("fr", "pt-BR"),
    licences=("CC-BY-4.0",),
)


def envelope(entry: bytes) -> Any:
    return json.loads(entry)


def with_payload(entry: bytes, payload: bytes) -> bytes:
    return canonical_json({**envelope(entry), "payload": encode_base64(payload)})


def test_an_entry_opens_to_the_event_that_was_signed() -> None:
    event = AUTHOR.event(DATA, now=START, seen=None, refs=(3, 1))
    signed = open_entry(sign_entry(event, KEY))
    signed.verify(KEY.verify_key)
    assert signed.event == event
    assert isinstance(signed.event.body, DataDeclared)


def test_every_kind_of_event_prints_and_parses_to_itself() -> None:
    kinds = set()
    for entry in World().grow().entries:
        signed = open_entry(entry)
        kinds.add(signed.event.type)
        assert Event.decode(signed.payload) == signed.event
        assert signed.event.encode() == signed.payload
    assert kinds >= {"charter.adopted", "round.closed", "adapter.published"}
    assert kinds < set(BODIES)


@given(position=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_flipped_bit_never_verifies(position: int, bit: int) -> None:
    entry = bytearray(sign_entry(AUTHOR.event(DATA, now=START, seen=None), KEY))
    entry[position % len(entry)] ^= 1 << bit
    with pytest.raises((ProtocolError, VerificationError, IncompleteError)):
        open_entry(bytes(entry)).verify(KEY.verify_key)


@given(st.binary(max_size=300))
def test_random_bytes_are_no_entry(data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        open_entry(data)
    assert re.fullmatch("json-.*|text-.*|schema-violated", caught.value.code)


def test_another_key_of_the_same_name_does_not_verify() -> None:
    entry = sign_entry(AUTHOR.event(DATA, now=START, seen=None), KEY)
    other = SigningKey.generate(KEY.name)
    with refused(VerificationError, "signature-missing", match=KEY.name):
        open_entry(entry).verify(other.verify_key)


@pytest.mark.parametrize(
    ("mutate", "code"),
    [
        (lambda p: p[:-1] + b" }", "json-not-canonical"),
        (lambda p: p + b"\n", "json-not-canonical"),
        (lambda p: p.replace(b'"v":1', b'"v":1,"v":1'), "json-not-canonical"),
        (lambda p: p.replace(b":7,", b":7.0,"), "json-type-unsupported"),
        (
            lambda p: p.replace(b'"records":7', b'"records":9007199254740993'),
            "json-number-invalid",
        ),
        (lambda p: p.replace(b'"records":7', b'"records":"7"'), "schema-violated"),
        (lambda p: p.replace(b'"records":7', b'"records":true'), "schema-violated"),
        (lambda p: p.replace(b'"pt-BR"', '"e\u0301"'.encode()), "text-not-normalized"),
        (lambda p: p.replace(b'"refs":[]', b'"more":1,"refs":[]'), "schema-violated"),
        (lambda p: p.replace(b"12:00:00Z", b"12:00:60Z"), "schema-violated"),
        (lambda p: p.replace(b"12:00:00Z", b"12:00:0Z"), "schema-violated"),
        (lambda p: p.replace(b'"role":"node"', b'"role":"king"'), "schema-violated"),
        (lambda p: p.replace(b'"v":1', b'"v":true'), "entry-not-canonical"),
        (lambda p: p.replace(b'"v":1', b'"v":0'), "schema-violated"),
    ],
    ids=[
        "spaces", "trailing", "duplicate-key", "float", "huge-int", "text-for-int",
        "bool-for-int", "NFD", "extra-key", "second-60", "short-time", "role",
        "bool-version", "version-0",
    ],
)  # fmt: skip
def test_a_second_spelling_of_an_event_is_refused(
    mutate: Callable[[bytes], bytes], code: str
) -> None:
    entry = sign_entry(AUTHOR.event(DATA, now=START, seen=None), KEY)
    payload = decode_base64(envelope(entry)["payload"])
    assert mutate(payload) != payload
    with refused(ProtocolError, code):
        open_entry(with_payload(entry, mutate(payload)))


def test_types_and_versions_of_the_future_stop_without_a_verdict() -> None:
    entry = sign_entry(AUTHOR.event(DATA, now=START, seen=None), KEY)
    payload = decode_base64(envelope(entry)["payload"])
    for old, new, code in (
        (b"data.declared", b"vote.lost", "event-type-unknown"),
        (b'"v":1', b'"v":2', "event-version-unknown"),
    ):
        with refused(IncompleteError, code):
            open_entry(with_payload(entry, payload.replace(old, new)))


def test_an_oversize_event_is_refused_when_signed() -> None:
    scores = {f"m{i}-{'x' * 50}": "0.12345678901" for i in range(200)}
    body = EvaluationRecorded(
        subject=fake_digest("a"),
        suite="s",
        suite_digest=fake_digest("s"),
        scores=scores,
    )
    event = AUTHOR.event(body, now=START, seen=None, refs=range(10**6, 10**6 + 256))
    assert len(event.encode()) < 24 << 10
    sign_entry(event, KEY)
    many = AUTHOR.event(
        RoundClosed(
            run_id="r",
            round_number=1,
            attempt=1,
            outcome="applied",
            reason=None,
            included=tuple(f"n{i:03}{'x' * 59}" for i in range(400)),
            dropped=(),
            commitments=tuple(range(400)),
            aggregate_digest=fake_digest("a"),
            base_before=fake_digest("a"),
            base_after=fake_digest("a"),
            release_digest=fake_digest("a"),
            outer_digest=fake_digest("a"),
            metrics={},
        ),
        now=START,
        seen=None,
    )
    with refused(ProtocolError, "json-too-large", match=str(EVENT_LIMIT)):
        sign_entry(many, KEY)


def test_seventeen_signatures_are_refused() -> None:
    keys = [SigningKey.generate(f"n{i:02}") for i in range(17)]
    event = AUTHOR.event(DATA, now=START, seen=None)
    assert len(open_entry(sign_entry(event, *keys[:16])).signatures) == 16
    with refused(ProtocolError, "schema-violated", match="16"):
        sign_entry(event, *keys)


def test_signatures_out_of_order_or_twice_are_refused() -> None:
    event = AUTHOR.event(DATA, now=START, seen=None)
    keys = [SigningKey.generate("a"), SigningKey.generate("b")]
    whole = envelope(sign_entry(event, *keys))
    first, second = whole["signatures"]
    for signatures, code in (
        ([second, first], "signatures-out-of-order"),
        ([first, first], "signatures-out-of-order"),
        ([], "schema-violated"),
    ):
        with refused(ProtocolError, code):
            open_entry(canonical_json({**whole, "signatures": signatures}))
    with pytest.raises(ValueError, match="distinct"):
        sign_entry(event, KEY, KEY)


@given(
    st.datetimes(
        min_value=datetime(1980, 1, 1),  # noqa: DTZ001
        max_value=datetime(2900, 1, 1),  # noqa: DTZ001
    ),
    st.binary(min_size=10, max_size=10),
)
def test_identifiers_are_version_seven_and_in_order_of_time(
    naive: datetime, entropy: bytes
) -> None:
    now = naive.replace(tzinfo=UTC)
    first = new_identifier(now, lambda _: entropy)
    later = new_identifier(now + timedelta(milliseconds=1), lambda _: entropy)
    assert first < later
    event = AUTHOR.event(DATA, now=now, seen=None, entropy=lambda _: entropy)
    assert event.id == first


def test_a_time_without_a_timezone_is_a_bug() -> None:
    with pytest.raises(ValueError, match="timezone"):
        AUTHOR.event(DATA, now=START.replace(tzinfo=None), seen=None)


def test_a_charter_with_one_key_for_two_purposes_is_refused() -> None:
    charter = World().charter()
    first, second, *rest = charter.members
    with pytest.raises(ValueError, match="one key, one purpose"):
        changed(charter, log=charter.coordinator.key)
    twice = second.model_copy(update={"request": first.request})
    with pytest.raises(ValueError, match="one request"):
        changed(charter, members=(first, twice, *rest))
    member = World().request("fr").member
    swapped = member.model_copy(update={"witness": member.node})
    with pytest.raises(ValueError, match="another purpose"):
        type(member).model_validate(swapped.model_dump())
    with pytest.raises(ValueError, match="in order"):
        changed(charter, members=tuple(reversed(charter.members)))


@settings(max_examples=300)
@given(data=st.data())
def test_the_quick_reading_accepts_what_the_strict_one_accepts(
    data: st.DataObject,
) -> None:
    entry = sign_entry(AUTHOR.event(DATA, now=START, seen=None), KEY)
    payload = decode_base64(envelope(entry)["payload"])
    pieces = st.sampled_from(
        [b"", b" ", b'"', b"\\", b"=", b",", b"A", b"1", b"\xc3\xa9", b"{}"]
    )

    def damage(bytes_: bytes) -> bytes:
        for _ in range(data.draw(st.integers(0, 2))):
            start = data.draw(st.integers(0, len(bytes_)))
            stop = data.draw(st.integers(start, min(len(bytes_), start + 3)))
            bytes_ = bytes_[:start] + data.draw(pieces) + bytes_[stop:]
        return bytes_

    entry, payload = damage(entry), damage(payload)
    quick = envelope_module.read_plain_envelope(entry)
    if quick is not None:
        assert envelope_module.read_envelope(entry) == quick
    event = envelope_module.read_plain_event(payload)
    if event is not None:
        strict = envelope_module.read_any_event(payload, limit=EVENT_LIMIT)
        assert strict == event
        assert type(strict) is type(event)


def test_entries_as_a_log_has_them_are_read_quickly() -> None:
    for entry in World().grow().entries:
        assert envelope_module.read_plain_envelope(entry) is not None
        assert envelope_module.read_plain_event(open_entry(entry).payload) is not None


times = st.one_of(
    st.datetimes().map(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ")),
    st.from_regex(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\n?", fullmatch=True
    ),
    st.sampled_from(
        ["2026-02-29T00:00:00Z", "2024-02-29T24:00:00Z", "\u0662026-01-01T00:00:00Z"]
    ),
)


@pytest.mark.slow
@given(text=times)
def test_a_time_is_one_that_the_calendar_has_in_its_one_spelling(text: str) -> None:
    form = "%Y-%m-%dT%H:%M:%SZ"
    try:
        moment = datetime.strptime(text, form).replace(tzinfo=UTC)
        expected = moment.strftime(form) == text and moment.year > 999
    except ValueError:
        expected = False
    if expected:
        assert envelope_module.check_time(text) == text
    else:
        with pytest.raises(ValueError, match="time"):
            envelope_module.check_time(text)


def test_events_of_entries_are_decoded_by_index() -> None:
    entries = World().grow().entries
    events = DecodedEvents(entries)
    assert len(events) == len(entries)
    assert events[3] == open_entry(entries[3]).event
    assert events[-2:] == [open_entry(entry).event for entry in entries[-2:]]
    with pytest.raises(IndexError):
        events[len(entries)]


def test_the_published_events_are_one_of_each_type() -> None:
    published = json.loads((VECTORS / "events.json").read_text())
    assert {row["type"] for row in published} == set(BODIES)
    assert render() == (VECTORS / "events.json").read_text()


@pytest.mark.parametrize(
    "row",
    json.loads((VECTORS / "events.json").read_text()),
    ids=lambda row: row["type"],
)
def test_a_published_event_is_read_and_printed_alike(row: dict[str, str]) -> None:
    signed = open_entry(row["entry"].encode())
    assert signed.payload == row["event"].encode() == signed.event.encode()
    assert (signed.digest, signed.event.body.digest) == (
        row["entry_digest"],
        row["body_digest"],
    )
    signed.verify(VerifyKey.parse(row["signer"]))
