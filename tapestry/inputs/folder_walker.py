"""Walker of folders that people fill: each entry is a file to read, or a fault.

``Path.rglob`` leaves out what it cannot open and does not enter linked folders, and
says neither. Here, nothing is left out:

=====================  =============================================================
regular file           returned
folder                 entered
link                   refused, to a file or a folder, whether it leads anywhere or not
hidden file or folder  refused: programs leave them behind; its name starts with a dot.
                       A caller may name files that are let in, at the top alone
unreadable folder      refused
FIFO, socket, device   refused, without being opened
=====================  =============================================================

The folder itself may be a link: the operator named it.

Edge cases:
    No link is followed, so there are no loops. Names that are not UTF-8 are names as
    well. Two names that differ in case only are two files.
"""

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from tapestry.errors import ConfigError
from tapestry.inputs.faults import Faults, InputFault, show


def walk(folder: Path, faults: Faults, *, beside: Collection[str] = ()) -> list[Path]:
    """Return all files below a folder, in order of their paths, part by part.

    An entry that cannot be read as a file becomes a fault. A file at the top that has a
    name of ``beside`` may be hidden.

    Raises:
        ConfigError: The folder does not exist.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"no folder {show(folder)}; make it, or name another", code="folder-missing"
        )
    found: list[Path] = []
    pending = [folder]
    while pending:
        for path, mode in _entries(pending.pop(), faults):
            is_beside = path.parent == folder and path.name in beside
            if (fault := _refused(path, mode, may_hide=is_beside)) is not None:
                faults.add(fault)
            elif stat.S_ISDIR(mode):
                pending.append(path)
            else:
                found.append(path)
    return sorted(found, key=lambda path: path.parts)


def _entries(folder: Path, faults: Faults) -> Iterator[tuple[Path, int]]:
    """Yield what is in one folder with its mode, in order of name."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        rule = f"cannot read this folder: {error.strerror}; give the node access to it"
        faults.add(InputFault(folder, rule, code="file-unreadable"))
        return
    for name in names:
        path = folder / name
        try:
            yield path, path.lstat().st_mode
        except OSError as error:
            faults.add(
                InputFault(
                    path, f"cannot read it: {error.strerror}", code="file-unreadable"
                )
            )


def _refused(path: Path, mode: int, *, may_hide: bool) -> InputFault | None:
    """Return the fault of an entry that is neither entered nor read, or None."""
    if stat.S_ISLNK(mode):
        return InputFault(
            path,
            "is a link; put the file or folder itself there, or take the link out",
            code="link-not-allowed",
        )
    is_file = stat.S_ISREG(mode)
    if path.name.startswith(".") and not (may_hide and is_file):
        return InputFault(
            path,
            "is hidden, as what other programs leave behind; remove it",
            code="file-hidden",
        )
    if not (stat.S_ISDIR(mode) or is_file):
        return InputFault(
            path, "is a FIFO, socket or device; take it out", code="file-not-plain"
        )
    return None
