"""Atomic and durable writes of files and folders.

A file or a folder is written under its own name with ``.new`` after it, reaches the
disk, takes its name, and then the folder that holds the name reaches the disk. What a
crash leaves behind is the ``.new``, which the next write of the same name removes.

Not protected:
    Two writers of one path. Each path has one writer: by a lock, or because one
    process alone works in its folder.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tapestry.errors import ResourceError

SUFFIX = ".new"
_PRIVATE = 0o600
_READABLE = 0o666  # the umask takes from it what it takes from every new file
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_AT_END = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_ROOM = 1 << 20  # free bytes below which a disk is called full; SQLite needs as many


def replace_file(
    path: Path,
    *chunks: bytes | memoryview,
    mode: int = _READABLE,
    lasting: bool = True,
) -> None:
    """Give a file these bytes, in one step and durably; make its folders.

    Guarantees:
        A reader of ``path``, at any time and after any crash, finds the old bytes or
        the new ones, whole. On return the new ones are on the disk. A link, a FIFO or
        a device in the place of ``path`` is replaced, never written into.

    Edge cases:
        =============================  =============================================
        The process is killed, or      the old bytes, and perhaps a ``.new``
        power fails, before the rename
        Power fails after the rename,  the old bytes or the new ones
        before the folder is synced
        The disk is full               the old bytes; the ``.new`` is removed
        A folder is at ``path``        ``ResourceError``; the folder stays
        A ``.new`` is there            removed first, also a link or a FIFO
        Not ``lasting``: power fails   the old bytes, the new ones, or others; for what
                                       is written anew again and again
        =============================  =============================================

    Raises:
        ResourceError: The disk is full or failing, or the folder cannot be written.
    """
    staged = _staged(path)
    with write_errors(path):
        _make_folders(path.parent)
        staged.unlink(missing_ok=True)
        try:
            _write(os.open(staged, _NEW, mode), chunks, lasting=lasting)
            staged.replace(path)
        except BaseException:
            with suppress(OSError):
                staged.unlink(missing_ok=True)
            raise
        if lasting:
            _sync(path.parent, _FOLDER)


def create_file(path: Path, *chunks: bytes | memoryview, mode: int = _PRIVATE) -> None:
    """Write a file that must not exist yet, durably.

    Guarantees:
        Nothing that is there is changed, also when two processes try at once. The
        umask may narrow the mode and never widens it.

    Edge cases:
        =============================  =============================================
        The disk is full               no file
        The process is killed, or      no file, an empty one, or a part of one under
        power fails                    the name: a reader must check what it reads
        A link is at ``path``          ``FileExistsError``, wherever it leads
        =============================  =============================================

    Raises:
        FileExistsError: A file, folder or link has this name.
        ResourceError: The disk is full or failing, or the folder cannot be written.
    """
    try:
        handle = os.open(path, _NEW, mode)
    except FileExistsError:
        raise
    except OSError as error:
        raise storage_error("write", path, error, code="file-unwritable") from error
    try:
        with write_errors(path):
            _write(handle, chunks)
            _sync(path.parent, _FOLDER)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def append_file(path: Path, data: bytes, *, mode: int = _PRIVATE) -> None:
    """Add bytes to the end of a file, durably; make it if its folder has none.

    Guarantees:
        What was in the file stays. On return the new bytes are on the disk.

    Edge cases:
        =============================  =============================================
        The process is killed, power   a beginning of the new bytes may be there: the
        fails or the disk is full      format must show where an entry ends
        A link is at ``path``          what it leads to is appended to
        A FIFO, a device or a folder   ``ResourceError``, without waiting for it
        =============================  =============================================

    Raises:
        ResourceError: The disk is full or failing, or the path is no plain file.
    """
    with write_errors(path):
        is_new = not path.exists()
        with os.fdopen(os.open(path, _AT_END, mode), "wb") as file:
            require_regular(file.fileno(), path)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            _sync(path.parent, _FOLDER)


def remove_file(path: Path) -> None:
    """Delete a file, and its folder if it was the last one there.

    Raises:
        ResourceError: The path is a folder, or its folder cannot be written.
    """
    try:
        path.unlink(missing_ok=True)
        path.parent.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise storage_error(
                "delete", path, error, code="file-unwritable"
            ) from error


def move_file(path: Path, place: Path) -> None:
    """Give a file another name in its folder, in one step and durably.

    Guarantees:
        At any time and after any crash each name has one whole file or none, and the
        bytes of ``path`` are under one of the two names. What was at ``place`` is gone.

    Raises:
        ResourceError: There is no such file, or the folder cannot be written.
    """
    with write_errors(place):
        path.replace(place)
        _sync(place.parent, _FOLDER)


def remove_leftovers(folder: Path) -> None:
    """Delete what crashes of ``replace_file`` have left anywhere under a folder."""
    for path in folder.rglob("*" + SUFFIX):
        path.unlink()


# Folders


@contextmanager
def replace_folder(path: Path, *, draft: Path | None = None) -> Iterator[Path]:
    """Give a folder new content, in one step and durably; make the folders above it.

    Guarantees:
        A folder under this name is whole. What the block writes below the path that
        it is given is on the disk before the name is. If the block raises, the folder
        under the name stays as it was, and the draft is removed.

    Edge cases:
        =============================  =============================================
        The process is killed, or      the old folder, and perhaps a draft
        power fails, in the block
        ... between the two renames    no folder of this name; the new one is whole
                                       at the draft's path, the old one beside it
        The disk is full               the old folder
        A file or link is at ``path``  replaced, never written into
        =============================  =============================================

    Args:
        path: The folder.
        draft: Where it is written first, on the same file system; beside it, with
            ``.new`` after the name, unless given. What is there is removed.

    Yields:
        The path of the draft, which is free: the block makes the folder.

    Raises:
        ResourceError: The disk is full or failing, a folder cannot be written, or the
            block raised an ``OSError``.
    """
    place = draft or _staged(path)
    with write_errors(path):
        _make_folders(path.parent)
        _remove(place)
        try:
            yield place
            _sync_tree(place)
            _rename_over(place, path)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        _sync(path.parent, _FOLDER)


def publish_folder(draft: Path, path: Path) -> None:
    """Give a finished folder a name that is free, in one step and durably.

    Guarantees:
        A folder under this name is whole. Of several processes that publish under one
        name one succeeds.

    Edge cases:
        An empty folder of this name is replaced.

    Raises:
        ResourceError: A folder with something in it, or a file, has this name; the
            disk is full or failing; the folder cannot be written.
    """
    with write_errors(path):
        _sync_tree(draft)
        draft.rename(path)
        _sync(path.parent, _FOLDER)


def make_folders(path: Path) -> None:
    """Make a folder and those above it, durably, unless they are there.

    Raises:
        ResourceError: A file has the name of one, or one cannot be made.
    """
    with write_errors(path):
        _make_folders(path)


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk.

    Raises:
        ResourceError: The path is no folder, or the disk is failing.
    """
    with write_errors(path):
        _sync(path, _FOLDER)


