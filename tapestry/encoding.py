"""Bytes with one spelling: decode strictly, encode canonically, digest.

Every format of Tapestry is built from the few spellings below. Each decoder
accepts exactly what its encoder prints; a second spelling of the same value is
an error, so equal values have equal bytes and equal digests.

JSON is RFC 8785 with three further restrictions: no floats (decimals travel as
strings), integers below 2**53, strings in Unicode normal form C.
"""

import base64
import binascii
import hashlib
import json
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import rfc8785

from tapestry.errors import ProtocolError

_INTEGER = re.compile("0|[1-9][0-9]{0,18}")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{0,17}[1-9])?")
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_MAX_INT = 2**53
_MAX_DEPTH = 32


def encode_integer(number: int) -> str:
    """Print a whole number below 10**19 without sign or leading zero."""
    text = str(number)
    decode_integer(text)
    return text


def decode_integer(text: str) -> int:
    """Decode a number below 10**19 without sign, space or leading zero.

    Raises:
        ProtocolError: The text is spelled differently from what we print.
    """
    if not _INTEGER.fullmatch(text):
        raise ProtocolError(f"not a whole number: {text[:20]!r}")
    return int(text)


def encode_decimal(number: float) -> str:
    """Print a number as a plain decimal with at most 12 digits after the point.

    Edge cases:
        Minus zero prints as ``0``. NaN and infinities are refused.

    Raises:
        ProtocolError: The number is not finite or does not fit the spelling.
    """
    text = f"{number:.12f}".rstrip("0").rstrip(".")
    text = "0" if text == "-0" else text
    if not _DECIMAL.fullmatch(text):
        raise ProtocolError(f"no plain decimal spelling for {number!r}")
    return text


def decode_decimal(text: str) -> float:
    """Decode a plain decimal such as ``0.5`` or ``-3``.

    Raises:
        ProtocolError: Exponents, plus signs, trailing zeros, minus zero.
    """
    if not _DECIMAL.fullmatch(text) or text == "-0":
        raise ProtocolError(f"not a plain decimal: {text[:40]!r}")
    return float(text)


def encode_base64(data: bytes) -> str:
    """Print bytes in standard base64 with padding (RFC 4648, section 4)."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str) -> bytes:
    """Decode standard base64 with padding and zero trailing bits.

    Raises:
        ProtocolError: Anything but the one canonical spelling.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError(f"not base64: {text[:20]!r}") from None
    if encode_base64(data) != text:
        raise ProtocolError(f"not canonical base64: {text[:20]!r}")
    return data


def canonical_json(value: Any) -> bytes:
    """Encode a value as canonical JSON.

    Raises:
        ProtocolError: Floats, integers of 2**53 and above, strings that are not
            in normal form C, keys that are not strings, nesting over 32 levels.
    """
    _check(value, 0)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    if text.isascii():  # then RFC 8785 spells it in the same way, ten times slower
        return text.encode("ascii")
    return rfc8785.dumps(value)


def decode_json(data: bytes, *, limit: int = 65_535) -> Any:
    """Decode canonical JSON.

    Guarantees:
        ``canonical_json(decode_json(data)) == data`` for whatever is accepted,
        which leaves no room for duplicate keys, spaces or trailing bytes.

    Args:
        data: The bytes.
        limit: How many bytes are accepted.

    Raises:
        ProtocolError: Too long, not JSON, or JSON in another spelling.
    """
    if not data:
        raise ProtocolError("JSON is empty")
    if len(data) > limit:
        raise ProtocolError(f"JSON of {len(data)} bytes is over the limit of {limit}")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ProtocolError("not JSON") from None
    if canonical_json(value) != data:
        raise ProtocolError("JSON is not in canonical form")
    return value


def digest(data: bytes | bytearray | memoryview) -> str:
    """Name bytes by their SHA-256, as ``sha256:`` and 64 lower-case hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_all(parts: Iterable[bytes | memoryview]) -> str:
    """Digest the concatenation of some parts without building it."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return "sha256:" + state.hexdigest()


def digest_file(path: Path) -> str:
    """Digest a file without holding it in memory."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def decode_digest(text: str) -> bytes:
    """Decode a digest into its 32 bytes.

    Raises:
        ProtocolError: Another algorithm, length or case.
    """
    if not _DIGEST.fullmatch(text):
        raise ProtocolError(f"not a digest: {text[:80]!r}")
    return bytes.fromhex(text[7:])


def _check(value: Any, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ProtocolError(f"JSON nested over {_MAX_DEPTH} levels")
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, list | tuple):
        _check_items(value, depth + 1)
    elif isinstance(value, dict):
        if not _is_plain(value):
            for key in value:
                _check_key(key)
        _check_items(value.values(), depth + 1)
    else:
        _check_scalar(value)


def _check_items(items: Collection[Any], depth: int) -> None:
    if not _is_plain(items):
        for item in items:
            _check(item, depth)
    elif items and depth > _MAX_DEPTH:
        raise ProtocolError(f"JSON nested over {_MAX_DEPTH} levels")


def _is_plain(items: Collection[Any]) -> bool:
    """Are all of them ASCII strings? Cohorts of 500 make lists that are long."""
    return set(map(type, items)) <= {str} and all(map(str.isascii, items))


def _check_scalar(value: Any) -> None:
    if value is None or isinstance(value, bool):
        return
    if not isinstance(value, int):
        raise ProtocolError(f"no canonical JSON for a {type(value).__name__}")
    if not -_MAX_INT < value < _MAX_INT:
        raise ProtocolError(f"integer {value} is not below 2**53")


def _check_key(key: Any) -> None:
    if not isinstance(key, str):
        raise ProtocolError(f"JSON key {key!r} is not a string")
    _check_text(key)


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ProtocolError("string with a lone surrogate") from None
    if not unicodedata.is_normalized("NFC", text):
        raise ProtocolError(f"string is not in normal form C: {text[:40]!r}")
