"""The public description of an institution's data, whatever a record of it is."""

from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from tapestry.schema import Printable, Strict

Record: TypeAlias = Any
"""A record, or a piece of public data, of the workload's own type; opaque."""
Row: TypeAlias = Any
"""A part of an encoded record that is run at once; opaque but for its length."""

_LICENCE = r"^[A-Za-z0-9][A-Za-z0-9.+-]{0,79}$"


_Rows = Annotated[int, Field(ge=1, le=1_000_000)]


class DataManifest(Strict):
    """The description of an institution's data; may be published.

    A workload adds what its kind of data needs. ``source`` is for people. It and
    whatever else a record does not depend on is ``undigested``: no part of the digest
    of the records. With ``unit = "person"`` each row names the person whom it is about,
    and at most ``max_rows`` rows of one are read: the first ones.
    """

    undigested: ClassVar[frozenset[str]] = frozenset({"source"})

    licence: Annotated[
        str,
        Field(
            pattern=_LICENCE,
            description="the SPDX name of a licence",
            examples=["CC0-1.0"],
        ),
    ]
    unit: Annotated[Literal["record", "person"], Field(examples=["person"])]
    max_rows: Annotated[_Rows | None, Field(examples=[20])] = None
    source: Annotated[
        Printable, Field(max_length=300, examples=["our archive, 2024"])
    ] = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.unit == "person") != (self.max_rows is not None):
            raise ValueError(
                'max_rows goes with unit = "person", and bounds the rows of one person'
            )
        return self

    @property
    def key(self) -> str:
        """The column or field that names a record's person."""
        return "id"

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the data, for the log; empty where there are none."""
        return ()
