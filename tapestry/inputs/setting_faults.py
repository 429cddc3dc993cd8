"""Messages for operators about settings that pydantic refuses.

A message names the key, the value that stands there, what is wanted, and what may be
written in its place::

    policy.epsilon_limit: "8" is text; write epsilon_limit = 8 without quotation marks
    policy.min_cohort: 1 must be 2 or more; write, for example, min_cohort = 3
    policy.min_cohrt: no such key; is min_cohort meant?

A type says what it wants with ``Field(description=…, examples=[…])``. Where it does
not, choices, booleans and ranges speak for themselves. A model names keys that it no
longer has in ``former_keys``, each with what to write now.
"""

import datetime
import difflib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tapestry.errors import ConfigError
from tapestry.inputs.setting_types import Place, SettingType, type_at, without_tags
from tapestry.inputs.setting_values import Quoted, plain_spelling
from tapestry.inputs.text_reader import WrittenFloat

_Model = TypeVar("_Model", bound=BaseModel)
_LONGEST = 60  # characters of a value that is shown
_WANTED = {
    "string_type": "must be text in quotes",
    "int_type": "must be a whole number{}",
    "bool_type": "must be true or false{}",
    "tuple_type": "must be a list in brackets",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "dict_type": "must be a table",
}
_BOUNDS: Mapping[str, Callable[[Any], str]] = {
    "greater_than_equal": lambda c: f"must be {c['ge']} or more",
    "greater_than": lambda c: f"must be over {c['gt']}",
    "less_than_equal": lambda c: f"must be {c['le']} or less",
    "less_than": lambda c: f"must be below {c['lt']}",
    "string_too_long": lambda c: f"must have {c['max_length']} characters or fewer",
    "too_short": lambda _: "must not be empty",
    "literal_error": lambda c: f"must be {c['expected']}",
}


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Describe each fault of some settings in a line, misspelled keys first.

    A key that is probably there under another spelling is not called missing as well.
    """
    found = [_untagged(each) for each in error.errors(include_url=False)]
    meant = {each["loc"]: _meant(each["loc"], found, model) for each in found}
    found.sort(key=lambda each: each["type"] != "extra_forbidden")
    lines = []
    for each in found:
        where = without_tags(model, each["loc"])
        if each["type"] == "extra_forbidden":
            rest = _unknown(model, each["loc"], close=meant[each["loc"]])
            lines.append(f"{_spell(where)}: {rest}")
        elif each["type"] != "missing" or (each["loc"][-1], each["loc"][:-1]) not in {
            (close, other[:-1]) for other, close in meant.items() if close
        }:
            lines.append(_line(each, where, type_at(model, each["loc"])))
    return lines


def validated(model: type[_Model], values: object, *, what: str) -> _Model:
    """Return values that no file holds yet as a model.

    Raises:
        ConfigError: They break rules; the message begins with ``what``.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        said = "; ".join(explain(error, model))
        raise ConfigError(f"{what}: {said}", code="setting-invalid") from None


def _untagged(found: Any) -> Any:
    """Describe the key that picks a table's model as any other key."""
    kind, context = found["type"], found.get("ctx", {})
    if kind not in {"union_tag_not_found", "union_tag_invalid"}:
        return found
    key = context["discriminator"].strip("'")
    changed = {**found, "loc": (*found["loc"], key), "type": "missing"}
    if kind == "union_tag_invalid":
        wanted = " or ".join(context["expected_tags"].rsplit(", ", 1))
        changed |= {"type": "literal_error", "ctx": {"expected": wanted}}
        changed |= {"input": found["input"][key]}
    return changed


def _unknown(model: type[BaseModel], where: Place, *, close: str | None) -> str:
    """Return what to do with a key that the model does not have."""
    former: Mapping[str, str] = getattr(model, "former_keys", {})
    told = former.get(_spell(without_tags(model, where)))
    if told is not None:
        return f"no longer a key; {told}"
    around = type_at(model, where[:-2])
    elsewhere = {key for each in around.tables for key in each.model_fields}
    if around.tag is not None and where[-1] in elsewhere:
        return f"has no effect with {around.tag} = {_toml(where[-2])}; take it out"
    return f"no such key; {f'is {close} meant?' if close else 'mind the spelling'}"


