"""Messages that were changed with their structure in mind, drawn from a seed.

A mutation starts from a message that was true somewhere: at this stage, at an earlier
one, for another node, in another run of another federation. It changes the kind, the
body as bytes, one place of the body as JSON, or the attachments.

It never leaves out an item of a list: whom to ask, and whose part to sum, is for the
coordinator to say, and such a message is not malformed.
"""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tapestry.encoding import canonical_json
from tapestry.errors import TapestryError
from tapestry.protocol.messages import BODIES, Kind, Message
from tests.fuzzing.draws import Draw

VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2**53 - 1, 2**63, 1.5, "", "x", "5", "e\u0301"),
    *("0" * 64, "f" * 64, "0" * 128, "sha256:" + "0" * 64, "sha256:" + "f" * 64),
    *([], {}, [1], {"a": []}, "fi", "fr", "../fr", "x" * 10_000, "\ud800", "a\0b"),
]
BODIES_OF_BYTES = [
    *(b"", b"\xff", b"[]", b"{}", b"null", b'"x"', b"9" * 5000, b'{"size":1e999}'),
    *(
        b"[" * 50_000,
        b'{"a":1,"a":1}',
        b'{"name":"\\ud800"}',
        b"{}" * 9_999,
        b"\0" * 99,
    ),
    b'"' + b"a" * (9 << 20) + b'"',
]
ITEMS = [b"", b"{}", b"\xff" * 100, b"0" * (2 << 20), b"[" * 40_000]


@dataclass(frozen=True, slots=True)
class Mutated:
    """A message, what was done to it, and whether only its checkpoint was changed."""

    message: Message
    how: str
    only_checkpoint: bool = False


def mutate(draw: Draw, true: Message, sources: Sequence[Message]) -> Mutated:
    """Change a message, or take another one in its place."""
    message, said = true, "true"
    if sources and draw.chance(0.4):
        message = draw.one(sources)
        said = f"another {message.kind.value}"
        if draw.chance(0.5):
            return Mutated(message, said)
        if draw.chance(0.3) and message.kind in BODIES:
            message, said = replace(message, kind=true.kind), f"{said} as {true.kind}"
            return Mutated(message, said)
    change = draw.one(_CHANGES)
    return change(draw, message, said, sources)


Change = Callable[[Draw, Message, str, Sequence[Message]], Mutated]


def _kind(draw: Draw, message: Message, said: str, _: Sequence[Message]) -> Mutated:
    kind = draw.one([each for each in Kind if each is not message.kind])
    return Mutated(replace(message, kind=kind), f"{said}, kind {kind}")


def _bytes(draw: Draw, message: Message, said: str, _: Sequence[Message]) -> Mutated:
    body, how = message.body, draw.one(["flip", "cut", "extend", "random", "junk"])
    at = draw.below(max(len(body), 1))
    match how:
        case "flip" if body:
            flipped = bytes([body[at] ^ (1 + draw.below(255))])
            body = body[:at] + flipped + body[at + 1 :]
        case "cut":
            body = body[:at]
        case "extend":
            body += draw.bytes(1 + draw.below(40))
        case "random":
            body = draw.bytes(draw.below(400))
        case _:
            body = draw.one(BODIES_OF_BYTES)
    return Mutated(replace(message, body=body), f"{said}, body {how}")


def _json(draw: Draw, message: Message, said: str, _: Sequence[Message]) -> Mutated:
    body = copy.deepcopy(json.loads(message.body))
    places = list(_places(body))
    if not places or draw.chance(0.1):
        value = {**body, draw.one(["extra", "name", "node"]): draw.one(VALUES)}
        return Mutated(_with(message, value), f"{said}, a key too many")
    path = draw.one(places)
    holder = body
    for key in path[:-1]:
        holder = holder[key]
    last, how = path[-1], draw.one(["value", "near", "drop", "twice", "other"])
    old = holder[last]
    if how == "drop" and isinstance(holder, dict):
        del holder[last]
    elif how == "twice" and isinstance(holder, list):
        holder.insert(last, old)
    elif how == "near" and isinstance(old, str) and old:
        at = draw.below(len(old))
        holder[last] = old[:at] + ("0" if old[at] != "0" else "1") + old[at + 1 :]
    elif how == "near" and type(old) is int:
        holder[last] = old + draw.one([-1, 1, 1000])
    elif how == "other" and isinstance(holder, dict) and len(holder) > 1:
        holder[last] = holder[draw.one([key for key in holder if key != last])]
    else:
        holder[last] = draw.one(VALUES)
    where = ".".join(map(str, path))
    only = path[0] in {"checkpoint", "cosigned"}  # these only say how far others are
    return Mutated(_with(message, body), f"{said}, {how} at {where}", only)


def _bulk(
    draw: Draw, message: Message, said: str, sources: Sequence[Message]
) -> Mutated:
    items = [bytes(each) for each in message.attachments]
    how = draw.one(["drop", "twice", "swap", "flip", "cut", "junk", "others", "many"])
    at = draw.below(max(len(items), 1))
    match how:
        case "drop" if items:
            del items[at]
        case "twice" if items:
            items.insert(at, items[at])
        case "swap" if len(items) > 1:
            items[at - 1], items[at] = items[at], items[at - 1]
        case "flip" if items and items[at]:
            one = bytearray(items[at])
            one[draw.below(len(one))] ^= 1 + draw.below(255)
            items[at] = bytes(one)
        case "cut" if items and items[at]:
            items[at] = items[at][: draw.below(len(items[at]))]
        case "others" if sources:
            items = [bytes(each) for each in draw.one(sources).attachments] or [b"x"]
        case "many":
            items += [draw.one(ITEMS[:3])] * 2000
        case _:
            items.insert(at, draw.one(ITEMS))
    return Mutated(replace(message, attachments=tuple(items)), f"{said}, bulk {how}")


_CHANGES: list[Change] = [_kind, _bytes, _json, _json, _json, _bulk, _bulk]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a JSON value where something else could be."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    found: list[tuple[Any, ...]] = []
    for key in keys:
        found += [(*path, key), *_places(value[key], (*path, key))]
    return found


def _with(message: Message, value: Any) -> Message:
    try:
        body = canonical_json(value)
    except TapestryError:
        body = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    return replace(message, body=body)
