"""Epsilon: an upper bound that agrees with others, and noise calibrated to it."""

import math
import subprocess
import sys
from dataclasses import replace

import mpmath
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.errors import ConfigError
from tapestry.privacy.accounting import (
    MIN_VARIANCE,
    Composition,
    Steps,
    calibrate,
    check_delta,
    check_epsilon,
    epsilon,
    merge,
    rounds_left,
    sampling_rate,
)
from tests.support.refusals import refused


def steps(noise: float, rate: float, count: int) -> Steps:
    return Steps(noise_multiplier=noise, sampling_rate=rate, steps=count)


RUNS = [
    steps(1.0, 256 / 20000, 1000),
    steps(0.8, 0.05, 200),
    steps(1.185, 256 / 20000, 1000),
    steps(2.0, 0.2, 40),
    steps(0.6, 8 / 400, 300),
]


def test_the_figures_of_the_design_are_reproduced() -> None:
    assert epsilon([RUNS[0]], target_delta=1e-5) == pytest.approx(2.391, abs=2e-3)
    assert epsilon([RUNS[2]], target_delta=1e-6) == pytest.approx(2.0, abs=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_epsilon_agrees_with_a_finer_grid(run: Steps) -> None:
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    event = PoissonSampledDpEvent(
        run.sampling_rate, GaussianDpEvent(run.noise_multiplier)
    )
    accountant.compose(SelfComposedDpEvent(event, run.steps))
    want = accountant.get_epsilon(1e-5)
    assert want * 0.9999 <= epsilon([run], target_delta=1e-5) <= want * 1.001


@pytest.mark.parametrize("run", RUNS)
def test_epsilon_is_within_two_percent_of_opacus_prv(run: Steps) -> None:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(run.noise_multiplier, run.sampling_rate, run.steps)]
    want = accountant.get_epsilon(1e-5)
    assert epsilon([run], target_delta=1e-5) == pytest.approx(want, rel=0.02)


def test_the_gaussian_clt_underestimates_and_is_not_what_we_use() -> None:
    from opacus.accountants import GaussianAccountant

    with pytest.warns(UserWarning, match="can underestimate"):
        accountant = GaussianAccountant()
    run = RUNS[0]
    accountant.history = [(run.noise_multiplier, run.sampling_rate, run.steps)]
    low = accountant.get_epsilon(1e-5)
    assert epsilon([run], target_delta=1e-5) > 1.05 * low


def test_full_batches_agree_with_the_exact_gaussian_curve() -> None:
    from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

    want = get_epsilon_gaussian(4.0 / math.sqrt(9), 1e-5)
    got = epsilon([steps(4.0, 1.0, 9)], target_delta=1e-5)
    assert want <= got <= 1.001 * want


def test_a_run_counts_the_same_whole_or_in_pieces() -> None:
    whole = epsilon([steps(1.0, 0.1, 60)], target_delta=1e-5)
    pieces = [steps(1.0, 0.1, n) for n in (10, 0, 20, 30)]
    assert epsilon(pieces, target_delta=1e-5) == whole
    assert epsilon(reversed(pieces), target_delta=1e-5) == whole


def test_different_steps_compose_to_more_than_each_and_less_than_their_sum() -> None:
    one, two = steps(1.0, 0.05, 50), steps(1.5, 0.1, 50)
    alone = [epsilon([s], target_delta=1e-5) for s in (one, two)]
    both = epsilon([one, two], target_delta=1e-5)
    assert max(alone) < both < sum(alone)


def test_no_steps_spend_zero_and_steps_without_noise_spend_infinity() -> None:
    assert epsilon([], target_delta=1e-5) == 0
    assert epsilon([steps(1.0, 0.1, 0)], target_delta=1e-5) == 0
    assert epsilon([steps(0.0, 0.1, 1)], target_delta=1e-5) == math.inf


