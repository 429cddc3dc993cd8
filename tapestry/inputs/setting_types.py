"""The type of a setting, found by its place in a model.

A table may be one of several models, which differ in the value of one key (a tagged
union)::

    [adapter]
    noise = "none"      ->  the model whose ``noise`` is "none"

A place is a path of keys and indexes. The places of pydantic's errors have the tag
behind the key of such a table; the places that an operator reads have none.
"""

import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Place = tuple[str | int, ...]
DECIMAL = {"format": "decimal"}  # what the schema of a text that is a decimal says


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingType:
    """The type of a setting: annotation, description and example."""

    annotation: Any
    description: str | None = None
    example: Any = None
    is_decimal: bool = False
    tag: str | None = None  # key by which a table's model is told

    @property
    def tables(self) -> list[type[BaseModel]]:
        """The models that a table may be; none if it is no table."""
        options = (
            get_args(self.annotation)
            if get_origin(self.annotation) in (Union, types.UnionType)
            else (self.annotation,)
        )
        return [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]

    def table(self, tag: object) -> type[BaseModel] | None:
        """Pick the model of a table, by its tag where there are several."""
        tables = self.tables
        if self.tag is not None:
            tables = [each for each in tables if tag in self._tags(each)]
        return tables[0] if tables else None

    def _tags(self, table: type[BaseModel]) -> tuple[Any, ...]:
        return get_args(table.model_fields[self.tag or ""].annotation)


def type_at(model: type[BaseModel], where: Place) -> SettingType:
    """Follow a place, with its tags, to the type that stands there."""
    return list(_steps(model, where))[-1][1]


def without_tags(model: type[BaseModel], where: Place) -> Place:
    """Take the tags of tables out of a place."""
    return tuple(part for part, _ in list(_steps(model, where))[1:] if part is not None)


def type_of(field: FieldInfo) -> SettingType:
    """Read what a field must be."""
    tag = field.discriminator
    found = SettingType(
        annotation=field.annotation,
        description=field.description,
        example=(field.examples or [None])[0],
        is_decimal=field.json_schema_extra == DECIMAL,
        tag=tag if isinstance(tag, str) else None,
    )
    if found.example is None:
        bounds = [getattr(each, "ge", None) for each in field.metadata]
        least = next((bound for bound in bounds if bound is not None), None)
        found = replace(found, example=_simple(field.annotation, least))
    return found


def element_of(annotation: Any) -> SettingType:
    """Read what an element of a list must be."""
    inner = (get_args(annotation) or (None,))[0]
    if get_origin(inner) is Annotated:
        return type_of(FieldInfo.from_annotation(inner))
    return SettingType(annotation=inner, example=_simple(inner, None))


def _steps(
    model: type[BaseModel], where: Place
) -> Iterator[tuple[str | int | None, SettingType]]:
    """Yield each part of a place with the type that it leads to; None for a tag."""
    found = SettingType(annotation=model)
    yield None, found
    for part in where:
        if found.tag is not None and (chosen := found.table(part)) is not None:
            found = SettingType(annotation=chosen)
            yield None, found
            continue
        if isinstance(part, int):
            found = element_of(found.annotation)
        else:
            fields = [
                field
                for table in found.tables
                for name, field in table.model_fields.items()
                if (field.alias or name) == part
            ]
            found = type_of(fields[0]) if fields else SettingType(annotation=None)
        yield part, found


def _simple(annotation: Any, least: Any) -> Any:
    """Make an example of a type that speaks for itself."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)[0]
    if get_origin(annotation) is tuple:
        inner = element_of(annotation).example
        return None if inner is None else [inner]
    if annotation is bool:
        return True
    return least
