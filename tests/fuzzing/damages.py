"""What may befall the content of a file: its bytes, its lines, its values."""

import json
import tomllib
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import tomli_w

from tests.fuzzing.draws import Draw

Damage = Callable[[Draw, bytes], bytes]

VALUES: tuple[Any, ...] = (
    "", " ", "x", "\x00", "\ud800", "\x1b[31m", "1", 0, 1, -1, 2**31, 2**63, 10**400,
    1.5, 1e308, True, False, [], {}, [[]], {"": {}}, ["x"], [1, "x"], [None],
    "x" * 100_000, "../../etc/passwd", "/dev/zero", "sha256:" + "0" * 64, "1e999",
)  # fmt: skip
TEXTS = (
    "{}", "[]", "null", "1", '""', "NaN", '{"a": NaN}', "[" + "9" * 5000 + "]", "{} {}",
    '{"a": 1, "a": 2}', '{"": ""}', '"\\ud800"', "a = 1\n", "[a]\n[a]\n", "1e999",
    "a = 1\na = 2\n", "a = " + "9" * 5000, "[[a]]\n", "a = nan\n", '{"text": "x"}',
    "[" * 100_000, '{"a":' * 5000, "a = " + "[" * 500 + "]" * 500, "\ufeff{}",
)  # fmt: skip
INSERTED = (
    b"\0", b"\x1b[31m", b"\r", b"\x85", b"\n", b" ", b"{}", b"\x1a", b"\xef\xbb\xbf",
    b"\xe9\x80", b"\xff", b"x\n",
)  # fmt: skip
RECORDS = (
    '{"text": "@\\ud800"}', '{"text": "@", "text": "@"}', '{"@": "x"}', '{"id": "@"}',
    '{"text": {"@": 1}}', '{"text": "@"', '{"text": [[["@"]]]}', '"@"', "@", '["@"]',
    '{"text": "@", "id": "@", "id": 1}', '{"messages": "@"}', '{"text": "@\\u0000"}',
    '{"messages": [{"role": "user", "content": "@"}]}', '{"text": "@", "n": NaN}',
    '{"messages": [{"@": 1}, 2]}', '{"text": "@"} @', '{"text": "@\x1b[31m"}',
    '{"text": "x", "language": "@"}', '{"text": ' + "[" * 3000 + '"@"',
)  # fmt: skip


def truncate(draw: Draw, data: bytes) -> bytes:
    """Cut the end off."""
    return data[: draw.below(len(data) + 1)]


def flip(draw: Draw, data: bytes) -> bytes:
    """Change a byte, half the time in the head: formats have their lengths there."""
    found = bytearray(data or b"x")
    found[draw.below(min(len(found), draw.one((100, len(found)))))] ^= draw.below(256)
    return bytes(found)


def insert(draw: Draw, data: bytes) -> bytes:
    """Put bytes in: in front, behind or between."""
    place = draw.one((0, len(data), draw.below(len(data) + 1)))
    return data[:place] + draw.one((*INSERTED, draw.bytes(20))) + data[place:]


def replace(draw: Draw, data: bytes) -> bytes:
    """Replace everything, as a crash or an editor does."""
    others = (
        *(text.encode() for text in draw.one((TEXTS, ()))),
        b"", bytes(len(data)), draw.bytes(1 + draw.below(3000)), data * 2,
        data.decode("latin-1").encode("utf-16"), data.replace(b"\n", b"\r\n"),
    )  # fmt: skip
    return draw.one(others)


def mix(draw: Draw, data: bytes) -> bytes:
    """Drop, repeat or move a line."""
    lines = data.splitlines(keepends=True) or [b"x"]
    line = lines.pop(draw.below(len(lines)))
    for _ in range(draw.below(3)):
        lines.insert(draw.below(len(lines) + 1), line)
    return b"".join(lines)


def revalue(draw: Draw, data: bytes) -> bytes:
    """Give one value of JSON or TOML another type or name, or take it away."""
    try:
        tree, spell = _parse(data)
        holder, key = draw.one(_places(tree))
    except (ValueError, RecursionError):
        return flip(draw, data)
    what = draw.one(("value",) * 4 + ("name", "nothing"))
    if what == "value" or isinstance(holder, list):
        holder[key] = draw.one(VALUES)
    elif (held := holder.pop(key)) and what == "name":
        holder[draw.one(("unknown", "", "\x1b", "é" * 50))] = held
    try:
        return spell(tree).encode()
    except (UnicodeError, TypeError, ValueError):
        return json.dumps(tree, default=str).encode()


DAMAGES: tuple[Damage, ...] = (
    truncate, flip, flip, insert, insert, replace, replace, mix, revalue, revalue,
)  # fmt: skip


def _parse(data: bytes) -> tuple[Any, Callable[[Any], str]]:
    try:
        return json.loads(data), json.dumps
    except ValueError:
        return tomllib.loads(data.decode(), parse_float=Decimal), tomli_w.dumps


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """List where a value stands: its holder and its key."""
    if not isinstance(tree, dict | list):
        return []
    items = list(tree.items() if isinstance(tree, dict) else enumerate(tree))
    deeper = [place for _, value in items for place in _places(value)]
    return [(tree, key) for key, _ in items] + deeper
