"""Columns of a table that are text and person: ``[columns]`` of the manifest.

::

    [columns]
    text = "body"              or messages = "chat", or question = "q" and answer = "a"
    id = "patient"             the person; rows of one are one record
    label = "class"            the document's label, for protected domains
    ignored = ["date", "ward"]     or others = "ignored" for all that are not named

Without the table a file has the columns ``text`` or ``messages``, and ``id`` where
rows have one, and no other. With it each file, of whatever format, has all columns that
it names as something, and no other but those that are ignored by name or as others.

Guarantees:
    A column that is a person's is never passed over because its name is misspelled:
    then there is one column too few and one too many, and each is a fault. A column
    ``id`` is ignored by its name alone.
    A message names only columns that are, or are nearly, a name that is looked for:
    the first row of a table without names is a record.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tapestry.errors import ConfigError
from tapestry.schema import Printable, Strict

_CONTENT = ("text", "messages", "question", "answer")
_SHOWN = 20  # names in a message
_LONGEST = 60  # characters of a name that is shown
_ALIKE = 0.75  # of difflib's ratio

ColumnName = Annotated[Printable, Field(max_length=200, examples=["ward"])]


class Columns(Strict):
    """The table ``[columns]``."""

    text: Annotated[ColumnName | None, Field(examples=["body"])] = None
    messages: Annotated[ColumnName | None, Field(examples=["chat"])] = None
    question: Annotated[ColumnName | None, Field(examples=["question"])] = None
    answer: Annotated[ColumnName | None, Field(examples=["answer"])] = None
    id: Annotated[ColumnName | None, Field(examples=["patient"])] = None
    label: Annotated[ColumnName | None, Field(examples=["class"])] = None
    ignored: tuple[ColumnName, ...] = ()
    others: Annotated[Literal["refused", "ignored"], Field(examples=["ignored"])] = (
        "refused"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        found = [role for role in _CONTENT if getattr(self, role) is not None]
        if found not in (["text"], ["messages"], ["question", "answer"]):
            raise ValueError(
                "want text, or messages, or question and answer, and one of the three"
            )
        named = [*self.roles.values(), *self.ignored]
        if len(set(named)) != len(named):
            raise ValueError("names a column twice; take one out")
        return self

    @property
    def roles(self) -> dict[str, str]:
        """The column of each role."""
        found = {role: getattr(self, role) for role in (*_CONTENT, "id", "label")}
        return {role: name for role, name in found.items() if name is not None}


def roles_of(names: Sequence[str], columns: Columns | None) -> dict[str, str]:
    """Return the column of each role in a file in which no fault is found."""
    if columns is not None:
        return columns.roles
    return {role: role for role in ("text", "messages", "id") if role in names}


def check_columns(names: Sequence[str], columns: Columns | None) -> None:
    """Check the names of a file's columns.

    Raises:
        ConfigError: A column is missing, there twice, or not one that is looked for.
    """
    if columns is not None:
        known = {*columns.roles.values(), *columns.ignored}
    else:
        known = {"text", "messages", "id"}
    there = _there(names, known)
    if len(set(names)) != len(names):
        raise ConfigError(
            f"has a column twice{there}; take one out", code="column-duplicated"
        )
    if columns is not None:
        _check(names, columns, there=there)
        return
    if len({"text", "messages"} & {*names}) != 1:
        raise ConfigError(
            'wants one column "text" or "messages", or a table [columns] in the'
            f" manifest that says which it is{there}",
            code="column-missing",
        )
    _check_others([name not in known for name in names], there=there)


def check_keys(row: Mapping[str, Any], columns: Columns) -> None:
    """Check the keys of an object of JSON; none is named, for it may be of a record.

    Raises:
        ConfigError: A column is missing, or not one that is looked for.
    """
    _check([*row], columns, there="")


def _check(names: Sequence[str], columns: Columns, *, there: str) -> None:
    lacking = sorted({*columns.roles.values()} - {*names})
    if lacking:
        said = " and ".join(f'"{name}"' for name in lacking)
        raise ConfigError(
            f"has no column {said}, which [columns] names{there}; correct the one or"
            " the other",
            code="column-missing",
        )
    known = {*columns.roles.values(), *columns.ignored}
    is_open = columns.others == "ignored"
    _check_others(
        [
            name not in known and not (is_open and name.casefold() != "id")
            for name in names
        ],
        there=there,
    )


def _check_others(are_other: Sequence[bool], *, there: str) -> None:
    if not any(are_other):
        return
    places = [str(place) for place, is_other in enumerate(are_other, 1) if is_other]
    raise ConfigError(
        f"column {', '.join(places[:_SHOWN])} of {len(are_other)} is none that is"
        f" looked for{there}; say in [columns] what it is, or ignore it there",
        code="column-unknown",
    )


def row_of(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Make a row of the cells of each role, as ``text_rows`` takes it."""
    plain = ("text", "messages", "id", "label")
    row = {role: cells[role] for role in plain if role in cells}
    if "question" in cells:
        row["messages"] = [
            {"role": "user", "content": cells["question"]},
            {"role": "assistant", "content": cells["answer"]},
        ]
    return row


def _there(names: Sequence[str], known: set[str]) -> str:
    """Name those columns of a file that are, or are nearly, looked for."""
    near = [name for name in names if any(_is_like(name, each) for each in known)]
    if not near:
        return ""
    listed = ", ".join(f'"{name}"' for name in near[:_SHOWN] if name.isprintable())
    others = len(names) - len(near)
    rest = f", and {others} more that are not shown" if others else ""
    return f"; there are {listed}{rest}"


def _is_like(name: str, known: str) -> bool:
    if len(name) > _LONGEST:
        return False
    a, b = name.casefold(), known.casefold()
    return a == b or difflib.SequenceMatcher(None, a, b).ratio() >= _ALIKE
