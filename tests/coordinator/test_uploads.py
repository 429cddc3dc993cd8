"""Uploads on disk: every chunk comes back with a path to the root that was signed."""

from pathlib import Path

import numpy as np
import pytest

from tapestry.encoding import decode_digest
from tapestry.errors import IncompleteError, ResourceError
from tapestry.secagg.chunks import CHUNK_BYTES, chunk_root, cut
from tapestry.tlog.merkle import leaf_hash, verify_inclusion
from tapestry_coordinator.uploads import Uploads
from tests.support.refusals import refused

LENGTH = 2 * (CHUNK_BYTES // 4) + 7  # three chunks, the last one short


@pytest.fixture
def chunks() -> list[memoryview]:
    return cut(np.arange(LENGTH, dtype=np.uint32))


def test_every_chunk_comes_back_with_its_path(
    tmp_path: Path, chunks: list[memoryview]
) -> None:
    Uploads(tmp_path).keep(7, "a.example", chunks)
    uploads = Uploads(tmp_path)  # after a restart
    assert uploads.rounds() == [7]
    root = decode_digest(chunk_root(chunks))
    for index, chunk in enumerate(chunks):
        row = uploads.evidence(7, "a.example", index)
        assert bytes(row.chunk) == bytes(chunk)
        leaf = leaf_hash(row.chunk)
        verify_inclusion(leaf, index=index, size=3, proof=row.proof, root=root)


@pytest.mark.parametrize(
    ("number", "name", "index", "code"),
    [
        (8, "a.example", 0, "file-missing"),
        (7, "b.example", 0, "file-missing"),
        (7, "a.example", 3, "chunk-out-of-range"),
    ],
)
def test_an_upload_or_chunk_that_is_missing_is_named(
    tmp_path: Path,
    chunks: list[memoryview],
    number: int,
    name: str,
    index: int,
    code: str,
) -> None:
    uploads = Uploads(tmp_path)
    uploads.keep(7, "a.example", chunks)
    with refused(IncompleteError, code, match=f"{number}/{name}"):
        uploads.evidence(number, name, index)


def test_a_round_is_forgotten_alone_and_strange_files_are_no_rounds(
    tmp_path: Path, chunks: list[memoryview]
) -> None:
    uploads = Uploads(tmp_path)
    assert uploads.rounds() == []
    for number in (1, 2, 10):
        uploads.keep(number, "a.example", chunks)
    (tmp_path / "uploads" / "notes").mkdir()
    assert uploads.rounds() == [1, 2, 10]
    uploads.forget(2)
    uploads.forget(3)
    assert uploads.rounds() == [1, 10]


def test_a_full_disk_is_named(tmp_path: Path, chunks: list[memoryview]) -> None:
    (tmp_path / "uploads").write_text("")
    with refused(ResourceError, "file-unwritable", match="uploads"):
        Uploads(tmp_path).keep(1, "a.example", chunks)
