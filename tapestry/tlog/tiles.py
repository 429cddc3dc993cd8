"""A log as plain files (C2SP tlog-tiles): writer, reader and verification.

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

import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self, overload

from tapestry.encoding import decode_integer
from tapestry.errors import (
    ForeignFileError,
    IncompleteError,
    InconsistentLog,
    ProtocolError,
    VerificationError,
)
from tapestry.inputs.plain_file import read_plain
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
            ProtocolError: The path is not the one path of a tile or bundle.
        """
        folder, _, rest = path.partition("/")
        level_name, _, name = rest.partition("/")
        match = _NAME.fullmatch(name)
        if folder != FOLDER or match is None or len(name) > 40:
            raise ProtocolError(
                f"not a file of a log: {path[:80]!r}", code="tile-path-invalid"
            )
        number, width = match.groups()
        level = ENTRIES if level_name == "entries" else decode_integer(level_name)
        index = int(number.replace("x", "").replace("/", ""))
        tile = cls(level=level, index=index, width=int(width or WIDTH))
        if tile.path != path or level > _MAX_LEVEL or tile.width > WIDTH:
            raise ProtocolError(
                f"not a file of a log: {path[:80]!r}", code="tile-path-invalid"
            )
        return tile

    @property
    def is_partial(self) -> bool:
        """True if the file holds fewer than 256 items."""
        return self.width < WIDTH

    @property
    def whole(self) -> "Tile":
        """The full tile that takes the place of this one."""
        return Tile(level=self.level, index=self.index)

    def is_within(self, size: int) -> bool:
        """Return whether a log of that size has all items of this file."""
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
        ProtocolError: Bytes are missing at the end, or the bundle has over 256 entries.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        start = at + 2
        at = start + int.from_bytes(data[at:start], "big")
        if at > len(data) or len(entries) == WIDTH:
            raise ProtocolError(
                f"entry bundle is cut short, or has over {WIDTH} entries, at entry"
                f" {len(entries)}",
                code="entry-bundle-malformed",
            )
        entries.append(data[start:at])
    return entries


def check_entry(entry: bytes) -> None:
    """Require that the length of an entry fits into two bytes.

    Raises:
        ProtocolError: The entry is over 65,535 bytes.
    """
    if len(entry) > MAX_ENTRY_BYTES:
        raise ProtocolError(
            f"entry of {len(entry)} bytes is over {MAX_ENTRY_BYTES}",
            code="entry-too-large",
        )


def content(tile: Tile, *, tree: Tree, read: Reader) -> bytes:
    """Return what must be in a file, given the whole log.

    Raises:
        InconsistentLog: The log is too small to have this file.
    """
    if not tile.is_within(tree.size):
        raise InconsistentLog(
            f"{tile.path} is beyond the log's {tree.size} entries",
            code="tile-beyond-log",
        )
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


