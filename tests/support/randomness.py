"""Statistics for the attack tests: fixed randomness, and what counts as uniform."""

import hashlib

import numpy as np

from tapestry.vectors import RingVector

CHI_SQUARE_255 = 402.68  # 255 degrees of freedom, p = 1e-8


class FixedRandom:
    """Looks random, is the same in every run. For tests alone."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()
        self._calls = 0

    def __call__(self, size: int) -> bytes:
        self._calls += 1
        state = self._seed + self._calls.to_bytes(8, "big")
        return hashlib.shake_256(state).digest(size)


def chi_square(values: RingVector) -> float:
    """Compare the bytes of a vector with uniform ones: 256 bins."""
    counts = np.bincount(values.view(np.uint8), minlength=256)
    want = 4 * values.size / 256
    return float(((counts - want) ** 2).sum() / want)


def correlation(a: RingVector, b: RingVector) -> float:
    """Correlate two vectors of integers, read as signed."""
    x = a.view(np.int32).astype(np.float64)
    y = b.view(np.int32).astype(np.float64)
    x -= x.mean()
    y -= y.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def looks_uniform(values: RingVector) -> bool:
    """Say whether the bytes of a vector pass at p > 1e-8.

    A uniform vector fails once in a hundred million draws, so a test that asks a few
    dozen times has no false alarm. Of 100,000 bytes, one in a hundred that is zero
    is enough to fail.
    """
    return chi_square(values) < CHI_SQUARE_255
