"""The units of an institution by block: a table that no restart may forget.

Each unit stays for ever in the block of the version with which it first came, whatever
becomes of its rows: a person who comes again, or whose rows were changed, has no fresh
budget. The register is the memory of that, in ``node.db`` beside the charges. It has a
row of 34 bytes for each unit, sorted::

    unit 16     HMAC-SHA-256 of the key that names a person, or of a single record
    content 16  the same of the rows, or zeros where the unit is not there now
    block 2     the block, from 1

Both digests are under a secret of the node's state: the table alone tells nobody who is
in it, and with that secret a person can be looked up by its key.

Guarantees:
    A version is written together with the entry that names it by its digest. A register
    that is missing or changed is refused, as its persons would count as new.
"""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from tapestry.encoding import digest
from tapestry.errors import VerificationError
from tapestry_node.data.data_version import DataVersion
from tapestry_node.node_state import NodeState

_CUT = 16
_ROW: Final = np.dtype(
    [("unit", f"S{_CUT}"), ("content", f"S{_CUT}"), ("block", "<u2")]
)
_GONE = b""  # sixteen zeros, as numpy spells them

Marks = NDArray[np.bytes_]  # of some units: sixteen bytes each


def marks(secret: bytes, label: str, texts: Iterable[bytes]) -> Marks:
    """Return a keyed digest of each text, shape (n,), sixteen bytes each."""
    start = label.encode() + b"\0"
    return as_marks(hmac.digest(secret, start + t, "sha256")[:_CUT] for t in texts)


def as_marks(units: Iterable[bytes]) -> Marks:
    """Return some units' marks as an array, shape (n,)."""
    return np.array(list(units), dtype=f"S{_CUT}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundUnits:
    """The units of a folder as it is now, in the order of its records."""

    units: Marks
    contents: Marks

    @classmethod
    def of(
        cls, secret: bytes, names: Iterable[bytes], records: Iterable[bytes]
    ) -> Self:
        """Mark units by their names, and what is read of each by its digest."""
        return cls(
            units=marks(secret, "unit", names),
            contents=marks(secret, "content", records),
        )

    def select(self, chosen: NDArray[np.bool_]) -> Self:
        """Return some of the units."""
        return replace(self, units=self.units[chosen], contents=self.contents[chosen])


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
    def read(cls, state: NodeState, version: DataVersion) -> Self:
        """Read the register of a version.

        Raises:
            VerificationError: It is missing, or not the one that the version names.
            ResourceError: The database cannot be read.
        """
        with state.database.errors():
            found = state.database.execute(
                "SELECT rows FROM units WHERE version = ?", (version.version,)
            ).fetchone()
        data = b"" if found is None else bytes(found[0])
        if digest(data) != version.register or len(data) % _ROW.itemsize:
            raise VerificationError(
                f"{state.path} has not the register of data version {version.version}"
                " that its entries name; put the newest copy back, since without it"
                " persons who have spent their budget would count as new",
                code="unit-register-differs",
            )
        return cls(np.frombuffer(data, _ROW))

    def write(self, state: NodeState, version: DataVersion) -> None:
        """Write the register together with its version, in the place of older ones."""
        with state.writing() as replay:
            state.database.execute("DELETE FROM units")
            state.database.execute(
                "INSERT INTO units VALUES (?, ?)",
                (version.version, self._rows.tobytes()),
            )
            replay.append({"type": "data", **version.body()})

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
    def present(self) -> int:
        """Count the units that are there now."""
        return int(np.count_nonzero(self._rows["content"] != _GONE))

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
        blocks = np.zeros(len(place), np.uint16)
        same = self._rows["content"][place[known]] == found.contents[known]
        blocks[known] = np.where(same, self._rows["block"][place[known]], 0)
        return blocks

    def blocks_of(self, units: Marks) -> NDArray[np.uint16]:
        """Return the block of each unit, there or not, shape (n,); 0 for no unit."""
        place, known = self._places(units)
        blocks = np.zeros(len(place), np.uint16)
        blocks[known] = self._rows["block"][place[known]]
        return blocks

    def grown(self, found: FoundUnits, *, block: int) -> Self:
        """Return the register of the next version, of what is there.

        New units come into ``block``; the others stay in theirs.
        """
        units, contents = found.units, found.contents
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
