"""Locks on files and folders, which one process at a time can hold."""

import fcntl
import os
from pathlib import Path
from typing import Self

from tapestry.storage.durable_files import require_regular, storage_error

_FILE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class FileLock:
    """A file or a folder that this process holds; ``release`` lets others have it.

    Guarantees:
        The kernel releases the lock when the process ends, however it ends, so a lock
        that is held names a process that runs.

    Not protected:
        A process that does not ask for the lock. A child that was forked shares it.
    """

    def __init__(self, handle: int) -> None:
        """Take over an open handle; use ``lock_file`` or ``lock_folder``."""
        self._handle = handle

    def release(self) -> None:
        """Let another process take the lock; a second call changes nothing."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock_file(path: Path, *, wait: bool = False) -> FileLock:
    """Lock a file, which is made at mode 0600 unless it is there, or ``wait`` for it.

    Guarantees:
        Of all processes that call this with one path, one holds it at a time. The
        file's content is never read or changed.

    Edge cases:
        A link, a FIFO, a device or a folder in its place is refused at once.

    Raises:
        BlockingIOError: Another process holds it, and ``wait`` is not set.
        ResourceError: The file cannot be opened, is no plain file, or the file system
            has no locks.
    """
    return _lock(path, _FILE, wait=wait)


def lock_folder(path: Path) -> FileLock:
    """Lock a folder itself, without a file in it.

    Raises:
        BlockingIOError: Another process holds it.
        ResourceError: The path is no folder, cannot be read, or the file system has no
            locks.
    """
    return _lock(path, _FOLDER, wait=False)


def is_locked(path: Path) -> bool:
    """Return whether a process holds a file that ``lock_file`` locks; take no lock.

    Edge cases:
        A file that is not there is not held.

    Raises:
        ResourceError: The file cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise storage_error("open", path, error, code="lock-unavailable") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _lock(path: Path, flags: int, *, wait: bool) -> FileLock:
    try:
        handle = os.open(path, flags, 0o600)
    except OSError as error:
        raise storage_error("open", path, error, code="lock-unavailable") from error
    try:
        if flags == _FILE:
            require_regular(handle, path)
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError as error:
        os.close(handle)
        raise storage_error("lock", path, error, code="lock-unavailable") from error
    return FileLock(handle)
