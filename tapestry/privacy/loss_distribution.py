"""Privacy loss distributions of Poisson-subsampled Gaussian steps, on one grid.

The privacy loss of an outcome is the logarithm of its probability under one of two
neighbours over that under the other. A composition adds losses up, so its distribution
is the convolution of those of its steps; delta at an epsilon is the mean of
``1 - exp(epsilon - loss)`` over the losses above epsilon. Both neighbours take the part
of the first (a record is added, a record is removed), and the larger epsilon counts.

Losses lie on ``_CELLS`` multiples of an interval, which is doubled until all that was
composed fits: few steps are counted on a fine grid, many on a coarse one. The loss of
an outcome between two multiples is split over both, such that its probabilities under
both neighbours stay as they are ("connect the dots", arXiv 2207.04380); that never
lowers delta, and neither does the next grid. Spectra are multiplied, never convolved
again: a further step costs the same however many were composed before.

Guarantees:
    Epsilon is an upper bound. What leaves the grid (far tails of a step, the Chernoff
    bound on the far tail of the sum) and the rounding of the Fourier transform are
    added to delta. More steps never give a smaller epsilon, but for that rounding.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy import fft
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Mechanism = tuple[float, float]  # noise multiplier, sampling rate

_CELLS = 1 << 15
_FINEST = 2.0**-13  # interval of level 0
_LEVELS = 14
_FAR = 9.0  # deviations; beyond lies less than 1e-18 of a step
_TAIL = 46.0  # less than exp(-46) of the sum leaves the grid
_ROUNDING = 2.0**-48  # of delta, by each step
_LARGEST = 600.0  # epsilon that is told; exp() of it still fits a float
_ORDERS = 2.0 ** np.arange(-1, 10)  # of the moments that bound the tail


@dataclass(frozen=True, slots=True, kw_only=True)
class _Masses:
    """Probabilities of the losses of one step, from a first cell on."""

    first: int
    probabilities: Reals
    infinite: float  # probability of what is counted as an infinite loss

    def spectrum(self, steps: int) -> NDArray[np.complex128]:
        """Return the Fourier transform after some equal steps."""
        cells = np.zeros(_CELLS)
        cells[: len(self.probabilities)] = self.probabilities
        power: NDArray[np.complex128] = fft.rfft(np.roll(cells, self.first))
        result = np.ones_like(power)
        while steps:
            if steps & 1:
                result = result * power
            power, steps = power * power, steps >> 1
        return result

    def log_moments(self, interval: float) -> Reals:
        """Return the logarithm of the mean of exp(order * loss), for all orders."""
        cells = np.arange(self.first, self.first + len(self.probabilities))
        moments = np.empty(len(_ORDERS))
        with np.errstate(over="ignore", invalid="ignore"):
            power = np.exp(_ORDERS[0] * interval * cells)
            for at in range(len(_ORDERS)):
                moments[at] = np.log(power @ self.probabilities)
                power = power * power
        return np.where(np.isnan(moments), math.inf, moments)


class LossDistribution:
    """The privacy loss of all steps that were added so far."""

    def __init__(self) -> None:
        self._counts: dict[Mechanism, int] = {}
        self._level = 0
        self._restart()

    def update(self, counts: Mapping[Mechanism, int]) -> None:
        """Compose up to these numbers of steps, each at least what it was before."""
        self._counts = dict(counts)

    def epsilon(self, *, target_delta: float) -> float:
        """Return the epsilon at a delta; infinite where no grid reaches far enough."""
        while not self._compose():
            self._level += 1
            self._restart()
            if self._level > _LEVELS:
                return math.inf
        lost = math.exp(-_TAIL) + sum(self._counts.values()) * _ROUNDING
        return max(self._solve(way, target_delta - lost) for way in (0, 1))

    def _restart(self) -> None:
        self._interval = _FINEST * 2**self._level
        self._composed: dict[Mechanism, int] = {}
        self._spectra = [np.ones(_CELLS // 2 + 1, dtype=complex) for _ in (0, 1)]
        self._moments = [np.zeros(len(_ORDERS)) for _ in (0, 1)]
        self._finite = [0.0, 0.0]  # logarithm of the probability of a finite loss

    def _compose(self) -> bool:
        """Compose what is new; returns false if the losses do not fit the grid."""
        half = _CELLS // 2 * self._interval
        for mechanism, count in self._counts.items():
            new = count - self._composed.get(mechanism, 0)
            if not new:
                continue
            both = _step(*mechanism, self._level)
            if both is None:
                return False
            for way, masses in enumerate(both):
                self._moments[way] += new * masses.log_moments(self._interval)
                self._finite[way] += new * math.log1p(-masses.infinite)
            tops = [np.min((each + _TAIL) / _ORDERS) for each in self._moments]
            if not max(tops) <= half:
                return False
            for way, masses in enumerate(both):
                self._spectra[way] *= masses.spectrum(new)
            self._composed[mechanism] = count
        return True

    def _solve(self, way: int, target_delta: float) -> float:
        """Find the least epsilon >= 0 whose delta is at most the target."""
        infinite = -math.expm1(self._finite[way])
        if infinite >= target_delta:
            return math.inf
        masses = fft.irfft(self._spectra[way], _CELLS)[: _CELLS // 2]
        losses = np.arange(_CELLS // 2) * self._interval
        losses = losses[losses < _LARGEST]
        infinite += float(masses[len(losses) :].sum())
        masses = masses[: len(losses)]
        above = infinite + np.cumsum(masses[::-1])[::-1]  # at this loss or above
        other = np.cumsum((masses * np.exp(-losses))[::-1])[::-1]  # of the neighbour
        found = np.flatnonzero(above - np.exp(losses) * other <= target_delta)
        if not len(found):
            return math.inf
        first = int(found[0])
        if first == 0:
            return 0.0
        # Between two losses delta is above - exp(epsilon) * other.
        return math.log((above[first] - target_delta) / other[first])


@lru_cache(maxsize=32)
def _step(noise: float, rate: float, level: int) -> tuple[_Masses, _Masses] | None:
    """Return the losses of one step, a record removed or added; None if too wide.

    The second neighbour draws from a normal distribution at 0, the first with
    probability ``rate`` from one at 1; the loss rises with the outcome. The other way
    round each loss has the other sign and both probabilities change places.
    """
    interval = _FINEST * 2**level
    low = math.floor(_loss(-_FAR * noise, noise, rate) / interval)
    high = math.ceil(_loss(1 + _FAR * noise, noise, rate) / interval)
    if max(-low, high) > _CELLS // 2 - 1:
        return None
    losses = np.arange(low, high + 1) * interval
    with np.errstate(divide="ignore"):
        odds = np.maximum(np.expm1(losses) / rate, -1.0)
        outcomes = noise**2 * np.log1p(odds) + 0.5
    below, cells, above = _normal(outcomes, 0.0, noise)
    below_at_one, cells_at_one, above_at_one = _normal(outcomes, 1.0, noise)
    mixed = (1 - rate) * cells + rate * cells_at_one
    removed = _split(mixed, cells, losses[:-1], interval)
    removed[0] += (1 - rate) * below + rate * below_at_one
    added = _split(cells[::-1], mixed[::-1], -losses[:0:-1], interval)
    added[0] += above
    far = (1 - rate) * above + rate * above_at_one
    return (
        _Masses(first=low, probabilities=removed, infinite=far),
        _Masses(first=-high, probabilities=added, infinite=below),
    )


def _loss(outcome: float, noise: float, rate: float) -> float:
    exponent = (2 * outcome - 1) / (2 * noise**2)
    if rate == 1:
        return exponent
    if exponent > 500:
        return exponent + math.log(rate)
    return math.log1p(rate * math.expm1(exponent))


def _normal(outcomes: Reals, mean: float, noise: float) -> tuple[float, Reals, float]:
    """Return normal probabilities below all outcomes, between each two, and above.

    Each tail is counted from its own side, where it has all its digits.
    """
    scaled = (outcomes - mean) / noise
    left, right = _below(scaled), _below(-scaled)
    is_left = scaled[1:] <= 0
    cells = np.where(is_left, np.diff(left), -np.diff(right))
    return float(left[0]), np.maximum(cells, 0.0), float(right[-1])


def _below(scaled: Reals) -> Reals:
    """Return standard normal probabilities below values; scipy takes longer to load."""
    tails = map(math.erfc, (-scaled / math.sqrt(2)).tolist())
    return 0.5 * np.fromiter(tails, np.float64, len(scaled))


def _split(first: Reals, second: Reals, losses: Reals, interval: float) -> Reals:
    """Split the outcomes of each cell over the multiples at its two ends.

    ``first`` and ``second`` are a cell's probabilities under the two neighbours; both
    sums stay, so the loss at the upper end takes what the lower end leaves open.
    """
    upper = (first - second * np.exp(losses)) / -math.expm1(-interval)
    upper = np.clip(upper, 0.0, first)
    masses = np.zeros(len(first) + 1)
    masses[:-1] += first - upper
    masses[1:] += upper
    return masses
