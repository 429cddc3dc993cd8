"""The public files of a log: tiles and checkpoint, made from its database.

The database decides. A missing file is written again; a file that contradicts the
database is left alone and reported, since it may be evidence of a fork.
"""

from contextlib import suppress
from pathlib import Path

from tapestry.inputs.plain_file import read_plain, reading
from tapestry.storage import durable_files
from tapestry.tlog import tiles
from tapestry.tlog.merkle import Tree
from tapestry.tlog.note import MAX_BYTES
from tapestry_governance.log.outbox_heads import FILE

CHECKPOINT = "checkpoint"
TURNS = "turns"


class TileWriter:
    """The public files, in one folder.

    Guarantees:
        ``checkpoint`` is replaced in one step, after every tile that it needs is
        on the disk. A tile never changes once it has its name; a partial one is
        removed when the full one is there.
    """

    def __init__(self, folder: Path, *, tree: Tree, read: tiles.Reader) -> None:
        self.folder = folder
        self._tree = tree
        self._read = read
        self.written: set[tiles.Tile] = set()

    def load(self) -> None:
        """Compare every file that is there with the log.

        Raises:
            InconsistentLog: A file differs from the log, or is beyond it.
            ForeignFileError: A file under ``tile/`` is no tile.
        """
        durable_files.remove_leftovers(self.folder)
        present = tiles.list_files(self.folder)
        for tile in present:
            tiles.compare(self.folder, tile, tree=self._tree, read=self._read)
        self.written = present

    def checkpoint(self) -> bytes | None:
        """Read the public checkpoint.

        Raises:
            VerificationError: It is no plain file, or too large for a checkpoint.
            ResourceError: The file cannot be read.
        """
        path = self.folder / CHECKPOINT
        with reading(path), suppress(FileNotFoundError):
            return read_plain(path, limit=MAX_BYTES)
        return None

    def publish(self, size: int, note: bytes) -> None:
        """Write the tiles of a size, then its checkpoint; drop superseded tiles."""
        for tile in tiles.layout(size):
            self._write(tile)
        if self.checkpoint() != note:
            durable_files.replace_file(self.folder / CHECKPOINT, note)
        for tile in sorted(self.written):
            if tile.is_partial and tile.whole in self.written:
                durable_files.remove_file(self.folder / tile.path)
                self.written.discard(tile)

    def keep_turn(self, size: int, note: bytes) -> None:
        """Write the checkpoint of a turn, unless it is there."""
        path = self.folder / TURNS / str(size)
        if not path.exists():
            durable_files.replace_file(path, note)

    def keep_heads(self, data: bytes) -> None:
        """Replace the file with the heads of outboxes, if it changes."""
        path = self.folder / FILE
        if not path.is_file() or path.read_bytes() != data:
            durable_files.replace_file(path, data)

    def restore(self, size: int, *, newest: int) -> None:
        """Write the partial tiles of an older size that are not superseded."""
        for tile in tiles.layout(size):
            if tile.is_partial and not tile.whole.is_within(newest):
                self._write(tile)

    def _write(self, tile: tiles.Tile) -> None:
        if tile not in self.written:
            data = tiles.content(tile, tree=self._tree, read=self._read)
            durable_files.replace_file(self.folder / tile.path, data)
            self.written.add(tile)
