"""Rows of bytes with random access, which may be more than memory holds.

Rows are appended and read again by their number. The first ``room`` bytes stay in
memory. Beyond them rows go to a temporary file that has no name, each sealed by
AES-256-GCM under a key that only this process knows::

    row i    AES-GCM(key, nonce = i, row, associated data = i), 16 bytes longer
    index    where each row ends, 8 bytes a row, in memory

Guarantees:
    Nothing that is readable reaches the disk. The file has no name in any folder, so
    nothing is left when the process ends, also when it is killed. A row that was
    changed, exchanged or cut on the disk is refused and never returned.

Edge cases:
    Where a file system makes no file without a name, one is made with mode 0600 and
    its name is removed before anything is written.

Not protected:
    The memory of the process, of which the system may put a part into its swap space.
"""

import os
import secrets
import tempfile
import weakref
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, overload

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tapestry.errors import ResourceError
from tapestry.storage.durable_files import write_errors

_ROOM = 64 << 20  # bytes that stay in memory
_CHUNK = 1 << 20  # bytes that are written at once
_TAG = 16


class SealedRows(Sequence[bytes]):
    """Rows of bytes, of which a few are in memory and all others on the disk, sealed.

    Edge cases:
        Without a folder all rows stay in memory.
    """

    def __init__(self, folder: Path | None = None, *, room: int = _ROOM) -> None:
        """Take the folder of the temporary file; it is made when it is needed."""
        self._folder, self._room = folder, room
        self._ends = array("Q")  # of each row, without the tags
        self._waiting = bytearray()  # rows that are not on the disk
        self._written = 0  # rows that are
        self._file: IO[bytes] | None = None
        self._cipher = AESGCM(secrets.token_bytes(32))

    def append(self, row: bytes) -> None:
        """Add a row behind all others.

        Raises:
            ResourceError: The disk is full, or the folder cannot be written.
        """
        self._waiting += row
        self._ends.append((self._ends[-1] if self._ends else 0) + len(row))
        if self._folder is not None and len(self._waiting) > self._room:
            self._write(self._folder)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> list[bytes]: ...
    def __getitem__(self, place: int | slice) -> bytes | list[bytes]:
        """Return a row as it was appended.

        Raises:
            IndexError: There is no row of that number.
            ResourceError: The file is not what was written, or cannot be read.
        """
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        number = range(len(self))[place]
        start, end = self._span(number)
        if number >= self._written:
            first = self._span(self._written)[0]
            return bytes(self._waiting[start - first : end - first])
        return self._read(number, start + _TAG * number, end - start + _TAG)

    def _span(self, number: int) -> tuple[int, int]:
        return self._ends[number - 1] if number else 0, self._ends[number]

    def _write(self, folder: Path) -> None:
        """Seal all rows that wait, and let fewer of them wait from now on."""
        with write_errors(folder):
            if self._file is None:
                self._file = self._make(folder)
            first = self._span(self._written)[0]
            for number in range(self._written, len(self)):
                start, end = self._span(number)
                label, row = _label(number), self._waiting[start - first : end - first]
                self._file.write(self._cipher.encrypt(label, row, label))
            self._file.flush()
        self._waiting.clear()
        self._written, self._room = len(self), min(self._room, _CHUNK)

    def _make(self, folder: Path) -> IO[bytes]:
        """Make the file; it is closed when these rows are no longer used."""
        with ExitStack() as opening:
            file = opening.enter_context(
                tempfile.TemporaryFile(buffering=_CHUNK, dir=folder)
            )
            weakref.finalize(self, opening.pop_all().close)
        return file

    def _read(self, number: int, start: int, size: int) -> bytes:
        if self._file is None:
            raise ValueError("nothing was written")
        label = _label(number)
        try:
            sealed = os.pread(self._file.fileno(), size, start)
            return self._cipher.decrypt(label, sealed, label)
        except OSError as error:
            said = f"cannot read the rows in {self._folder}: {error.strerror}"
        except InvalidTag:
            said = f"the rows in {self._folder} are not as they were written"
        raise ResourceError(
            f"{said}; check the disk, start again", code="sealed-rows-damaged"
        )


def _label(number: int) -> bytes:
    """Spell the number of a row: its nonce, used once, as the key is used once."""
    return number.to_bytes(12, "big")
