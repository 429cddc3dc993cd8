"""Entries: signed events, as the log holds them.

An entry is the canonical JSON of a DSSE envelope whose payload is the canonical
JSON of one event::

    {"payload":"eyJ…","payloadType":"application/vnd.tapestry.event.v1+json",
     "signatures":[{"keyid":"fr.example/node+1a2b3c4d","sig":"…"}]}

A signature is Ed25519 over DSSE's pre-authentication encoding of payload type and
payload. Its author signs an event, the log only orders it; being in the log does
not make an event valid, the fold does (``replay.py``).
"""

import json
import re
import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
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
from tapestry_governance.events.types import BODIES, Body, Hash, Index, Role

PAYLOAD_TYPE = "application/vnd.tapestry.event.v1+json"
EVENT_LIMIT = 24 << 10
ENTRY_LIMIT = 48 << 10
SIGNATURE_LIMIT = 16
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UUID7 = re.compile(
    "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)


def _time(text: str) -> str:
    try:
        parsed = datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"not a UTC time in seconds: {text[:40]!r}") from None
    if parsed.strftime(_TIME) != text:
        raise ValueError(f"not the one spelling of a time: {text[:40]!r}")
    return text


def _identifier(text: str) -> str:
    if not _UUID7.fullmatch(text):
        raise ValueError(f"not a UUIDv7: {text[:40]!r}")
    return text


class Seen(Strict):
    """The newest quorum-cosigned view its author had: gossip that exposes forks."""

    size: Annotated[int, Field(ge=1)]
    root: Hash


class Event(Strict):
    """One thing that one party says."""

    v: Literal[1]
    type: str
    id: Annotated[str, AfterValidator(_identifier)]
    federation: Name
    actor: Name
    role: Role
    claimed_time: Annotated[str, AfterValidator(_time)]  # a claim, no more
    seen: Seen | None  # null only while no cosigned view exists
    refs: Annotated[tuple[Index, ...], Field(max_length=256)]
    body: SerializeAsAny[Body]

    @field_validator("body", mode="plain")
    @classmethod
    def _decode_body(cls, value: Any, info: ValidationInfo) -> Body:
        kind = BODIES.get(info.data.get("type", ""))
        if kind is None:
            raise ValueError("unknown type")
        if isinstance(value, kind):
            return value
        if not isinstance(value, dict):
            raise ValueError("not an object")  # noqa: TRY004 - pydantic wants ValueError
        return _shape(kind, json.dumps(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who speaks: a fixed party of one federation."""

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

        Args:
            body: What it says.
            now: Timezone-aware; goes into the id and the claimed time.
            seen: The author's newest cosigned view of the log.
            refs: Indexes of the entries it refers to.
            entropy: Where the id's random bits come from.
        """
        return Event(
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
    """Make a UUIDv7 (RFC 9562, 5.7): 48 bits of milliseconds, 74 random ones."""
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
    payload: str
    payloadType: Literal["application/vnd.tapestry.event.v1+json"]  # noqa: N815 - DSSE's
    signatures: Annotated[
        tuple[_Signature, ...], Field(min_length=1, max_length=SIGNATURE_LIMIT)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """An entry taken apart. Nothing is verified yet but its form."""

    entry: bytes
    payload: bytes
    event: Event
    signatures: tuple[tuple[str, bytes], ...]  # key id, signature; in order of key id

    @property
    def digest(self) -> str:
        """What names the entry; for entry 0 this is the federation's genesis."""
        return digest(self.entry)

    def verify(self, key: VerifyKey) -> None:
        """Check that a key signed the event.

        Raises:
            VerificationError: No signature by this key, or a bad one.
        """
        for keyid, signature in self.signatures:
            if keyid == key.keyid:
                key.verify(_pae(self.payload), signature)
                return
        raise VerificationError(f"entry is not signed by {key.keyid}")


def sign_entry(event: Event, *keys: SigningKey) -> bytes:
    """Print an event as an entry, signed by one key or by several.

    Raises:
        ProtocolError: The event or the entry is over its limit.
        ValueError: No key, or one key twice.
    """
    payload = event.encode()
    signatures = sorted(
        (key.verify_key.keyid, encode_base64(key.sign(_pae(payload)))) for key in keys
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
        What is accepted has one spelling: printing the event and the envelope
        again gives the same bytes. No signature is checked here.

    Raises:
        ProtocolError: Over a limit, not canonical, or not of this shape.
        IncompleteError: A later version or a type that this release does not know.
    """
    envelope = _Envelope.decode(bytes(entry), limit=ENTRY_LIMIT)
    payload = decode_base64(envelope.payload)
    header = decode_json(payload, limit=EVENT_LIMIT)
    if isinstance(header, dict):
        _refuse_unknown(header)
    event = _shape(Event, payload)
    if event.encode() != payload:
        raise ProtocolError("event has a second spelling")
    signatures = tuple((s.keyid, decode_base64(s.sig)) for s in envelope.signatures)
    names = [keyid for keyid, _ in signatures]
    if names != sorted(set(names)):
        raise ProtocolError("signatures must be distinct and in order of key id")
    return Signed(
        entry=bytes(entry), payload=payload, event=event, signatures=signatures
    )


_Model = TypeVar("_Model", bound=Strict)


def _shape(model: type[_Model], data: bytes | str) -> _Model:
    """Read a model from JSON that is known to be canonical."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(f"{model.__name__} {where}: {first['msg']}") from None


def _refuse_unknown(header: dict[str, Any]) -> None:
    version, kind = header.get("v"), header.get("type")
    if isinstance(version, int) and version > 1:
        raise IncompleteError(f"event of version {version}; this release knows 1")
    if isinstance(kind, str) and kind not in BODIES:
        raise IncompleteError(f"event of unknown type {kind[:60]!r}")


def _pae(payload: bytes) -> bytes:
    """DSSE v1, pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
