"""A message as one header and a few pieces, for a transport with sized records.

Attachments vary from ten bytes (a cosignature) to gigabytes (a vector), and their
number from none to thousands. A transport pays per record, so they travel as one
stream, cut into pieces of at most ``PIECE_BYTES``; the header says where each ends.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import ProtocolError
from tapestry.protocol import BODY_LIMIT, Kind, Message

PIECE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A message, ready for a transport."""

    kind: str
    body: bytes
    sizes: bytes  # canonical JSON: the length of every attachment
    pieces: Sequence[bytes]


def pack(message: Message) -> Packed:
    """Cut the attachments of a message into pieces; the inverse of ``unpack``."""
    views = [memoryview(attachment).cast("B") for attachment in message.attachments]
    return Packed(
        kind=message.kind.value,
        body=message.body,
        sizes=canonical_json([view.nbytes for view in views]),
        pieces=tuple(_pieces(views)),
    )


def unpack(packed: Packed) -> Message:
    """Put a message together again.

    Guarantees:
        ``pack(unpack(packed)) == packed`` for whatever is accepted. The memory used
        is at most twice that of the pieces, whatever the header claims.

    Raises:
        ProtocolError: An unknown kind, a body over the limit, or pieces that are
            not the ones that ``pack`` would make.
    """
    try:
        kind = Kind(packed.kind)
    except ValueError:
        raise ProtocolError(f"unknown kind of message: {packed.kind[:40]!r}") from None
    if len(packed.body) > BODY_LIMIT:
        raise ProtocolError(f"body of {len(packed.body)} bytes is over {BODY_LIMIT}")
    sizes = _decode_sizes(packed.sizes)
    _check_pieces(packed.pieces, sum(sizes))
    return Message(
        kind=kind, body=packed.body, attachments=tuple(_attachments(packed, sizes))
    )


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


def _decode_sizes(data: bytes) -> list[int]:
    sizes = decode_json(data, limit=BODY_LIMIT)
    if not isinstance(sizes, list):
        raise ProtocolError("sizes of attachments are not a list")
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ProtocolError(f"not the size of an attachment: {size!r}")
    return sizes


def _check_pieces(pieces: Sequence[bytes], total: int) -> None:
    full, rest = divmod(total, PIECE_BYTES)
    want = [PIECE_BYTES] * min(full, len(pieces)) + ([rest] if rest else [])
    if full > len(pieces) or [len(piece) for piece in pieces] != want:
        raise ProtocolError(f"pieces do not add up to {total} bytes of attachments")


def _attachments(packed: Packed, sizes: Sequence[int]) -> Iterator[bytes]:
    views = [memoryview(piece) for piece in packed.pieces]
    start = 0
    for size in sizes:
        first, end = start // PIECE_BYTES, start + size
        parts = []
        for number in range(first, -(-end // PIECE_BYTES)):
            base = number * PIECE_BYTES
            parts.append(views[number][max(start - base, 0) : end - base])
        yield b"".join(parts)
        start = end
