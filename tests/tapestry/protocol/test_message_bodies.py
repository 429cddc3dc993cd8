"""Bodies of all kinds: one spelling each, and every field of it is needed.

The cases come from the models: each field of each body, at whatever depth, is taken
out, given another name and given values that its schema does not allow. A new field is
covered by being in ``sample_bodies``, and the first test fails until it is.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import ProtocolError
from tapestry.inputs.setting_types import DECIMAL
from tapestry.protocol import messages
from tapestry.protocol.messages import (
    BODY_LIMIT,
    HelloRequest,
    Kind,
    Message,
    ReceiptReply,
    decode_body,
    encode_message,
    expect_body,
    split_entries,
)
from tapestry.schema import Strict
from tests.support.message_samples import sample_bodies
from tests.support.refusals import refused

Path = tuple[str | int, ...]

SAMPLES = sample_bodies()
VALUES = {kind: decode_json(body.encode()) for kind, body in SAMPLES.items()}
SCHEMAS = {kind: type(body).model_json_schema() for kind, body in SAMPLES.items()}
# For a value of each JSON type: what some decoders would take for the same.
LOOKALIKES: dict[str, tuple[Any, ...]] = {
    "integer": (True, "1", "1.0", "01", "\uff11", -1, 2**60, [1], {}),
    "string": (1, True, [], {}, ["a"]),
    "boolean": (0, 1, "true", [], {}),
    "array": ({}, "[]", 0, True),
    "object": ([], "{}", 0, True),
}
WIDE = {ord("0") + digit: 0xFF10 + digit for digit in range(10)}


def _respelled(text: str) -> set[str]:
    """Spell a text as people read it alike; a pattern has to refuse each."""
    spellings = {text.upper(), text + "\n", " " + text, text.translate(WIDE)}
    return spellings - {text}


def _places(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Walk over all values of a body; of a list, the first is enough."""
    yield path, value
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from _places(value[0], (*path, 0))


def _schema(kind: Kind, path: Path) -> dict[str, Any]:
    """Find the part of a kind's schema that describes a place."""
    whole = SCHEMAS[kind]
    found = whole
    for step in path:
        found = _present(whole, found)
        if isinstance(step, int):
            found = found.get("items") or found["prefixItems"][step]
        elif step in found.get("properties", {}):
            found = found["properties"][step]
        elif "patternProperties" in found:
            (found,) = found["patternProperties"].values()
        else:
            found = found["additionalProperties"]
    return _resolved(whole, found)


