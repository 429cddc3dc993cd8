"""Privacy accounting: the epsilon that a list of steps spends.

The module is plain arithmetic and needs no torch.

A step is one release of the Poisson-subsampled Gaussian mechanism: each unit enters
with probability ``sampling_rate``, what it adds is bounded by a clip norm, and the
sum gets Gaussian noise of ``noise_multiplier`` clip norms. Neighbours differ by
adding or removing one unit; replacing one costs more, so the adjacency is printed
with every epsilon.

Accounting is by privacy loss distributions (``loss_distribution``), which only ever
rounds up; tests compare it with dp-accounting and Opacus. The rate assumes that every
unit was drawn by its own coin: shuffled batches of the same size leak up to ten times
more than this says (arXiv 2411.10614).

Noise that nodes share is whole-numbered (Skellam, see ``skellam``). It is accounted for
as Gaussian noise that was rounded, and pays for the difference: but for an event of
probability below 1e-50, the two give every outcome probabilities whose logarithms
differ by at most ``_closeness``, so each epsilon grows by twice that.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from tapestry.errors import ConfigError
from tapestry.privacy.bounds import MAX_EPSILON
from tapestry.privacy.loss_distribution import LossDistribution, Mechanism

ADJACENCY = "add-remove"
MECHANISM: Final = "poisson-subsampled-gaussian"
INTEGER_MECHANISM: Final = "poisson-subsampled-skellam"
ACCOUNTANT = "tapestry/pld"
ACCOUNTANT_VERSION = "1"  # other numbers, another version
MOST_ROUNDS = 1000  # counted by rounds_left; more would take minutes
MIN_NOISE, MAX_NOISE = 0.2, 1e4  # where calibrate looks
MAX_DIVERGENCE = 4000.0  # Renyi, of order 2: with more, composing would fill the memory
MAX_CLOSE_EPSILON = 60.0  # above, an event of 1e-50 may show; nothing is promised
MIN_VARIANCE = 1e4  # of integer noise, for ``_closeness``
_STEP = 1e-4  # a calibrated noise multiplier is a multiple of this
_LOG_ODDS = 120.0  # the bound fails with probability exp(-120)
_PAID = 1e-6  # share of delta that pays for that


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Steps:
    """A number of equal steps; ``steps`` may be 0.

    With Gaussian noise ``coordinates`` and ``bound`` are 0; with integer noise they
    are the length of a released vector, and the clip norm in steps of its grid.

    Raises:
        ConfigError: A value is outside its range.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int
    coordinates: int = 0
    bound: float = 0.0

    def __post_init__(self) -> None:
        noise = self.noise_multiplier
        if not 0 <= noise < math.inf:
            raise ConfigError(
                f"noise multiplier {noise} is not >= 0", code="setting-out-of-range"
            )
        if not 0 < self.sampling_rate <= 1:
            raise ConfigError(
                f"sampling rate {self.sampling_rate} is not in (0, 1]",
                code="setting-out-of-range",
            )
        if self.steps < 0:
            raise ConfigError(
                f"{self.steps} steps is not a count", code="setting-out-of-range"
            )
        if self.coordinates and (noise * self.bound) ** 2 < MIN_VARIANCE:
            raise ConfigError(
                f"integer noise of deviation {noise * self.bound:g}; at least"
                f" {math.sqrt(MIN_VARIANCE):g} can be accounted for",
                code="noise-too-small",
            )


def epsilon(steps: Iterable[Steps], *, target_delta: float) -> float:
    """Return the epsilon that some steps on the same records spend together.

    Guarantees:
        An upper bound: every rounding inside goes up. It depends on the multiset of
        steps only, so a run counts the same whole or in pieces.

    Edge cases:
        No steps spend nothing. A step without noise, or with a multiplier below 0.2,
        spends infinitely much, and so do steps of an epsilon in the thousands.

    Raises:
        ConfigError: Delta is not in (0, 1).
    """
    return _epsilon(merge(steps), target_delta)


