"""Empirical privacy audit: a lower bound on epsilon from one run.

Canaries are units whose gradient is one coordinate, clipped to the bound. Each is
put into the data by a fair coin; afterwards its coordinate tells how far it moved.
If training is as private as claimed, the two groups cannot differ by more than the
claim allows (Steinke et al. 2023; the Gaussian form of Mahloujifar et al. 2025).

The bound can only ever convict: a run that stays below its claim may still leak.
"""

import math

import numpy as np
import numpy.typing as npt
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from scipy import stats

Scores = npt.NDArray[np.float64]


def gaussian_bound(
    included: Scores, excluded: Scores, *, target_delta: float, confidence: float
) -> float:
    """Compute the least epsilon that explains the distance of two groups of canaries.

    Guarantees:
        If scores are independent and normal, the probability that a training that
        keeps ``epsilon`` is given a bound above it is at most 1 - ``confidence``.

    Args:
        included: How far each canary of the data moved its coordinate, shape (m1,).
        excluded: The same for canaries that were left out, shape (m0,).
        target_delta: The delta of the claim.
        confidence: For example 0.999.

    Raises:
        ValueError: A group has fewer than ten scores.
    """
    if min(included.size, excluded.size) < 10:
        raise ValueError("an audit needs ten canaries of each kind")
    shift = _lower_shift(included, excluded, confidence=confidence)
    if shift <= 0:
        return 0.0
    return float(get_epsilon_gaussian(1 / shift, target_delta))


def _lower_shift(included: Scores, excluded: Scores, *, confidence: float) -> float:
    """Bound from below the shift between the groups, in deviations of the noise.

    Half of the error is for the difference of means (Welch), half for the deviation.
    """
    error = (1 - confidence) / 2
    size = excluded.size
    noise = excluded.var(ddof=1)
    spread = math.sqrt(included.var(ddof=1) / included.size + noise / size)
    freedom = min(included.size, size) - 1
    apart = included.mean() - excluded.mean() - stats.t.isf(error, freedom) * spread
    inflate = math.sqrt((size - 1) / stats.chi2.ppf(error, size - 1))
    return float(apart / (math.sqrt(noise) * inflate))
