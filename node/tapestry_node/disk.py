"""The node's databases on disk: private to its user, refusals in plain words."""

import os
import shutil
import sqlite3
from pathlib import Path

_IN_MEMORY = Path(":memory:")  # SQLite's word for a database without a file
_NEEDED = 1 << 20  # below this, SQLite's own files do not fit beside a database


def why(error: sqlite3.Error | OSError, path: Path) -> str:
    """Say why a database could not be written; SQLite calls a full disk many names.

    Args:
        error: What was raised.
        path: The database.
    """
    said = getattr(error, "strerror", None) or str(error)
    try:
        full = shutil.disk_usage(path.parent).free < _NEEDED
    except OSError:
        return said
    return f"{said}; the disk is full, make room in {path.parent}" if full else said


def create_private(path: Path) -> None:
    """Create a database's file at mode 0600, unless it exists.

    Guarantees:
        The umask does not widen the mode, and SQLite gives the files that it keeps
        beside a database the database's own mode.

    Raises:
        OSError: The folder cannot be written.
    """
    if path != _IN_MEMORY and not path.exists():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
