"""Clipping: bounds on what one unit, or one node, can contribute.

All bounds are L2, all norms are ``norm``. A gradient that is not finite counts as zero,
of its unit alone: refusing it would show the coordinator a dropout that depends on
private records.

Nothing between a record and the noise may branch on data unless it brings no two
inputs further apart. The functions for it are in two groups:

``factors``, ``add_unit``  bound one unit, whatever the others are: a unit more or less
    moves a sum by what that unit adds.
``bound_sum``  bounds a node's sum of integers and brings no two sums further apart than
    it says.

``clip`` is for vectors that are noised already, or never.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tapestry.vectors import Clipped, FloatVector, IntegerVector

DRIFT = 2.0**-16
"""Share of the clip norm by which a unit moves the parts of its batch mates, measured.

For noise of one node, where a unit shares its physical batch with about 16 others whom
coins chose (``tapestry_node.training.dp_sgd``): each part comes out of float32, whose
last bits show who is in the batch. No proof bounds that. A search for the worst
neighbours (``benchmarks/sensitivity.py``) gave 7.9e-6 over the 300 that it has tried
so far, which is rounded up to 1.5e-5; the accountant pays for a hundred times as much.
Below a clip norm of a hundredth of what gradients usually have, float32 itself is
coarser, and nothing was measured.
"""

SLACK = 2.0**-8
"""Share of a unit's bound that is given up to rounding with noise of one node.

