"""Files that are whole or not there, also after a power failure.

The new bytes go to a file beside the old one, reach the disk, and only then take
its name. What a crash leaves behind is called ``….new`` and belongs to nobody.
"""

import errno
import os
from pathlib import Path

from tapestry.errors import ResourceError

SUFFIX = ".new"


def replace(path: Path, data: bytes) -> None:
    """Give a file these bytes, in one step and durably; makes its folders.

    Guarantees:
        Whoever opens ``path``, at any time and after any crash, reads the old
        bytes or the new ones, whole. On return the new ones are on the disk.

    Not protected:
        Two writers of one path. The log has one, by its lock.

    Raises:
        ResourceError: The disk is full or the folder cannot be written.
    """
    staged = path.with_name(path.name + SUFFIX)
    try:
        _make_folders(path.parent)
        with staged.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror}") from error


def remove(path: Path) -> None:
    """Delete a file, and its folder if it was the last one there."""
    try:
        path.unlink(missing_ok=True)
        path.parent.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise ResourceError(f"cannot delete {path}: {error.strerror}") from error


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Delete what crashes have left behind anywhere under a folder."""
    for path in folder.rglob("*" + SUFFIX):
        path.unlink()


def _make_folders(path: Path) -> None:
    if path.is_dir():
        return
    _make_folders(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)
