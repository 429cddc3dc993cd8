"""Signing keys under a passphrase, for keys that a person holds.

A key that a program uses every hour lies open in a file of mode 0600 (``keys``). A root
or authority key signs a few times a year, and its file travels: this is its form, for
the commands of a founding. Four lines of ASCII::

    tapestry-encrypted-key/1
    sueden/root+1a2b3c4d+AR2m…          the public key
    scrypt 17 8 1 <salt>                cost (log2 n), r, p, 16 bytes in base64
    <box>                               32 secret bytes, and a tag of 16, in base64

The box is ChaCha20-Poly1305 (RFC 8439) under scrypt (RFC 7914) of the passphrase in
Unicode NFC, with a nonce of zeros, since a salt is used once; the three lines before it
are the associated data.

Guarantees:
    Without the passphrase a file gives no more than its public key; a guess costs 128
    MiB of memory and about half a second. A file with a changed line does not open.

Edge cases:
    A file asks for no more than 1 GiB of memory, whoever wrote it.
"""

import re
import secrets
import unicodedata
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from tapestry.encoding import decode_base64, encode_base64
from tapestry.errors import ConfigError, TapestryError
from tapestry.keys import SigningKey, VerifyKey, read_key_file
from tapestry.storage.durable_files import create_file

MIN_PASSPHRASE = 12  # characters
_FORMAT = "tapestry-encrypted-key/1"
_COST = 17
_SETTINGS = re.compile("scrypt (17|18|19|20) 8 1 ([A-Za-z0-9+/=]+)")
_SALT_BYTES = 16
_KEY_BYTES = 32
_NONCE = bytes(12)


def check_passphrase(passphrase: str) -> None:
    """Require a passphrase that is not guessed at once.

    Raises:
        ConfigError: It has fewer than ``MIN_PASSPHRASE`` characters.
    """
    if len(passphrase) < MIN_PASSPHRASE:
        raise ConfigError(
            f"the passphrase has {len(passphrase)} characters, at least"
            f" {MIN_PASSPHRASE} are needed; five random words do",
            code="passphrase-too-short",
        )


def save_encrypted(key: SigningKey, path: Path, *, passphrase: str) -> None:
    """Write a key into a new file of mode 0600, durably.

    Raises:
        ConfigError: The passphrase is too short, or the file exists.
        ResourceError: The file cannot be written.
    """
    check_passphrase(passphrase)
    salt = secrets.token_bytes(_SALT_BYTES)
    head = (
        f"{_FORMAT}\n{key.verify_key}\nscrypt {_COST} 8 1 {encode_base64(salt)}\n"
    ).encode("ascii")
    derived = _derive(passphrase, salt, cost=_COST)
    box = ChaCha20Poly1305(derived).encrypt(_NONCE, key.seed, head)
    try:
        create_file(path, head, encode_base64(box).encode("ascii") + b"\n")
    except FileExistsError:
        raise ConfigError(
            f"{path} exists; keys are never overwritten", code="file-exists"
        ) from None


def save_key(key: SigningKey, path: Path, *, passphrase: str | None) -> None:
    """Write a key into a new file, locked where there is a passphrase.

    Raises:
        ConfigError: The passphrase is too short, or the file exists.
        ResourceError: The file cannot be written.
    """
    if passphrase is None:
        key.save(path)
    else:
        save_encrypted(key, path, passphrase=passphrase)


def load_key(path: Path, *, passphrase: str | None) -> SigningKey:
    """Read a key that may be locked.

    Raises:
        ConfigError: There is no such key, or its passphrase is missing or wrong.
    """
    if not is_encrypted(path):
        return SigningKey.load(path)
    if passphrase is None:
        raise ConfigError(
            f"{path} is locked; give --passphrase-file", code="passphrase-missing"
        )
    return load_encrypted(path, passphrase=passphrase)


def load_public(path: Path) -> VerifyKey:
    """Read the public half of a key that may be locked.

    Raises:
        ConfigError: There is no such key.
    """
    if is_encrypted(path):
        return read_public(path)
    return SigningKey.load(path).verify_key


def is_encrypted(path: Path) -> bool:
    """Return whether a key file is under a passphrase.

    Raises:
        ConfigError: The file does not exist, is readable by others, or is no key file.
    """
    return read_key_file(path).startswith(f"{_FORMAT}\n")


def load_encrypted(path: Path, *, passphrase: str) -> SigningKey:
    """Open a key file.

    Raises:
        ConfigError: The file does not exist, is readable by others, is no encrypted
            key, or the passphrase is another one.
    """
    head, public, cost, salt, box = _parse(read_key_file(path), path)
    derived = _derive(passphrase, salt, cost=cost)
    try:
        seed = ChaCha20Poly1305(derived).decrypt(_NONCE, box, head)
    except InvalidTag:
        raise ConfigError(
            f"{path} does not open with this passphrase; type it again, or take the"
            " file's copy if it was changed",
            code="passphrase-wrong",
        ) from None
    key = SigningKey(name=public.name, algorithm=public.algorithm, seed=seed)
    if key.verify_key != public:
        raise _invalid(path)
    return key


def read_public(path: Path) -> VerifyKey:
    """Read the public key of an encrypted key, which needs no passphrase.

    Edge cases:
        Only ``load_encrypted`` shows that the two halves belong together.

    Raises:
        ConfigError: The file does not exist, is readable by others, or is no encrypted
            key.
    """
    return _parse(read_key_file(path), path)[1]


def _parse(text: str, path: Path) -> tuple[bytes, VerifyKey, int, bytes, bytes]:
    """Return the associated data, public key, cost, salt and box."""
    lines = text.split("\n")
    if len(lines) != 5 or lines[0] != _FORMAT or lines[4]:
        raise _invalid(path)
    found = _SETTINGS.fullmatch(lines[2])
    if found is None:
        raise _invalid(path)
    try:
        known = VerifyKey.parse(lines[1])
        salt, box = decode_base64(found[2]), decode_base64(lines[3])
    except TapestryError:
        raise _invalid(path) from None
    if (len(salt), len(box)) != (_SALT_BYTES, _KEY_BYTES + 16):
        raise _invalid(path)
    head = "\n".join(lines[:3]).encode("ascii") + b"\n"
    return head, known, int(found[1]), salt, box


def _derive(passphrase: str, salt: bytes, *, cost: int) -> bytes:
    kdf = Scrypt(salt=salt, length=_KEY_BYTES, n=1 << cost, r=8, p=1)
    return kdf.derive(unicodedata.normalize("NFC", passphrase).encode("utf-8"))


def _invalid(path: Path) -> ConfigError:
    return ConfigError(f"{path} is not an encrypted key file", code="key-file-invalid")
