"""Why the disk refuses, in words that an operator can act on."""

import shutil
import sqlite3
from pathlib import Path

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