@pytest.mark.slow
@settings(max_examples=5)
@given(
    noise=st.floats(0.8, 4),
    rate=st.floats(0.001, 1),
    count=st.integers(1, 50),
)
def test_less_noise_more_steps_or_a_higher_rate_never_cost_less(
    noise: float, rate: float, count: int
) -> None:
    base = epsilon([steps(noise, rate, count)], target_delta=1e-5) - 1e-3
    assert epsilon([steps(noise * 0.9, rate, count)], target_delta=1e-5) >= base
    assert epsilon([steps(noise, rate, count + 1)], target_delta=1e-5) >= base
    higher = min(1.0, rate * 1.1)
    assert epsilon([steps(noise, higher, count)], target_delta=1e-5) >= base


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "rate", "count"),
    [(8.0, 0.05, 200), (2.0, 0.0128, 1000), (1.0, 1.0, 10), (0.1, 0.01, 500)],
)
def test_calibrated_noise_is_enough_and_hardly_more(
    target: float, rate: float, count: int
) -> None:
    noise = calibrate(
        target_epsilon=target, target_delta=1e-5, sampling_rate=rate, steps=count
    )
    assert noise == round(noise, 4)
    assert epsilon([steps(noise, rate, count)], target_delta=1e-5) <= target
    less = steps(noise - 3e-4, rate, count)
    assert epsilon([less], target_delta=1e-5) > target


@pytest.mark.slow
def test_a_generous_target_still_gets_the_least_noise() -> None:
    noise = calibrate(
        target_epsilon=900, target_delta=1e-5, sampling_rate=0.01, steps=1
    )
    assert noise == 0.2


def test_rounds_left_is_the_last_count_that_fits() -> None:
    one = steps(1.0, 0.05, 10)
    left = rounds_left([one], one, limit_epsilon=4.0, target_delta=1e-5)
    fits = epsilon([one] * (left + 1), target_delta=1e-5)
    over = epsilon([one] * (left + 2), target_delta=1e-5)
    assert fits <= 4.0 < over
    spent = [one] * (left + 1)
    assert rounds_left(spent, one, limit_epsilon=4.0, target_delta=1e-5) == 0


def test_rounds_left_stops_counting_at_a_thousand() -> None:
    one = steps(20.0, 0.001, 1)
    assert rounds_left([], one, limit_epsilon=8.0, target_delta=1e-5) == 1000


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_sampling_rate_is_spelled_exactly_and_never_too_low(
    batch: int, more: int
) -> None:
    from tapestry.encoding import decode_decimal, encode_decimal

    rate = sampling_rate(batch, records=batch + more)
    assert decode_decimal(encode_decimal(rate)) == rate
    assert batch / (batch + more) <= rate * (1 + 1e-15) <= 1
    assert rate - batch / (batch + more) < 2e-12


def test_merging_adds_equal_steps_and_forgets_none() -> None:
    given_steps = [steps(1.0, 0.1, 3), steps(2.0, 0.1, 1), steps(1.0, 0.1, 4)]
    assert merge(given_steps) == (steps(1.0, 0.1, 7), steps(2.0, 0.1, 1))


@pytest.mark.parametrize(
    ("noise", "rate", "count"),
    [
        (-1.0, 0.1, 1),
        (math.nan, 0.1, 1),
        (math.inf, 0.1, 1),
        (1.0, 0.0, 1),
        (1.0, 1.1, 1),
        (1.0, 0.1, -1),
    ],
)
def test_steps_out_of_range_are_refused(noise: float, rate: float, count: int) -> None:
    with refused(ConfigError, "setting-out-of-range"):
        steps(noise, rate, count)


@pytest.mark.parametrize("target", [0.0, -1.0, 1000.1, math.nan, math.inf])
def test_an_epsilon_that_promises_nothing_is_refused(target: float) -> None:
    with refused(ConfigError, "epsilon-out-of-range"):
        check_epsilon(target)
    with refused(ConfigError, "epsilon-out-of-range"):
        calibrate(target_epsilon=target, target_delta=1e-5, sampling_rate=0.1, steps=1)


@pytest.mark.parametrize("delta", [0.0, -1e-5, 1.0, 2.0, math.nan])
def test_a_delta_that_promises_nothing_is_refused(delta: float) -> None:
    with refused(ConfigError, "delta-out-of-range"):
        check_delta(delta)
    with refused(ConfigError, "delta-out-of-range"):
        epsilon([], target_delta=delta)


def test_delta_must_be_below_one_in_the_records() -> None:
    check_delta(0.0099, records=100)
    with refused(ConfigError, "delta-too-large", match="1/100"):
        check_delta(0.01, records=100)


@pytest.mark.parametrize("batch", [0, 11, -1])
def test_a_batch_larger_than_the_data_is_refused(batch: int) -> None:
    with refused(ConfigError, "setting-out-of-range", match="10 records"):
        sampling_rate(batch, records=10)


