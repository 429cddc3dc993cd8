"""Tests of chunks: a vector is cut, checked and joined without loss."""

import numpy as np
import pytest

from tapestry.errors import ProtocolError
from tapestry.secagg.chunks import (
    CHUNK_BYTES,
    CHUNK_COORDINATES,
    assemble,
    check_sizes,
    chunk_leaves,
    chunk_root,
    count_chunks,
    cut,
    read_chunk,
)
from tapestry.tlog.merkle import leaf_hash, root
from tests.support.refusals import refused


def test_cutting_is_the_inverse_of_assembling() -> None:
    values = np.arange(CHUNK_BYTES // 4 + 3, dtype=np.uint32)
    pieces = cut(values)
    assert [len(piece) for piece in pieces] == [CHUNK_BYTES, 12]
    assert np.array_equal(assemble(pieces, length=values.size), values)
    with refused(ProtocolError, "chunk-count-differs", match="^1 chunks, want 2 "):
        assemble(pieces[:1], length=values.size)
    assert bytes(pieces[1]) == values[-3:].astype("<u4").tobytes()


@pytest.mark.parametrize(
    ("length", "chunks"),
    [(1, 1), (CHUNK_COORDINATES, 1), (CHUNK_COORDINATES + 1, 2)],
)
def test_a_vector_takes_as_many_chunks_as_its_length_needs(
    length: int, chunks: int
) -> None:
    assert count_chunks(length) == chunks
    assert len(cut(np.zeros(length, dtype=np.uint32))) == chunks


@pytest.mark.parametrize(
    ("sizes", "code", "values"),
    [
        ([CHUNK_BYTES], "chunk-count-differs", "^1 chunks, want 2 "),
        ([CHUNK_BYTES, 12, 0], "chunk-count-differs", "^3 chunks, want 2 "),
        ([CHUNK_BYTES, 8], "chunk-size-invalid", "1 of 8 bytes, want 12"),
        ([CHUNK_BYTES, 16], "chunk-size-invalid", "1 of 16 bytes, want 12"),
        ([12, CHUNK_BYTES], "chunk-size-invalid", "0 of 12 bytes"),
        ([CHUNK_BYTES - 4, 16], "chunk-size-invalid", "chunk 0 "),
    ],
)
def test_chunks_of_another_number_or_size_are_refused(
    sizes: list[int], code: str, values: str
) -> None:
    length = CHUNK_COORDINATES + 3
    check_sizes([bytes(CHUNK_BYTES), bytes(12)], length=length)
    chunks = [bytes(size) for size in sizes]
    with refused(ProtocolError, code, match=values):
        check_sizes(chunks, length=length)
    with refused(ProtocolError, code, match=values):
        assemble(chunks, length=length)


def test_a_chunk_of_broken_coordinates_is_refused() -> None:
    assert read_chunk(b"\1\0\0\0\0\1\0\0").tolist() == [1, 256]
    with refused(ProtocolError, "chunk-size-invalid", match="7 bytes"):
        read_chunk(bytes(7))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_root_is_that_of_rfc_6962_whatever_the_threads(threads: int) -> None:
    chunks = [b"abcd", b"efgh", b"ij.."]
    leaves = [leaf_hash(chunk) for chunk in chunks]
    assert chunk_leaves(chunks, threads=threads) == leaves
    assert chunk_root(chunks, threads=threads) == "sha256:" + root(leaves).hex()
    assert chunk_root(chunks[::-1]) != chunk_root(chunks)