class StoredEntries(Sequence[bytes]):
    """The entries of a verified log, read from its bundles when they are asked for.

    Guarantees:
        Each entry is hashed again and compared with its leaf under the checkpoint's
        root before it is given out, so that a file which changes after the log was
        verified is an error. One bundle is in memory at a time.

    Raises:
        VerificationError: On reading, a bundle is not what it was.
    """

    def __init__(self, directory: Path, leaves: Iterable[bytes]) -> None:
        """Read entries in a folder that must have these leaf hashes."""
        self._directory = directory
        self._leaves = b"".join(leaves)  # one object: a third of the memory of a list
        self._held: tuple[int, list[bytes]] = (-1, [])  # the bundle read last

    def __len__(self) -> int:
        return len(self._leaves) // HASH_BYTES

    @overload
    def __getitem__(self, key: int) -> bytes: ...

    @overload
    def __getitem__(self, key: slice) -> list[bytes]: ...

    def __getitem__(self, key: int | slice) -> bytes | list[bytes]:
        """Return an entry, or several.

        Raises:
            IndexError: There is no such entry.
        """
        if isinstance(key, slice):
            return [self[index] for index in range(*key.indices(len(self)))]
        index = key + len(self) if key < 0 else key
        if not 0 <= index < len(self):
            raise IndexError(f"no entry {key} in a log of {len(self)}")
        number, place = divmod(index, WIDTH)
        if self._held[0] != number:
            self._held = (number, self._read(number))
        return self._held[1][place]

    def __iter__(self) -> Iterator[bytes]:
        for number in range(-(-len(self) // WIDTH)):
            yield from self._read(number)

    def _hashes(self, start: int, stop: int) -> list[bytes]:
        cut = range(start * HASH_BYTES, stop * HASH_BYTES, HASH_BYTES)
        return [self._leaves[at : at + HASH_BYTES] for at in cut]

    def _read(self, number: int) -> list[bytes]:
        start = number * WIDTH
        stop = min(start + WIDTH, len(self))
        tile = Tile(level=ENTRIES, index=number, width=stop - start)
        entries = _read_bundle(self._directory, tile)
        if [leaf_hash(entry) for entry in entries] != self._hashes(start, stop):
            raise VerificationError(
                f"{tile.path} was changed while it was read", code="file-changed"
            )
        return entries


def read_entries(directory: Path, size: int) -> Iterator[bytes]:
    """Iterate over the first entries of a log in its bundles, checking no hash.

    Where a partial bundle is gone, the full one is read in its place.

    Raises:
        IncompleteError: A bundle is missing.
        ProtocolError: A bundle is malformed or has another number of entries.
    """
    for tile in layout(size):
        if tile.level != ENTRIES:
            break
        yield from _read_bundle(directory, tile)


def _read_bundle(directory: Path, tile: Tile) -> list[bytes]:
    file = tile if (directory / tile.path).exists() else tile.whole
    found = decode_bundle(_read(directory / file.path))
    if len(found) != file.width:
        raise ProtocolError(
            f"{file.path} has {len(found)} entries, the log says {file.width}",
            code="entry-count-differs",
        )
    return found[: tile.width]


def verify(directory: Path, checkpoint: Checkpoint) -> StoredEntries:
    """Recompute every file of a log from its entries and compare.

    Guarantees:
        The entries returned are the ones under the checkpoint's root. Each file
        that a log of this size needs is there. Each file
        under ``tile/`` is one that this log may have, superseded partial ones
        included, and holds the bytes that follow from the entries. There is
        nothing else under ``tile/``: no other name, link or device.

    Not protected:
        The checkpoint is taken as it is; open it with ``TrustPolicy.open`` first.

    Raises:
        IncompleteError: A file is missing.
        ProtocolError: A bundle is malformed.
        VerificationError: The entries are not under the root, a file differs
            from what follows from them, or does not belong here.
    """
    tree = Tree(map(leaf_hash, read_entries(directory, checkpoint.size)))
    if tree.root() != checkpoint.root:
        raise VerificationError(
            f"the {checkpoint.size} entries are not under the checkpoint's root",
            code="log-root-differs",
        )
    entries = StoredEntries(directory, tree.nodes(0, 0, tree.size))
    present = list_files(directory)
    for tile in layout(checkpoint.size):
        if tile not in present:
            raise IncompleteError(f"{tile.path} is missing", code="tile-missing")
    for tile in sorted(present):
        compare(directory, tile, tree=tree, read=_reader(entries))
    return entries


def compare(directory: Path, tile: Tile, *, tree: Tree, read: Reader) -> None:
    """Require that a file has the bytes that follow from the log's entries.

    Raises:
        InconsistentLog: The log is too small to have this file, or the bytes differ.
    """
    want = content(tile, tree=tree, read=read)
    if _read(directory / tile.path) != want:
        raise InconsistentLog(
            f"{tile.path} differs from the log's entries", code="tile-differs"
        )


def list_files(directory: Path) -> set[Tile]:
    """List the files of a log that are in a folder.

    Raises:
        ForeignFileError: A file under ``tile/`` has another name than a tile.
        VerificationError: A link or a device is under ``tile/``, or folders are nested
            too deep.
    """
    top = directory / FOLDER
    if not top.exists():
        return set()
    return {_file(directory, path) for path in _walk(top)}


def _reader(entries: Sequence[bytes]) -> Reader:
    return lambda start, stop: entries[start:stop]


def _walk(folder: Path, depth: int = 0) -> Iterator[Path]:
    if not stat.S_ISDIR(folder.lstat().st_mode) or depth > _MAX_DEPTH:
        raise VerificationError(
            f"{folder} is a link or a device, or nested over {_MAX_DEPTH} deep;"
            " remove it",
            code="file-not-plain",
        )
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
            f"{path} does not belong to a log; remove it",
            [path.name],
            code="foreign-file",
        ) from None


def _read(path: Path) -> bytes:
    try:
        return read_plain(path, limit=WIDTH * max(HASH_BYTES, MAX_ENTRY_BYTES + 2))
    except FileNotFoundError:
        raise IncompleteError(f"{path} is missing", code="tile-missing") from None
    except OSError as error:
        raise VerificationError(
            f"cannot read {path}: {error.strerror}", code="file-unreadable"
        ) from error
