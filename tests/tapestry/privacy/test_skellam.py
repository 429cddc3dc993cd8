"""Integer noise of the stated variance, closed under addition, close to Gaussian."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tapestry.privacy import skellam
from tapestry.privacy.gaussian import NoiseSource


@pytest.fixture
def source() -> NoiseSource:
    return NoiseSource.unsafe_from_key(bytes(range(32)))


@pytest.mark.parametrize("variance", [1e4, 12345.6, 1e6, 2.0**36, 2.0**50])
def test_noise_has_the_stated_variance_and_shape(
    source: NoiseSource, variance: float
) -> None:
    drawn = skellam.draw(200_000, variance=variance, source=source)
    jitter = source.words(drawn.size) / 2.0**64 - 0.5  # to compare with a density
    scaled = (drawn + jitter) / math.sqrt(variance)
    assert stats.kstest(scaled, "norm").pvalue > 1e-3
    assert stats.kstest(scaled * 1.02, "norm").pvalue < 1e-3
    assert np.var(scaled) == pytest.approx(1, abs=5 * math.sqrt(2 / drawn.size))


@pytest.mark.parametrize("mean", [5e3, 5000.5, 1e5])
def test_each_half_is_poisson_to_the_single_value(
    source: NoiseSource, mean: float
) -> None:
    count = 400_000
    drawn = skellam.draw_poisson(count, mean=mean, source=source) + math.floor(mean)
    low, high = stats.poisson.ppf([0.001, 0.999], mean).astype(int)
    edges = np.unique(np.linspace(low, high, 60).astype(int))
    cells = np.concatenate([[0], np.searchsorted(np.sort(drawn), edges, "right")])
    seen = np.diff(np.append(cells, count))
    want = np.diff(np.concatenate([[0], stats.poisson.cdf(edges, mean), [1]])) * count
    assert stats.chisquare(seen, want * seen.sum() / want.sum()).pvalue > 1e-3


@given(st.floats(5e3, 2.0**30), st.floats(-6, 6))
def test_log_probabilities_agree_with_the_library(mean: float, apart: float) -> None:
    offset = np.floor(np.array([apart * math.sqrt(mean)]))
    want = stats.poisson.logpmf(math.floor(mean) + offset, mean)
    got = skellam.log_probability(offset, mean=mean)
    # the library subtracts numbers of the size of mean * log(mean)
    assert got == pytest.approx(want, abs=1e-9 + mean * math.log(mean) * 1e-15)


def test_shares_add_up_to_the_whole(source: NoiseSource) -> None:
    shares = [
        skellam.draw(200_000, variance=2.0**30 / 7, source=source) for _ in range(7)
    ]
    total = np.sum(shares, axis=0) / 2.0**15
    assert stats.kstest(total, "norm").pvalue > 1e-3


def test_added_noise_wraps_around_and_adds_up(source: NoiseSource) -> None:
    values = np.full(100_000, 2**32 - 5, dtype=np.uint32)
    skellam.add_noise(values, variance=1e8, source=source)
    noise = (values + np.uint32(5)).view(np.int32)
    assert stats.kstest(noise / 1e4, "norm").pvalue > 1e-3
    assert stats.kstest(noise / 1.02e4, "norm").pvalue < 1e-3


@pytest.mark.parametrize("variance", [0.0, 9999.0, 2.0**61, math.nan])
def test_a_variance_out_of_range_is_a_bug(source: NoiseSource, variance: float) -> None:
    with pytest.raises(ValueError, match="variance"):
        skellam.draw(4, variance=variance, source=source)
