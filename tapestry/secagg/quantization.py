"""Quantization of updates to integers mod 2**32, and of their sum back to a mean.

A node multiplies its update by ``2**scale_bits``, cuts every coordinate to
``[-bound, bound]`` and rounds it to a whole number, at random and without bias. With
shared noise its update is whole numbers already (``privacy.clipping``).
The result is stored in two's complement. The bound leaves room for the whole
cohort: ``n * bound < 2**31``, so the sum never wraps around.

Work goes block by block, so that a block stays in cache from the first step to the
last, and in threads over ranges of blocks.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import numpy as np
import numpy.typing as npt

from tapestry.encoding import decode_decimal
from tapestry.errors import ProtocolError
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.secagg.masks import (
    BLOCK_COORDINATES,
    Random,
    aligned_empty,
    in_ranges,
    keystream_into,
)
from tapestry.vectors import Clipped, FloatVector, Quantized, RingVector

NORM_SLACK = 1e-5  # room for other members' arithmetic in ``check_sum``
_TAIL = 12.0  # deviations: a normal variable goes beyond once in 10**32
_STEP = 1 << 15  # coordinates at a time: six buffers of 128 KiB fit a 1 MiB cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """The grid on which updates of a round become integers; equal on every node."""

    length: int
    scale_bits: int
    bound: int  # the largest integer of one node, in grid steps
    clip_norm: float
    noise: float = 0.0  # deviation of one node's share of noise, in grid steps

    @classmethod
    def of(cls, manifest: RoundManifest) -> Self:
        """Read the encoding from a manifest.

        Raises:
            ProtocolError: The sum of the cohort and its noise would not fit 31
                bits, or clip_value is less than one step of the grid.
        """
        steps = Fraction(manifest.clip_value) * 2**manifest.scale_bits
        bound = math.floor(steps)
        cohort = len(manifest.participants)
        if bound < 1:
            raise ProtocolError(
                f"clip_value {manifest.clip_value} is less than one grid step of"
                f" 2**-{manifest.scale_bits}; raise scale_bits or clip_value",
                code="clip-value-below-grid",
            )
        share = NoiseShare.of(manifest)
        noise = share.deviation if share else 0.0
        if cohort * bound + _TAIL * math.sqrt(cohort) * noise >= 2**31:
            raise ProtocolError(
                f"{cohort} nodes times {bound} grid steps, and noise of {noise:.0f},"
                " do not fit 31 bits; lower scale_bits or clip_value",
                code="sum-may-overflow",
            )
        return cls(
            length=manifest.length,
            scale_bits=manifest.scale_bits,
            bound=bound,
            clip_norm=decode_decimal(manifest.clip_norm),
            noise=noise,
        )


def quantize(
    clipped: Clipped,
    *,
    encoding: Encoding,
    random: Random,
    threads: int = 0,
    out: RingVector | None = None,
) -> Quantized:
    """Round a clipped update to the grid, at random and without bias.

    Guarantees:
        Every coordinate is within ``encoding.bound`` of zero. The expectation of
        a coordinate that was not cut is its value, up to 2**-24 of a grid step.
        The random bits are AES-256-CTR under a key that ``random`` draws.

    Args:
        clipped: The update, in the layout of the round; finite and within its norm, as
            ``clipping.clip`` leaves it. This looks at neither again.
        encoding: The grid of the round.
        random: Draws the 32-byte key of the rounding bits; secure outside tests.
        threads: How many to use; 0 means one per available core.
        out: Where the result goes; by default into new memory. It may be the memory
            of the update, ``clipped.values.view(np.uint32)``, whose values are then
            gone: for an owner that needs them no more.

    Raises:
        ValueError: The vector has another length or another clip_norm than the
            round, or ``out`` does not fit: a bug, which does not depend on records.
    """
    values = clipped.values
    if values.shape != (encoding.length,) or values.dtype != np.float32:
        raise ValueError(f"update of {values.shape}, want ({encoding.length},) float32")
    if clipped.clip_norm > encoding.clip_norm:
        raise ValueError(f"clipped to {clipped.clip_norm}, not {encoding.clip_norm}")
    result = _target(values, out)
    key = random(32)

    def work(start: int, stop: int) -> None:
        _round_range(values, result, encoding=encoding, key=key, span=(start, stop))

    in_ranges(encoding.length, work, threads=threads)
    return Quantized(values=result)


def _target(values: FloatVector, out: RingVector | None) -> RingVector:
    if out is None:
        return aligned_empty(values.size)
    fits = out.shape == values.shape and out.dtype == np.uint32
    if not (fits and out.flags.c_contiguous):
        raise ValueError(f"out of {out.shape} {out.dtype}, want {values.shape} uint32")
    if np.may_share_memory(out, values) and out.ctypes.data != values.ctypes.data:
        raise ValueError("out overlaps the update, but is not the same memory")
    return out


def _round_range(
    values: FloatVector,
    result: RingVector,
    *,
    encoding: Encoding,
    key: bytes,
    span: tuple[int, int],
) -> None:
    """Round one range of coordinates, a block at a time.

    Adding a random number before ``floor`` in float32 would bias the result, so 24
    random bits are compared with the fractional part.
    """
    bits = keystream_into(key, start=span[0])
    size = min(_STEP, span[1] - span[0])
    limit = _float_below(encoding.bound)
    scale = np.float32(2.0**encoding.scale_bits)
    may_exceed = encoding.clip_norm * float(scale) > limit
    grid = aligned_empty(size).view(np.float32)
    draw = aligned_empty(size)
    chance = aligned_empty(size).view(np.float32)
    up = np.empty(size, dtype=np.bool_)
    for start in range(span[0], span[1], _STEP):
        stop = min(start + _STEP, span[1])
        n = stop - start
        x, g, u, c, b = values[start:stop], grid[:n], draw[:n], chance[:n], up[:n]
        out = result[start:stop].view(np.int32)
        np.multiply(x, scale, out=g)
        if may_exceed:
            np.clip(g, -limit, limit, out=g)
        np.floor(g, out=c)
        np.copyto(out, c, casting="unsafe")
        np.subtract(g, c, out=g)  # within 2**-25 of the exact fraction
        bits(u.data.cast("B"))
        np.right_shift(u, 8, out=u)
        np.copyto(c, u.view(np.int32), casting="unsafe")
        np.multiply(g, np.float32(2.0**24), out=g)
        np.less(c, g, out=b)
        np.add(out, b, out=out)


def _float_below(number: int) -> np.float32:
    """Return the largest float32 that is at most a positive integer."""
    nearest = np.float32(number)
    if int(nearest) > number:
        return np.float32(np.nextafter(nearest, np.float32(0)))
    return nearest


def check_sum(total: RingVector, *, encoding: Encoding, survivors: int) -> None:
    """Refuse a sum that honest updates cannot give.

    Guarantees:
        Every coordinate is within ``survivors * bound`` of zero, and the L2 norm
        within ``survivors * (clip_norm + rounding)``, plus what noise that nodes
        share reaches but once in 10**22 sums. One node can therefore move the sum by
        no more than what any honest node could, and that much.

    Raises:
        ProtocolError: A coordinate of the sum, or its L2 norm, is beyond what the
            encoding allows: some node, unknown which, broke it.
    """
    signed = total.view(np.int32)
    noise = encoding.noise * math.sqrt(survivors)
    limit = survivors * encoding.bound + _TAIL * noise
    high, low = int(signed.max()), int(signed.min())
    if high > limit or low < -limit:
        raise ProtocolError(
            f"the sum has a coordinate outside the range of the round: {low} to {high}"
            f" grid steps, {survivors} survivors give at most {limit:.0f}",
            code="sum-out-of-range",
        )
    squares = 0.0
    for start in range(0, total.size, BLOCK_COORDINATES):
        wide = signed[start : start + BLOCK_COORDINATES].astype(np.float64)
        squares += float(np.dot(wide, wide))
    rounding = math.sqrt(total.size)  # at most one grid step per coordinate
    steps = encoding.clip_norm * (1 + NORM_SLACK) * 2**encoding.scale_bits
    reach = survivors * (steps + rounding) + noise * (rounding + _TAIL)
    length = math.sqrt(squares)
    if length > reach:
        raise ProtocolError(
            f"the sum has an L2 norm of {length:.0f} grid steps, {survivors} survivors"
            f" give at most {reach:.0f}",
            code="sum-norm-too-large",
        )


def mean(total: RingVector, *, encoding: Encoding, survivors: int) -> FloatVector:
    """Read a sum of integers as the mean of the survivors' updates.

    Raises:
        ValueError: The number of survivors is below 1.
    """
    if survivors < 1:
        raise ValueError("a mean needs at least one survivor")
    factor = 1 / survivors / 2**encoding.scale_bits
    result: FloatVector = np.empty(total.shape, dtype=np.float32)
    signed: npt.NDArray[np.int32] = total.view(np.int32)
    for start in range(0, total.size, BLOCK_COORDINATES):
        stop = start + BLOCK_COORDINATES
        np.multiply(
            signed[start:stop], factor, out=result[start:stop], casting="unsafe"
        )
    return result