def _resolved(whole: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        part = whole["$defs"][part["$ref"].rpartition("/")[2]]
    return part


def _present(whole: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Return what a part that may be null is otherwise."""
    part = _resolved(whole, part)
    options = [_resolved(whole, each) for each in part.get("anyOf", [])]
    return next((each for each in options if each.get("type") == "object"), part)


def _types(kind: Kind, path: Path) -> set[str]:
    schema = _schema(kind, path)
    options = schema.get("anyOf", [schema])
    resolved = [_resolved(SCHEMAS[kind], option) for option in options]
    return {option.get("type", "string") for option in resolved}


def _replaced(value: Any, path: Path, new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    if not path:
        return new
    target = copy
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = new
    return copy


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def _name(kind: Kind, path: Path) -> str:
    return ".".join([kind.value, *map(str, path)])


PLACES = [(kind, path) for kind in Kind for path, _ in _places(VALUES[kind])]
OBJECTS = [(k, p) for k, p in PLACES if isinstance(_at(VALUES[k], p), dict)]
MODELS = [
    (k, p)
    for k, p in OBJECTS
    if "properties" in _present(SCHEMAS[k], _schema(k, p)) or not p
]
FIELDS = [(k, (*p, name)) for k, p in MODELS for name in _at(VALUES[k], p)]


def _refused(kind: Kind, value: Any) -> None:
    try:
        body = canonical_json(value)
    except (ProtocolError, ValueError):  # cannot even be printed, so cannot be sent
        body = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    with pytest.raises(ProtocolError):
        decode_body(Message(kind=kind, body=body))


def _models(schema: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Walk over a model and all models inside it."""
    yield schema
    for field in schema.model_fields.values():
        for inner in _inside(field.annotation):
            yield from _models(inner)


def _inside(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _inside(part)


def _fields_of(schema: type[BaseModel]) -> set[tuple[str, str]]:
    return {(m.__name__, f) for m in _models(schema) for f in m.model_fields}


def _seen(body: Any) -> Iterator[tuple[str, str]]:
    if isinstance(body, BaseModel):
        for name in type(body).model_fields:
            yield type(body).__name__, name
            yield from _seen(getattr(body, name))
    elif isinstance(body, dict):
        for value in body.values():
            yield from _seen(value)
    elif isinstance(body, tuple):
        for value in body:
            yield from _seen(value)


def test_every_kind_has_a_sample_with_every_field() -> None:
    assert set(SAMPLES) == set(Kind)
    for kind, body in SAMPLES.items():
        assert set(_seen(body)) == _fields_of(type(body)), kind
        assert all(v not in ([], {}) for p, v in _places(VALUES[kind]) if p), kind


def test_every_kind_has_a_body_type_of_its_own() -> None:
    assert set(messages.BODIES) == set(Kind)
    assert len(set(messages.BODIES.values())) == len(Kind)
    assert {kind: type(body) for kind, body in SAMPLES.items()} == messages.BODIES


@pytest.mark.parametrize("kind", Kind, ids=str)
def test_a_body_survives_the_way_over_the_wire(kind: Kind) -> None:
    message = encode_message(SAMPLES[kind])
    assert message.kind is kind
    assert decode_body(message) == SAMPLES[kind]
    assert encode_message(decode_body(message)) == message


@pytest.mark.parametrize(("kind", "path"), FIELDS, ids=str)
def test_a_body_without_one_of_its_fields_is_refused(kind: Kind, path: Path) -> None:
    *above, name = path
    rest = {k: v for k, v in _at(VALUES[kind], tuple(above)).items() if k != name}
    _refused(kind, _replaced(VALUES[kind], tuple(above), rest))


@pytest.mark.parametrize(("kind", "path"), FIELDS, ids=str)
def test_a_field_under_another_name_is_refused(kind: Kind, path: Path) -> None:
    *above, name = path
    inner = _at(VALUES[kind], tuple(above))
    for other in (str(name).upper(), f"{name} ", f"{name}s", str(name).title()):
        renamed = {other if k == name else k: v for k, v in inner.items()}
        _refused(kind, _replaced(VALUES[kind], tuple(above), renamed))


@pytest.mark.parametrize(("kind", "path"), MODELS, ids=str)
def test_an_unknown_field_is_refused(kind: Kind, path: Path) -> None:
    more = {**_at(VALUES[kind], path), "zz": None}
    _refused(kind, _replaced(VALUES[kind], path, more))


@pytest.mark.parametrize(("kind", "path"), PLACES, ids=str)
def test_a_value_of_another_type_is_refused(kind: Kind, path: Path) -> None:
    allowed = _types(kind, path)
    if "null" not in allowed:
        _refused(kind, _replaced(VALUES[kind], path, None))
    (own,) = allowed - {"null"}
    for wrong in LOOKALIKES[own]:
        _refused(kind, _replaced(VALUES[kind], path, wrong))


def _is_patterned(schema: dict[str, Any]) -> bool:
    kinds = [each for each in schema.get("anyOf", [schema]) if each != {"type": "null"}]
    ruled = {"pattern", "enum", *DECIMAL}
    return all(ruled & each.keys() for each in kinds)


PATTERNED = [
    (k, p)
    for k, p in PLACES
    if isinstance(_at(VALUES[k], p), str) and _is_patterned(_schema(k, p))
]
FREE_TEXT = {
    "checkpoint",
    "cosigned",
    "head",
    "lines",
    "files",
}  # parsed, and refused, where it is used


def test_every_text_but_notes_and_names_of_files_has_a_pattern() -> None:
    texts = {(k, p) for k, p in PLACES if isinstance(_at(VALUES[k], p), str)}
    free = {p[-1] if isinstance(p[-1], str) else p[-2] for _, p in texts - {*PATTERNED}}
    assert free == FREE_TEXT


@pytest.mark.parametrize(("kind", "path"), PATTERNED, ids=str)
def test_a_text_in_another_spelling_is_refused(kind: Kind, path: Path) -> None:
    for other in _respelled(_at(VALUES[kind], path)):
        _refused(kind, _replaced(VALUES[kind], path, other))


@pytest.mark.parametrize("names", [["b", "a"], ["a", "a"], ["../a"], ["/a"], ["a//b"]])
def test_names_of_files_out_of_order_or_out_of_the_folder_are_refused(
    names: list[str],
) -> None:
    _refused(Kind.PUBLICATION, {"files": names})


def _texts(kind: Kind) -> Iterator[tuple[str, bytes]]:
    """The same body in other JSON, which a lenient parser would read alike."""
    good = SAMPLES[kind].encode()
    value = VALUES[kind]
    yield "a line end", good + b"\n"
    yield "a byte order mark", b"\xef\xbb\xbf" + good
    yield "nothing", b""
    yield "a space", b"{ " + good[1:]
    yield "a comma at the end", good[:-1] + b",}"
    if value:
        first, *_ = value
        yield "spaces", json.dumps(value, sort_keys=True).encode()
        twice = b'{"%s":%s,' % (first.encode(), canonical_json(value[first]))
        yield "a field twice", twice + good[1:]
        escaped = b'"\\u%04x' % ord(first[0]) + first[1:].encode()
        yield "an escaped name", good.replace(b'"' + first.encode(), escaped, 1)
    if len(value) > 1:
        turned = dict(reversed(value.items()))
        yield "another order", json.dumps(turned, separators=(",", ":")).encode()
    for number in set(re.findall(rb'(?<=":)\d+(?=[,}])', good)):
        for other in (b".0", b"e0", b".00"):
            changed = re.sub(rb'(?<=":)' + number + rb"(?=[,}])", number + other, good)
            yield f"{number.decode()}{other.decode()}", changed
        yield "a zero in front", good.replace(b":" + number, b":0" + number, 1)
        yield "a minus", good.replace(b":" + number, b":-" + number, 1)


@pytest.mark.parametrize("kind", Kind, ids=str)
def test_the_same_body_in_other_json_is_refused(kind: Kind) -> None:
    for why, body in _texts(kind):
        assert body != SAMPLES[kind].encode(), why
        with pytest.raises(ProtocolError):
            decode_body(Message(kind=kind, body=body))


@pytest.mark.parametrize("kind", Kind, ids=str)
def test_a_body_over_the_limit_is_refused(kind: Kind) -> None:
    with refused(ProtocolError, "json-too-large"):
        decode_body(Message(kind=kind, body=b" " * (BODY_LIMIT + 1)))


BULKY = {
    *(Kind.COSIGN, Kind.COSIGNATURE, Kind.MASKED_INPUT, Kind.APPLY_RESULT),
    *(Kind.CHECK_CHUNK, Kind.PUBLICATION, Kind.REFUSAL, Kind.SHOW_HELD_OUT),
    *(Kind.SHARED_KEYS, Kind.COLLECT_MASKED_INPUTS),
}


@pytest.mark.parametrize("kind", sorted(set(Kind) - BULKY), ids=str)
def test_attachments_are_refused_where_the_kind_has_none(kind: Kind) -> None:
    body = SAMPLES[kind]
    with refused(ProtocolError, "attachments-not-allowed", match=f"^{kind} with 1 "):
        decode_body(Message(kind=kind, body=body.encode(), attachments=[b""]))
    with pytest.raises(ValueError, match="attachments"):
        encode_message(body, [b""])


@pytest.mark.parametrize("kind", sorted(BULKY), ids=str)
def test_attachments_travel_with_kinds_that_have_them(kind: Kind) -> None:
    message = encode_message(SAMPLES[kind], [b"x"])
    assert decode_body(message) == SAMPLES[kind]
    assert message.attachments == [b"x"]


def test_a_message_of_another_kind_is_not_what_was_expected() -> None:
    hello = HelloRequest(nonce="0" * 64)
    message = encode_message(hello)
    assert expect_body(message, HelloRequest) == hello
    with refused(ProtocolError, "message-kind-unexpected", match="hello .* receipt"):
        expect_body(message, ReceiptReply)


def test_a_model_that_is_no_body_makes_no_message() -> None:
    with pytest.raises(ValueError, match="Strict"):
        encode_message(Strict())


@pytest.mark.parametrize("count", [0, 1])
def test_an_upload_without_its_two_entries_is_refused(count: int) -> None:
    with refused(ProtocolError, "log-entries-missing", match=f"^{count} .* 2 "):
        split_entries([b"entry"] * count)
    assert split_entries([b"a", memoryview(b"b"), b"c"]) == (b"a", b"b", [b"c"])
