"""The truth about a log: one SQLite file, written by one process.

Tiles and the public checkpoint follow from it and can be made again. The tables
refuse by themselves what must never happen: an entry changed, removed or
inserted elsewhere than at the end, and a second root for one size.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from tapestry.databases import open_readonly, require_plain
from tapestry.errors import ConfigError, InconsistentLog, ResourceError

VERSION = 1
_LOCKING = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_SCHEMA = """
CREATE TABLE log (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    key TEXT NOT NULL
) STRICT;
CREATE TABLE entry (
    idx INTEGER PRIMARY KEY CHECK (idx >= 0),
    leaf BLOB NOT NULL UNIQUE,
    bytes BLOB NOT NULL
) STRICT;
CREATE TABLE checkpoint (
    size INTEGER PRIMARY KEY,
    note BLOB NOT NULL
) STRICT;
CREATE TABLE cosignature (
    size INTEGER NOT NULL REFERENCES checkpoint,
    key TEXT NOT NULL,
    time INTEGER NOT NULL,
    line BLOB NOT NULL,
    PRIMARY KEY (size, key)
) STRICT;
CREATE TABLE publication (
    size INTEGER PRIMARY KEY REFERENCES checkpoint,
    note BLOB NOT NULL
) STRICT;
CREATE TRIGGER entries_are_appended BEFORE INSERT ON entry
WHEN NEW.idx <> (SELECT coalesce(max(idx) + 1, 0) FROM entry)
BEGIN SELECT raise(ABORT, 'an entry goes to the end of the log'); END;
CREATE TRIGGER entries_stay BEFORE DELETE ON entry
BEGIN SELECT raise(ABORT, 'an entry is never removed'); END;
CREATE TRIGGER entries_keep BEFORE UPDATE ON entry
BEGIN SELECT raise(ABORT, 'an entry never changes'); END;
CREATE TRIGGER checkpoints_stay BEFORE DELETE ON checkpoint
BEGIN SELECT raise(ABORT, 'a checkpoint is never removed'); END;
CREATE TRIGGER checkpoints_keep BEFORE UPDATE ON checkpoint
BEGIN SELECT raise(ABORT, 'a size has one root'); END;
PRAGMA user_version = 1;
"""


class LogDatabase:
    """Entries, checkpoints, cosignatures and publications in one SQLite file.

    Guarantees:
        What a finished :meth:`transaction` has written survives a crash and a
        power failure (WAL, ``synchronous=FULL``); of an unfinished one nothing
        remains. While one process has a store open, no other can open it.
    """

    def __init__(self, directory: Path, *, readonly: bool = False) -> None:
        """Lock a folder and open its database, which may be new.

        Args:
            directory: The folder.
            readonly: Read alone, as of one moment, also while another process has the
                store open; nothing is locked, and the database must be there.

        Raises:
            ResourceError: Another process has it open, or it cannot be written.
        """
        self._lock = -1
        if readonly:
            with _errors():
                self._db = open_readonly(directory / "log.db")
                self._db.execute("BEGIN")
            return
        self._lock = _lock(directory / "lock")
        try:
            self._db = _connect(directory / "log.db")
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Close the file and let others open it."""
        self._db.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all or nothing, durably, with no other writer in between.

        Raises:
            ResourceError: Disk full, I/O error, locked by another process.
            InconsistentLog: The file is damaged, or a table refused the write.
        """
        with _errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have rolled back itself
                    self._db.execute("ROLLBACK")
                raise

    def create(self, key: str) -> None:
        """Make the tables for a log with this verify key.

        Raises:
            ConfigError: There is a log already.
        """
        if self._value("PRAGMA user_version") != 0:
            raise ConfigError("there is a log already")
        with self.transaction():
            for statement in _statements(_SCHEMA):
                self._db.execute(statement)
            self._db.execute("INSERT INTO log VALUES (1, ?)", (key,))

    def check_key(self, key: str) -> None:
        """Demand an undamaged log of this verify key.

        Raises:
            ConfigError: No log, of another version, or of another key.
            InconsistentLog: The file is damaged.
        """
        if self._value("PRAGMA user_version") != VERSION:
            raise ConfigError(f"not a log of version {VERSION}")
        if self._value("PRAGMA integrity_check") != "ok":
            raise InconsistentLog("the log's database is damaged")
        if self._value("SELECT key FROM log") != key:
            raise ConfigError("the log belongs to another key")

    def size(self) -> int:
        """Count the entries."""
        return int(self._value("SELECT coalesce(max(idx) + 1, 0) FROM entry"))

    def insert_entries(self, start: int, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Append leaf hashes with their entries; inside a transaction only."""
        self._db.executemany(
            "INSERT INTO entry (idx, leaf, bytes) VALUES (?, ?, ?)",
            ((start + at, leaf, data) for at, (leaf, data) in enumerate(rows)),
        )

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, bytes, bytes]]:
        """Read index, leaf hash and bytes of entries, in order."""
        with _errors():
            yield from self._db.execute(
                "SELECT idx, leaf, bytes FROM entry WHERE idx >= ? AND idx < ?"
                " ORDER BY idx",
                (start, stop),
            )

    def find(self, leaf: bytes) -> int | None:
        """Return the index of an entry by its leaf hash."""
        found = self._value("SELECT idx FROM entry WHERE leaf = ?", leaf)
        return None if found is None else int(found)

    def insert_checkpoint(self, size: int, note: bytes) -> None:
        """Record a signed checkpoint; inside a transaction only."""
        self._db.execute("INSERT INTO checkpoint VALUES (?, ?)", (size, note))

    def checkpoint(self, size: int) -> bytes | None:
        """Return the checkpoint signed at a size."""
        return self._bytes("SELECT note FROM checkpoint WHERE size = ?", size)

    def newest_checkpoint(self) -> int | None:
        """Return the largest size that was signed."""
        found = self._value("SELECT max(size) FROM checkpoint")
        return None if found is None else int(found)

    def checkpoints(self) -> list[tuple[int, bytes]]:
        """List sizes with signed and published notes, the smallest first."""
        with _errors():
            return self._db.execute(
                "SELECT size, note FROM checkpoint UNION ALL"
                " SELECT size, note FROM publication ORDER BY size"
            ).fetchall()

    def insert_cosignature(
        self, size: int, key: str, *, time: int, line: bytes
    ) -> None:
        """Keep a cosignature line unless a newer one of the key is there."""
        self._db.execute(
            "INSERT INTO cosignature VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET time = excluded.time, line = excluded.line"
            " WHERE excluded.time > time",
            (size, key, time, line),
        )

    def cosignatures(self, size: int) -> list[bytes]:
        """List the cosignature lines kept for a size, by key."""
        with _errors():
            query = "SELECT line FROM cosignature WHERE size = ? ORDER BY key"
            return [line for (line,) in self._db.execute(query, (size,))]

    def cosigners(self, size: int) -> list[str]:
        """List the verify keys of the cosignatures kept for a size."""
        with _errors():
            query = "SELECT key FROM cosignature WHERE size = ?"
            return [key for (key,) in self._db.execute(query, (size,))]

    def insert_publication(self, size: int, note: bytes) -> None:
        """Record that a cosigned checkpoint is about to be public."""
        self._db.execute(
            "INSERT OR REPLACE INTO publication VALUES (?, ?)", (size, note)
        )

    def publication(self, size: int) -> bytes | None:
        """Return the cosigned note that was made public at a size."""
        return self._bytes("SELECT note FROM publication WHERE size = ?", size)

    def published_sizes(self) -> list[int]:
        """List the sizes that were made public, the smallest first."""
        with _errors():
            query = "SELECT size FROM publication ORDER BY size"
            return [size for (size,) in self._db.execute(query)]

    def _bytes(self, query: str, size: int) -> bytes | None:
        found = self._value(query, size)
        return None if found is None else bytes(found)

    def _value(self, query: str, *values: int | bytes) -> Any:
        with _errors(), closing(self._db.execute(query, values)) as cursor:
            row = cursor.fetchone()
            return None if row is None else row[0]


@contextmanager
def _errors() -> Iterator[None]:
    """Translate what SQLite says."""
    try:
        yield
    except sqlite3.OperationalError as error:  # full, locked, read-only, I/O
        raise ResourceError(f"the log's database: {error}") from error
    except sqlite3.DatabaseError as error:  # malformed; a constraint or trigger
        raise InconsistentLog(f"the log's database: {error}") from error
    except UnicodeDecodeError as error:  # damage quoted in SQLite's own message
        raise InconsistentLog("the log's database is damaged") from error


def _lock(path: Path) -> int:
    """Lock a file until its handle, which is returned, is closed."""
    try:
        handle = os.open(path, _LOCKING, 0o600)
    except OSError as error:
        raise ResourceError(f"cannot open {path}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise ResourceError(f"{path}: another process has the log open") from None
    return handle


def _connect(path: Path) -> sqlite3.Connection:
    with _errors():
        require_plain(path)
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
        except sqlite3.Error:
            db.close()
            raise
        return db


def _statements(script: str) -> Iterator[str]:
    """Split a script; ``executescript`` would commit the open transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
