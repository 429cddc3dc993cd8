"""Entries: signed events, as the log holds them.

An entry is the canonical JSON of a DSSE envelope whose payload is the canonical
JSON of one event::

    {"payload":"eyJ…","payloadType":"application/vnd.tapestry.event.v1+json",
     "signatures":[{"keyid":"fr.example/node+1a2b3c4d","sig":"…"}]}

A signature is Ed25519 over DSSE's pre-authentication encoding of payload type and
payload. Its author signs an event, the log only orders it; being in the log does
not make an event valid, replay does (``rules.replay``).
"""

import re
import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, cast, overload

from pydantic import (
    AfterValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    create_model,
    model_validator,
)

from tapestry.encoding import (
    canonical_json,
    decode_base64,
    decode_json,
    digest,
    encode_base64,
)
from tapestry.errors import IncompleteError, ProtocolError, VerificationError
from tapestry.keys import SigningKey, VerifyKey
from tapestry.schema import Name, Strict
from tapestry_governance.events import (
    member_events,
    model_events,
    publication_events,
    round_events,
)
from tapestry_governance.events.event_body import Body, Hash, Index, Role
from tapestry_governance.events.federation_events import CharterAdopted
from tapestry_governance.events.privacy_events import DataDeclared, DpAccounted

BODIES = MappingProxyType(
    {
        body.type: body
        for body in (
            CharterAdopted,
            DataDeclared,
            round_events.RoundOpened,
            round_events.ContributionCommitted,
            round_events.ContributionRefused,
            DpAccounted,
            round_events.RoundClosed,
            round_events.RoundAborted,
            round_events.RoundDisputed,
            model_events.EvaluationRecorded,
            model_events.ReleasePublished,
            model_events.AdapterPublished,
            member_events.CharterAccepted,
            member_events.ProposalMade,
            member_events.VoteCast,
            member_events.KeyRotated,
            member_events.MemberLeft,
            publication_events.EvaluationPlanned,
            publication_events.EvaluationReported,
            publication_events.AdapterWithdrawn,
            publication_events.ConstitutionPublished,
            publication_events.LimitsCommitted,
            publication_events.CoursesCommitted,
        )
    }
)
"""The bodies by type of event."""

