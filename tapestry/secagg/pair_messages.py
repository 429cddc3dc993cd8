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


def split_joined(joined: bytes, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Split messages that follow one another.

    Args:
        joined: The messages.
        sizes: Those of each, by the node it is for or from, in order of name.

    Raises:
        ProtocolError: The bytes are not as many as all messages take.
    """
    if len(joined) != sum(sizes.values()):
        raise ProtocolError(
            f"{len(joined)} bytes of messages, want {sum(sizes.values())} with those of"
            f" {len(sizes)} other nodes",
            code="ciphertext-size-invalid",
        )
    parts, at = {}, 0
    for name, size in sizes.items():
        parts[name] = joined[at : at + size]
        at += size
    return parts


def what_is_signed(root: bytes, hashed: bytes) -> bytes:
    """Hash the root over the commitments, and the hash of all messages, into one."""
    return node_hash(root, hashed)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairMessages:
    """The messages of one node to the others, in order of the receivers' names."""

    to: Mapping[str, bytes]
    hashed: bytes  # SHA-256 of all, one after the other

    @classmethod
    def of(cls, to: Mapping[str, bytes], *, joined: bytes) -> Self:
        """Take messages, and the same one after the other."""
        return cls(to=to, hashed=hashlib.sha256(joined).digest())

    @property
    def commitments(self) -> dict[str, bytes]:
        """The commitments in the messages, by receiver."""
        return {
            name: commitment_in(data)
            for name, data in self.to.items()
            if len(data) == _CLEAR_END + BOX_BYTES
        }

    @property
    def digest(self) -> bytes:
        """The one digest of its messages that the node signs."""
        return what_is_signed(root_of([*self.commitments.values()]), self.hashed)