class Composition:
    """Steps on the same records that are composed as they come.

    For a reader who asks what was spent after each of many steps: a further account
    costs the same, however many came before.

    Guarantees:
        As for :func:`epsilon`, which gives the same numbers.
    """

    def __init__(self) -> None:
        self._counts: Counter[Mechanism] = Counter()
        self._divergence = 0.0
        self._squares = self._worst = 0.0  # of integer noise, for ``_closeness``
        self._losses = LossDistribution()

    def add(self, steps: Steps) -> None:
        """Add some equal steps."""
        if steps.steps:
            self._counts[steps.noise_multiplier, steps.sampling_rate] += steps.steps
            self._divergence += steps.steps * _divergence(steps)
            squares, worst = _excess(steps)
            self._squares += squares
            self._worst = max(self._worst, worst)

    def epsilon(self, *, target_delta: float) -> float:
        """Return the epsilon of all steps so far.

        Raises:
            ConfigError: Delta is not in (0, 1).
        """
        check_delta(target_delta)
        if self._divergence > MAX_DIVERGENCE:
            return math.inf
        if not self._counts:
            return 0.0
        self._losses.update(self._counts)
        if not self._worst:
            return self._losses.epsilon(target_delta=target_delta)
        total = self._losses.epsilon(target_delta=target_delta * (1 - _PAID))
        total += 2 * _closeness(self._squares, self._worst)
        return total if total <= MAX_CLOSE_EPSILON else math.inf


def _excess(s: Steps) -> tuple[float, float]:
    """Return what some equal steps add to the two sums of ``_closeness``."""
    if not s.coordinates:
        return 0.0, 0.0
    variance = (s.noise_multiplier * s.bound) ** 2
    return s.steps * s.coordinates / variance**2, 7500 / variance


def _closeness(squares: float, worst: float) -> float:
    """Bound how far log-probabilities under integer noise are from Gaussian ones.

    One coordinate's log ratio at y deviations is close to
    ``(y**4 - 6 y**2 + 3) / (24 variance)`` (the excess of a Skellam variable's kurtosis
    is 1 / variance). Within 20 deviations it is below ``7500 / variance``, its mean
    below ``1 / (40 variance**2)`` and its variance below ``1 / (20 variance**2)``: a
    test measures all three. Bernstein's inequality adds up the coordinates of all
    steps; beyond 20 deviations lies less than 1e-80 of either distribution.

    Args:
        squares: The sum of ``1 / variance**2`` over the coordinates of all steps.
        worst: The largest ``7500 / variance``.
    """
    spread = math.sqrt(2 * _LOG_ODDS * squares / 20)
    return squares / 40 + spread + 2 / 3 * _LOG_ODDS * worst


def merge(steps: Iterable[Steps]) -> tuple[Steps, ...]:
    """Add up equal steps and sort them; entries without steps are left out."""
    counts: dict[Steps, int] = {}
    for s in steps:
        if s.steps:
            key = replace(s, steps=1)
            counts[key] = counts.get(key, 0) + s.steps
    return tuple(replace(key, steps=counts[key]) for key in sorted(counts))


def calibrate(
    *, target_epsilon: float, target_delta: float, sampling_rate: float, steps: int
) -> float:
    """Find the least noise multiplier that keeps some steps within the target.

    Guarantees:
        ``epsilon`` of the result is at most ``target_epsilon``; a multiplier
        0.0003 less would exceed it. The result has four decimals.

    Edge cases:
        Never less than 0.2, however generous the target.

    Raises:
        ConfigError: A value is out of range, or no noise up to 10000 is enough.
    """
    from scipy import optimize  # 0.2 s of imports, for this function alone

    check_epsilon(target_epsilon)

    def spent(noise: float) -> float:
        step = Steps(noise_multiplier=noise, sampling_rate=sampling_rate, steps=steps)
        return epsilon([step], target_delta=target_delta)

    def excess(log_noise: float) -> float:
        return min(spent(math.exp(log_noise)), 1e6) - target_epsilon

    low, high = _bracket(excess)
    crossing = low if low == high else optimize.brentq(excess, low, high, xtol=2e-5)
    units = math.ceil(math.exp(crossing) / _STEP - 1e-6)
    while spent(round(units * _STEP, 4)) > target_epsilon:
        units += 1
    return round(units * _STEP, 4)


