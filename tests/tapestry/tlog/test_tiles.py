"""The log as files: nothing missing, nothing more, every byte accounted for."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapestry.errors import (
    ForeignFileError,
    IncompleteError,
    InconsistentLog,
    ProtocolError,
    TapestryError,
    VerificationError,
)
from tapestry.tlog import tiles
from tapestry.tlog.checkpoint import Checkpoint
from tapestry.tlog.merkle import Tree, leaf_hash, root
from tapestry.tlog.tiles import Tile
from tests.support.cosigning import LOG_KEY, entry
from tests.support.refusals import refused

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "tiles.json").read_text()
)
ENTRIES = [entry(number) for number in range(600)]


def _checkpoint(entries: list[bytes]) -> Checkpoint:
    return Checkpoint(
        origin=LOG_KEY.name, size=len(entries), root=root(map(leaf_hash, entries))
    )


@pytest.fixture(scope="module")
def log_of_600(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("log")
    tiles.write(directory, ENTRIES)
    return directory


def _copy(source: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(source, to)
    return to


@pytest.mark.parametrize("case", VECTORS["paths"], ids=lambda case: case["path"])
def test_a_tile_has_one_path(case: dict[str, Any]) -> None:
    tile = Tile(level=case["level"], index=case["index"], width=case["width"])
    assert tile.path == case["path"]
    assert Tile.parse(case["path"]) == tile


@pytest.mark.parametrize("path", VECTORS["refused_paths"])
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(ProtocolError):
        Tile.parse(path)


@given(
    level=st.integers(-1, 63), index=st.integers(0, 10**15), width=st.integers(1, 256)
)
def test_paths_are_read_as_printed(level: int, index: int, width: int) -> None:
    tile = Tile(level=level, index=index, width=width)
    assert Tile.parse(tile.path) == tile


@pytest.mark.parametrize("case", VECTORS["layouts"], ids=lambda case: str(case["size"]))
def test_the_layout_of_small_logs(case: dict[str, Any]) -> None:
    files = [tile.path for tile in tiles.layout(case["size"])]
    hashes = [path for path in files if "entries" not in path]
    assert hashes == case["hash_tiles"]
    bundles = [path.replace("entries", "0") for path in files if "entries" in path]
    assert bundles == [path for path in hashes if path.startswith("tile/0/")]


def test_the_layout_of_70000_entries() -> None:
    case = VECTORS["counts"]
    files = list(tiles.layout(case["size"]))
    count = Counter(tile.level for tile in files)
    assert count == {-1: case["entries"], 0: case["level_0"], 1: 2, 2: 1}
    assert [tile.path for tile in files if tile.is_partial] == case["partial"]
    assert all(tile.is_within(case["size"]) for tile in files)


@pytest.mark.parametrize("case", VECTORS["bundles"])
def test_golden_bundles_are_read_and_printed(case: dict[str, Any]) -> None:
    entries = [text.encode() for text in case["entries"]]
    assert tiles.encode_bundle(entries).hex() == case["hex"]
    assert tiles.decode_bundle(bytes.fromhex(case["hex"])) == entries


@pytest.mark.parametrize("case", VECTORS["refused_bundles"], ids=lambda c: c["why"])
def test_malformed_bundles_are_refused(case: dict[str, str]) -> None:
    with refused(ProtocolError, "entry-bundle-malformed"):
        tiles.decode_bundle(bytes.fromhex(case["hex"]))


@given(entries=st.lists(st.binary(max_size=40), max_size=20))
def test_bundles_are_read_as_printed(entries: list[bytes]) -> None:
    assert tiles.decode_bundle(tiles.encode_bundle(entries)) == entries


@given(data=st.binary(max_size=60))
def test_a_bundle_that_parses_is_canonical(data: bytes) -> None:
    try:
        entries = tiles.decode_bundle(data)
    except ProtocolError:
        return
    assert tiles.encode_bundle(entries) == data


def test_an_entry_has_at_most_65535_bytes() -> None:
    """Attack 11."""
    largest = bytes(65_535)
    assert tiles.decode_bundle(tiles.encode_bundle([largest])) == [largest]
    with refused(ProtocolError, "entry-too-large", match="65536 bytes"):
        tiles.encode_bundle([bytes(65_536)])


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 513, 600])
def test_logs_at_tile_borders_verify(size: int, tmp_path: Path) -> None:
    tiles.write(tmp_path, ENTRIES[:size])
    assert list(tiles.verify(tmp_path, _checkpoint(ENTRIES[:size]))) == ENTRIES[:size]
    assert list(tiles.read_entries(tmp_path, size)) == ENTRIES[:size]


@pytest.mark.slow
@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 65_792, 70_000])
def test_large_logs_verify(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", id)  # half a minute of waiting for the disk
    entries = [entry(number) for number in range(size)]
    tiles.write(tmp_path, entries)
    assert list(tiles.verify(tmp_path, _checkpoint(entries))) == entries


def test_every_hash_in_a_tile_is_a_root_over_its_leaves() -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(600)]
    tree = Tree(leaves)
    data = tiles.content(Tile(level=1, index=0, width=2), tree=tree, read=_no_entries)
    assert data == root(leaves[:256]) + root(leaves[256:512])
    with refused(InconsistentLog, "tile-beyond-log"):
        tiles.content(Tile(level=1, index=0, width=3), tree=tree, read=_no_entries)


def _no_entries(start: int, stop: int) -> list[bytes]:
    raise AssertionError(f"asked for entries {start} to {stop}")


def test_older_sizes_are_read_from_a_log_that_has_grown(log_of_600: Path) -> None:
    for size in (0, 1, 255, 256, 300, 512, 600):
        assert list(tiles.read_entries(log_of_600, size)) == ENTRIES[:size]


def test_superseded_partial_files_are_verified_too(
    log_of_600: Path, tmp_path: Path
) -> None:
    directory = _copy(log_of_600, tmp_path / "log")
    tiles.write(directory, ENTRIES[:530])
    assert list(tiles.verify(directory, _checkpoint(ENTRIES))) == ENTRIES
    stale = directory / "tile/0/002.p/18"
    stale.write_bytes(stale.read_bytes()[:-32] + bytes(32))
    with refused(InconsistentLog, "tile-differs"):
        tiles.verify(directory, _checkpoint(ENTRIES))


@given(which=st.integers(0), at=st.integers(0), bits=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_byte_in_any_file_is_refused(
    log_of_600: Path, which: int, at: int, bits: int
) -> None:
    """Attack 12, and the Go tile reader that checked some tiles only."""
    files = sorted(path for path in log_of_600.rglob("*") if path.is_file())
    path = files[which % len(files)]
    honest = path.read_bytes()
    forged = bytearray(honest)
    forged[at % len(forged)] ^= bits
    path.write_bytes(forged)
    try:
        with pytest.raises((VerificationError, ProtocolError)):
            tiles.verify(log_of_600, _checkpoint(ENTRIES))
    finally:
        path.write_bytes(honest)


@pytest.mark.slow
@given(which=st.integers(0), cut=st.integers(1, 70))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_too_short_too_long_or_gone_is_refused(
    log_of_600: Path, which: int, cut: int
) -> None:
    files = sorted(path for path in log_of_600.rglob("*") if path.is_file())
    path = files[which % len(files)]
    honest = path.read_bytes()
    try:
        for forged in (honest[:-cut], honest + bytes(cut), b""):
            path.write_bytes(forged)
            with pytest.raises((VerificationError, ProtocolError)):
                tiles.verify(log_of_600, _checkpoint(ENTRIES))
        path.unlink()
        with refused(IncompleteError, "tile-missing"):
            tiles.verify(log_of_600, _checkpoint(ENTRIES))
    finally:
        path.write_bytes(honest)


def test_a_rewritten_entry_is_refused_even_with_its_tiles(tmp_path: Path) -> None:
    """Attack 1."""
    forged = [*ENTRIES[:300], b'{"n":"forged"}', *ENTRIES[301:]]
    tiles.write(tmp_path, forged)
    with refused(VerificationError, "log-root-differs"):
        tiles.verify(tmp_path, _checkpoint(ENTRIES))


@pytest.mark.parametrize(
    "name",
    [
        "tile/0/003",
        "tile/0/002.p/99",
        "tile/0/000.new",
        "tile/2/000.p/1",
        "tile/note.txt",
        "tile/entries/readme",
        "tile/x/y/z",
        "tile/0/.hidden",
    ],
)
def test_foreign_files_under_the_tile_folder_are_refused(
    log_of_600: Path, tmp_path: Path, name: str
) -> None:
    directory = _copy(log_of_600, tmp_path / "log")
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    with pytest.raises((VerificationError, ForeignFileError)):
        tiles.verify(directory, _checkpoint(ENTRIES))


def test_links_pipes_and_endless_folders_are_refused(
    log_of_600: Path, tmp_path: Path
) -> None:
    """Attack 31."""
    for number, spoil in enumerate(SPOILS):
        directory = _copy(log_of_600, tmp_path / str(number))
        spoil(directory)
        with pytest.raises((VerificationError, ForeignFileError)):
            tiles.verify(directory, _checkpoint(ENTRIES))


def _link_file(directory: Path) -> None:
    path = directory / "tile/0/000"
    path.rename(directory / "elsewhere")
    path.symlink_to(directory / "elsewhere")


def _link_bundle(directory: Path) -> None:
    path = directory / "tile/entries/001"
    path.rename(directory / "elsewhere")
    path.symlink_to(directory / "elsewhere")


def _link_folder(directory: Path) -> None:
    path = directory / "tile/0"
    path.rename(directory / "elsewhere")
    path.symlink_to(directory / "elsewhere")


def _pipe(directory: Path) -> None:
    path = directory / "tile/entries/000"
    path.unlink()
    os.mkfifo(path)


def _nest(directory: Path) -> None:
    (directory / "tile/0" / "/".join("x" * 200)).mkdir(parents=True)


def _flat(directory: Path) -> None:
    path = directory / "tile/1"
    shutil.rmtree(path)
    path.write_bytes(b"")


SPOILS = (_link_file, _link_bundle, _link_folder, _pipe, _nest, _flat)


def test_a_bundle_of_another_number_of_entries_is_refused(tmp_path: Path) -> None:
    tiles.write(tmp_path, ENTRIES[:10])
    path = tmp_path / "tile/entries/000.p/10"
    for entries in (ENTRIES[:9], ENTRIES[:11], []):
        path.write_bytes(tiles.encode_bundle(entries))
        with refused(
            ProtocolError, "entry-count-differs", match=rf"\b{len(entries)} entries"
        ):
            list(tiles.read_entries(tmp_path, 10))


def test_an_endless_file_is_not_read(log_of_600: Path, tmp_path: Path) -> None:
    """Attack 11: a sparse file of a terabyte costs nothing to make."""
    directory = _copy(log_of_600, tmp_path / "log")
    with (directory / "tile/entries/001").open("r+b") as file:
        file.truncate(1 << 40)
    with refused(VerificationError, "file-too-large"):
        tiles.verify(directory, _checkpoint(ENTRIES))


def test_a_checkpoint_of_more_or_fewer_entries_is_refused(log_of_600: Path) -> None:
    for size in (0, 599, 601, 1000, 10**15):
        claimed = root(map(leaf_hash, ENTRIES[:size]))
        checkpoint = Checkpoint(origin=LOG_KEY.name, size=size, root=claimed)
        with pytest.raises(TapestryError):
            tiles.verify(log_of_600, checkpoint)


def test_verified_entries_are_read_by_index_and_in_order(log_of_600: Path) -> None:
    found = tiles.verify(log_of_600, _checkpoint(ENTRIES))
    assert len(found) == 600
    assert [found[at] for at in (0, 255, 256, -1)] == [
        ENTRIES[at] for at in (0, 255, 256, 599)
    ]
    assert found[250:260] == ENTRIES[250:260]
    assert list(found) == ENTRIES
    for index in (600, -601):
        with pytest.raises(IndexError):
            found[index]


def test_entries_that_change_after_they_were_verified_are_refused(
    log_of_600: Path, tmp_path: Path
) -> None:
    directory = _copy(log_of_600, tmp_path / "log")
    found = tiles.verify(directory, _checkpoint(ENTRIES))
    forged = [*ENTRIES[256:300], b"forged", *ENTRIES[301:512]]
    (directory / "tile/entries/001").write_bytes(tiles.encode_bundle(forged))
    assert found[0] == ENTRIES[0]
    with refused(VerificationError, "file-changed"):
        found[256]
    with refused(VerificationError, "file-changed"):
        list(found)