def sync_tree(path: Path) -> None:
    """Bring a folder, all that is below it, and its own name to the disk.

    Edge cases:
        A link below it is not followed; its name reaches the disk.

    Raises:
        ResourceError: A file cannot be opened, or the disk is failing.
    """
    with write_errors(path):
        _sync_tree(path)
        _sync(path.parent, _FOLDER)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into one that names what was being written.

    Raises:
        ResourceError: The block raised an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise storage_error("write", path, error, code="file-unwritable") from error


def storage_error(
    verb: str, path: Path, error: Exception, *, code: str
) -> ResourceError:
    """Return the error of a failed operation; a full disk has its own code.

    SQLite reports a full disk under many names, so the free space decides.

    ``verb`` is the operation, as in ``cannot {verb}``; ``code`` is ``disk-full`` where
    the disk is full.
    """
    code = "disk-full" if _is_full(path) else code
    return ResourceError(failure(verb, path, error), code=code)


def failure(verb: str, path: Path, error: Exception) -> str:
    """Describe in one line which operation failed, why, and if the disk is full."""
    said = " ".join((getattr(error, "strerror", None) or str(error)).split())
    if _is_full(path):
        said += f"; the disk is full, make room in {path.parent}"
    return f"cannot {verb} {path}: {said}"


def require_regular(handle: int, path: Path) -> None:
    """Require that an open handle is that of a plain file.

    Raises:
        OSError: The handle is that of a FIFO, a device or a folder.
    """
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise OSError(errno.EINVAL, "it is no plain file; put it back", str(path))


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _ROOM
    except OSError:
        return False


def _staged(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _write(
    handle: int, chunks: tuple[bytes | memoryview, ...], *, lasting: bool = True
) -> None:
    with os.fdopen(handle, "wb") as file:
        file.writelines(chunks)
        file.flush()
        if lasting:
            os.fsync(file.fileno())


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            _sync(path, os.O_RDONLY | os.O_NOFOLLOW)
        elif stat.S_ISDIR(mode):
            _sync(path, _FOLDER)
    _sync(folder, _FOLDER)


def _make_folders(path: Path) -> None:
    if path.is_dir():
        return
    _make_folders(path.parent)
    path.mkdir(exist_ok=True)
    _sync(path.parent, _FOLDER)


def _rename_over(draft: Path, path: Path) -> None:
    """Rename a folder; what has the name goes when the new one has it."""
    old = draft.with_name(f"{draft.name}.old")
    _remove(old)
    if os.path.lexists(path):
        path.rename(old)
    try:
        draft.rename(path)
    except BaseException:
        if os.path.lexists(old):
            old.rename(path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
