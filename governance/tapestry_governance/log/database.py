"""The database of a log: one SQLite file, written by one process.

Tiles and the public checkpoint follow from it and can be made again. Triggers refuse
an entry that is changed, removed or inserted elsewhere than at the end, and a second
root for one size.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tapestry.errors import ConfigError, InconsistentLog, ResourceError
from tapestry.storage.file_lock import lock_file
from tapestry.storage.sqlite_database import open_database

_VERSION = 1
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
_FORMER = """
CREATE TABLE former (
    key TEXT PRIMARY KEY,
    size INTEGER NOT NULL
) STRICT;
"""  # of a log that was adopted alone


class LogDatabase:
    """Entries, checkpoints, cosignatures and publications in one SQLite file.

    Guarantees:
        What a finished :meth:`transaction` has written survives a crash and a
        power failure (WAL, ``synchronous=FULL``); of an unfinished one nothing
        remains. While one process has it open to write, no other can.
    """

    def __init__(self, directory: Path, *, readonly: bool = False) -> None:
        """Lock a folder and open its database, which may be new.

        With ``readonly`` it reads one snapshot, also while another process writes;
        nothing is locked, and the database must be there.

        Raises:
            ResourceError: Another process has it open, or it cannot be written.
        """
        try:
            self._lock = None if readonly else lock_file(directory / "lock")
        except BlockingIOError:
            raise ResourceError(
                f"{directory / 'lock'}: another process has the log open; end it first",
                code="folder-in-use",
            ) from None
        try:
            self.database = open_database(
                directory / "log.db",
                None,  # ``create`` makes the tables; opening never does
                readonly=readonly,
                check=False,  # ``check_key`` checks more
                damage=InconsistentLog,
            )
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """Close the file and release the lock."""
        self.database.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def transaction(self) -> AbstractContextManager[None]:
        """Write all or nothing, durably, with no other writer in between.

        Raises:
            ResourceError: The disk is full or failing, or another process writes.
            InconsistentLog: The file is damaged, or a trigger refused the write.
        """
        return self.database.transaction()

    def create(self, key: str) -> None:
        """Make the tables for a log with this verify key.

        Raises:
            ConfigError: The file has tables of a log already.
        """
        if self._value("PRAGMA user_version") != 0:
            place = self.database.path
            message = f"{place} holds a log already; open it, or name another folder"
            raise ConfigError(message, code="log-exists")
        with self.transaction():
            self.database.execute_script(_SCHEMA)
            self.database.execute("INSERT INTO log VALUES (1, ?)", (key,))

    def require_tables(self) -> None:
        """Require the tables of a log and no others, before any of them is read.

        Raises:
            InconsistentLog: A table, trigger or view differs, or the file is damaged.
        """
        with self.database.errors():
            self.database.require_exactly(_SCHEMA, _SCHEMA + _FORMER)

    def check_key(self, key: str) -> None:
        """Require an undamaged log of this verify key.

        Raises:
            ConfigError: The file is no log of this version, or of another key.
            InconsistentLog: The file is damaged.
        """
        path, found = self.database.path, self._value("PRAGMA user_version")
        if found != _VERSION:
            raise ConfigError(
                f"{path} is of version {found}, want a log of version {_VERSION}",
                code="database-kind-differs",
            )
        if self._value("PRAGMA integrity_check") != "ok":
            raise InconsistentLog(
                f"{path} is damaged; put a copy back as new as public/checkpoint",
                code="database-damaged",
            )
        if (kept := self._value("SELECT key FROM log")) != key:
            raise ConfigError(
                f"{path} is the log of key {kept}, not of {key}; use the key that it"
                " was made with",
                code="log-key-differs",
            )

    def insert_former(self, keys: Sequence[str], size: int) -> None:
        """Record which keys signed adopted entries; inside a transaction only."""
        self.database.execute_script(_FORMER)
        rows = ((key, size) for key in keys)
        self.database.executemany("INSERT INTO former VALUES (?, ?)", rows)

    def former(self) -> dict[str, int]:
        """Return the keys that signed the entries that were adopted, and how many."""
        if not self._value("SELECT 1 FROM sqlite_master WHERE name = 'former'"):
            return {}
        return dict(self.database.query("SELECT key, size FROM former"))

    def size(self) -> int:
        """Count the entries."""
        return int(self._value("SELECT coalesce(max(idx) + 1, 0) FROM entry"))

    def insert_entries(self, start: int, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Append leaf hashes with their entries; inside a transaction only."""
        self.database.executemany(
            "INSERT INTO entry (idx, leaf, bytes) VALUES (?, ?, ?)",
            ((start + at, leaf, data) for at, (leaf, data) in enumerate(rows)),
        )

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, bytes, bytes]]:
        """Read index, leaf hash and bytes of entries, in order."""
        with self.database.errors():
            yield from self.database.execute(
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
        self.database.execute("INSERT INTO checkpoint VALUES (?, ?)", (size, note))

    def checkpoint(self, size: int) -> bytes | None:
        """Return the checkpoint signed at a size."""
        return self._bytes("SELECT note FROM checkpoint WHERE size = ?", size)

    def newest_checkpoint(self) -> int | None:
        """Return the largest size that was signed."""
        found = self._value("SELECT max(size) FROM checkpoint")
        return None if found is None else int(found)

    def checkpoints(self) -> list[tuple[int, bytes]]:
        """List sizes with signed and published notes, the smallest first."""
        return self.database.query(
            "SELECT size, note FROM checkpoint UNION ALL"
            " SELECT size, note FROM publication ORDER BY size"
        )

    def insert_cosignature(
        self, size: int, key: str, *, time: int, line: bytes
    ) -> None:
        """Keep a cosignature line unless a newer one of the key is there."""
        self.database.execute(
            "INSERT INTO cosignature VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET time = excluded.time, line = excluded.line"
            " WHERE excluded.time > time",
            (size, key, time, line),
        )

    def cosignatures(self, size: int) -> list[bytes]:
        """List the cosignature lines kept for a size, by key."""
        query = "SELECT line FROM cosignature WHERE size = ? ORDER BY key"
        return [line for (line,) in self.database.query(query, size)]

    def cosigners(self, size: int) -> list[str]:
        """List the verify keys of the cosignatures kept for a size."""
        query = "SELECT key FROM cosignature WHERE size = ?"
        return [key for (key,) in self.database.query(query, size)]

    def cosigned_size(self, key: str) -> int:
        """Return the largest size at which a key's cosignature is kept, or 0."""
        query = "SELECT coalesce(max(size), 0) FROM cosignature WHERE key = ?"
        return int(self._value(query, key))

    def insert_publication(self, size: int, note: bytes) -> None:
        """Record that a cosigned checkpoint is about to be public."""
        self.database.execute(
            "INSERT OR REPLACE INTO publication VALUES (?, ?)", (size, note)
        )

    def publication(self, size: int) -> bytes | None:
        """Return the cosigned note that was published at a size."""
        return self._bytes("SELECT note FROM publication WHERE size = ?", size)

    def published_sizes(self) -> list[int]:
        """List the sizes that were published, the smallest first."""
        query = "SELECT size FROM publication ORDER BY size"
        return [size for (size,) in self.database.query(query)]

    def published_before(self, size: int) -> int:
        """Return the largest size below this one that was published, or 0."""
        found = self._value("SELECT max(size) FROM publication WHERE size < ?", size)
        return 0 if found is None else int(found)

    def _bytes(self, query: str, size: int) -> bytes | None:
        found = self._value(query, size)
        return None if found is None else bytes(found)

    def _value(self, query: str, *values: int | bytes | str) -> Any:
        rows = self.database.query(query, *values)
        return rows[0][0] if rows else None
