"""Framing of a message as a few plain records, for a transport with sized records.

Attachments vary from ten bytes (a cosignature) to gigabytes (a vector), and their
number from none to thousands. A transport pays per record, so they travel as one
stream: in the first record up to ``INLINE_BYTES``, otherwise cut into pieces of at most
``PIECE_BYTES``::

    "message"   kind: text, body: bytes, sizes: canonical JSON, each attachment's length
                bytes: the stream, or none
    "piece-0"   bytes
    "piece-1"   bytes …
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import ProtocolError
from tapestry.protocol.messages import BODY_LIMIT, Kind, Message

PIECE_BYTES = 1 << 20  # larger ones travel no faster and cost memory at every hop
INLINE_BYTES = 1 << 16  # of attachments that need no record of their own
SMALL_BYTES = 1 << 17  # of a message that travels in one piece, its one record within

Records = dict[str, dict[str, str | bytes]]


def pack(message: Message) -> Records:
    """Turn a message into records; the inverse of ``unpack``."""
    views = [memoryview(attachment).cast("B") for attachment in message.attachments]
    sizes = [view.nbytes for view in views]
    is_small = sum(sizes) <= INLINE_BYTES
    records: Records = {
        "message": {
            "kind": message.kind.value,
            "body": message.body,
            "sizes": canonical_json(sizes),
            "bytes": b"".join(views) if is_small else b"",
        }
    }
    for number, piece in enumerate([] if is_small else _pieces(views)):
        records[_piece_name(number)] = {"bytes": piece}
    return records


def is_small(records: Records) -> bool:
    """Return whether a packed message is so small that it travels in one piece."""
    head = records["message"].values()
    return len(records) == 1 and sum(map(len, head)) <= SMALL_BYTES


def unpack(records: Mapping[str, Mapping[str, Any]]) -> Message:
    """Join the records of a message; the inverse of ``pack``.

    Guarantees:
        ``pack(unpack(records)) == records`` for all records that are accepted. The
        memory used is at most twice that of the records, whatever sizes they claim.

    Raises:
        ProtocolError: The kind is unknown, the body is over the limit, or the records
            are not the ones that ``pack`` would make.
    """
    head, pieces = _take_apart(records)
    try:
        kind = Kind(head["kind"])
    except ValueError:
        raise ProtocolError(
            f"unknown kind of message: {head['kind']!r:.40}",
            code="message-kind-unknown",
        ) from None
    body: bytes = head["body"]
    if len(body) > BODY_LIMIT:
        raise ProtocolError(
            f"body of {len(body)} bytes is over {BODY_LIMIT}", code="json-too-large"
        )
    sizes = _decode_sizes(head["sizes"])
    if sum(sizes) <= INLINE_BYTES and not pieces:
        pieces = [head["bytes"]] if head["bytes"] else []
    elif sum(sizes) <= INLINE_BYTES or head["bytes"]:
        raise _malformed(f"{sum(sizes)} bytes of attachments are not where they belong")
    _check_pieces(pieces, sum(sizes))
    return Message(kind=kind, body=body, attachments=tuple(_attachments(pieces, sizes)))


def _piece_name(number: int) -> str:
    return f"piece-{number}"


def _pieces(views: Sequence[memoryview]) -> Iterator[bytes]:
    parts: list[memoryview] = []
    room = PIECE_BYTES
    for view in views:
        rest = view
        while rest.nbytes:
            part, rest = rest[:room], rest[room:]
            parts.append(part)
            room -= part.nbytes
            if room == 0:
                yield b"".join(parts)
                parts, room = [], PIECE_BYTES
    if parts:
        yield b"".join(parts)


def _take_apart(
    records: Mapping[str, Mapping[str, Any]],
) -> tuple[Mapping[str, Any], list[bytes]]:
    names = [_piece_name(number) for number in range(len(records) - 1)]
    if set(records) != {"message", *names}:
        raise _malformed(
            f"{len(records)} records, want 'message' and pieces numbered from 0"
        )
    head = records["message"]
    shape = {"kind": str, "body": bytes, "sizes": bytes, "bytes": bytes}
    if {name: type(value) for name, value in head.items()} != shape:
        raise _malformed("want kind as text, the rest as bytes in the header")
    pieces = []
    for name in names:
        if [*records[name]] != ["bytes"] or type(records[name]["bytes"]) is not bytes:
            raise _malformed(f"{name} has another shape, want bytes")
        pieces.append(records[name]["bytes"])
    return head, pieces


def _decode_sizes(data: bytes) -> list[int]:
    sizes = decode_json(data, limit=BODY_LIMIT)
    if not isinstance(sizes, list):
        raise _malformed("the sizes of attachments are not a list")
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise _malformed(f"not the size of an attachment: {size!r:.40}")
    return sizes


def _malformed(said: str) -> ProtocolError:
    return ProtocolError(f"message: {said}", code="message-records-malformed")


def _check_pieces(pieces: Sequence[bytes], total: int) -> None:
    full, rest = divmod(total, PIECE_BYTES)
    want = [PIECE_BYTES] * min(full, len(pieces)) + ([rest] if rest else [])
    if full > len(pieces) or [len(piece) for piece in pieces] != want:
        raise ProtocolError(
            f"{len(pieces)} pieces do not add up to {total} bytes of attachments",
            code="message-size-differs",
        )


def _attachments(pieces: Sequence[bytes], sizes: Sequence[int]) -> Iterator[bytes]:
    views = [memoryview(piece) for piece in pieces]
    start = 0
    for size in sizes:
        first, end = start // PIECE_BYTES, start + size
        parts = []
        for number in range(first, -(-end // PIECE_BYTES)):
            base = number * PIECE_BYTES
            parts.append(views[number][max(start - base, 0) : end - base])
        yield b"".join(parts)
        start = end
