"""Encodings with one spelling for each value, their strict decoders, and digests.

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
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any

import rfc8785

from tapestry.errors import ProtocolError

_INTEGER = re.compile("0|[1-9][0-9]{0,18}")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{0,17}[1-9])?")
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_MAX_INT = 2**53
_MAX_DEPTH = 32
_SCALARS = frozenset({str, bool, NoneType})  # types with one spelling, if ASCII


def encode_integer(number: int) -> str:
    """Print a whole number below 10**19 without sign or leading zero."""
    text = str(number)
    decode_integer(text)
    return text


def decode_integer(text: str) -> int:
    """Decode a number below 10**19 without sign, space or leading zero.

    Raises:
        ProtocolError: The text is not what ``encode_integer`` prints.
    """
    if not _INTEGER.fullmatch(text):
        raise ProtocolError(
            f"not a whole number: {text[:20]!r}", code="integer-not-canonical"
        )
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
        raise ProtocolError(
            f"no plain decimal spelling for {number!r}", code="decimal-not-canonical"
        )
    return text


@lru_cache(maxsize=4096)  # a plan's few decimals recur in every entry of its run
def decode_decimal(text: str) -> float:
    """Decode a plain decimal such as ``0.5`` or ``-3``.

    Raises:
        ProtocolError: The text has an exponent, a plus sign, trailing zeros, more than
            18 digits before or after the point, or is minus zero.
    """
    if not _DECIMAL.fullmatch(text) or text == "-0":
        raise ProtocolError(
            f"not a plain decimal: {text[:40]!r}", code="decimal-not-canonical"
        )
    return float(text)


def encode_base64(data: bytes) -> str:
    """Print bytes in standard base64 with padding (RFC 4648, section 4)."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str) -> bytes:
    """Decode standard base64 with padding and zero trailing bits.

    Raises:
        ProtocolError: The text is not the canonical spelling of any bytes.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError(
            f"not base64: {text[:20]!r}", code="base64-not-canonical"
        ) from None
    if encode_base64(data) != text:
        raise ProtocolError(
            f"not canonical base64: {text[:20]!r}", code="base64-not-canonical"
        )
    return data


def canonical_json(value: Any) -> bytes:
    """Encode a value as canonical JSON.

    Raises:
        ProtocolError: The value holds a float, an integer of 2**53 or above, a string
            that is not in normal form C, a key that is not a string, or is nested
            over 32 levels.
    """
    try:
        text = _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError):
        _check(value, 0)  # says what there is no spelling for
        raise ProtocolError(
            "no canonical JSON for this value", code="json-type-unsupported"
        ) from None
    if text.isascii():  # then RFC 8785 spells it in the same way, ten times slower
        _check_types(value, 0)
        return text.encode("ascii")
    _check(value, 0)
    return rfc8785.dumps(value)


def decode_json(data: bytes, *, limit: int = 65_535) -> Any:
    """Decode canonical JSON.

    Guarantees:
        ``canonical_json(decode_json(data)) == data`` for whatever is accepted,
        which leaves no room for duplicate keys, spaces or trailing bytes.

    Raises:
        ProtocolError: The bytes are over the limit, are not JSON, or are JSON in
            another spelling.
    """
    if not data:
        raise ProtocolError("JSON is empty", code="json-invalid")
    if len(data) > limit:
        raise ProtocolError(
            f"JSON of {len(data)} bytes is over the limit of {limit}",
            code="json-too-large",
        )
    if data.isascii():
        return _decode_ascii(data.decode("ascii"))
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ProtocolError(
            f"{len(data)} bytes are not JSON", code="json-invalid"
        ) from None
    if canonical_json(value) != data:
        raise ProtocolError("JSON is not in canonical form", code="json-not-canonical")
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
        ProtocolError: The text has another algorithm, length or case.
    """
    if not _DIGEST.fullmatch(text):
        raise ProtocolError(f"not a digest: {text[:80]!r}", code="digest-malformed")
    return bytes.fromhex(text[7:])


def _decode_ascii(text: str) -> Any:
    """Decode canonical JSON of ASCII text by comparing it with a sorted dump.

    A dump does not escape what is not ASCII, so text that is equal to its dump has
    ASCII strings only: they are in normal form C, sort by code point, and are spelled
    as in RFC 8785. Numbers are refused while they are read; what remains is the depth.
    """
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        raise ProtocolError("not JSON", code="json-invalid") from None
    if _ENCODER.encode(value) != text:
        raise ProtocolError("JSON is not in canonical form", code="json-not-canonical")
    if text.count("[") + text.count("{") > _MAX_DEPTH:
        _check(value, 0)
    return value


def _read_integer(text: str) -> int:
    number = int(text)
    _check_scalar(number)
    return number


def _refuse_float(text: str) -> float:
    raise ProtocolError(
        f"no canonical JSON for a float: {text[:20]}", code="json-type-unsupported"
    )


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), sort_keys=True, check_circular=True
)
_DECODER = json.JSONDecoder(
    parse_int=_read_integer, parse_float=_refuse_float, parse_constant=_refuse_float
)


def _check_types(value: Any, depth: int) -> None:
    """Check a value whose strings and keys are known to be ASCII, if they are such."""
    if type(value) not in (dict, list, tuple):
        _check(value, depth)
        return
    items: Collection[Any] = value
    if type(value) is dict:
        if not set(map(type, value)) <= {str}:
            _check(value, depth)
        items = value.values()
    _check_depth(depth + bool(items))
    for item in items:
        kind = type(item)
        if kind is int and -_MAX_INT < item < _MAX_INT:
            continue
        if kind not in _SCALARS:
            _check_types(item, depth + 1)


def _check(value: Any, depth: int) -> None:
    _check_depth(depth)
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, list | tuple):
        _check_items(value, depth + 1)
    elif isinstance(value, dict):
        if not _is_plain(value):
            for key in value:
                if not isinstance(key, str):
                    raise ProtocolError(
                        f"JSON key of type {type(key).__name__} is not a string",
                        code="json-type-unsupported",
                    )
                _check_text(key)
        _check_items(value.values(), depth + 1)
    else:
        _check_scalar(value)


def _check_items(items: Collection[Any], depth: int) -> None:
    if not _is_plain(items):
        for item in items:
            _check(item, depth)
    elif items:
        _check_depth(depth)


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ProtocolError(
            f"JSON nested over {_MAX_DEPTH} levels", code="json-too-deep"
        )


def _is_plain(items: Collection[Any]) -> bool:
    """Return whether all items are ASCII strings, as in the long lists of a cohort."""
    return set(map(type, items)) <= {str} and all(map(str.isascii, items))


def _check_scalar(value: Any) -> None:
    if value is None or isinstance(value, bool):
        return
    if not isinstance(value, int):
        raise ProtocolError(
            f"no canonical JSON for a {type(value).__name__}",
            code="json-type-unsupported",
        )
    if not -_MAX_INT < value < _MAX_INT:
        raise ProtocolError(
            f"integer {value} is not below 2**53", code="json-number-invalid"
        )


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ProtocolError(
            "a string holds a lone surrogate, which is no character",
            code="text-not-utf8",
        ) from None
    if not unicodedata.is_normalized("NFC", text):
        raise ProtocolError(  # without the text, which may be private
            f"a string of {len(text)} characters is not in normal form C",
            code="text-not-normalized",
        )
