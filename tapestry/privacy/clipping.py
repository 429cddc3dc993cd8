"""Clipping: bounds on what one unit, or one node, can contribute.

Both bounds are L2. A vector that is not finite counts as zero, because refusing it
would show the coordinator a dropout that depends on private records.
"""

import math

import numpy as np
import numpy.typing as npt

from tapestry.vectors import Clipped, FloatVector

SLACK = 2.0**-10
"""Share of a unit's bound that is given up to rounding.

It pays for norms computed in float32 (relative error below 1e-5), for what the parts
of others move by when a unit joins their batch (about 1e-6, measured), and for the grid
on which noise is added, so that the accounted sensitivity is really kept. A step of
that grid is below 2**-30 of the noise's deviation (``gaussian.add_gaussian``), so two
neighbouring sums are rounded apart by less than ``2**-30 * multiplier * sqrt(d)`` of
the bound; ``check_rounding`` keeps that below half of the slack.
"""


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
    length = norm(update)
    if length <= clip_norm:
        return Clipped(values=update.copy(), clip_norm=clip_norm)
    values = update * np.float32(clip_norm / length)
    while norm(values) > clip_norm:  # float32 may round up; twice at most
        values *= np.float32(1 - 2.0**-20)
    return Clipped(values=values, clip_norm=clip_norm)


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


def check_rounding(noise_multiplier: float, *, length: int) -> None:
    """Refuse noise so large, or a vector so long, that rounding outgrows the slack.

    Raises:
        ValueError: The rounding of all coordinates exceeds half of the slack.
    """
    if noise_multiplier * math.sqrt(length) > SLACK / 2 * 2.0**30:
        raise ValueError(
            f"a noise multiplier of {noise_multiplier:g} on {length} coordinates is"
            " rounded too coarsely; train fewer coordinates or with less noise"
        )


def norm(vector: FloatVector) -> float:
    """Compute the L2 norm, summed in float64 without a float64 copy of the whole."""
    total = 0.0
    for start in range(0, vector.size, 1 << 20):
        block = vector[start : start + (1 << 20)].astype(np.float64)
        total += float(block @ block)
    return math.sqrt(total)


def _check(clip_norm: float) -> None:
    if not 0 < clip_norm < math.inf:
        raise ValueError(f"clip norm {clip_norm} is not a positive number")