The accountant pays for the whole bound. The slack is more than 100 times ``DRIFT``,
``NORM_ERROR``, and 2**-11 for the grid on which noise is added: a step of that is below
2**-30 of the noise's deviation (``gaussian.add_gaussian``), so two neighbouring sums
are rounded apart by less than ``2**-30 * multiplier * sqrt(d)`` of the bound, which
``check_rounding`` compares.
With shared noise no unit moves another: ``noise_shares`` has the slack for that.
"""

ROUNDING = 2.0**-11
"""The part of ``SLACK`` that the grid of the noise may use."""

NORM_ERROR = 2.0**-30
"""More than the relative error of ``norm``: the derivation stands there."""

_BLOCK = 1 << 20
_HALF = 16  # bits of a coordinate below 2**31


def clip(update: FloatVector, *, clip_norm: float) -> Clipped:
    """Scale an update down until its L2 norm is at most ``clip_norm``.

    Guarantees:
        The norm of the result, computed in float64, is at most ``clip_norm``; shape
        and direction are the input's. An update within the bound keeps its values.

    Edge cases:
        A zero update stays zero. One NaN or infinite entry makes the whole update
        zero.

    Args:
        update: Locally trained minus shared parameters, shape (d,); not changed.
        clip_norm: The bound.

    Raises:
        ValueError: The bound is not a positive number.
    """
    _check(clip_norm)
    if not np.isfinite(update).all():
        return Clipped(values=np.zeros_like(update), clip_norm=clip_norm)
    length = norm([update])
    if length <= clip_norm:
        return Clipped(values=update.copy(), clip_norm=clip_norm)
    factor = np.float32(clip_norm / length * (1 - 2.0**-22))  # float32 may round up
    return Clipped(values=update * factor, clip_norm=clip_norm)


def factors(
    norms: npt.NDArray[np.float64], *, clip_norm: float
) -> npt.NDArray[np.float64]:
    """Compute the factor that clips each unit's gradient.

    Guarantees:
        ``factor * norm <= clip_norm * (1 - SLACK)``. No factor exceeds 1 or depends
        on another unit.

    Edge cases:
        A norm that is not finite gives 0: the caller must not multiply a NaN by it
        but leave that gradient out.

    Args:
        norms: L2 norm of each unit's gradient, shape (units,).
        clip_norm: The bound.

    Raises:
        ValueError: The bound is not a positive number.
    """
    _check(clip_norm)
    bound = clip_norm * (1 - SLACK)
    finite = np.isfinite(norms)
    safe = np.where(finite & (norms > bound), norms, bound)
    return np.where(finite, bound / safe, 0.0)


def add_unit(
    total: IntegerVector,
    gradient: Sequence[FloatVector],
    *,
    scale: float,
    bound: int,
) -> float:
    """Add the gradient of one unit to a sum of integers, clipped; return its norm.

    Guarantees:
        What is added depends on this gradient alone and is ``v`` with ``v @ v <=
        bound**2``, exactly: each coordinate of the gradient times ``factor`` in
        float64, cut towards zero. Proof: ``factor`` is at most ``bound / length`` less
        2**-29 of it, ``length`` is at least the norm less 2**-30 of it, and a product
        of float64 is at most 2**-53 of it too large; so the norm of the products is
        below ``bound``. Cutting makes no coordinate larger.
        Integers are added: no order of units gives another sum.

    Edge cases:
        One NaN or infinite entry adds nothing and returns a norm that is not finite.
        Cutting loses less than one step of each coordinate of each unit, towards zero.

    Args:
        total: Shape (d,), changed in place.
        gradient: The pieces of a vector of shape (d,), float32.
        scale: Steps of the grid in one unit of the gradient.
        bound: The largest norm, in steps. Times the units it must be below 2**63:
            ``Encoding.of`` keeps it below 2**34 for any noise of finite epsilon.
    """
    length = norm(gradient)
    if not math.isfinite(length):
        return length
    reach = length * (1 + 2 * NORM_ERROR)
    factor = scale if scale * reach <= bound else bound / reach
    start = 0
    for piece in gradient:
        for first in range(0, piece.size, _BLOCK):
            steps = piece[first : first + _BLOCK] * np.float64(factor)
            total[start : start + steps.size] += steps.astype(np.int64)
            start += steps.size
    return length


def bound_sum(
    total: IntegerVector, *, clip_norm: int, clip_value: int
) -> IntegerVector:
    """Bound a node's sum of integers: every coordinate, and the L2 norm.

    Guarantees:
        No coordinate of the result exceeds ``clip_value``, and its norm does not exceed
        ``clip_norm``. Two sums come out at most ``sqrt(d) * (1 + 2**-17)`` further
        apart than they went in. Proof: cutting coordinates to an interval brings no
        two vectors further apart, nor does scaling down to a ball (both are
        projections on convex sets). The factor comes from the exact sum of squares
        and is wrong by less than 2**-49 of it, which on a vector below
        ``2**31 * sqrt(d)`` is ``2**-18 * sqrt(d)``, for each of two vectors. Cutting
        two coordinates towards zero brings them less than 1 further apart.

    Args:
        total: In steps of the grid, shape (d,); not changed.
        clip_norm: The largest norm, in steps.
        clip_value: The largest coordinate, in steps; below 2**31.
    """
    cut = np.clip(total, -clip_value, clip_value)
    squares = _squares(cut)
    if squares > clip_norm**2:
        factor = clip_norm / math.sqrt(squares) * (1 - 2.0**-50)
        for start in range(0, cut.size, _BLOCK):
            block = cut[start : start + _BLOCK]
            block[:] = (block * factor).astype(np.int64)
    return cut


def check_rounding(noise_multiplier: float, *, length: int) -> None:
    """Refuse noise so large, or a vector so long, that rounding outgrows the slack.

    Raises:
        ValueError: The rounding of all coordinates exceeds its part of the slack.
    """
    if noise_multiplier * math.sqrt(length) > ROUNDING * 2.0**30:
        raise ValueError(
            f"a noise multiplier of {noise_multiplier:g} on {length} coordinates is"
            " rounded too coarsely; train fewer coordinates or with less noise"
        )


def norm(pieces: Sequence[FloatVector]) -> float:
    """Compute the L2 norm of a float32 vector that is given in pieces.

    Guarantees:
        It is not finite if and only if an entry is not; otherwise its relative error
        is below 2**-30, whatever the order of additions: squares of float32 are exact
        in float64 and neither overflow nor vanish, and a sum of n of them is wrong by
        less than ``n * 2**-53``, where no block and no list of blocks is longer than
        2**20 (a vector below 2**40 coordinates).
    """
    total = 0.0
    for piece in pieces:
        for start in range(0, piece.size, _BLOCK):
            block = piece[start : start + _BLOCK].astype(np.float64)
            total += float(block @ block)
    return math.sqrt(total)


def _squares(values: IntegerVector) -> int:
    """Sum the squares of integers below 2**31, exactly."""
    total = 0
    for start in range(0, values.size, _BLOCK):
        block = np.abs(values[start : start + _BLOCK])
        high, low = block >> _HALF, block & ((1 << _HALF) - 1)
        parts = (int(high @ high), int(high @ low), int(low @ low))
        total += (parts[0] << 2 * _HALF) + (parts[1] << _HALF + 1) + parts[2]
    return total


def _check(clip_norm: float) -> None:
    if not 0 < clip_norm < math.inf:
        raise ValueError(f"clip norm {clip_norm} is not a positive number")
