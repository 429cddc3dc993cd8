"""The list of all bodies in ``governance/EVENTS.md``, from the models.

``python -m tests.support.body_table`` writes it; a test fails when the page says
something else.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tapestry.protocol import messages
from tapestry.schema import Digest, Name, Plain, Printable
from tapestry_governance.events import event_body
from tapestry_governance.events.envelope import BODIES, Event

PAGE = Path(__file__).resolve().parents[2] / "governance" / "EVENTS.md"
_BLOCK = "<!-- bodies: python -m tests.support.body_table -->\n{}\n<!-- /bodies -->"
_WORDS: dict[str, Any] = {
    "Digest": Digest,
    "Name": Name,
    "Plain": Plain,
    "Printable": Printable,
    "Code": event_body.Code,
    "Label": event_body.Label,
    "Licence": event_body.Licence,
    "Language": event_body.Language,
    "Base": event_body.Base,
    "Hash": event_body.Hash,
    "Scores": event_body.Scores,
}


def written(text: str) -> str:
    """Return a page whose block is as the models are."""
    block = _BLOCK.format(_bodies())
    new, count = re.subn(
        r"<!-- bodies: .*?<!-- /bodies -->", lambda _: block, text, flags=re.DOTALL
    )
    assert count == 1, "EVENTS.md has no block for bodies"
    return new


def _bodies() -> str:
    events: list[str] = []
    parts: dict[str, Any] = {}
    for kind, body in sorted(BODIES.items()):
        schema = body.model_json_schema()
        parts |= schema.pop("$defs", {})
        signers = ", ".join(body.roles)
        events.append(f"| `{kind}` | {signers} | {_fields(schema)} |")
    wire = []
    for message, model in messages.BODIES.items():
        schema = model.model_json_schema()
        parts |= schema.pop("$defs", {})
        wire.append(f"| `{message.value}` | {_fields(schema)} |")
    parts |= {"Seen": Event.model_json_schema()["$defs"]["Seen"]}
    inner = [
        f"| {name} | {_fields(schema)} |"
        for name, schema in sorted(parts.items())
        if "properties" in schema
    ]
    return "\n".join(
        [
            *("| event | signed by | body |", "|---|---|---|", *events, ""),
            *("| message | body |", "|---|---|", *wire, ""),
            *("| part | fields |", "|---|---|", *inner),
        ]
    )


def _fields(schema: dict[str, Any]) -> str:
    fields = schema.get("properties", {})
    return "; ".join(f"`{name}` {_type(each)}" for name, each in fields.items()) or "-"


def _type(schema: dict[str, Any]) -> str:
    """Spell the type of a field as people read it, with its limits."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[1]
        return {"RoundStage": "a stage", "Reason": "a reason"}.get(name, name)
    if inner := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(_type, inner)))
    if values := schema.get("enum") or [
        schema[key] for key in schema if key == "const"
    ]:
        return " or ".join(f"`{value}`" for value in values)
    kind = str(schema.get("type", "object"))
    spell = {"array": _list, "object": _map, "integer": _number, "string": _text}
    return spell[kind](schema) if kind in spell else kind


def _list(schema: dict[str, Any]) -> str:
    rows = schema.get("items")
    inside = _type(rows) if rows else ", ".join(map(_type, schema["prefixItems"]))
    return f"[{inside}]{_limits(schema, 'minItems', 'maxItems')}"


def _number(schema: dict[str, Any]) -> str:
    return f"number{_limits(schema, 'minimum', 'maximum')}"


def _map(schema: dict[str, Any]) -> str:
    """Spell a map from names to values."""
    values = schema.get("additionalProperties")
    for each in schema.get("patternProperties", {}).values():
        values = each
    if not isinstance(values, dict):
        return "the fields of its type"
    return (
        f"{{name: {_type(values)}}}{_limits(schema, 'minProperties', 'maxProperties')}"
    )


def _text(schema: dict[str, Any]) -> str:
    for word, kind in _known():
        if all(schema.get(key) == value for key, value in kind.items()):
            known = {key for key in schema if key in kind}
            return word + ("" if "maxLength" in known else _lengths(schema))
    return f"text{_lengths(schema)}"


def _lengths(schema: dict[str, Any]) -> str:
    return _limits(schema, "minLength", "maxLength")


def _known() -> Iterator[tuple[str, dict[str, Any]]]:
    for word, annotation in _WORDS.items():
        schema = TypeAdapter(annotation).json_schema()
        keys = (
            ("pattern", "description")
            if word == "Printable"
            else ("pattern", "maxLength", "examples")
        )
        kind = {key: schema[key] for key in keys if key in schema}
        if schema["type"] == "string" and kind:
            yield word, kind


def _limits(schema: dict[str, Any], least: str, most: str) -> str:
    low, high = schema.get(least), schema.get(most)
    if high is None:
        return f" ≥ {low}" if low else ""
    return f" {low or 0}..{high}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