PAYLOAD_TYPE = "application/vnd.tapestry.event.v1+json"
EVENT_LIMIT = 24 << 10
ENTRY_LIMIT = 48 << 10
SIGNATURE_LIMIT = 16
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_TIME_PARTS = re.compile(
    "([1-9][0-9]{3})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})Z"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UUID7 = re.compile(
    "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)


def check_time(text: str) -> str:
    """Require the one spelling of a time in UTC, such as 2026-11-23T12:00:07Z."""
    parts = _TIME_PARTS.fullmatch(text)
    if parts is None:
        raise ValueError(f"not a UTC time in seconds: {text[:40]!r}")
    year, month, day, hour, minute, second = map(int, parts.groups())
    try:
        datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"no such time, {text}: {error}") from None
    return text


def _identifier(text: str) -> str:
    if not _UUID7.fullmatch(text):
        raise ValueError(f"not a UUIDv7: {text[:40]!r}")
    return text


class Seen(Strict):
    """The newest quorum-cosigned checkpoint that an author had; it exposes forks."""

    size: Annotated[int, Field(ge=1)]
    root: Hash


class Event(Strict):
    """One statement of one party, without its signature."""

    v: Literal[1]
    type: Annotated[str, Field(max_length=60)]
    id: Annotated[str, Field(max_length=36), AfterValidator(_identifier)]
    federation: Name
    actor: Name
    role: Role
    claimed_time: Annotated[
        str, Field(max_length=20), AfterValidator(check_time)
    ]  # a claim, no more
    seen: Seen | None  # null only while no cosigned view exists
    refs: Annotated[tuple[Index, ...], Field(max_length=256)]
    body: SerializeAsAny[Body]

    @classmethod
    def decode(cls, data: bytes, *, limit: int = EVENT_LIMIT) -> Self:
        """Read an event of a known type and version from canonical JSON.

        Raises:
            ProtocolError: The bytes are not canonical, or not of this shape.
            IncompleteError: The version or type is one that this release does not know.
        """
        event = read_plain_event(data) if len(data) <= limit else None
        return cast("Self", event or read_any_event(data, limit=limit))

    @model_validator(mode="after")
    def _check_body(self) -> Self:
        if BODIES.get(self.type) is not type(self.body):
            raise ValueError(f"type {self.type[:60]!r} has another body")
        return self


_EVENTS: dict[str, type[Event]] = {
    kind: create_model("Event", __base__=Event, __module__=__name__, body=(body, ...))
    for kind, body in BODIES.items()
}
"""Events by type: like ``Event``, with the body's own fields checked in one pass."""


_TYPE = re.compile(rb',"type":"([a-z_.]{1,60})","v":1}$')


def read_plain_event(data: bytes) -> Event | None:
    """Read an event in one pass, or return None for ``read_any_event`` to judge.

    Data that is what its event prints is canonical, since printing is.
    """
    found = _TYPE.search(data, max(0, len(data) - 80))
    kind = _EVENTS.get(found[1].decode()) if found else None
    if kind is None:
        return None
    try:
        event = kind.model_validate_json(data)
        return event if event.encode() == data else None
    except (ValidationError, ProtocolError):
        return None


def read_any_event(data: bytes, *, limit: int) -> Event:
    """Read an event, or raise the error that names the place and the rule."""
    header = decode_json(data, limit=limit)
    kind = Event
    if isinstance(header, dict):
        _refuse_unknown(header)
        kind = _EVENTS.get(str(header.get("type")), Event)
    event = super(Event, kind).decode(data, limit=limit)
    if event.encode() != data:
        message = f"event {event.id} has a second spelling"
        raise ProtocolError(message, code="entry-not-canonical")
    return event


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """A party of one federation, as the author of events."""

    federation: str
    actor: str
    role: Role

    def event(
        self,
        body: Body,
        *,
        now: datetime,
        seen: Seen | None,
        refs: Sequence[int] = (),
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> Event:
        """Make an event of this author.

        ``now`` is timezone-aware and goes into the id, whose random bits ``entropy``
        gives, and into the claimed time; ``refs`` are indexes of entries.
        """
        return _EVENTS[body.type](
            v=1,
            type=body.type,
            id=new_identifier(now, entropy),
            federation=self.federation,
            actor=self.actor,
            role=self.role,
            claimed_time=now.astimezone(UTC).strftime(_TIME),
            seen=seen,
            refs=tuple(refs),
            body=body,
        )


def new_identifier(
    now: datetime, entropy: Callable[[int], bytes] = secrets.token_bytes
) -> str:
    """Make a UUIDv7 (RFC 9562, 5.7): 48 bits of milliseconds, 74 random ones.

    Raises:
        ValueError: The time has no timezone: a bug of the caller.
    """
    if now.tzinfo is None:
        raise ValueError("a time without a timezone")
    milliseconds = (now - _EPOCH) // timedelta(milliseconds=1)
    raw = milliseconds.to_bytes(6, "big") + entropy(10)
    number = int.from_bytes(raw, "big")
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=number))


class _Signature(Strict):
    keyid: Annotated[str, Field(max_length=160)]
    sig: Annotated[str, Field(max_length=100)]


