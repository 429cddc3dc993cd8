"""What SQLite leaves to its callers: reading alone, and noticing damage."""

import sqlite3
from pathlib import Path

__all__ = ["open_readonly", "require_plain", "require_sound"]


def open_readonly(path: Path) -> sqlite3.Connection:
    """Open a database that is there, to read it.

    Guarantees:
        It is not made, changed or brought up to date. A writer at work is no obstacle
        and is not kept waiting. SQLite may leave ``-wal`` and ``-shm`` files beside it.

    Edge cases:
        After a crash that left a rollback journal, the database cannot be read until
        its writer has opened it again: to finish what was interrupted is to write.

    Raises:
        sqlite3.Error: It is not there, or cannot be read.
    """
    require_plain(path)
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )


def require_plain(path: Path) -> None:
    """See that a database is a plain file, or not there yet.

    SQLite takes a device for a database and writes a journal beside it, and waits for
    a FIFO in the place of a journal.

    Edge cases:
        A link may lead to a plain file.

    Raises:
        sqlite3.OperationalError: It, or a file of SQLite's beside it, is a folder, a
            FIFO, a socket or a device, or cannot be looked at.
    """
    for suffix in ("", "-journal", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        try:
            is_strange = file.exists() and not file.is_file()
        except OSError as error:
            said = f"{path.name} cannot be looked at: {error.strerror}"
            raise sqlite3.OperationalError(said) from None
        if is_strange:
            raise sqlite3.OperationalError(f"{file.name} is no plain file; put it back")


def require_sound(database: sqlite3.Connection) -> None:
    """See that each row is of the types that its table declares.

    SQLite reads what it can of a file that was cut, and gives NULL or numbers where
    text or bytes were stored.

    Raises:
        sqlite3.DatabaseError: The file is damaged.
    """
    if database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("it is damaged; put its newest copy back")
