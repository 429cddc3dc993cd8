"""Masks: AES-256-CTR read as integers mod 2**32, many at once, at memory-bus speed.

A mask is the keystream of AES-256 in counter mode (NIST SP 800-38A, 6.5) under a key
that is used once, from counter zero, read as little-endian 32-bit integers. All
masks of a block are added while the block is in cache; ranges of blocks go to
threads, since the cipher releases the interpreter's lock. Both ends of a buffer
are aligned to 64 bytes, which is worth 4 % of the whole.
"""

import mmap
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tapestry.vectors import RingVector

BLOCK_COORDINATES = 1 << 16  # 256 KiB: block and keystream fit a 512 KiB cache
_GROUP = 64  # ciphers held at a time, so that cohorts of 1000 cost no memory
_ALIGNMENT = 64

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Mask:
    """One mask: its single-use key, and whether it is subtracted."""

    key: bytes
    negative: bool = False


def aligned_empty(size: int) -> RingVector:
    """Allocate integers that start on a cache line."""
    raw = np.empty(4 * size + _ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + 4 * size].view(np.uint32)


def keystream_into(key: bytes, *, start: int = 0) -> Callable[[memoryview], object]:
    """Return a function that fills buffers of up to a block with consecutive bytes.

    Args:
        key: 32 bytes, used for nothing else.
        start: The first coordinate; a multiple of 4, one cipher block.

    Raises:
        ValueError: ``start`` is not on a cipher block.
    """
    encrypt, zeros = _encryption(key, start=start), _zeros()

    def fill(target: memoryview) -> object:
        return encrypt(zeros[: len(target)], target)

    return fill


def _encryption(
    key: bytes, *, start: int
) -> Callable[[memoryview, memoryview], object]:
    """Return what adds the keystream bit by bit (XOR) to a source, into a target."""
    cipher = Cipher(algorithms.AES256(key), _counter(start))
    return cipher.encryptor().update_into


@lru_cache(maxsize=256)
def _counter(start: int) -> modes.CTR:
    """Count from a coordinate on; the same for all masks of a range."""
    if start % 4:
        raise ValueError(f"coordinate {start} is not on a cipher block")
    return modes.CTR((start // 4).to_bytes(16, "big"))


def add_masks(
    values: RingVector, masks: Iterable[Mask], *, start: int = 0, threads: int = 0
) -> None:
    """Add masks to a vector in place.

    Guarantees:
        Coordinate i of ``values`` gains integer ``start + i`` of each keystream,
        mod 2**32. Adding a mask and then its negative restores the vector.
        Extra memory does not grow with the vector or the number of masks.

    Args:
        values: The vector, or a part of it.
        masks: The masks; read once, a group at a time.
        start: The first coordinate of the part; a multiple of 4.
        threads: How many to use; 0 means one per available core.
    """
    group: list[Mask] = []
    for mask in masks:
        group.append(mask)
        if len(group) == _GROUP:
            _add_group(values, group, start=start, threads=threads)
            group = []
    if group:
        _add_group(values, group, start=start, threads=threads)


def in_ranges(length: int, work: Callable[[int, int], None], *, threads: int) -> None:
    """Call ``work(start, stop)`` on disjoint ranges of whole blocks, in threads."""
    blocks = -(-length // BLOCK_COORDINATES)
    parts = min(threads or available_cores(), blocks)
    if parts <= 1:
        work(0, length)
        return
    cuts = [blocks * part // parts * BLOCK_COORDINATES for part in range(parts)]
    spans = zip(cuts, [*cuts[1:], length], strict=True)
    with ThreadPoolExecutor(max_workers=parts) as pool:
        for done in [pool.submit(work, *span) for span in spans]:
            done.result()


def _add_group(
    values: RingVector, masks: Sequence[Mask], *, start: int, threads: int
) -> None:
    def work(first: int, last: int) -> None:
        ciphers = [
            (
                _encryption(mask.key, start=start + first),
                np.subtract if mask.negative else np.add,
            )
            for mask in masks
        ]
        buffer = aligned_empty(min(BLOCK_COORDINATES, last - first))
        for left in range(first, last, BLOCK_COORDINATES):
            block = values[left : min(left + BLOCK_COORDINATES, last)]
            stream = buffer[: block.size]
            target = stream.data.cast("B")
            zeros = _zeros()[: len(target)]
            for encrypt, apply in ciphers:
                encrypt(zeros, target)
                if sys.byteorder == "big":
                    stream.byteswap(inplace=True)
                apply(block, stream, block)

    in_ranges(values.size, work, threads=threads)


def available_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _zeros() -> memoryview:
    """Map a block of zeros that is never written, so that it takes no cache.

    Linux and macOS let all of it be one page, which stays in the first-level cache.
    """
    size = 4 * BLOCK_COORDINATES
    if sys.platform == "win32":
        return memoryview(bytes(size))
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return memoryview(mmap.mmap(-1, size, flags=private, prot=mmap.PROT_READ))