class _Envelope(Strict):
    payload: Annotated[str, Field(max_length=ENTRY_LIMIT)]
    payloadType: Literal["application/vnd.tapestry.event.v1+json"]  # noqa: N815 - DSSE's
    signatures: Annotated[
        tuple[_Signature, ...], Field(min_length=1, max_length=SIGNATURE_LIMIT)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """An entry taken apart. Its form is checked, its signatures are not."""

    entry: bytes
    payload: bytes
    event: Event
    signatures: tuple[tuple[str, bytes], ...]  # key id, signature; in order of key id

    @property
    def digest(self) -> str:
        """The digest of the entry; that of entry 0 is the federation's genesis."""
        return digest(self.entry)

    def verify(self, key: VerifyKey) -> None:
        """Check that a key signed the event.

        Raises:
            VerificationError: The entry has no signature by this key, or a bad one.
        """
        for keyid, signature in self.signatures:
            if keyid == key.keyid:
                key.verify(pre_authentication_encoding(self.payload), signature)
                return
        message = f"entry is not signed by {key.keyid}"
        raise VerificationError(message, code="signature-missing")


def sign_entry(event: Event, *keys: SigningKey) -> bytes:
    """Print an event as an entry, signed by one key or by several.

    Raises:
        ProtocolError: The event or the entry is over its limit.
        ValueError: There is no key, or one key twice: a bug of the caller.
    """
    payload = event.encode()
    signatures = sorted(
        (
            key.verify_key.keyid,
            encode_base64(key.sign(pre_authentication_encoding(payload))),
        )
        for key in keys
    )
    if not keys or len({keyid for keyid, _ in signatures}) != len(keys):
        raise ValueError("an entry is signed by one key or by several distinct ones")
    envelope = {
        "payload": encode_base64(payload),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": keyid, "sig": sig} for keyid, sig in signatures],
    }
    entry = canonical_json(envelope)
    open_entry(entry)
    return entry


def open_entry(entry: bytes) -> Signed:
    """Take an entry apart; the inverse of printing it.

    Guarantees:
        An entry that is accepted has one spelling: printing the event and the
        envelope again gives the same bytes. No signature is checked here.

    Raises:
        ProtocolError: The entry is over a limit, not canonical, or not of this shape.
        IncompleteError: The version or type is one that this release does not know.
    """
    entry = bytes(entry)
    payload_text, signatures = read_plain_envelope(entry) or read_envelope(entry)
    payload = decode_base64(payload_text)
    return Signed(
        entry=entry,
        payload=payload,
        event=Event.decode(payload),
        signatures=tuple((keyid, decode_base64(sig)) for keyid, sig in signatures),
    )


class DecodedEvents(Sequence[Event]):
    """The events of some entries, each decoded when it is asked for."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        """Take entries that were checked before."""
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, key: int) -> Event: ...

    @overload
    def __getitem__(self, key: slice) -> list[Event]: ...

    def __getitem__(self, key: int | slice) -> Event | list[Event]:
        """Return an event, or several.

        Raises:
            IndexError: The log has no event of this index.
        """
        if isinstance(key, slice):
            return [open_entry(entry).event for entry in self._entries[key]]
        return open_entry(self._entries[key]).event


_Parts = tuple[str, list[tuple[str, str]]]  # payload; key ids with signatures
_PLAIN_ENVELOPE = re.compile(
    rb'\{"payload":"([A-Za-z0-9+/=]*)","payloadType":"'
    + re.escape(PAYLOAD_TYPE.encode())
    + rb'","signatures":\[\{"keyid":"([ !#-\[\]-~]{0,160})",'
    rb'"sig":"([A-Za-z0-9+/=]{0,100})"\}\]\}'
)


def read_plain_envelope(entry: bytes) -> _Parts | None:
    """Read an envelope of one signature whose strings have nothing to escape.

    What matches is canonical: keys in order, no space, and each string spelled in the
    one way that JSON has for it. Most entries of a log do.
    """
    found = _PLAIN_ENVELOPE.fullmatch(entry)
    if found is None or len(entry) > ENTRY_LIMIT:
        return None
    payload, keyid, signature = found.groups()
    return payload.decode(), [(keyid.decode(), signature.decode())]


def read_envelope(entry: bytes) -> _Parts:
    """Read any envelope, or raise the error that names the rule."""
    envelope = _Envelope.decode(entry, limit=ENTRY_LIMIT)
    names = [each.keyid for each in envelope.signatures]
    if names != sorted(set(names)):
        message = f"signatures by {names} must be distinct and in order of key id"
        raise ProtocolError(message, code="signatures-out-of-order")
    return envelope.payload, [(each.keyid, each.sig) for each in envelope.signatures]


def _refuse_unknown(header: dict[str, Any]) -> None:
    version, kind = header.get("v"), header.get("type")
    if isinstance(version, int) and version > 1:
        message = f"event of version {version}; this release knows 1"
        raise IncompleteError(message, code="event-version-unknown")
    if isinstance(kind, str) and kind not in BODIES:
        message = f"event of unknown type {kind[:60]!r}"
        raise IncompleteError(message, code="event-type-unknown")


def pre_authentication_encoding(payload: bytes) -> bytes:
    """DSSE v1, pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