def rounds_left(
    spent: Iterable[Steps],
    step: Steps,
    *,
    limit_epsilon: float,
    target_delta: float,
) -> int:
    """Count how many more times ``step`` fits under a limit, up to 1000.

    Raises:
        ConfigError: Delta is not in (0, 1).
    """
    base = merge(spent)

    def fits(times: int) -> bool:
        more = replace(step, steps=step.steps * times)
        return epsilon([*base, more], target_delta=target_delta) <= limit_epsilon

    high = 1
    while high < MOST_ROUNDS and fits(high):
        high *= 2
    low, high = high // 2, min(high, MOST_ROUNDS + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def check_delta(target_delta: float, *, records: int | None = None) -> None:
    """Refuse a delta that promises nothing.

    Raises:
        ConfigError: Delta is not in (0, 1), or is at least one in the number of
            records, where publishing a record at random would pass for private.
    """
    if not 0 < target_delta < 1:
        raise ConfigError(
            f"delta {target_delta} is not between 0 and 1", code="delta-out-of-range"
        )
    if records is not None and target_delta * records >= 1:
        raise ConfigError(
            f"delta {target_delta:g} is not below 1/{records}, one over the number of"
            " records; lower it, or hold more records",
            code="delta-too-large",
        )


def check_epsilon(target_epsilon: float) -> None:
    """Refuse an epsilon that is not a positive number up to 1000.

    Raises:
        ConfigError: Epsilon is not in (0, 1000].
    """
    if not 0 < target_epsilon <= MAX_EPSILON:
        raise ConfigError(
            f"epsilon {target_epsilon} is not in (0, {MAX_EPSILON:g}]",
            code="epsilon-out-of-range",
        )


def sampling_rate(batch_size: int, *, records: int) -> float:
    """Return the sampling probability: expected batch size over declared records.

    Guarantees:
        The result is a multiple of 1e-12, rounded up: the probability that is sampled
        with is the one that is accounted for and the one that a log can spell.

    Raises:
        ConfigError: The batch size is below 1 or over the number of records.
    """
    if not 0 < batch_size <= records:
        raise ConfigError(
            f"batch size {batch_size} is not between 1 and the {records} records",
            code="setting-out-of-range",
        )
    return min(1.0, math.ceil(batch_size * 10**12 / records) / 10**12)


def _bracket(excess: Callable[[float], float]) -> tuple[float, float]:
    """Bracket the noise by one that is too little and one that is enough (logarithms).

    From 1 outwards: the smaller the noise, the longer the accounting takes.
    """
    floor, ceiling, factor = math.log(MIN_NOISE), math.log(MAX_NOISE), math.log(2)
    low = high = 0.0
    if excess(0.0) <= 0:
        while excess(low := max(low - factor, floor)) <= 0:
            if low == floor:
                return floor, floor
            high = low
        return low, high
    while excess(high := high + factor) > 0:
        if high > ceiling:
            raise ConfigError(
                f"no noise up to {MAX_NOISE:g} is enough for the target",
                code="epsilon-unreachable",
            )
        low = high
    return low, high


def _divergence(s: Steps) -> float:
    """Renyi divergence of order 2 of one step (Mironov et al. 2019, section 3.3)."""
    if s.noise_multiplier < MIN_NOISE:
        return math.inf
    return math.log1p(s.sampling_rate**2 * math.expm1(s.noise_multiplier**-2))


@lru_cache(maxsize=4096)
def _epsilon(merged: tuple[Steps, ...], target_delta: float) -> float:
    composition = Composition()
    for s in merged:
        composition.add(s)
    return composition.epsilon(target_delta=target_delta)
