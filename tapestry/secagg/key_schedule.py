r"""Keys of a round: agreement between nodes, derivation, commitments and sealing.

Every derivation is HKDF-SHA256 (RFC 5869) with the round's context as salt, and an
``info`` that says what the key is for and whose it is::

    "tapestry-secagg/1\nchannel\n" from "\n" to "\n" || view of the keys
    "tapestry-secagg/1\npair\n" lesser "\n" greater "\n" || view of the shares
    "tapestry-secagg/1\nself\n" node "\n"

Names hold no newline, views are 32 bytes. A node that was shown another manifest, key
list or set of sharers therefore derives other keys: nothing opens, no mask cancels.
Every key is used once.
"""

import hashlib
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tapestry.errors import ProtocolError

KEY_BYTES = 32
_PREFIX = b"tapestry-secagg/1\n"
_SHA256 = hashes.SHA256()
_NONCE = bytes(12)  # each channel key seals one message


def public_key(private: bytes) -> bytes:
    """Return the X25519 public key of 32 secret bytes (RFC 7748)."""
    key = X25519PrivateKey.from_private_bytes(private)
    return key.public_key().public_bytes_raw()


class Agreement:
    """One's own X25519 key, ready to agree with many others."""

    __slots__ = ("_key",)

    def __init__(self, private: bytes) -> None:
        """Load 32 secret bytes."""
        self._key = X25519PrivateKey.from_private_bytes(private)

    def with_peer(self, public: bytes) -> bytes:
        """Agree on 32 secret bytes with the holder of a public key.

        Raises:
            ProtocolError: The public key is of low order, so anyone would know the
                secret (RFC 7748, 6.1).
        """
        try:
            return self._key.exchange(_read_public(public))
        except ValueError:
            raise ProtocolError(
                f"X25519 key {public.hex()} is of low order: anyone would know the"
                " secret agreed on with it",
                code="key-of-low-order",
            ) from None


@lru_cache(maxsize=1024)
def _read_public(public: bytes) -> X25519PublicKey:
    """Read a public key; the coordinator agrees with the same ones again and again."""
    return X25519PublicKey.from_public_bytes(public)


def channel_key(
    shared: bytes, context: bytes, *, sender: str, receiver: str, view: bytes
) -> bytes:
    """Derive the key that seals the one message from ``sender`` to ``receiver``."""
    return _derive(shared, context, label="channel", names=(sender, receiver), end=view)


def pair_key(
    shared: bytes, context: bytes, *, names: tuple[str, str], view: bytes
) -> bytes:
    """Derive the key of the mask between two nodes; the order does not matter."""
    ordered = (min(names), max(names))
    return _derive(shared, context, label="pair", names=ordered, end=view)


def self_key(seed: bytes, context: bytes, *, node: str) -> bytes:
    """Derive the key of a node's own mask from its seed."""
    return _derive(seed, context, label="self", names=(node,))


def commitment(seed: bytes, context: bytes, *, node: str) -> bytes:
    """Commit to the seed of a node's own mask; hiding, since a seed is random."""
    head = _PREFIX + b"commitment\n" + node.encode() + b"\n"
    return hashlib.sha256(head + context + seed).digest()


def seal(
    key: bytes, plaintext: bytes, *, context: bytes, sender: str, receiver: str
) -> bytes:
    """Encrypt the one message of a channel (ChaCha20-Poly1305, RFC 8439)."""
    data = _associated(context, sender, receiver)
    return ChaCha20Poly1305(key).encrypt(_NONCE, plaintext, data)


def unseal(
    key: bytes, ciphertext: bytes, *, context: bytes, sender: str, receiver: str
) -> bytes:
    """Decrypt the one message of a channel.

    Raises:
        ProtocolError: The ciphertext was not sealed under this key, from this sender
            for this receiver.
    """
    data = _associated(context, sender, receiver)
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, ciphertext, data)
    except InvalidTag:
        raise ProtocolError(
            f"ciphertext of {sender!r} for {receiver!r} does not open under the key of"
            " this round",
            code="ciphertext-invalid",
        ) from None


def _associated(context: bytes, sender: str, receiver: str) -> bytes:
    return context + f"{sender}\n{receiver}\n".encode()


def _derive(
    secret: bytes,
    context: bytes,
    *,
    label: str,
    names: tuple[str, ...],
    end: bytes = b"",
) -> bytes:
    lines = "".join(f"{line}\n" for line in (label, *names))
    info = _PREFIX + lines.encode() + end
    kdf = HKDF(algorithm=_SHA256, length=KEY_BYTES, salt=context, info=info)
    return kdf.derive(secret)
