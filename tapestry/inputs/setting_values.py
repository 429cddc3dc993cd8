"""Converts values of a TOML file to what the fields of a strict model take.

Decimals are text in plain decimal spelling wherever they travel, so that a number has
one spelling and one digest. In a file they are numbers, and stay exact::

    learning_rate = 0.1      "0.1"
    clip_norm = 1            "1"
    targets = ["q_proj"]     ("q_proj",)

A workload's own options stand in a table whose keys no settings model knows. A whole
number stays one there, and any other decimal becomes text.

What does not fit is left for the model to refuse (``setting_faults`` says it in words):
exponents, ``inf``, ``1.0`` for ``1``, and decimals in quotation marks, which this
module marks as ``Quoted``.
"""

import decimal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_origin

from pydantic import BaseModel

from tapestry.encoding import decode_decimal
from tapestry.errors import ProtocolError
from tapestry.inputs.setting_types import SettingType, element_of, type_of
from tapestry.inputs.text_reader import WrittenFloat

_DIGITS = 18  # on either side of the point


@dataclass(frozen=True, slots=True)
class Quoted:
    """Text in quotation marks where a decimal is wanted."""

    text: str


def fit(raw: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Convert the values of a table to what the fields of a model take.

    Edge cases:
        Unknown keys and values of another type stay as they are.
    """
    return _convert(raw, model, _fit)


def fit_options(options: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Convert the options of a workload to what the fields of its model take.

    Options travel without their model, so that a decimal field has one spelling there
    as well: a whole number is one, and any other decimal is text with a point.

    Edge cases:
        Unknown keys and values of another type stay as they are.
    """
    return _convert(options, model, _fit_option)


def to_toml(values: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Convert a model's fields that are not None for a TOML writer; inverse of fit."""
    there = {key: value for key, value in values.items() if value is not None}
    return _convert(there, model, _to_toml)


def plain_spelling(text: str) -> str | None:
    """Spell a number as a plain decimal, exactly; None if it has no such spelling."""
    try:
        number = decimal.Decimal(text)
    except ArithmeticError:
        return None
    if not number:
        return "0"
    if not number.is_finite() or abs(number.adjusted()) > _DIGITS:
        return None
    spelled = format(number, "f")
    if "." in spelled:
        spelled = spelled.rstrip("0").rstrip(".")
    try:
        decode_decimal(spelled)
    except ProtocolError:
        return None
    return spelled


def _convert(
    values: Mapping[str, Any],
    model: type[BaseModel],
    change: Callable[[Any, SettingType], Any],
) -> dict[str, Any]:
    fields = model.model_fields
    return {
        key: change(value, type_of(fields[key])) if key in fields else value
        for key, value in values.items()
    }


def _fit(value: Any, wanted: SettingType) -> Any:
    if isinstance(value, list):
        element = element_of(wanted.annotation)
        return tuple(_fit(each, element) for each in value)
    if isinstance(value, dict):
        if get_origin(wanted.annotation) is dict:
            return {key: _fit_free(each) for key, each in value.items()}
        table = wanted.table(value.get(wanted.tag or ""))
        return value if table is None else fit(value, table)
    if wanted.is_decimal:
        return _decimal(value)
    return value


def _fit_free(value: Any) -> Any:
    """Convert a value of a table whose keys no model names (``fit_options``)."""
    if isinstance(value, list):
        return tuple(map(_fit_free, value))
    if isinstance(value, WrittenFloat) and plain_spelling(value.text) == value.text:
        return value.text
    return value


def _fit_option(value: Any, wanted: SettingType) -> Any:
    if isinstance(value, list | tuple):
        element = element_of(wanted.annotation)
        return tuple(_fit_option(each, element) for each in value)
    if wanted.is_decimal and isinstance(value, str):
        is_plain = "." in value and plain_spelling(value) == value
        return value if is_plain else Quoted(value)
    return _decimal(value) if wanted.is_decimal else value


def _decimal(value: Any) -> Any:
    if isinstance(value, str):
        return Quoted(value)
    if isinstance(value, WrittenFloat):
        return value.text if plain_spelling(value.text) == value.text else value
    if type(value) is int and abs(value) < 10**_DIGITS:
        return str(value)
    return value


class _Plain(decimal.Decimal):
    """A decimal that prints without an exponent, also where it is tiny."""

    def __str__(self) -> str:
        return format(self, "f")


def _to_toml(value: Any, wanted: SettingType) -> Any:
    if isinstance(value, Mapping):
        table = wanted.table(value.get(wanted.tag or ""))
        return value if table is None else to_toml(value, table)
    if wanted.is_decimal and isinstance(value, str):
        if plain_spelling(value) != value:
            return value
        return _Plain(value) if "." in value else int(value)
    return value
