"""Faults of settings, in words: what pydantic finds, as an operator needs it told.

A message names the key, the value that stands there, what is wanted, and an example
that may be pasted::

    policy.epsilon_limit: 8 must be text in quotes; write epsilon_limit = "8"
    policy.min_cohrt: no such key; is min_cohort meant?

A type says what it wants with ``Field(description=…, examples=[…])``. Where it does
not, choices, booleans and ranges speak for themselves.
"""

import difflib
import json
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tapestry.encoding import encode_fraction

_LONGEST = 60  # characters of a value that is shown
_WANTED = {
    "string_type": "must be text in quotes",
    "int_type": "must be a whole number{}",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number{}",
    "bool_type": "must be true or false{}",
    "tuple_type": "must be a list in brackets",
    "model_type": "must be a table",
    "dict_type": "must be a table",
}
_BOUNDS: Mapping[str, Callable[[Any], str]] = {
    "greater_than_equal": lambda c: f"must be {c['ge']} or more",
    "greater_than": lambda c: f"must be over {c['gt']}",
    "less_than_equal": lambda c: f"must be {c['le']} or less",
    "less_than": lambda c: f"must be below {c['lt']}",
    "string_too_long": lambda c: f"must have {c['max_length']} characters or fewer",
    "literal_error": lambda c: f"must be {c['expected']}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What a setting's type asks for."""

    annotation: Any
    description: str | None = None
    example: Any = None


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Tell each fault of some settings in a line, misspelled keys first.

    A key that is probably there under another spelling is not called missing as well.
    """
    found = error.errors(include_url=False)
    meant = {each["loc"]: _meant(each["loc"], found, model) for each in found}
    found.sort(key=lambda each: each["type"] != "extra_forbidden")
    lines = []
    for each in found:
        where = each["loc"]
        if each["type"] == "extra_forbidden":
            close = meant[where]
            rest = f"is {close} meant?" if close else "mind the spelling"
            lines.append(f"{_spell(where)}: no such key; {rest}")
        elif each["type"] != "missing" or (where[-1], where[:-1]) not in {
            (close, other[:-1]) for other, close in meant.items() if close
        }:
            lines.append(_line(each, _wanted(model, where)))
    return lines


def example_of(model: type[BaseModel], where: tuple[str | int, ...]) -> Any:
    """Return an example of a setting; None where its type gives none."""
    return _wanted(model, where).example


def _line(error: Any, wanted: _Wanted) -> str:
    """Tell one fault that is no misspelled key."""
    where, value = error["loc"], error["input"]
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        rule = "is missing"
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


def _hint(where: tuple[str | int, ...], value: Any, kind: str, wanted: _Wanted) -> str:
    """Say what to write, for the value given where it can be told from that."""
    table = _model(wanted.annotation)
    if table is not None:
        return f"; add the table [{_spell(where)}]"
    example = wanted.example
    if kind == "string_type" and type(value) in (int, float):
        example = _quoted(value) or example
    elif kind == "int_type" and isinstance(value, str) and value.isdecimal():
        example = int(value) if len(value) < 10 else example
    if example is None:
        return ""
    keys = [part for part in where if isinstance(part, str)]
    if where and isinstance(where[-1], int):
        example = [example]
    return f"; write, for example, {keys[-1]} = {_toml(example)}"


def _quoted(value: float) -> str | None:
    try:
        return encode_fraction(value)
    except ValueError:
        return None


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        pairs = ", ".join(f"{key} = {_toml(each)}" for key, each in value.items())
        return f"{{ {pairs} }}"
    return json.dumps(value, ensure_ascii=False)


def _show(value: Any) -> str:
    text = _toml(value) if isinstance(value, str | int | float | bool) else ""
    if not text:
        return "a table" if isinstance(value, dict) else "a list"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _spell(where: tuple[str | int, ...]) -> str:
    return ".".join(json.dumps(str(part))[1:-1][:_LONGEST] for part in where)


def _meant(
    where: tuple[str | int, ...], found: list[Any], model: type[BaseModel]
) -> str | None:
    """Find the key that a misspelled one was to be, first among those that lack."""
    if not any(e["loc"] == where and e["type"] == "extra_forbidden" for e in found):
        return None
    table = _model(_wanted(model, where[:-1]).annotation)
    if table is None:
        return None
    missing = [
        str(each["loc"][-1])
        for each in found
        if each["type"] == "missing" and each["loc"][:-1] == where[:-1]
    ]
    key = str(where[-1])
    for names in (missing, list(table.model_fields)):
        folded = {name.casefold(): name for name in names}
        close = difflib.get_close_matches(key.casefold(), folded, n=1)
        if close:
            return folded[close[0]]
    return None


def _wanted(model: type[BaseModel], where: tuple[str | int, ...]) -> _Wanted:
    """Follow a place into a model to the type that stands there."""
    found = _Wanted(annotation=model)
    for part in where:
        if isinstance(part, int):
            found = _element(found.annotation)
            continue
        table = _model(found.annotation)
        if table is None or part not in table.model_fields:
            return _Wanted(annotation=None)
        found = _of_field(table.model_fields[part])
    return found


def _of_field(field: FieldInfo) -> _Wanted:
    found = _Wanted(
        annotation=field.annotation,
        description=field.description,
        example=(field.examples or [None])[0],
    )
    if found.example is None:
        bounds = [getattr(each, "ge", None) for each in field.metadata]
        least = next((bound for bound in bounds if bound is not None), None)
        found = replace(found, example=_simple(field.annotation, least))
    return found


def _element(annotation: Any) -> _Wanted:
    """Return what an element of a list must be."""
    inner = (get_args(annotation) or (None,))[0]
    if get_origin(inner) is Annotated:
        return _of_field(FieldInfo.from_annotation(inner))
    return _Wanted(annotation=inner, example=_simple(inner, None))


def _simple(annotation: Any, least: Any) -> Any:
    """Make an example of a type that speaks for itself."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)[0]
    if get_origin(annotation) is tuple:
        inner = _element(annotation).example
        return None if inner is None else [inner]
    if annotation is bool:
        return True
    return least


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return the table that a type is, or may be."""
    options = (
        get_args(annotation)
        if get_origin(annotation) in (Union, types.UnionType)
        else (annotation,)
    )
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None
