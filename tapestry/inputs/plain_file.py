"""Reader of plain files from outside, which never waits and reads up to a limit.

A folder from elsewhere may hold a FIFO, which a reader waits for without end, a link
to a device that never ends, or a sparse file of terabytes. So what kind of file it is
and how much of it is read are settled on the open file, not by a look beforehand.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tapestry.errors import ResourceError, VerificationError


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Turn an ``OSError`` of the block into one that names what cannot be read.

    Raises:
        ResourceError: The block raised an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"cannot read {what}: {error.strerror}", code="file-unreadable"
        ) from error


def open_plain(path: Path, *, links: bool = False) -> BinaryIO:
    """Open a plain file for reading.

    With ``links`` the path may be a symbolic link to a plain file.

    Guarantees:
        No FIFO, socket or device is waited for or read.

    Raises:
        OSError: The file does not exist or cannot be opened.
        VerificationError: The path is a link, a folder, a FIFO, a socket or a device.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    flags |= 0 if links else os.O_NOFOLLOW
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise VerificationError(
                f"{path.name} is a link", code="link-not-allowed"
            ) from None
        if error.errno == errno.ENXIO:  # a socket
            raise VerificationError(
                f"{path.name} is no plain file", code="file-not-plain"
            ) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise VerificationError(f"{path.name} is no plain file", code="file-not-plain")
    return os.fdopen(handle, "rb")


def read_plain(path: Path, *, limit: int, links: bool = False) -> bytes:
    """Read a small plain file.

    Raises:
        OSError: The file does not exist or cannot be read.
        VerificationError: The path is no plain file, or the file is over the limit.
    """
    with open_plain(path, links=links) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise VerificationError(
            f"{path.name} is over {limit} bytes", code="file-too-large"
        )
    return data
