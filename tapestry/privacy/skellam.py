"""Skellam noise for the ring, in shares that add up to full scale in the masked sum.

A Skellam variable is the difference of two Poisson variables of equal mean. Sums of
Skellam variables are Skellam, so each of ``h`` honest nodes adds a share of variance
``s**2 / h`` and the sum has at least ``s**2``, whichever other nodes drop out or cheat.

Accounting treats the noise as Gaussian, rounded to integers, and pays for the
difference (``accounting._closeness``). At the scale of a 2**32 ring that is far below
any epsilon of interest.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tapestry.vectors import RingVector

if TYPE_CHECKING:
    from tapestry.privacy.gaussian import NoiseSource  # loads torch

MIN_VARIANCE = 1e4
MAX_VARIANCE = 2.0**60
_BLOCK = 1 << 15
_MANTISSA = 2.0**-53

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def draw(count: int, *, variance: float, source: "NoiseSource") -> Integers:
    """Draw integer noise, shape (count,).

    Args:
        count: How many.
        variance: Of each; between 10**4, below which a Gaussian is too far away for
            the accounting, and 2**60.
        source: Where the randomness comes from.

    Raises:
        ValueError: The variance is outside that range.
    """
    if not MIN_VARIANCE <= variance <= MAX_VARIANCE:
        raise ValueError(f"variance {variance:g} is not between 10**4 and 2**60")
    drawn = np.empty(count, dtype=np.int64)
    for start in range(0, count, _BLOCK):
        size = min(count - start, _BLOCK)
        part = slice(start, start + size)
        drawn[part] = draw_poisson(size, mean=variance / 2, source=source)
        drawn[part] -= draw_poisson(size, mean=variance / 2, source=source)
    return drawn


def add_noise(values: RingVector, *, variance: float, source: "NoiseSource") -> None:
    """Add integer noise to a vector of the ring, in place, block by block.

    Guarantees:
        What is added to each coordinate is independent of everything else, and of
        the stated variance; sums wrap around mod 2**32.

    Raises:
        ValueError: The variance is not between 10**4 and 2**60.
    """
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        block += draw(block.size, variance=variance, source=source).astype(np.uint32)


def draw_poisson(count: int, *, mean: float, source: "NoiseSource") -> Integers:
    """Draw offsets from the mean's floor by transformed rejection (Hoermann 1993).

    Returns Poisson minus ``floor(mean)``, which keeps all digits at large means.
    """
    drawn = np.empty(count, dtype=np.int64)
    missing = count
    while missing:
        got = _candidates(missing + missing // 4 + 16, mean=mean, source=source)
        got = got[:missing]
        drawn[count - missing : count - missing + got.size] = got
        missing -= got.size
    return drawn


def _candidates(count: int, *, mean: float, source: "NoiseSource") -> Integers:
    words = source.words(2 * count) >> np.uint64(11)
    uniform = (words.astype(np.float64) + 0.5) * _MANTISSA
    u, v = uniform[:count] - 0.5, uniform[count:]
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    edge = 0.5 - np.abs(u)
    whole = math.floor(mean)
    k = np.floor((2 * a / edge + b) * u + (mean - whole) + 0.43)  # minus whole
    accepted = (edge >= 0.07) & (v <= 0.9277 - 3.6224 / (b - 2))
    rest = np.flatnonzero(~accepted & (k >= -whole) & ((edge >= 0.013) | (v <= edge)))
    if rest.size:
        inverse = math.log(1.1239 + 1.1328 / (b - 3.4))
        e = edge[rest]
        left = np.log(v[rest]) + inverse - np.log(a / (e * e) + b)
        accepted[rest] = left <= log_probability(k[rest], mean=mean)
    return k[accepted].astype(np.int64)


def log_probability(offset: Floats, *, mean: float) -> Floats:
    """Compute the log of the Poisson probability at ``floor(mean) + offset``.

    By the saddle point (Loader 2000): ``-mean + k log(mean) - log(k!)`` itself loses
    all digits at large means.
    """
    k = math.floor(mean) + offset
    x = (offset - (mean - math.floor(mean))) / mean  # k / mean - 1
    small = np.abs(x) < 0.02
    series = 0.5 * np.ones_like(x)
    power = x.copy()
    for n in (6, 12, 20, 30, 42, 56, 72):  # (1 + x) log(1 + x) - x, term by term
        series -= power / n
        power *= -x
    series *= x * x
    with np.errstate(divide="ignore", invalid="ignore"):
        direct = (1 + x) * np.log1p(x) - x
        stirling = 1 / (12 * k) - 1 / (360 * k**3)
        deviance = mean * np.where(small, series, direct)
        return -deviance - 0.5 * np.log(2 * math.pi * k) - stirling