def _line(error: Any, where: Place, wanted: SettingType) -> str:
    """Describe a fault that is no misspelled key."""
    value, kind, context = error["input"], error["type"], error.get("ctx", {})
    is_option = kind == "value_error" and wanted.annotation is None
    if kind == "missing":
        rule = "is missing"
    elif (kind == "string_type" and wanted.is_decimal) or (
        is_option and isinstance(value, WrittenFloat)
    ):
        return f"{_spell(where)}: {_decimal_rule(value, where, wanted)}"
    elif is_option:
        rule = f"{_show(value)} {error['msg'].removeprefix('Value error, ')}"
    elif kind in _WANTED:
        quotes = " without quotes" if isinstance(value, str) else ""
        rule = f"{_show(value)} {_WANTED[kind].format(quotes)}"
    elif kind in _BOUNDS:
        rule = f"{_show(value)} {_BOUNDS[kind](context)}"
    elif kind == "string_pattern_mismatch":
        rule = f"{_show(value)} is not {wanted.description or 'spelled as it must be'}"
    else:
        rule = error["msg"].removeprefix("Value error, ")
    return f"{_spell(where)}: {rule}{_hint(where, value, kind, wanted)}"


def _decimal_rule(value: Any, where: Place, wanted: SettingType) -> str:
    """Describe why a value is no decimal, and how to write the one that it is."""
    shown, write = _show(value), f"write {_key(where)} = "
    plain = None
    if isinstance(value, Quoted | WrittenFloat):
        plain = plain_spelling(value.text)
    if plain is not None and isinstance(value, Quoted):
        return f"{shown} is text; {write}{plain} without quotation marks"
    if plain is not None:
        return f"{shown} is not spelled as a plain decimal; {write}{plain}"
    rule = "must be a number"
    if isinstance(value, Quoted):
        rule += " without quotation marks"
    elif isinstance(value, WrittenFloat) and value.text.lstrip("+-") in {"inf", "nan"}:
        rule = "must be a finite number"
    elif isinstance(value, WrittenFloat | int) and not isinstance(value, bool):
        rule += " with at most 18 digits before and after the point"
    example = "0.5" if wanted.example is None else wanted.example
    return f"{shown} {rule}; write, for example, {_key(where)} = {example}"


def _hint(where: Place, value: Any, kind: str, wanted: SettingType) -> str:
    """Return what to write, derived from the given value where that is possible."""
    if wanted.tables:
        return f"; add the table [{_spell(where)}]"
    example = wanted.example
    if kind == "string_type" and type(value) in (int, WrittenFloat):
        example = _show(value)
    elif kind == "int_type" and isinstance(value, str) and value.isdecimal():
        example = int(value) if len(value) < 10 else example
    if example is None:
        return ""
    written = example if wanted.is_decimal else _toml(example)
    if where and isinstance(where[-1], int):
        written = f"[{written}]"
    return f"; write, for example, {_key(where)} = {written}"


def _key(where: Place) -> str:
    return [part for part in where if isinstance(part, str)][-1]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        pairs = ", ".join(f"{key} = {_toml(each)}" for key, each in value.items())
        return f"{{ {pairs} }}"
    return json.dumps(value, ensure_ascii=False)


def _show(value: Any) -> str:
    """Print a value as it stands in the file, if it is short."""
    if isinstance(value, WrittenFloat):
        text = value.text
    elif isinstance(value, Quoted):
        text = _toml(value.text)
    elif isinstance(value, datetime.date | datetime.time):
        text = value.isoformat()
    elif isinstance(value, int) and not -(10**_LONGEST) < value < 10**_LONGEST:
        return "a number of many digits"
    elif isinstance(value, str | int | bool):
        text = _toml(value)
    else:
        return "a table" if isinstance(value, dict) else "a list"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _spell(where: Place) -> str:
    return ".".join(json.dumps(str(part))[1:-1][:_LONGEST] for part in where)


def _meant(where: Place, found: list[Any], model: type[BaseModel]) -> str | None:
    """Find the key that a misspelled one was to be, first among those that lack."""
    if not any(e["loc"] == where and e["type"] == "extra_forbidden" for e in found):
        return None
    tables = type_at(model, where[:-1]).tables
    if not tables:
        return None
    missing = [
        str(each["loc"][-1])
        for each in found
        if each["type"] == "missing" and each["loc"][:-1] == where[:-1]
    ]
    key = str(where[-1])
    for names in (missing, list(tables[0].model_fields)):
        folded = {name.casefold(): name for name in names}
        close = difflib.get_close_matches(key.casefold(), folded, n=1)
        if close:
            return folded[close[0]]
    return None
