"""The coordinator's journal: rounds in progress, across restarts.

The log has the decisions; the journal has the coordinator's progress and the sums,
which are public but too large for the log. A row is durable (SQLite, WAL,
``synchronous=FULL``) before the step that it announces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import IncompleteError
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
_FILE = "journal.db"
_LEFT_OUT = "left out "  # begins the name of such a fact
_SURVIVORS = "survivors "  # likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class JournaledRound:
    """A round whose status is ``open``, ``closed`` or ``aborted``."""

    number: int
    status: str
    manifest: bytes
    result: bytes | None  # message 10 without its bulk


class Journal:
    """The coordinator's memory of a run, in ``journal.db`` and ``sums/``.

    Raises:
        ResourceError: The disk is full or failing; any method may raise it.
    """

    def __init__(self, directory: Path, *, readonly: bool = False) -> None:
        """Open the journal of a run's folder, or create it.

        With ``readonly`` nothing is changed, and ``journal.db`` must be there.

        Raises:
            ResourceError: The folder cannot be written, or the file not read.
        """
        self._sums = directory / "sums"
        self._file = directory / _FILE
        if not readonly:
            durable_files.make_folders(self._sums)
        self.database = open_database(self._file, _SCHEMA, readonly=readonly)

    @staticmethod
    def is_there(directory: Path) -> bool:
        """Return whether a run's folder has a journal."""
        return (directory / _FILE).exists()

    def open_round(self, number: int, manifest: bytes) -> None:
        """Record a round before it is announced."""
        self.database.query(
            "INSERT OR REPLACE INTO round VALUES (?, 'open', ?, NULL)",
            *(number, manifest),
        )

    def ask_consent(self, number: int, survivors: Sequence[str]) -> None:
        """Record the survivor list of a round before nodes are asked to consent."""
        self.set_fact(f"{_SURVIVORS}{number}", canonical_json(list(survivors)).decode())

    def survivors(self, number: int) -> tuple[str, ...]:
        """Return the survivor list that nodes were asked to consent to; or nothing."""
        known = self.facts().get(f"{_SURVIVORS}{number}")
        return () if known is None else tuple(decode_json(known.encode()))

    def store_result(self, number: int, result: bytes) -> None:
        """Keep message 10 for nodes that miss it."""
        self.database.query(
            "UPDATE round SET result = ? WHERE number = ?", result, number
        )

    def settle(self, number: int, status: str) -> None:
        """Mark a round ``closed`` or ``aborted``."""
        self.database.query(
            "UPDATE round SET status = ? WHERE number = ?", status, number
        )

    def rounds(self) -> list[JournaledRound]:
        """Return all rounds in order."""
        rows = self.database.query(
            "SELECT number, status, manifest, result FROM round ORDER BY number"
        )
        return [
            JournaledRound(number=n, status=s, manifest=m, result=r)
            for n, s, m, r in rows
        ]

    def row(self, number: int) -> JournaledRound:
        """Return one round.

        Raises:
            IncompleteError: The journal has no such round.
        """
        for row in self.rounds():
            if row.number == number:
                return row
        raise IncompleteError(
            f"{self._file} lacks round {number}", code="journal-round-missing"
        )

    def result(self, number: int) -> bytes:
        """Return message 10 of a closed round.

        Raises:
            IncompleteError: The journal has no such round, or no result of it.
        """
        result = self.row(number).result
        if result is None:
            raise IncompleteError(
                f"{self._file} lacks the result of round {number}",
                code="journal-result-missing",
            )
        return result

    def set_fact(self, name: str, value: str) -> None:
        """Store a small public fact, such as scores."""
        self.database.query("INSERT OR REPLACE INTO fact VALUES (?, ?)", name, value)

    def facts(self) -> dict[str, str]:
        """Return all facts by name."""
        return dict(self.database.query("SELECT name, value FROM fact ORDER BY name"))

    def leave_out(self, name: str, reason: str) -> None:
        """Record that a node takes part in no further round of this run."""
        self.set_fact(f"{_LEFT_OUT}{name}", reason)

    def left_out(self) -> set[str]:
        """Return the nodes that take part no more."""
        names = (name for name in self.facts() if name.startswith(_LEFT_OUT))
        return {name.removeprefix(_LEFT_OUT) for name in names}

    def store_sum(self, number: int, total: RingVector) -> None:
        """Write a round's sum, shape (d,), durably."""
        data = np.ascontiguousarray(total, dtype="<u4").view(np.uint8)
        durable_files.replace_file(self._path(number), data.data)

    def load_sum(self, number: int) -> RingVector:
        """Read a round's sum, shape (d,).

        Raises:
            IncompleteError: The file is missing or cannot be read.
        """
        try:
            return np.fromfile(self._path(number), dtype="<u4")
        except FileNotFoundError:
            message = f"{self._path(number)}, the sum of round {number}, is missing"
            raise IncompleteError(message, code="file-missing") from None
        except OSError as error:
            raise IncompleteError(
                f"cannot read the sum of round {number} in {self._path(number)}:"
                f" {error.strerror}",
                code="file-unreadable",
            ) from None

    def _path(self, number: int) -> Path:
        return self._sums / f"round-{number:05d}.u32"

    def close(self) -> None:
        """Close the database."""
        self.database.close()
