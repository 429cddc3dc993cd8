r"""Keys of a round: agreement between nodes, derivation, commitments and sealing.

Every derivation is HKDF-SHA256 (RFC 5869) with the round's context as salt, and an
``info`` that says what the key is for and whose it is::

    "tapestry-secagg/2\nchannel\n" from "\n" to "\n" || view of the keys
    "tapestry-secagg/2\nwrap\n" from "\n" to "\n" || view of the keys
    "tapestry-secagg/2\npair\n" lesser "\n" greater "\n" || view of the shares
    "tapestry-secagg/2\nself\n" node "\n"
    "tapestry-secagg/2\nmask\n" node "\n"               of the root
    "tapestry-secagg/2\nkem\n" node "\n"                of the root, 64 bytes
    "tapestry-secagg/2\ncontribution\n" from "\n" to "\n"   of the root

Names hold no newline, views are 32 bytes. A node that was shown another manifest, key
list or set of sharers therefore derives other keys: nothing opens, no mask cancels.
Every key is used once.

A node's *root* stands for all that must be rebuilt if it drops out: its X25519 key of
masks, its ML-KEM key, and what it contributes to the masks with others. Its channel key
is drawn apart and never rebuilt, so shares stay sealed when a root is opened.
"""

import hashlib
from collections.abc import Iterable
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
from tapestry.mlkem768 import SEED_BYTES

KEY_BYTES = 32
_PREFIX = b"tapestry-secagg/2\n"
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


def mask_secret(root: bytes, context: bytes, *, node: str) -> bytes:
    """Derive a node's X25519 key of masks from its root."""
    return _derive(root, context, label="mask", names=(node,))


def kem_seed(root: bytes, context: bytes, *, node: str) -> bytes:
    """Derive the seed of a node's ML-KEM key from its root."""
    return _derive(root, context, label="kem", names=(node,), size=SEED_BYTES)


def contribution(root: bytes, context: bytes, *, sender: str, receiver: str) -> bytes:
    """Derive what a node contributes to the mask with another from its root."""
    return _derive(root, context, label="contribution", names=(sender, receiver))


def channel_key(
    shared: bytes, context: bytes, *, sender: str, receiver: str, view: bytes
) -> bytes:
    """Derive the key that seals the one message from ``sender`` to ``receiver``.

    Args:
        shared: The X25519 secret; in a hybrid round the ML-KEM secret and its
            ciphertext after it.
        context: That of the round.
        sender: The node that seals.
        receiver: The node that opens.
        view: The digest of the key list, so of both nodes' public keys.
    """
    return _derive(shared, context, label="channel", names=(sender, receiver), end=view)


def wrap(
    contributed: bytes,
    secret: bytes,
    context: bytes,
    *,
    sender: str,
    receiver: str,
    view: bytes,
) -> bytes:
    """Hide a contribution under an ML-KEM secret; a second call takes it out again.

    It is apart from what the channel key seals, since the receiver's root alone opens
    it: if the receiver drops out, the masks with it are found and its shares are not.
    """
    names = (sender, receiver)
    pad = _derive(secret, context, label="wrap", names=names, end=view)
    return bytes(a ^ b for a, b in zip(contributed, pad, strict=True))


def pair_key(
    shared: bytes,
    context: bytes,
    *,
    names: tuple[str, str],
    view: bytes,
    contributed: bytes,
) -> bytes:
    """Derive the key of the mask between two nodes; the order does not matter.

    Args:
        shared: The X25519 secret of the two keys of masks.
        context: That of the round.
        names: The two nodes.
        view: The digest of the list of heads.
        contributed: The contribution of one of the two; nothing without ML-KEM.
    """
    ordered = (min(names), max(names))
    secret = shared + contributed
    return _derive(secret, context, label="pair", names=ordered, end=view)


def self_key(seed: bytes, context: bytes, *, node: str) -> bytes:
    """Derive the key of a node's own mask from its seed."""
    return _derive(seed, context, label="self", names=(node,))


def commitment(seed: bytes, context: bytes, *, node: str) -> bytes:
    """Commit to the seed of a node's own mask; hiding, since a seed is random."""
    return _commit(seed, context, lines=("commitment", node))


def contribution_commitment(
    contributed: bytes, context: bytes, *, sender: str, receiver: str
) -> bytes:
    """Commit to a contribution; hiding, since it is as good as random."""
    lines = ("contribution commitment", sender, receiver)
    return _commit(contributed, context, lines=lines)


def seal(
    key: bytes,
    plaintext: bytes,
    *,
    context: bytes,
    sender: str,
    receiver: str,
    clear: bytes,
) -> bytes:
    """Encrypt the one message of a channel (ChaCha20-Poly1305, RFC 8439).

    Args:
        key: That of the channel.
        plaintext: The message.
        context: That of the round.
        sender: The node that seals.
        receiver: The node that opens.
        clear: What travels beside it unsealed and must not be changed.
    """
    data = _associated(context, sender, receiver) + clear
    return ChaCha20Poly1305(key).encrypt(_NONCE, plaintext, data)


def unseal(
    key: bytes,
    ciphertext: bytes,
    *,
    context: bytes,
    sender: str,
    receiver: str,
    clear: bytes,
) -> bytes:
    """Decrypt the one message of a channel.

    Raises:
        ProtocolError: The ciphertext was not sealed under this key, from this sender
            for this receiver, or beside other bytes in the clear.
    """
    data = _associated(context, sender, receiver) + clear
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


def _commit(secret: bytes, context: bytes, *, lines: tuple[str, ...]) -> bytes:
    return hashlib.sha256(_head(lines) + context + secret).digest()


def _head(lines: Iterable[str]) -> bytes:
    """Print lines after that of the protocol, each with its end."""
    return _PREFIX + "\n".join((*lines, "")).encode()


def _derive(
    secret: bytes,
    context: bytes,
    *,
    label: str,
    names: tuple[str, ...],
    end: bytes = b"",
    size: int = KEY_BYTES,
) -> bytes:
    info = _head((label, *names)) + end
    kdf = HKDF(algorithm=_SHA256, length=size, salt=context, info=info)
    return kdf.derive(secret)
