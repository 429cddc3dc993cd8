"""Proof in one file that an entry is in the log (C2SP tlog-proof, version 1).

::

    c2sp.org/tlog-proof@v1
    index 2
    10otHyrxwcrWxeiob8hpFi59HqAecpq/8XhR0QlI+ZQ=        inclusion proof, lowest first
    O63IBTfwKeG7dygNyFIDzy7ZdI3I9XEjD8ulwybJEGg=
    Z8vzSda05Mr0MKlnUcpTIhRBTC+Mn3xWervD5S8t85E=

    tapestry.example/gov                                the cosigned checkpoint
    …

The proof stands beside the entry, which it does not contain. The optional
``extra`` line of the format is refused: nothing would authenticate it.
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
from tapestry.tlog.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from tapestry.tlog.note import MAX_BYTES as MAX_NOTE_BYTES
from tapestry.tlog.trust_policy import CosignedCheckpoint, TrustPolicy

MAX_HASHES = 63
HEADER = "c2sp.org/tlog-proof@v1"
_MAX_BYTES = MAX_NOTE_BYTES + 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """An index, the hashes from leaf to root, and a checkpoint; nothing is checked.

    Guarantees:
        ``Proof.parse(proof.encode()) == proof``, and bytes that parse are
        printed again byte for byte.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a proof file.

        Raises:
            ProtocolError: The bytes are not the one spelling of a proof.
        """
        if len(data) > _MAX_BYTES:
            raise ProtocolError(
                f"proof of {len(data)} bytes is over {_MAX_BYTES}",
                code="proof-too-large",
            )
        head, gap, checkpoint = data.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError:
            raise _malformed("it is not ASCII") from None
        if not gap or len(lines) < 2 or lines[0] != HEADER:
            raise _malformed(f"want {HEADER}, an index, hashes, an empty line")
        if not lines[1].startswith("index "):
            raise _malformed(f"line 2 is {lines[1][:40]!r}, want an index")
        if len(lines) - 2 > MAX_HASHES:
            raise ProtocolError(
                f"proof of {len(lines) - 2} hashes is over {MAX_HASHES}",
                code="proof-too-large",
            )
        return cls(
            index=decode_integer(lines[1].removeprefix("index ")),
            hashes=tuple(map(_decode_hash, lines[2:])),
            checkpoint=checkpoint,
        )

    def encode(self) -> bytes:
        """Print the proof."""
        lines = [HEADER, f"index {encode_integer(self.index)}"]
        lines += [encode_base64(value) for value in self.hashes]
        return "\n".join(lines).encode() + b"\n\n" + self.checkpoint

    def verify(self, entry: bytes, trust: TrustPolicy) -> CosignedCheckpoint:
        """Check that the log holds exactly these bytes at the index.

        Returns:
            The checkpoint; the caller decides how old it may be.

        Raises:
            ProtocolError: The checkpoint of the proof is malformed.
            VerificationError: Log signature, cosignature or inclusion is wrong, or the
                checkpoint is not spelled as the log writes it.
            QuorumError: Too few witnesses have cosigned the checkpoint.
        """
        opened = trust.open_published(self.checkpoint)
        verify_inclusion(
            leaf_hash(entry),
            index=self.index,
            size=opened.checkpoint.size,
            proof=self.hashes,
            root=opened.checkpoint.root,
        )
        return opened


def _decode_hash(text: str) -> bytes:
    value = decode_base64(text)
    if len(value) != HASH_BYTES:
        raise _malformed(f"hash of {len(value)} bytes, want {HASH_BYTES}")
    return value


def _malformed(said: str) -> ProtocolError:
    return ProtocolError(f"tlog-proof: {said}", code="proof-malformed")
