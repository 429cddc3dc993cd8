"""SQLite databases that are only read.

Guarantees:
    The database is not made, changed or brought up to date, and its writer is not kept
    waiting; a writer that is at work is no obstacle. SQLite may make and leave its own
    ``-wal`` and ``-shm`` files beside it.
"""

import sqlite3
from pathlib import Path

__all__ = ["open_readonly"]


def open_readonly(path: Path) -> sqlite3.Connection:
    """Open a database that is there, to read it.

    Edge cases:
        After a crash that left a rollback journal, the database cannot be read until
        its writer has opened it again: to finish what was interrupted is to write.

    Raises:
        sqlite3.Error: It is not there, or cannot be read.
    """
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
