"""The walker of folders that people fill: each thing is a file to read, or a fault.

``Path.rglob`` leaves out what it cannot open and does not enter linked folders, and
says neither. Here, nothing is left out:

=====================  =============================================================
regular file           returned
folder                 entered
link                   refused, to a file or a folder, whether it leads anywhere or not
hidden file or folder  refused: programs leave them behind; its name starts with a dot
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
from collections.abc import Iterator
from pathlib import Path

from tapestry.errors import ConfigError
from tapestry.inputs.faults import Faults, InputFault, show


def walk(folder: Path, faults: Faults) -> list[Path]:
    """Return all files below a folder, in order of their paths, part by part.

    Args:
        folder: Where to begin.
        faults: Takes in whatever is there and cannot be read as a file.

    Raises:
        ConfigError: There is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"no folder {show(folder)}; make it, or name another")
    found: list[Path] = []
    pending = [folder]
    while pending:
        for path, mode in _entries(pending.pop(), faults):
            if (rule := _refused(path, mode)) is not None:
                faults.add(InputFault(path, rule))
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
        faults.add(InputFault(folder, rule))
        return
    for name in names:
        path = folder / name
        try:
            yield path, path.lstat().st_mode
        except OSError as error:
            faults.add(InputFault(path, f"cannot read it: {error.strerror}"))


def _refused(path: Path, mode: int) -> str | None:
    """Return why a thing is neither entered nor read, in words, or None."""
    if stat.S_ISLNK(mode):
        return "is a link; put the file or folder itself there, or take the link out"
    if path.name.startswith("."):
        return "is hidden, as what other programs leave behind; remove it"
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        return "is a FIFO, socket or device; take it out"
    return None
