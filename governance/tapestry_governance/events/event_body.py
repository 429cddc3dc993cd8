"""The base of all bodies of events, and the types of fields that they share.

A body holds public facts only: names of institutions, digests, counts, decimal
strings. No record, no personal name, no number that a node computed on its records
outside the privacy accounting. ``governance/EVENTS.md`` is the format document.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from tapestry.errors import ProtocolError
from tapestry.keys import Algorithm, VerifyKey
from tapestry.schema import Plain, Strict

Role = Literal["coordinator", "root", "node", "community"]

Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]  # a reason
Label = Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9._/-]{0,62}$")]  # a metric
Licence = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]{0,79}$")]  # SPDX
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$")]
Base = Annotated[str, Field(pattern=r"^base-(0|[1-9][0-9]{0,5})$")]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Index = Annotated[int, Field(ge=0)]
RoundNumber = Annotated[int, Field(ge=1, le=1_000_000)]
Attempt = Annotated[int, Field(ge=1, le=1000)]
Scores = Annotated[dict[Label, Plain], Field(max_length=200)]


def _signing(text: str) -> str:
    return _key(text, Algorithm.SIGNATURE)


def _cosigning(text: str) -> str:
    return _key(text, Algorithm.COSIGNATURE)


def _key(text: str, algorithm: Algorithm) -> str:
    try:
        key = VerifyKey.parse(text)
    except ProtocolError as error:
        raise ValueError(str(error)) from None
    if key.algorithm is not algorithm:
        raise ValueError(f"{key.keyid} was made for another purpose")
    return text


SignatureKey = Annotated[str, Field(max_length=300), AfterValidator(_signing)]
WitnessKey = Annotated[str, Field(max_length=300), AfterValidator(_cosigning)]


class Body(Strict):
    """The statement of an event of one ``type``, which ``roles`` may sign."""

    type: ClassVar[str] = ""
    roles: ClassVar[tuple[Role, ...]] = ()

    def __init_subclass__(cls, *, type: str = "", roles: tuple[Role, ...] = ()) -> None:  # noqa: A002 - as in an event
        super().__init_subclass__()
        cls.type, cls.roles = type, roles
