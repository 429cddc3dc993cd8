"""Ed25519 keys, each with a name and one purpose.

The spellings are those of C2SP signed-note and of Go's ``sumdb/note``::

    verify key   fr.example/node+1a2b3c4d+AQ…          name+id+base64(algorithm || key)
    signing key  PRIVATE+KEY+fr.example/node+1a2b3c4d+AQ…            (a file, mode 0600)

``id`` is the first 4 bytes of SHA-256(name || 0x0A || algorithm || public key).
The algorithm byte is part of it, so a key made for one purpose is never taken
for another: 0x01 signs notes, entries and protocol messages, 0x04 cosigns
checkpoints (C2SP tlog-cosignature). One key, one purpose.
"""

import hashlib
import re
import stat
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from tapestry.curve25519 import SMALL_ORDER, check_ed25519_key
from tapestry.encoding import decode_base64, encode_base64
from tapestry.errors import ConfigError, ProtocolError, VerificationError
from tapestry.inputs.plain_file import read_plain
from tapestry.storage.durable_files import create_file

_NAME = re.compile(r"[!-*,-~]{1,128}")  # printable ASCII without space and plus
_PRIVATE = "PRIVATE+KEY+"
_MAX_BYTES = 4096
_CACHED = 4096  # public keys that are kept parsed; a log names the same few for ever


class Algorithm(IntEnum):
    """The purpose of a key (C2SP signed-note, signature types)."""

    SIGNATURE = 0x01
    COSIGNATURE = 0x04


@lru_cache(maxsize=_CACHED)
def key_id(name: str, algorithm: Algorithm, public: bytes) -> bytes:
    """Return the 4 bytes that stand for a key in a note (C2SP signed-note)."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([algorithm]) + public).digest()[
        :4
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyKey:
    """A public key with its name and purpose."""

    name: str
    algorithm: Algorithm
    public: bytes

    def __post_init__(self) -> None:
        """Refuse names and keys that have no spelling."""
        if not _NAME.fullmatch(self.name):
            raise ProtocolError(
                f"not a key name: {self.name[:40]!r}", code="key-name-invalid"
            )
        check_ed25519_key(self.public)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a verify key.

        Raises:
            ProtocolError: The text is not the one spelling of a key, or the id is
                another key's.
        """
        name, algorithm, material = _parse(text)
        key = cls(name=name, algorithm=algorithm, public=material)
        if str(key) != text:
            raise ProtocolError(
                f"key id does not match the key: {text[:80]!r}", code="key-id-differs"
            )
        return key

    @property
    def id(self) -> bytes:
        """The 4-byte key id."""
        return key_id(self.name, self.algorithm, self.public)

    @property
    def keyid(self) -> str:
        """The short name in envelopes: ``name+hexid``."""
        return f"{self.name}+{self.id.hex()}"

    def __str__(self) -> str:
        """Print the key as ``name+hexid+base64``."""
        return f"{self.keyid}+{encode_base64(bytes([self.algorithm]) + self.public)}"

    def verify(self, message: bytes, signature: bytes) -> None:
        """Check a signature.

        Guarantees:
            Strict RFC 8032, without the cofactor: S is below the group order, R is
            canonical and not of small order. A signature has one encoding.

        Raises:
            VerificationError: The signature was not made by this key over this message.
        """
        if not self._is_signature(message, signature):
            raise VerificationError(
                f"bad signature of {self.keyid}", code="signature-invalid"
            )

    def _is_signature(self, message: bytes, signature: bytes) -> bool:
        try:
            _public_key(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return signature[:32] not in SMALL_ORDER


class SigningKey:
    """A private key with its name and purpose.

    Guarantees:
        The seed comes from the operating system's CSPRNG. It is never printed:
        ``repr`` shows the public half. Files are created with mode 0600 and
        refused when others may read them.
    """

    __slots__ = ("_private", "verify_key")

    def __init__(self, *, name: str, algorithm: Algorithm, seed: bytes) -> None:
        """Build a key from a 32-byte seed."""
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.verify_key = VerifyKey(
            name=name,
            algorithm=algorithm,
            public=self._private.public_key().public_bytes_raw(),
        )

    @classmethod
    def generate(
        cls, name: str, *, algorithm: Algorithm = Algorithm.SIGNATURE
    ) -> "SigningKey":
        """Draw a new key."""
        return cls(
            name=name,
            algorithm=algorithm,
            seed=Ed25519PrivateKey.generate().private_bytes_raw(),
        )

    @property
    def name(self) -> str:
        """The name of the key."""
        return self.verify_key.name

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes; whoever has them signs as this key."""
        return self._private.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Sign a message (RFC 8032); 64 bytes."""
        return self._private.sign(message)

    def __repr__(self) -> str:
        """Show the public half."""
        return f"SigningKey({self.verify_key})"

    def save(self, path: Path) -> None:
        """Write the key into a new file of mode 0600, durably.

        Raises:
            ConfigError: The file exists; a key is never overwritten.
            ResourceError: The file cannot be written.
        """
        algorithm = bytes([self.verify_key.algorithm])
        material = encode_base64(algorithm + self._private.private_bytes_raw())
        text = f"{_PRIVATE}{self.verify_key.keyid}+{material}\n"
        try:
            create_file(path, text.encode("ascii"))
        except FileExistsError:
            raise ConfigError(
                f"{path} exists; keys are never overwritten", code="file-exists"
            ) from None

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        """Read a key file.

        Raises:
            ConfigError: The file does not exist, is readable by others, or is not a
                key.
        """
        text = read_key_file(path)
        invalid = ConfigError(f"{path} is not a key file", code="key-file-invalid")
        try:
            name, algorithm, seed = _parse(text.removeprefix(_PRIVATE).rstrip("\n"))
            key = cls(name=name, algorithm=algorithm, seed=seed)
        except (ProtocolError, ValueError):
            raise invalid from None
        if not text.startswith(f"{_PRIVATE}{key.verify_key.keyid}+"):
            raise ConfigError(
                f"{path}: the key id does not match the key", code="key-file-invalid"
            )
        return key


def read_key_file(path: Path) -> str:
    """Read the text of a file that holds a private key.

    Raises:
        ConfigError: The file does not exist, is readable by others, is empty or is no
            text.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a FIFO would be waited for
            raise ConfigError(
                f"{path} is not a key file, but a folder or a device; name the key",
                code="key-file-invalid",
            )
        if mode & 0o077:
            raise ConfigError(
                f"key file {path} is open to others; chmod 600 it",
                code="key-file-not-private",
            )
        text = read_plain(path, limit=_MAX_BYTES, links=True).decode("ascii")
    except OSError as error:
        raise ConfigError(
            f"cannot read the key {path}: {error.strerror}", code="file-unreadable"
        ) from error
    except (UnicodeDecodeError, VerificationError):
        raise ConfigError(
            f"{path} is not a key file", code="key-file-invalid"
        ) from None
    if not text.strip():
        raise ConfigError(
            f"{path} is empty, so it is not a key file; put its copy back",
            code="key-file-invalid",
        )
    return text


@lru_cache(maxsize=_CACHED)
def _public_key(public: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public)


def _parse(text: str) -> tuple[str, Algorithm, bytes]:
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise ProtocolError(f"not a key: {text[:20]!r}", code="key-malformed")
    material = decode_base64(parts[2])
    if len(material) != 33 or material[0] not in set(Algorithm):
        raise ProtocolError(
            f"not an Ed25519 key: {parts[0][:40]!r}", code="key-malformed"
        )
    return parts[0], Algorithm(material[0]), material[1:]