@pytest.mark.slow
def test_accounting_needs_no_machine_learning_stack() -> None:
    code = (
        "import sys\n"
        "from tapestry.privacy.accounting import Steps, epsilon\n"
        "s = Steps(noise_multiplier=1.0, sampling_rate=0.1, steps=10)\n"
        "assert epsilon([s], target_delta=1e-5) > 0\n"
        "assert not {'torch', 'opacus', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def log_ratio(y: float, variance: float) -> float:
    """Log of Skellam's over the rounded Gaussian's probability at y deviations."""
    with mpmath.workdps(40):
        k, s2 = mpmath.mpf(round(y * math.sqrt(variance))), mpmath.mpf(variance)
        skellam = mpmath.besseli(k, s2, maxterms=10**6) * mpmath.exp(-s2)
        low, high = (k - 0.5) / mpmath.sqrt(s2), (k + 0.5) / mpmath.sqrt(s2)
        gaussian = mpmath.ncdf(-low) - mpmath.ncdf(-high)  # in the lower tail: no loss
        return float(mpmath.log(skellam / gaussian))


@pytest.mark.parametrize(
    "variance", [MIN_VARIANCE, pytest.param(4e4, marks=pytest.mark.slow)]
)
def test_integer_noise_is_as_close_to_gaussian_as_the_bound_says(
    variance: float,
) -> None:
    grid = [y / 4 for y in range(33)]  # symmetric, so half of it is enough
    ratios = [log_ratio(y, variance) for y in grid]
    weights = [math.exp(-y * y / 2) * (1 if y == 0 else 2) for y in grid]
    total = sum(weights)
    mean = sum(w * r for w, r in zip(weights, ratios, strict=True)) / total
    square = sum(w * r * r for w, r in zip(weights, ratios, strict=True)) / total
    assert abs(mean) < 1 / (40 * variance**2)
    assert 1 / (30 * variance**2) < square < 1 / (20 * variance**2)
    far = [abs(log_ratio(y, variance)) for y in (10.0, 15.0, 20.0)]
    assert max(far) < 7500 / variance
    assert far[-1] > 5000 / variance


def test_integer_noise_costs_what_gaussian_noise_does_and_a_little() -> None:
    plain = Steps(noise_multiplier=1.0, sampling_rate=0.05, steps=100)
    integer = replace(plain, coordinates=1_000_000, bound=2.0**20)
    coarse = replace(integer, bound=2.0**8)
    exact, fine, rough = (
        epsilon([s], target_delta=1e-5) for s in (plain, integer, coarse)
    )
    assert exact < fine < exact + 1e-3
    assert rough > exact + 1
    assert epsilon([plain, integer], target_delta=1e-5) > fine
    with refused(ConfigError, "noise-too-small"):
        replace(integer, bound=99.0)


def test_steps_beyond_the_divergence_limit_spend_infinity() -> None:
    for noise, count in ((0.001, 1), (1e-12, 1), (0.2, 10**6), (1.0, 2**53 - 1)):
        assert epsilon([steps(noise, 1.0, count)], target_delta=1e-5) == math.inf
    many = Steps(
        noise_multiplier=0.3, sampling_rate=0.5, steps=20, coordinates=10, bound=2.0**20
    )
    assert epsilon([many], target_delta=1e-5) == math.inf  # over MAX_CLOSE_EPSILON
    assert epsilon([replace(many, coordinates=0)], target_delta=1e-5) > 60


def test_steps_composed_as_they_come_cost_what_they_cost_together() -> None:
    plain = Steps(noise_multiplier=1.5, sampling_rate=0.05, steps=20)
    other = replace(plain, noise_multiplier=2.0, steps=1)
    integer = replace(plain, coordinates=1000, bound=1e6, steps=3)
    composition = Composition()
    so_far: list[Steps] = []
    assert composition.epsilon(target_delta=1e-5) == 0
    for part in (plain, plain, other, integer, replace(plain, steps=0), other):
        composition.add(part)
        so_far.append(part)
        for delta in (1e-5, 1e-6):
            together = epsilon(so_far, target_delta=delta)
            found = composition.epsilon(target_delta=delta)
            assert found == pytest.approx(together, rel=1e-6)


def test_a_composition_with_a_step_without_noise_is_infinite() -> None:
    composition = Composition()
    composition.add(Steps(noise_multiplier=0.0, sampling_rate=0.5, steps=1))
    assert composition.epsilon(target_delta=1e-5) == math.inf
    with refused(ConfigError, "delta-out-of-range"):
        composition.epsilon(target_delta=0)
