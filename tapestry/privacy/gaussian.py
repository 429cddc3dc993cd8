"""Secret randomness of one node, from AES-256-CTR: Gaussian noise and Poisson samples.

A party that can predict the noise can subtract it, so a statistical generator is not
enough. Nor is naive floating point: which numbers ``x + noise`` can reach depends on
``x`` (arXiv 2112.05307). Here the sum is first rounded to a grid far below the
noise, and the noise, drawn in float64, is rounded to the same grid before it is
added. Every grid point is reachable from every sum, and since rounding the noise is
rounding the result, privacy is that of exact Gaussian noise on the rounded sum.
``clipping.SLACK`` pays for rounding the sum.
"""

import math
import os
import secrets
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_BLOCK = 1 << 15  # pairs of normals at a time, so that all buffers stay in cache
_GRID_BITS = 30
_LOW_63 = (1 << 63) - 1
_LOW_53 = (1 << 53) - 1


class NoiseSource:
    """A stream of secret random numbers.

    Guarantees:
        No part of the stream is used twice: not by two draws, not by a copy, not by
        a forked process. The work of a draw does not depend on what is drawn.
    """

    def __init__(self, key: bytes) -> None:
        cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16)))
        self._stream = cipher.encryptor()
        self._process = os.getpid()
        self._zeros = bytes(16 * _BLOCK)
        self._buffer = bytearray(16 * _BLOCK + 16)
        self._words = torch.frombuffer(self._buffer, dtype=torch.int64)[: 2 * _BLOCK]

    @classmethod
    def fresh(cls) -> Self:
        """Start a stream from a fresh random key."""
        return cls(secrets.token_bytes(32))

    @classmethod
    def unsafe_from_key(cls, key: bytes) -> Self:
        """Start a stream that can be repeated from the key; for tests only."""
        return cls(key)

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Draw uniform 64-bit words, shape (count,)."""
        drawn = np.empty(count, dtype=np.uint64)
        for start in range(0, count, 2 * _BLOCK):
            piece = min(count - start, 2 * _BLOCK)
            self._refill(8 * piece)
            drawn[start : start + piece] = self._words[:piece].numpy().view(np.uint64)
        return drawn

    def coins(self, count: int, *, probability: float) -> npt.NDArray[np.bool_]:
        """Toss independent coins, shape (count,): one Poisson sample.

        Raises:
            ValueError: The probability is not in [0, 1].
        """
        if not 0 <= probability <= 1:
            raise ValueError(f"probability {probability} is not in [0, 1]")
        threshold = math.floor(probability * 2.0**64)
        words = self.words(count)
        if threshold >= 1 << 64:
            return np.ones(count, dtype=np.bool_)
        return words < np.uint64(threshold)

    def normals(self, out: torch.Tensor) -> None:
        """Fill a float64 vector with standard normals (Box and Muller 1958).

        Edge cases:
            Beyond 9.3 deviations nothing is drawn; that has probability 2**-63.
        """
        for start in range(0, out.numel(), 2 * _BLOCK):
            piece = out[start : start + 2 * _BLOCK]
            half = (piece.numel() + 1) // 2
            self._refill(16 * half)
            radius = (self._words[:half] & _LOW_63).to(torch.float64)
            radius.add_(0.5).mul_(2.0**-63).log_().mul_(-2.0).sqrt_()
            angle = (self._words[half : 2 * half] & _LOW_53).to(torch.float64)
            angle.mul_(2.0 * math.pi * 2.0**-53)
            torch.mul(torch.cos(angle), radius, out=piece[:half])
            rest = piece.numel() - half
            torch.mul(torch.sin(angle[:rest]), radius[:rest], out=piece[half:])

    def _refill(self, size: int) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("a noise source does not survive a fork")
        self._stream.update_into(memoryview(self._zeros)[:size], self._buffer)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a noise source is never copied: noise would repeat")


def add_gaussian(total: torch.Tensor, *, stddev: float, source: NoiseSource) -> None:
    """Add Gaussian noise to a sum, in place.

    Guarantees:
        The result is a multiple of a power of two ``g`` below ``stddev * 2**-30``
        that depends on ``stddev`` only. It is distributed as the sum rounded to
        ``g`` plus N(0, stddev**2) noise, rounded to ``g``.

    Raises:
        ValueError: The deviation is not positive and finite, or the total is not a
            contiguous float64 vector.
    """
    if not 0 < stddev < math.inf:
        raise ValueError(f"noise of deviation {stddev} is not a positive number")
    if total.dtype != torch.float64 or total.dim() != 1 or not total.is_contiguous():
        raise ValueError("noise is added to a contiguous float64 vector")
    grid = 2.0 ** (math.frexp(stddev)[1] - 1 - _GRID_BITS)
    block = torch.empty(2 * _BLOCK, dtype=torch.float64)
    for start in range(0, total.numel(), 2 * _BLOCK):
        piece = total[start : start + 2 * _BLOCK]
        noise = block[: piece.numel()]
        source.normals(noise)
        noise.mul_(stddev / grid).round_()
        piece.mul_(1.0 / grid).round_().add_(noise).mul_(grid)
