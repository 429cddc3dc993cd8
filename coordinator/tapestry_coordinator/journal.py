"""Rounds in flight, across restarts.

The log says what is decided; the journal says what the coordinator was doing and
holds the sums, which are public but too large for the log. A row is durable
(SQLite, WAL, ``synchronous=FULL``) before the step it announces.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tapestry.encoding import decode_json
from tapestry.errors import ConfigError, IncompleteError
from tapestry.protocol.messages import BODY_LIMIT
from tapestry.storage import durable_files
from tapestry.storage.sqlite_database import Schema, open_database
from tapestry.vectors import RingVector

_TABLES = """
CREATE TABLE round (
    number INTEGER PRIMARY KEY, status TEXT NOT NULL, manifest BLOB NOT NULL,
    result BLOB
) STRICT;
CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
_SCHEMA = Schema(application="TpCj", version=1, tables=_TABLES)
_LEFT_OUT = "left out "  # what such facts are named


@dataclass(frozen=True, slots=True, kw_only=True)
class JournaledRound:
    """One round: ``open``, ``closed`` or ``aborted``."""

    number: int
    status: str
    manifest: bytes
    result: bytes | None  # message 10 without its bulk


class Journal:
    """What the coordinator remembers.

    Raises:
        ResourceError: By every method: the disk is full or failing.
    """

    def __init__(self, directory: Path, *, readonly: bool = False) -> None:
        """Open or create ``journal.db`` and ``sums/`` in a folder.

        Args:
            directory: The coordinator's folder.
            readonly: Read alone; then ``journal.db`` must be there.

        Raises:
            ResourceError: The folder cannot be written, or the file not read.
        """
        self._sums = directory / "sums"
        self._file = directory / "journal.db"
        if not readonly:
            durable_files.make_folders(self._sums)
        self._db = open_database(self._file, _SCHEMA, readonly=readonly)

    def claim(self, run_id: str) -> None:
        """See that the rounds in here are of this run; numbers alone do not tell.

        Raises:
            ConfigError: They are of another run.
        """
        for row in self.rounds()[:1]:
            known = decode_json(row.manifest, limit=BODY_LIMIT)["run_id"]
            if known != run_id:
                raise ConfigError(
                    f"{self._file} belongs to run {known!r}; start run {run_id!r} in a"
                    " coordinator's folder of its own",
                    code="run-differs",
                )

    def open_round(self, number: int, manifest: bytes) -> None:
        """Remember a round before anybody hears of it."""
        self._db.query(
            "INSERT OR REPLACE INTO round VALUES (?, 'open', ?, NULL)",
            *(number, manifest),
        )

    def store_result(self, number: int, result: bytes) -> None:
        """Keep message 10, for nodes that miss it."""
        self._db.query("UPDATE round SET result = ? WHERE number = ?", result, number)

    def settle(self, number: int, status: str) -> None:
        """Mark a round ``closed`` or ``aborted``."""
        self._db.query("UPDATE round SET status = ? WHERE number = ?", status, number)

    def rounds(self) -> list[JournaledRound]:
        """All rounds in order."""
        rows = self._db.query(
            "SELECT number, status, manifest, result FROM round ORDER BY number"
        )
        return [
            JournaledRound(number=n, status=s, manifest=m, result=r)
            for n, s, m, r in rows
        ]

    def row(self, number: int) -> JournaledRound:
        """One round.

        Raises:
            IncompleteError: It is not there.
        """
        for row in self.rounds():
            if row.number == number:
                return row
        raise IncompleteError(
            f"the journal lacks round {number}", code="journal-round-missing"
        )

    def set_fact(self, name: str, value: str) -> None:
        """Remember a small public fact, such as a duration."""
        self._db.query("INSERT OR REPLACE INTO fact VALUES (?, ?)", name, value)

    def facts(self) -> dict[str, str]:
        """All facts."""
        return dict(self._db.query("SELECT name, value FROM fact ORDER BY name"))

    def leave_out(self, name: str, reason: str) -> None:
        """Remember that a node takes part in no further round of this run."""
        self.set_fact(f"{_LEFT_OUT}{name}", reason)

    def left_out(self) -> set[str]:
        """Name the nodes that take part no more."""
        names = (name for name in self.facts() if name.startswith(_LEFT_OUT))
        return {name.removeprefix(_LEFT_OUT) for name in names}

    def store_sum(self, number: int, total: RingVector) -> None:
        """Write the sum of a round durably."""
        data = np.ascontiguousarray(total, dtype="<u4").view(np.uint8)
        durable_files.replace_file(self._path(number), data.data)

    def load_sum(self, number: int) -> RingVector:
        """Read a sum back, shape (d,).

        Raises:
            IncompleteError: It is not there.
        """
        try:
            return np.fromfile(self._path(number), dtype="<u4")
        except OSError as error:
            raise IncompleteError(
                f"no sum of round {number}: {error.strerror}", code="file-unreadable"
            ) from None

    def _path(self, number: int) -> Path:
        return self._sums / f"round-{number:05d}.u32"

    def close(self) -> None:
        """Close the database."""
        self._db.close()
