"""The public description of an institution's data, whatever a record of it is."""

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from tapestry.schema import Printable, Strict

Record: TypeAlias = Any
"""A record, or a piece of public data, of the workload's own type; opaque."""
Row: TypeAlias = Any
"""A part of an encoded record that is run at once; opaque but for its length."""

_LICENCE = r"^[A-Za-z0-9][A-Za-z0-9.+-]{0,79}$"


class DataManifest(Strict):
    """The description of an institution's data; may be published.

    A workload adds what its kind of data needs. ``source`` is for people. It and
    whatever else a record does not depend on is ``undigested``: no part of the digest
    of the records.
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
    unit: Annotated[Literal["record"], Field(examples=["record"])]
    source: Annotated[
        Printable, Field(max_length=300, examples=["our archive, 2024"])
    ] = ""

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the data, for the log; empty where there are none."""
        return ()
