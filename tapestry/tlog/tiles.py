"""A log as plain files (C2SP tlog-tiles), and how to check them all.

::

    tile/entries/000        entries 0 to 255, each after its length (2 bytes)
    tile/entries/001.p/9    entries 256 to 264: a partial bundle, 9 wide
    tile/0/000              leaf hashes 0 to 255, 32 bytes each
    tile/0/001.p/9          leaf hashes 256 to 264
    tile/1/000.p/1          the root over the 256 leaves of tile/0/000

A tile of level L holds roots over ``256 ** L`` leaves each. Files never change;
a partial one may go once the full one is there. The number of a tile is written
in groups of three digits, all but the last behind an ``x``: ``x001/x234/067``.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from tapestry.encoding import decode_integer
from tapestry.errors import (
    ForeignFileError,
    IncompleteError,
    InconsistentLog,
    ProtocolError,
    VerificationError,
)
from tapestry.storage import durable_files
from tapestry.tlog.checkpoint import Checkpoint
from tapestry.tlog.merkle import HASH_BYTES, Tree, leaf_hash

WIDTH = 256
MAX_ENTRY_BYTES = 65_535
ENTRIES = -1  # the "level" below the leaves: the entries themselves
FOLDER = "tile"
Reader = Callable[[int, int], Sequence[bytes]]
"""Returns the entries from a first index up to before a last one."""

_HEIGHT = 8
_MAX_DEPTH = 16
_MAX_LEVEL = 63
_NAME = re.compile(r"((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Tile:
    """One file of the log: ``width`` items from number ``index * 256`` on.

    Guarantees:
        ``Tile.parse(tile.path) == tile``, and there is no second path for it.
    """

    level: int
    index: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """The path under the log's folder, with forward slashes."""
        digits = f"{self.index:03}"
        digits = digits.rjust(-len(digits) // 3 * -3, "0")
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        name = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        level = "entries" if self.level == ENTRIES else str(self.level)
        suffix = "" if self.width == WIDTH else f".p/{self.width}"
        return f"{FOLDER}/{level}/{name}{suffix}"

    @classmethod
    def parse(cls, path: str) -> Self:
        """Read a path.

        Raises:
            ProtocolError: Not the one path of a tile or bundle.
        """
        folder, _, rest = path.partition("/")
        level_name, _, name = rest.partition("/")
        match = _NAME.fullmatch(name)
        if folder != FOLDER or match is None or len(name) > 40:
            raise ProtocolError(f"not a file of a log: {path[:80]!r}")
        number, width = match.groups()
        level = ENTRIES if level_name == "entries" else decode_integer(level_name)
        index = int(number.replace("x", "").replace("/", ""))
        tile = cls(level=level, index=index, width=int(width or WIDTH))
        if tile.path != path or level > _MAX_LEVEL or tile.width > WIDTH:
            raise ProtocolError(f"not a file of a log: {path[:80]!r}")
        return tile

    @property
    def is_partial(self) -> bool:
        """Whether fewer than 256 items are in it."""
        return self.width < WIDTH

    @property
    def whole(self) -> "Tile":
        """The full tile that takes the place of this one."""
        return Tile(level=self.level, index=self.index)

    def is_within(self, size: int) -> bool:
        """Whether a log of that size has all items of this file."""
        items = size >> (_HEIGHT * max(self.level, 0))
        return self.index * WIDTH + self.width <= items


def layout(size: int) -> Iterator[Tile]:
    """List the files that a log of a size consists of, and no superseded ones."""
    level = ENTRIES
    while (items := size >> (_HEIGHT * max(level, 0))) > 0:
        full, rest = divmod(items, WIDTH)
        for index in range(full):
            yield Tile(level=level, index=index)
        if rest:
            yield Tile(level=level, index=full, width=rest)
        level += 1


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Print entries, each after its length in two bytes, the high one first.

    Raises:
        ProtocolError: An entry is over 65,535 bytes.
    """
    parts: list[bytes] = []
    for entry in entries:
        check_entry(entry)
        parts += [len(entry).to_bytes(2, "big"), entry]
    return b"".join(parts)


def decode_bundle(data: bytes) -> list[bytes]:
    """Split a bundle into entries.

    Raises:
        ProtocolError: Bytes are missing at the end, or there are over 256 entries.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        start = at + 2
        at = start + int.from_bytes(data[at:start], "big")
        if at > len(data) or len(entries) == WIDTH:
            raise ProtocolError("bundle is cut short or too long")
        entries.append(data[start:at])
    return entries


def check_entry(entry: bytes) -> None:
    """Demand that the length of an entry fits into two bytes."""
    if len(entry) > MAX_ENTRY_BYTES:
        raise ProtocolError(f"entry of {len(entry)} bytes is over {MAX_ENTRY_BYTES}")


def content(tile: Tile, *, tree: Tree, read: Reader) -> bytes:
    """Return what must be in a file, given the whole log.

    Raises:
        InconsistentLog: The log is too small to have this file.
    """
    if not tile.is_within(tree.size):
        raise InconsistentLog(f"{tile.path} is beyond the log's {tree.size} entries")
    start = tile.index * WIDTH
    stop = start + tile.width
    if tile.level == ENTRIES:
        return encode_bundle(read(start, stop))
    return b"".join(tree.nodes(_HEIGHT * tile.level, start, stop))


def write(directory: Path, entries: Sequence[bytes]) -> None:
    """Write a log's files into a folder without any, as for a bundle.

    Raises:
        ResourceError: The disk is full or the folder cannot be written.
    """
    tree = Tree(map(leaf_hash, entries))
    for tile in layout(len(entries)):
        data = content(tile, tree=tree, read=_reader(entries))
        durable_files.replace_file(directory / tile.path, data)


def read_entries(directory: Path, size: int) -> list[bytes]:
    """Read the first entries of a log from its bundles, checking no hash.

    Where a partial bundle is gone, the full one is read in its place.

    Raises:
        IncompleteError: A bundle is missing.
        ProtocolError: A bundle is malformed or has another number of entries.
    """
    entries: list[bytes] = []
    for tile in layout(size):
        if tile.level != ENTRIES:
            break
        file = tile if (directory / tile.path).exists() else tile.whole
        found = decode_bundle(_read(directory / file.path))
        if len(found) != file.width:
            raise ProtocolError(
                f"{file.path} has {len(found)} entries, the log says {file.width}"
            )
        entries += found[: tile.width]
    return entries


def verify(directory: Path, checkpoint: Checkpoint) -> list[bytes]:
    """Recompute every file of a log from its entries and compare.

    Guarantees:
        The entries returned are the ones under the checkpoint's root; they were
        read once. Each file that a log of this size needs is there. Each file
        under ``tile/`` is one that this log may have, superseded partial ones
        included, and holds the bytes that follow from the entries. There is
        nothing else under ``tile/``: no other name, link or device.

    Not protected:
        Whether the checkpoint is to be trusted: open it with ``Trust`` first.

    Raises:
        IncompleteError: A file is missing.
        ProtocolError: A bundle is malformed.
        VerificationError: The entries are not under the root, a file differs
            from what follows from them, or does not belong here.
    """
    entries = read_entries(directory, checkpoint.size)
    tree = Tree(map(leaf_hash, entries))
    if tree.root() != checkpoint.root:
        raise VerificationError(
            f"the {checkpoint.size} entries are not under the checkpoint's root"
        )
    present = list_files(directory)
    for tile in layout(checkpoint.size):
        if tile not in present:
            raise IncompleteError(f"{tile.path} is missing")
    for tile in present:
        compare(directory, tile, tree=tree, read=_reader(entries))
    return entries


def compare(directory: Path, tile: Tile, *, tree: Tree, read: Reader) -> None:
    """Demand that a file is one this log has, byte for byte.

    Raises:
        InconsistentLog: The log is too small for it, or it differs.
    """
    want = content(tile, tree=tree, read=read)
    if _read(directory / tile.path) != want:
        raise InconsistentLog(f"{tile.path} differs from the log's entries")


def list_files(directory: Path) -> set[Tile]:
    """List the files of a log that are in a folder.

    Raises:
        VerificationError: Something else is under ``tile/``.
    """
    top = directory / FOLDER
    if not top.exists():
        return set()
    return {_file(directory, path) for path in _walk(top)}


def _reader(entries: Sequence[bytes]) -> Reader:
    return lambda start, stop: entries[start:stop]


def _walk(folder: Path, depth: int = 0) -> Iterator[Path]:
    if not stat.S_ISDIR(folder.lstat().st_mode) or depth > _MAX_DEPTH:
        raise VerificationError(f"{folder} is not a folder of a log")
    for path in sorted(folder.iterdir()):
        mode = path.lstat().st_mode  # a link is neither folder nor file here
        if stat.S_ISREG(mode):
            yield path
        else:
            yield from _walk(path, depth + 1)


def _file(directory: Path, path: Path) -> Tile:
    try:
        return Tile.parse(str(PurePosixPath(path.relative_to(directory))))
    except ProtocolError:
        raise ForeignFileError(
            f"{path} does not belong to a log; remove it", [path.name]
        ) from None


def _read(path: Path) -> bytes:
    limit = WIDTH * max(HASH_BYTES, MAX_ENTRY_BYTES + 2)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise IncompleteError(f"{path} is missing") from None
    except OSError as error:
        raise VerificationError(f"cannot read {path}: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise VerificationError(f"{path} is no file of a log")
        return file.read()
