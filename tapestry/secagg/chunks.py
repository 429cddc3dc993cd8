"""Chunks of a vector on the wire: 1 MiB each, under one Merkle root (RFC 6962, 2.1).

A coordinate takes 4 bytes, little-endian. Every chunk but the last is full.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tapestry.errors import ProtocolError
from tapestry.secagg.masks import aligned_empty, available_cores
from tapestry.tlog.merkle import leaf_hash, root
from tapestry.vectors import RingVector

CHUNK_BYTES = 1 << 20
CHUNK_COORDINATES = CHUNK_BYTES // 4


def count_chunks(length: int) -> int:
    """Return how many chunks a vector of that length takes."""
    return -(-length // CHUNK_COORDINATES)


def cut(values: RingVector) -> list[memoryview]:
    """Cut a vector into chunks without copying."""
    wire = values if sys.byteorder == "little" else values.byteswap()
    view = wire.data.cast("B").toreadonly()
    return [view[at : at + CHUNK_BYTES] for at in range(0, len(view), CHUNK_BYTES)]


def check_sizes(chunks: Sequence[bytes | memoryview], *, length: int) -> None:
    """Refuse anything but the chunks of a vector of that length.

    Raises:
        ProtocolError: There are too many or too few chunks, or one of them is too
            long or too short.
    """
    if len(chunks) != count_chunks(length):
        raise ProtocolError(
            f"{len(chunks)} chunks, want {count_chunks(length)} for {length}"
            " coordinates",
            code="chunk-count-differs",
        )
    left = 4 * length
    for index, chunk in enumerate(chunks):
        size = memoryview(chunk).nbytes
        want = min(left, CHUNK_BYTES)
        if size != want:
            raise ProtocolError(
                f"chunk {index} of {size} bytes, want {want}",
                code="chunk-size-invalid",
            )
        left -= size


def chunk_leaves(
    chunks: Sequence[bytes | memoryview], *, threads: int = 0
) -> list[bytes]:
    """Hash chunks into leaves, in threads."""
    workers = min(threads or available_cores(), len(chunks))
    if workers <= 1:
        return [leaf_hash(chunk) for chunk in chunks]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return list(pool.map(leaf_hash, chunks))


def chunk_root(chunks: Sequence[bytes | memoryview], *, threads: int = 0) -> str:
    """Compute the Merkle root over chunks, as a digest."""
    return "sha256:" + root(chunk_leaves(chunks, threads=threads)).hex()


def read_chunk(chunk: bytes | memoryview) -> RingVector:
    """Read a chunk as integers without copying.

    Raises:
        ProtocolError: Its size is not a multiple of 4 bytes.
    """
    size = memoryview(chunk).nbytes
    if size % 4:
        raise ProtocolError(
            f"chunk of {size} bytes, want whole coordinates of 4 bytes",
            code="chunk-size-invalid",
        )
    return np.frombuffer(chunk, dtype="<u4").astype(np.uint32, copy=False)


def assemble(chunks: Sequence[bytes | memoryview], *, length: int) -> RingVector:
    """Join the chunks of a vector; the inverse of cut.

    Raises:
        ProtocolError: The chunks are not those of a vector of that length.
    """
    check_sizes(chunks, length=length)
    values = aligned_empty(length)
    start = 0
    for chunk in chunks:
        part = read_chunk(chunk)
        values[start : start + part.size] = part
        start += part.size
    return values
