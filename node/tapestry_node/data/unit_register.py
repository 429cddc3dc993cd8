"""The units of an institution by block: a file that no restart may forget.

With ``unit = "person"`` an institution's data may grow. Each person stays for ever in
the block of the version with which the person first came, whatever becomes of the rows:
a person that comes again, or whose rows were changed, has no fresh budget. The register
is the memory of that::

    units/VERSION.units     rows of 34 bytes, sorted: unit 16, content 16, block 2

``unit`` is HMAC-SHA-256 of the key that names the person, and ``content`` that of the
rows, each cut to 16 bytes. Both are under a secret of the node's state: the file alone
tells nobody who is in it, and with that secret a person can be looked up by its key.

Guarantees:
    A version is written whole, under a new name, before the node's state names it by
    its digest. A register that is missing, older or changed is refused, as its persons
    would otherwise count as new.

Edge cases:
    A person who left keeps its row, with a content of zeros.
"""

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from tapestry.encoding import digest
from tapestry.errors import VerificationError
from tapestry.inputs.plain_file import read_plain
from tapestry.storage import durable_files

FOLDER = "units"
_CUT = 16
_ROW: Final = np.dtype(
    [("unit", f"S{_CUT}"), ("content", f"S{_CUT}"), ("block", "<u2")]
)
_MAX_BYTES = 1 << 32
_GONE = b""  # sixteen zeros, as numpy spells them

Marks = NDArray[np.bytes_]  # of some units: sixteen bytes each


def marks(secret: bytes, label: str, texts: Iterable[bytes]) -> Marks:
    """Return a keyed digest of each text, shape (n,), sixteen bytes each."""
    start = label.encode() + b"\0"
    found = [hmac.digest(secret, start + text, "sha256")[:_CUT] for text in texts]
    return np.array(found, dtype=f"S{_CUT}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundUnits:
    """The units of a folder as it is now, in the order of its records."""

    units: Marks
    contents: Marks

    @classmethod
    def of(cls, secret: bytes, keys: Sequence[str], spellings: Sequence[bytes]) -> Self:
        """Mark the persons of some records, and what is read of each."""
        return cls(
            units=marks(secret, "unit", (key.encode() for key in keys)),
            contents=marks(secret, "content", spellings),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The units that differ from a version; counts for the operator alone."""

    new: int
    changed: int
    gone: int

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.gone)


class UnitRegister:
    """All units that ever came, each with its block and its content now."""

    def __init__(self, rows: NDArray[np.void] | None = None) -> None:
        """Take rows, sorted by unit; none for a node that has declared no data."""
        self._rows = np.zeros(0, _ROW) if rows is None else rows

    @classmethod
    def read(cls, directory: Path, version: int, *, name: str) -> Self:
        """Read the register of a version, whose digest is ``name``.

        Raises:
            VerificationError: The file is missing, or is not the one that the node's
                state names.
            ResourceError: The file cannot be read.
        """
        path = _path(directory, version)
        data = read_plain(path, limit=_MAX_BYTES, links=False) if path.exists() else b""
        if digest(data) != name or len(data) % _ROW.itemsize:
            raise VerificationError(
                f"{path} is not the register of data version {version} that the node's"
                " state names; put the newest copy back, since without it persons who"
                " have spent their budget would count as new",
                code="unit-register-differs",
            )
        return cls(np.frombuffer(data, _ROW))

    def write(self, directory: Path, version: int) -> str:
        """Write the register of a version, and return its digest."""
        data = self._rows.tobytes()
        path = _path(directory, version)
        durable_files.make_folders(path.parent)
        durable_files.replace_file(path, data)
        return digest(data)

    @property
    def digest(self) -> str:
        """The digest of the register, as the node's state names it."""
        return digest(self._rows.tobytes())

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def newest(self) -> int:
        """The newest block; 0 for none."""
        return int(self._rows["block"].max(initial=0))

    @property
    def largest(self) -> int:
        """Count the units of the largest block, also those that left; at least one."""
        return int(np.bincount(self._rows["block"]).max(initial=1))

    def left(self, following: Self) -> int:
        """Count the units that are there, and are not in the version that follows."""
        here = self._rows["unit"][self._rows["content"] != _GONE]
        there = following._rows["unit"][following._rows["content"] != _GONE]
        return int(np.count_nonzero(~np.isin(here, there)))

    def changes(self, found: FoundUnits) -> Changes:
        """Compare what is there now with the version."""
        place, known = self._places(found.units)
        held = self._rows["content"][place[known]]
        here = np.zeros(len(self._rows), bool)
        here[place[known]] = True
        return Changes(
            new=int(np.count_nonzero(~known)),
            changed=int(np.count_nonzero(held != found.contents[known])),
            gone=int(np.count_nonzero((self._rows["content"] != _GONE) & ~here)),
        )

    def blocks(self, found: FoundUnits) -> NDArray[np.uint16]:
        """Return the block of each unit, shape (n,); 0 for one that may not train.

        Those are the ones that came, or were changed, after the version.
        """
        place, known = self._places(found.units)
        blocks = np.zeros(len(found.units), np.uint16)
        same = self._rows["content"][place[known]] == found.contents[known]
        blocks[known] = np.where(same, self._rows["block"][place[known]], 0)
        return blocks

    def grown(self, found: FoundUnits, *, block: int, without: Marks) -> Self:
        """Return the register of the next version: what is there, but for some units.

        New units come into ``block``; the others stay in theirs.
        """
        kept = ~np.isin(found.units, without)
        units, contents = found.units[kept], found.contents[kept]
        place, known = self._places(units)
        rows = self._rows.copy()
        rows["content"] = _GONE
        rows["content"][place[known]] = contents[known]
        fresh = np.zeros(int(np.count_nonzero(~known)), _ROW)
        fresh["unit"], fresh["content"] = units[~known], contents[~known]
        fresh["block"] = block
        return type(self)(np.sort(np.concatenate([rows, fresh]), order="unit"))

    def _places(self, units: Marks) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return where each unit stands, and whether it is there."""
        place = np.searchsorted(self._rows["unit"], units)
        place = np.minimum(place, max(len(self._rows) - 1, 0))
        if not len(self._rows):
            return place, np.zeros(len(units), bool)
        return place, self._rows["unit"][place] == units


def forget_older(directory: Path, version: int) -> None:
    """Remove the registers of versions before one."""
    for path in (directory / FOLDER).glob("*.units"):
        if path != _path(directory, version):
            path.unlink()


def _path(directory: Path, version: int) -> Path:
    return directory / FOLDER / f"{version}.units"
