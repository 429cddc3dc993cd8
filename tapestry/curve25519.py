"""Strict decoding of Ed25519 and X25519 public keys.

OpenSSL accepts encodings that no key generation makes. Under an Ed25519 key of small
order one fixed signature verifies every message, so such a key needs no private key; a
second encoding of a point is a second name for one key. Both are refused where a key is
parsed (RFC 8032 section 5.1.3, RFC 7748 section 5).
"""

from functools import lru_cache

from tapestry.errors import ProtocolError

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_SQRT_M1 = pow(2, (_P - 1) // 4, _P)
_CACHED = 4096  # keys; a log names the same few for ever

# The canonical encodings of the eight points whose order divides 8.
SMALL_ORDER = frozenset(
    map(
        bytes.fromhex,
        (
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000080",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ),
    )
)


@lru_cache(maxsize=_CACHED)
def check_ed25519_key(key: bytes) -> None:
    """Require the one encoding of a point that may be a public key.

    Guarantees:
        What passes is canonical, on the curve and not of small order, so that only the
        holder of a private key can sign for it.

    Edge cases:
        A point with a part of small order beside one of large order passes, as in
        RFC 8032: its discrete logarithm is as hard.

    Args:
        key: The y coordinate, little-endian, with the sign of x as its top bit.

    Raises:
        ProtocolError: The bytes are not 32, not canonical, no point of the curve, or a
            point of small order.
    """
    _check_length(key, "Ed25519")
    value = int.from_bytes(key, "little")
    sign, y = value >> 255, value & ((1 << 255) - 1)
    if y >= _P or not _is_on_curve(y, sign):
        raise ProtocolError(
            f"Ed25519 key {key.hex()} is not the canonical encoding of a point",
            code="key-malformed",
        )
    if key in SMALL_ORDER:
        raise ProtocolError(
            f"Ed25519 key {key.hex()} is of small order: one signature would verify"
            " every message",
            code="key-of-low-order",
        )


def check_x25519_key(key: bytes) -> None:
    """Require the one encoding of a public key.

    Edge cases:
        A key of small order passes here; the exchange refuses it, as its shared secret
        is zero (RFC 7748 section 6.1).

    Args:
        key: The u coordinate, little-endian.

    Raises:
        ProtocolError: The bytes are not 32 or the number is not below 2^255 - 19.
    """
    _check_length(key, "X25519")
    if int.from_bytes(key, "little") >= _P:
        raise ProtocolError(
            f"X25519 key {key.hex()} is not canonical", code="key-malformed"
        )


def _check_length(key: bytes, kind: str) -> None:
    if len(key) != 32:
        raise ProtocolError(
            f"{kind} key of {len(key)} bytes, want 32", code="key-malformed"
        )


def _is_on_curve(y: int, sign: int) -> bool:
    """Return whether y has an x of this sign (RFC 8032 section 5.1.3)."""
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P == u:
        return x != 0 or not sign
    return v * (x * _SQRT_M1) ** 2 % _P == u
