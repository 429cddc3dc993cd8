"""Foreign files: files in a folder that are not part of it.

People's tools leave files behind: ``.DS_Store``, ``.gitattributes``, ``.git/``, the
``.cache/huggingface/`` of a download. A hub's own cache holds links in place of files.
None of that is tampering, and none of it is let through: a folder is what its list
says, to the file. So a foreign file is refused by name, with its own kind of error.

Guarantees:
    ``take_inventory`` follows no link and opens no file. Each entry of the folder is
    either a listed plain file, or it is named in the inventory.
"""

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tapestry.errors import ForeignFileError

_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The files that a folder holds, sorted by whether they belong there.

    ``files`` are there and plain; ``missing`` are not there; ``odd`` are listed, but
    are devices or pipes; ``links`` are links, listed or not, or lead through one;
    ``foreign`` is everything else, a whole folder as one name that ends with a slash.
    """

    files: Mapping[str, Path]
    missing: tuple[str, ...]
    odd: tuple[str, ...]
    links: tuple[str, ...]
    foreign: tuple[str, ...]

    def refuse_foreign(self, where: str) -> None:
        """Refuse the folder if it holds links or foreign files.

        Raises:
            ForeignFileError: The folder holds one; the message says how to remove it.
        """
        if self.foreign or self.links:
            refuse(where, foreign=self.foreign, links=self.links)


def take_inventory(
    folder: Path, listed: Collection[str], *, own: str, own_is_folder: bool
) -> Inventory:
    """Compare a folder's names with a list.

    ``own`` is the name of the list itself, at the top, or with ``own_is_folder`` of the
    folder that it lies in; it is not in the list.

    Edge cases:
        An empty folder that is not listed is foreign, too.

    Raises:
        OSError: A folder cannot be read.
    """
    parents = {str(p) for name in listed for p in PurePosixPath(name).parents}
    files: dict[str, Path] = {}
    odd, links, foreign = [], [], []
    is_own = stat.S_ISDIR if own_is_folder else stat.S_ISREG
    for name, entry in _walk(folder, parents):
        mode = entry.stat(follow_symlinks=False).st_mode
        if name == own and is_own(mode):
            continue
        if stat.S_ISLNK(mode):
            links.append(name)
        elif stat.S_ISDIR(mode):
            if name not in parents:
                foreign.append(f"{name}/")
        elif name not in listed:
            foreign.append(name)
        elif stat.S_ISREG(mode):
            files[name] = Path(entry.path)
        else:
            odd.append(name)
    linked = set(links)
    through = {
        name
        for name in listed
        if not linked.isdisjoint({name, *map(str, PurePosixPath(name).parents)})
    }
    missing = set(listed) - files.keys() - set(odd) - through
    return Inventory(
        files=files,
        missing=tuple(sorted(missing)),
        odd=tuple(sorted(odd)),
        links=tuple(sorted(links)),
        foreign=tuple(sorted(foreign)),
    )


def refuse(
    where: str, *, foreign: Collection[str] = (), links: Collection[str] = ()
) -> None:
    """Refuse files that are not part of a folder.

    Raises:
        ForeignFileError: Always; up to ten of each kind are named, the rest counted.
    """
    said = []
    if foreign:
        them = "it" if len(foreign) == 1 else "them"
        said.append(
            f"not part of it: {_names(foreign)}; remove {them} or copy the folder"
            f" without {them}"
        )
    if links:
        are = "is a link" if len(links) == 1 else "are links"
        said.append(
            f"{_names(links)} {are}; copy the folder with its links followed (cp -rL)"
        )
    files = (*sorted(foreign), *sorted(links))
    raise ForeignFileError(f"{where}: {'; '.join(said)}", files, code="foreign-file")


def _walk(
    folder: Path, parents: Collection[str]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield every entry; go into the folders in which listed files may be."""
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                name = Path(entry.path).relative_to(folder).as_posix()
                yield name, entry
                if name in parents and entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))


def _names(names: Collection[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(n if n.isprintable() else ascii(n) for n in ordered[:_SHOWN])
    more = len(ordered) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
