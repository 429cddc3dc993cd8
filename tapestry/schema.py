"""Types for data from outside: strict models, names, digests and plain decimals."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tapestry.encoding import canonical_json, decode_decimal, decode_json, digest
from tapestry.errors import ProtocolError
from tapestry.inputs.setting_types import DECIMAL

DOCUMENT_LIMIT = 8 << 20  # bytes of JSON
_JOINERS = re.compile(r"(?<=\w)[\u200c\u200d](?=\w)")  # spelling, in many scripts
_SEGMENT = re.compile(r"[A-Za-z0-9_.-][A-Za-z0-9_. @+=,-]{0,119}")
_DEVICE = re.compile(
    r"(con|prn|aux|nul|(com|lpt)[0-9])(\..*)?", re.IGNORECASE
)  # Windows
LONGEST_PATH = 960  # characters: 8 parts of 120


def _plain_decimal(text: str) -> str:
    try:
        decode_decimal(text)
    except ProtocolError as error:
        raise ValueError(str(error)) from None
    return text


def _check_printable(text: str) -> str:
    if text != text.strip() or not _JOINERS.sub("", text).isprintable():
        raise ValueError("not text on one line, without invisible characters")
    return text


def check_ascending(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Require that texts are distinct and in order, the one spelling of a set.

    Raises:
        ValueError: Two are equal or out of order.
    """
    if list(texts) != sorted(set(texts)):
        raise ValueError("items must be distinct and in order")
    return texts


def check_file_name(name: str) -> str:
    """Refuse a path that could leave its folder or be spelled in two ways.

    Raises:
        ValueError: The path is absolute, has ``.``, ``..`` or a backslash, is too long
            or deep, names a device, or has characters outside a small portable set.
    """
    segments = name.split("/")
    if len(segments) > 8 or any(
        not _SEGMENT.fullmatch(part)
        or part != part.rstrip(" .")
        or _DEVICE.fullmatch(part)
        for part in segments
    ):
        raise ValueError(f"not a portable relative path: {name[:80]!r}")
    return name


def _check_name(name: str) -> str:
    if name.endswith(".") or _DEVICE.fullmatch(name):
        raise ValueError("not a portable name: it ends with a dot, or names a device")
    return name


def _check_local_path(path: str) -> str:
    if "\0" in path:
        raise ValueError("a path holds no NUL character")
    return path


Noise = Literal["none", "local", "shared"]
Digest = Annotated[
    str,
    Field(
        pattern="^sha256:[0-9a-f]{64}$",
        description="a digest: sha256: and 64 hex digits in lower case",
        examples=["sha256:" + "0" * 64],
    ),
]
Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$",
        description="a name: up to 63 of a-z, 0-9, dots and hyphens",
        examples=["italy"],
    ),
    AfterValidator(_check_name),
]
"""Of a party, run or adapter; it becomes a part of paths, so it is a file name, too."""
Plain = Annotated[
    str,
    Field(max_length=40, examples=["0.5"], json_schema_extra=dict(DECIMAL)),
    AfterValidator(_plain_decimal),
]
Printable = Annotated[  # all free text of others; the field says how long it may be
    str,
    Field(
        description="text on one line, without control or invisible characters",
        examples=["Italy"],
    ),
    AfterValidator(_check_printable),
]
InOrder = AfterValidator(check_ascending)
"""Of a tuple of texts; it stands behind the limits of their number."""
Software = Annotated[  # manifests of software, any of which will do
    tuple[Digest, ...],
    Field(min_length=1, max_length=16),
    InOrder,
]
Names = Annotated[tuple[Name, ...], InOrder]
FileName = Annotated[
    str, Field(max_length=LONGEST_PATH), AfterValidator(check_file_name)
]
KeyText = Annotated[str, Field(pattern="^[!-~]{1,300}$")]
"""The text of a verify key, which ``VerifyKey.parse`` reads."""
LocalPath = Annotated[
    str, Field(min_length=1, max_length=4096), AfterValidator(_check_local_path)
]
"""A file or folder that the operator names in the settings; never from a peer."""


def first_fault(error: ValidationError, *, whole: str = "") -> str:
    """Return the place and the rule of an error's first fault, never the value."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or whole
    return f"{where}: {first['msg']}"


class Strict(BaseModel):
    """Outside data: unknown keys, lenient types and later changes are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @classmethod
    def decode(cls, data: bytes, *, limit: int = DOCUMENT_LIMIT) -> Self:
        """Read from canonical JSON.

        Raises:
            ProtocolError: The bytes are not canonical JSON, or not of this shape; the
                message has the place and the rule, never the value.
        """
        decode_json(data, limit=limit)
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise ProtocolError(
                f"{cls.__name__} {first_fault(error)}", code="schema-violated"
            ) from None

    def encode(self) -> bytes:
        """Print as canonical JSON; the inverse of decode."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """The digest of the canonical bytes."""
        return digest(self.encode())
