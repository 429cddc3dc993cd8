"""Folders with a closed list of files, in which any other file is refused.

Libraries act on files that the user did not name: transformers obeys an
``adapter_config.json`` beside a model, picks one of several weight files, and imports
code. A link is refused as well, because it leads out of the folder, where other
programs change the file.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tapestry.artifacts.foreign_files import refuse
from tapestry.inputs.plain_file import reading

PROOFS = "tapestry"  # the folder of the manifest and of what proves it
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedList:
    """The files that a kind of folder may hold."""

    what: str
    files: re.Pattern[str]  # of paths relative to the folder
    proofs: frozenset[str]  # under ``tapestry/``, beside the manifest
    folders: frozenset[str] = field(default=frozenset())

    def check(self, folder: Path) -> None:
        """Require plain files with known names.

        Raises:
            ForeignFileError: Something else is there; the message lists up to ten.
            ResourceError: The folder cannot be read.
        """
        links, foreign = [], []
        with reading(folder):
            for name, mode in self._entries(folder):
                if stat.S_ISLNK(mode):
                    links.append(name)
                elif not self._belongs(name, mode):
                    foreign.append(name + "/" * stat.S_ISDIR(mode))
        if foreign or links:
            refuse(f"{folder} as {self.what}", foreign=foreign, links=links)

    def names(self, folder: Path) -> list[str]:
        """Check a folder, and list the files in it that are no proofs.

        Raises:
            ForeignFileError: Something else is there, as ``check`` says.
            ResourceError: The folder cannot be read.
        """
        self.check(folder)
        found = [name for name, _ in self._entries(folder)]
        return [name for name in found if self.files.fullmatch(name)]

    def _entries(self, folder: Path) -> Iterator[tuple[str, int]]:
        """Yield what lies in the folder and in its known folders, with the modes."""
        for inner in ("", *sorted({PROOFS, *self.folders})):
            place = folder / inner
            if inner and (place.is_symlink() or not place.is_dir()):
                continue  # no such folder, or reported by the one that holds it
            with os.scandir(place) as entries:
                for entry in sorted(entries, key=lambda each: each.name):
                    name = Path(entry.path).relative_to(folder).as_posix()
                    yield name, entry.stat(follow_symlinks=False).st_mode

    def _belongs(self, name: str, mode: int) -> bool:
        if name == PROOFS or name in self.folders:
            return stat.S_ISDIR(mode)
        proofs = {f"{PROOFS}/{proof}" for proof in (MANIFEST, *self.proofs)}
        known = self.files.fullmatch(name) is not None or name in proofs
        return known and stat.S_ISREG(mode)
