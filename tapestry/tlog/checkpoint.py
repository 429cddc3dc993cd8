"""Checkpoint of a log: origin, size and root, signed by the log, cosigned by members.

The text of a checkpoint (C2SP tlog-checkpoint) is three lines::

    tapestry.example/gov
    5
    h9UMXqS06cZqY1DcnPgMhWQabcLU6G++7tynUvpM20w=

The origin is the name of the log's key. Extension lines are refused, because no rule
could audit them.
"""

import re
from dataclasses import dataclass
from typing import Self

from tapestry.encoding import (
    decode_base64,
    decode_integer,
    encode_base64,
    encode_integer,
)
from tapestry.errors import ProtocolError
from tapestry.keys import SigningKey
from tapestry.tlog import note
from tapestry.tlog.merkle import EMPTY_ROOT, HASH_BYTES

_ORIGIN = re.compile(r"[!-*,-~]{1,128}")  # as the name of a key


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The claim of a log: its number of entries and their root.

    Guarantees:
        ``Checkpoint.parse(str(checkpoint)) == checkpoint``, and a text that
        parses is printed again byte for byte.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        """Refuse values that have no spelling."""
        if not _ORIGIN.fullmatch(self.origin):
            raise _malformed(f"not the origin of a log: {self.origin[:40]!r}")
        encode_integer(self.size)
        if len(self.root) != HASH_BYTES:
            raise _malformed(f"root of {len(self.root)} bytes, want {HASH_BYTES}")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise _malformed(
                f"root {self.root.hex()} of an empty log, want {EMPTY_ROOT.hex()}"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a checkpoint.

        Raises:
            ProtocolError: The text is not exactly these three lines.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise _malformed(
                f"{len(lines) - 1} line ends, want three lines: origin, size, root"
            )
        return cls(
            origin=lines[0], size=decode_integer(lines[1]), root=decode_base64(lines[2])
        )

    def __str__(self) -> str:
        size, root = encode_integer(self.size), encode_base64(self.root)
        return f"{self.origin}\n{size}\n{root}\n"

    def sign(self, key: SigningKey) -> bytes:
        """Sign as the log and return a note.

        Raises:
            ValueError: The key is not named as the origin, or is for cosigning.
        """
        if key.name != self.origin:
            raise ValueError(f"key {key.name} cannot sign for {self.origin}")
        signature = note.sign(str(self), key)
        return note.Note(text=str(self), signatures=(signature,)).encode()

    def cosign(self, key: SigningKey, *, time: int) -> bytes:
        """Cosign as a witness, in POSIX seconds, and return one signature line.

        Not protected:
            A cosignature states that the log was append-only in all that this witness
            has seen until this time. The caller must have verified that, and stored
            it durably, before calling.
        """
        return str(note.cosign(str(self), key, time=time)).encode()


def read_claim(data: bytes) -> Checkpoint:
    """Read the checkpoint in a note, without checking any signature.

    Use it for messages about a note that is refused, and for choosing which size to
    ask for. Never act on the result.

    Raises:
        ProtocolError: The bytes are not a note over a checkpoint.
    """
    return Checkpoint.parse(note.parse(data).text)


def _malformed(said: str) -> ProtocolError:
    return ProtocolError(f"checkpoint: {said}", code="checkpoint-malformed")
