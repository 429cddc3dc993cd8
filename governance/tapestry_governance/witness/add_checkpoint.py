"""Requests and replies of a witness over HTTP (C2SP tlog-witness, version 1).

::

    POST /add-checkpoint

    old 20852014                         the size that the witness cosigned last, or 0
    PlRNCrwHpqhGrupue0L7gxbjbMiKA9te…    up to 63 hashes: a consistency proof from there
                                         an empty line
    example.com/log                      a checkpoint, signed by the log
    20852163
    …

=======  ===============================================================================
status   when, and what the reply holds
=======  ===============================================================================
200      cosigned: the witness's signature line
400      request or checkpoint are malformed, or ``old`` is above the checkpoint's size
403      the log has not signed, or a known key's signature is bad
404      the log is not one of the witness's
409      ``old`` is not what it cosigned last: that size, as ``text/x.tlog.size``
422      the proof does not hold, or one size has two roots
=======  ===============================================================================

Version 1.0.0 has 409 for two roots of one size, too. Its later text and the public
witnesses say 422, which no client takes for a size.
"""

from dataclasses import dataclass
from typing import Self

from tapestry.encoding import (
    decode_base64,
    decode_integer,
    encode_base64,
    encode_integer,
)
from tapestry.errors import ProtocolError
from tapestry.tlog.merkle import HASH_BYTES

PATH = "/add-checkpoint"
SIZE_TYPE = "text/x.tlog.size"
TEXT_TYPE = "text/plain; charset=utf-8"
MAX_BYTES = 1 << 16  # of a request; a checkpoint with 128 cosignatures has 20 KiB
MAX_PROOF = 63  # hashes


class StaleSizeError(ProtocolError):
    """A request begins at another size than the one that was cosigned last."""

    def __init__(self, message: str, *, size: int, code: str) -> None:
        super().__init__(message, code=code)
        self.size = size


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRequest:
    """A checkpoint, and the proof that it is consistent with one of a smaller size."""

    old_size: int
    proof: tuple[bytes, ...]
    note: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the body of a request; the note is not looked at.

        Raises:
            ProtocolError: It is no such body, in its one spelling.
        """
        head, _, note = body.partition(b"\n\n")
        first, *lines = head.decode("ascii", errors="replace").split("\n")
        if not first.startswith("old ") or not note or len(lines) > MAX_PROOF:
            raise ProtocolError(
                f"want the line 'old SIZE', up to {MAX_PROOF} hashes, an empty line and"
                " a checkpoint",
                code="witness-request-malformed",
            )
        proof = tuple(decode_base64(line) for line in lines)
        if any(len(each) != HASH_BYTES for each in proof):
            raise ProtocolError(
                f"want hashes of {HASH_BYTES} bytes in the proof",
                code="witness-request-malformed",
            )
        old_size = decode_integer(first.removeprefix("old "))
        return cls(old_size=old_size, proof=proof, note=note)

    def encode(self) -> bytes:
        """Print the body of the request."""
        lines = [
            f"old {encode_integer(self.old_size)}",
            *map(encode_base64, self.proof),
        ]
        return "\n".join([*lines, "", ""]).encode("ascii") + self.note


def encode_size(size: int) -> bytes:
    """Print the body of a reply of ``SIZE_TYPE``."""
    return f"{encode_integer(size)}\n".encode("ascii")


def decode_size(body: bytes) -> int:
    """Read the body of a reply of ``SIZE_TYPE``.

    Raises:
        ProtocolError: It is not a size and a line feed.
    """
    text = body.decode("ascii", errors="replace")
    if not text.endswith("\n"):
        raise ProtocolError(
            "the witness's size does not end its line", code="witness-reply-malformed"
        )
    return decode_integer(text.removesuffix("\n"))
