"""The public files of a log: written once, in order, and compared when it opens."""

from pathlib import Path

import pytest

from tapestry.errors import (
    ForeignFileError,
    InconsistentLog,
    ResourceError,
    VerificationError,
)
from tapestry.storage import durable_files
from tapestry.tlog import tiles
from tapestry.tlog.merkle import Tree, leaf_hash
from tapestry.tlog.note import MAX_BYTES
from tapestry_governance.log.tile_writer import CHECKPOINT, TileWriter
from tests.support.cosigning import entry
from tests.support.refusals import refused

ENTRIES = [entry(number) for number in range(600)]


def _writer(folder: Path, *, size: int = 600) -> TileWriter:
    tree = Tree(map(leaf_hash, ENTRIES[:size]))
    return TileWriter(folder, tree=tree, read=lambda start, stop: ENTRIES[start:stop])


def _files(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in paths}


def test_publishing_writes_the_tiles_of_a_size_and_its_checkpoint(
    tmp_path: Path,
) -> None:
    writer = _writer(tmp_path)
    assert writer.checkpoint() is None
    writer.publish(300, b"note of 300")
    assert writer.checkpoint() == b"note of 300"
    expected = {tile.path for tile in tiles.layout(300)}
    assert _files(tmp_path) == expected | {CHECKPOINT}
    assert list(tiles.read_entries(tmp_path, 300)) == ENTRIES[:300]


def test_a_partial_tile_is_removed_when_the_full_one_is_there(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    writer.publish(250, b"note of 250")
    assert "tile/0/000.p/250" in _files(tmp_path)
    writer.publish(262, b"note of 262")
    files = _files(tmp_path)
    assert "tile/0/000.p/250" not in files
    assert {"tile/0/000", "tile/entries/000", "tile/0/001.p/6"} <= files


def test_a_tile_of_an_older_checkpoint_stays_while_its_full_one_is_not_there(
    tmp_path: Path,
) -> None:
    writer = _writer(tmp_path)
    for size in (10, 20):
        writer.publish(size, b"note of %d" % size)
    assert {"tile/0/000.p/10", "tile/0/000.p/20"} <= _files(tmp_path)
    assert tiles.list_files(tmp_path) == writer.written


def test_the_checkpoint_is_replaced_after_every_tile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    replace = durable_files.replace_file

    def note(path: Path, *chunks: bytes | memoryview) -> None:
        written.append(path.relative_to(tmp_path).as_posix())
        replace(path, *chunks)

    monkeypatch.setattr(durable_files, "replace_file", note)
    writer = _writer(tmp_path)
    writer.publish(300, b"note of 300")
    assert written[-1] == CHECKPOINT
    assert set(written[:-1]) == {tile.path for tile in tiles.layout(300)}
    written.clear()
    writer.publish(300, b"note of 300")
    assert written == []


def test_loading_takes_the_files_that_are_there_for_written(tmp_path: Path) -> None:
    _writer(tmp_path).publish(300, b"note of 300")
    (tmp_path / "tile" / "0" / "001.new").write_bytes(b"half")  # of a crash
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.p/*")}
    writer = _writer(tmp_path)
    writer.load()
    writer.publish(300, b"note of 300")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not (tmp_path / "tile" / "0" / "001.new").exists()


def test_a_tile_that_differs_is_refused_and_left_alone(tmp_path: Path) -> None:
    _writer(tmp_path).publish(300, b"note of 300")
    path = tmp_path / "tile" / "0" / "000"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    forged = path.read_bytes()
    with refused(InconsistentLog, "tile-differs", match="tile/0/000"):
        _writer(tmp_path).load()
    assert path.read_bytes() == forged


def test_a_tile_beyond_the_log_is_refused(tmp_path: Path) -> None:
    _writer(tmp_path).publish(300, b"note of 300")
    with refused(InconsistentLog, "tile-beyond-log"):
        _writer(tmp_path, size=290).load()


def test_a_file_that_is_no_tile_is_refused(tmp_path: Path) -> None:
    _writer(tmp_path).publish(3, b"note of 3")
    (tmp_path / "tile" / "0" / "notes").write_bytes(b"")
    with refused(ForeignFileError, "foreign-file", match="notes"):
        _writer(tmp_path).load()


def test_missing_partial_tiles_of_an_older_size_are_restored(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    writer.restore(250, newest=300)  # the tile is full by now
    assert _files(tmp_path) == set()
    writer.restore(290, newest=300)
    assert _files(tmp_path) == {
        *("tile/0/001.p/34", "tile/entries/001.p/34", "tile/1/000.p/1"),
    }


def test_a_checkpoint_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    path.write_bytes(b"x" * (MAX_BYTES + 1))
    with refused(VerificationError, "file-too-large", match=CHECKPOINT):
        _writer(tmp_path).checkpoint()
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with refused(VerificationError, "link-not-allowed", match=CHECKPOINT):
        _writer(tmp_path).checkpoint()
    (tmp_path / "file").write_bytes(b"")
    with refused(ResourceError, "file-unreadable", match=CHECKPOINT):
        _writer(tmp_path / "file").checkpoint()
