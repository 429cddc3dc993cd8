"""Bounds that hold to the last bit."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tapestry.privacy.clipping import SLACK, check_rounding, clip, factors, norm

vectors = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(-(2.0**40), 2.0**40, width=32),
)
bounds = st.floats(1e-3, 1e3)


@given(vectors, bounds)
def test_a_clipped_update_keeps_the_bound_and_its_direction(
    update: np.ndarray, bound: float
) -> None:
    before = update.copy()
    clipped = clip(update, clip_norm=bound)
    assert norm(clipped.values) <= bound
    assert clipped.values.dtype == np.float32
    assert np.array_equal(update, before)
    if norm(update) <= bound:
        assert np.array_equal(clipped.values, update)
    elif norm(update) < 1e6 * bound:  # beyond, entries underflow
        assert norm(clipped.values) > 0.999 * bound
        cosine = float(clipped.values.astype(float) @ update.astype(float))
        assert cosine == pytest.approx(norm(update) * norm(clipped.values), rel=1e-4)


@given(vectors, bounds)
def test_clipping_twice_is_clipping_once(update: np.ndarray, bound: float) -> None:
    once = clip(update, clip_norm=bound).values
    assert np.array_equal(clip(once, clip_norm=bound).values, once)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_entry_makes_the_whole_update_zero(bad: float) -> None:
    update = np.ones(9, dtype=np.float32)
    update[4] = bad
    assert not clip(update, clip_norm=1.0).values.any()


@given(
    st.lists(
        st.floats(min_value=0) | st.sampled_from([np.nan, np.inf]),
        min_size=1,
        max_size=20,
    ),
    bounds,
)
def test_a_factor_keeps_its_unit_within_the_bound(
    norms: list[float], bound: float
) -> None:
    array = np.array(norms)
    scales = factors(array, clip_norm=bound)
    finite = np.isfinite(array)
    assert np.all(scales[~finite] == 0)
    assert np.all((scales[finite] > 0) & (scales[finite] <= 1))
    assert np.all(scales[finite] * array[finite] <= bound * (1 - SLACK) * (1 + 1e-12))


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=9), bounds)
def test_a_factor_does_not_depend_on_other_units(
    norms: list[float], bound: float
) -> None:
    together = factors(np.array(norms), clip_norm=bound)
    alone = [factors(np.array([n]), clip_norm=bound)[0] for n in norms]
    assert together.tolist() == alone


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bound_that_is_no_positive_number_is_a_bug(bound: float) -> None:
    with pytest.raises(ValueError, match="clip norm"):
        clip(np.ones(2, dtype=np.float32), clip_norm=bound)
    with pytest.raises(ValueError, match="clip norm"):
        factors(np.ones(2), clip_norm=bound)


@pytest.mark.parametrize(
    ("multiplier", "length", "fits"),
    [(9.0, 10**8, True), (1.0, 135 * 10**6, True), (90.0, 135 * 10**6, False)],
)
def test_rounding_is_held_below_half_of_the_slack(
    multiplier: float, length: int, fits: bool
) -> None:
    apart = 2.0**-30 * multiplier * math.sqrt(length)
    assert (apart <= SLACK / 2) is fits
    if fits:
        check_rounding(multiplier, length=length)
        return
    with pytest.raises(ValueError, match="rounded too coarsely"):
        check_rounding(multiplier, length=length)
