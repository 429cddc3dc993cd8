"""The message of one node to another inside message 3, and what a node signs of all.

Bytes, as the parts below one after the other::

    kem         1088  ML-KEM-768 ciphertext for the receiver        hybrid rounds
    committed     32  commitment to the sender's contribution       where it contributes
    wrapped       32  the contribution, under the ML-KEM secret     where it contributes
    box           82  shares of seed and root, under the channel key

Of two nodes exactly one contributes to their mask in a hybrid round. A node signs one
digest of its messages, in order of the receivers' names: the hash of the root over the
commitments in them (``contribution_proof``) and of the SHA-256 of all of them. So a
contribution is shown to have been committed to without the messages.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from tapestry.errors import ProtocolError
from tapestry.mlkem768 import CIPHERTEXT_BYTES
from tapestry.protocol.secagg_messages import BOX_BYTES
from tapestry.secagg.contribution_proof import root_of
from tapestry.tlog.merkle import HASH_BYTES, node_hash

_CLEAR_END = CIPHERTEXT_BYTES + 2 * HASH_BYTES


def contributes(place: int, other: int) -> bool:
    """Return whether the node at a place contributes to the mask with another.

    Guarantees:
        Of two nodes exactly one does, and each does with about half of the others.
    """
    return (place < other) is ((place + other) % 2 == 1)


def message_size(*, hybrid: bool, contributing: bool) -> int:
    """Return the bytes that a message takes."""
    if not hybrid:
        return BOX_BYTES
    return BOX_BYTES + (_CLEAR_END if contributing else CIPHERTEXT_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairMessage:
    """The message of one node to another: in the clear, and sealed."""

    kem: bytes
    committed: bytes
    wrapped: bytes
    box: bytes

    @property
    def clear(self) -> bytes:
        """All but what is sealed; the box is bound to it."""
        return self.kem + self.committed + self.wrapped

    @classmethod
    def decode(cls, data: bytes, *, hybrid: bool, contributing: bool) -> Self:
        """Read from bytes.

        Raises:
            ProtocolError: The message has another size than one of its kind.
        """
        want = message_size(hybrid=hybrid, contributing=contributing)
        if len(data) != want:
            raise ProtocolError(
                f"message of {len(data)} bytes to another node, want {want}",
                code="ciphertext-size-invalid",
            )
        if not hybrid:
            return cls(kem=b"", committed=b"", wrapped=b"", box=data)
        committed = CIPHERTEXT_BYTES + (HASH_BYTES if contributing else 0)
        end = _CLEAR_END if contributing else CIPHERTEXT_BYTES
        return cls(
            kem=data[:CIPHERTEXT_BYTES],
            committed=data[CIPHERTEXT_BYTES:committed],
            wrapped=data[committed:end],
            box=data[end:],
        )


def commitment_in(message: bytes) -> bytes:
    """Take the commitment out of a message that has one."""
    return message[CIPHERTEXT_BYTES : CIPHERTEXT_BYTES + HASH_BYTES]


def commitments_in(messages: Mapping[str, bytes]) -> dict[str, bytes]:
    """Take the commitments out of a node's messages, by receiver, in order of name."""
    return {
        name: commitment_in(data)
        for name, data in sorted(messages.items())
        if len(data) == _CLEAR_END + BOX_BYTES
    }


def hash_of(messages: Mapping[str, bytes]) -> bytes:
    """Hash a node's messages, one after the other in order of the receivers' names."""
    return hashlib.sha256(
        b"".join(messages[name] for name in sorted(messages))
    ).digest()


def what_is_signed(root: bytes, hashed: bytes) -> bytes:
    """Hash the root over the commitments and ``hash_of`` into what a node signs."""
    return node_hash(root, hashed)


def signed_digest(messages: Mapping[str, bytes]) -> bytes:
    """Compute what a node signs of its messages to the others."""
    root = root_of([*commitments_in(messages).values()])
    return what_is_signed(root, hash_of(messages))
