"""TSA-1 written again, from ``governance/SECAGG.md``: what its messages are made of.

Shares no code with the package: hashlib, hmac, single AES blocks, X25519 and plain
integers. ``reference_secagg_round`` plays a round with it, ``make_vectors`` prints the
answers.
"""

import hashlib
import hmac
import json
import math
from fractions import Fraction
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

P = b"tapestry-secagg/2\n"
PRIME = 2**256 + 297
LOW_ORDER = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"


def fixed(label: str, size: int = 32) -> bytes:
    return hashlib.shake_256(b"tsa-1 vector " + label.encode()).digest(size)


def hkdf(secret: bytes, salt: bytes, info: bytes, size: int = 32) -> bytes:
    extracted = hmac.digest(salt, secret, "sha256")
    done = last = b""
    for number in range(1, size // 32 + 1):
        last = hmac.digest(extracted, last + info + bytes([number]), "sha256")
        done += last
    return done


def keystream(key: bytes, first: int, count: int) -> bytes:
    """16-byte blocks, one at a time."""
    # ECB on a counter is what counter mode is.
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    return b"".join(
        cipher.update((first + i).to_bytes(16, "big")) for i in range(count)
    )


def mask(key: bytes, start: int, count: int) -> list[int]:
    stream = keystream(key, start // 4, -(-count // 4))
    words = [stream[i : i + 4] for i in range(0, 4 * count, 4)]
    return [int.from_bytes(word, "little") for word in words]


def agree(private: bytes, public: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(private)
    return key.exchange(X25519PublicKey.from_public_bytes(public))


def public(private: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(private)
    return key.public_key().public_bytes_raw()


def encode(values: list[Fraction], *, bits: int, bound: int, key: bytes) -> list[int]:
    encoded = []
    for value, draw in zip(values, mask(key, 0, len(values)), strict=True):
        x = max(Fraction(-bound), min(Fraction(bound), value * 2**bits))
        floor = math.floor(x)
        up = (draw >> 8) < (x - floor) * 2**24
        encoded.append((floor + up) % 2**32)
    return encoded


def canon(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def named(data: bytes | str) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def tail(digest: str) -> bytes:
    return bytes.fromhex(digest.removeprefix("sha256:"))
