"""The log of a coordinator's process, which Flower would drop.

Flower starts that process with its output at ``/dev/null``. So it writes its lines to
``coordinator.log`` in the engine's folder, and the service that started the engine
passes them on to its own standard error, where operators look.
"""

import io
import logging
import os
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import BinaryIO

from tapestry.cli import console

FILE = "coordinator.log"
_MOST_BYTES = 4 << 20  # of the file; one older file is kept, ``coordinator.log.1``


class _PrivateFile(RotatingFileHandler):
    """A log file that only its user reads, also after it has been begun anew."""

    def _open(self) -> io.TextIOWrapper:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        file = os.fdopen(os.open(self.baseFilename, flags, 0o600), "ab")
        return io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace")


def write_log(home: Path) -> None:
    """Write this process's log into an engine's folder, and nowhere else.

    Guarantees:
        The two files have at most 8 MiB, at mode 0600.

    Edge cases:
        Of libraries there are warnings only. A disk that is full costs lines.

    Raises:
        OSError: The file cannot be opened.
    """
    handler = _PrivateFile(home / FILE, maxBytes=_MOST_BYTES, backupCount=1)
    handler.addFilter(
        lambda each: each.name.startswith("tapestry") or each.levelno > logging.INFO
    )
    console.start_logging(handler)


class LogFollower:
    """Passes the lines on that a coordinator's process writes from now on."""

    def __init__(self, home: Path) -> None:
        """Take the engine's folder."""
        self._path, self._rest = home / FILE, b""
        self._file: BinaryIO | None = None
        with suppress(OSError):
            self._file = self._path.open("rb")
            self._file.seek(0, os.SEEK_END)  # what is there was passed on before

    def close(self) -> None:
        """Pass on what is left, and let go of the file."""
        self.pass_on()
        if self._file is not None:
            self._file.close()

    def pass_on(self) -> None:
        """Print each line that is new to standard error.

        Edge cases:
            A file that was begun anew is read to its end before the new one.
        """
        with suppress(OSError):  # not there yet, or a disk that fails
            if self._file is None:
                self._file = self._path.open("rb")
            self._print(self._file)
            if os.fstat(self._file.fileno()).st_ino != self._path.stat().st_ino:
                self._print(self._file)  # what came before it was begun anew
                self._file.close()
                self._file = self._path.open("rb")
                self._print(self._file)

    def _print(self, file: BinaryIO) -> None:
        *lines, self._rest = (self._rest + file.read()).split(b"\n")
        for line in lines:
            console.note(line.decode("utf-8", errors="replace"))
