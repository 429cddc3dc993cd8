"""Bounds that hold to the last bit."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tapestry.privacy.clipping import (
    DRIFT,
    NORM_ERROR,
    ROUNDING,
    SLACK,
    add_unit,
    bound_sum,
    check_rounding,
    clip,
    factors,
    norm,
)

vectors = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(-(2.0**40), 2.0**40, width=32),
)
bounds = st.floats(1e-3, 1e3)
LARGEST = float(np.finfo(np.float32).max)
worst = hnp.arrays(  # zero, subnormal, around one, the largest
    np.float32,
    st.integers(1, 40),
    elements=st.floats(-LARGEST, LARGEST, width=32)
    | st.floats(-(2.0**-126), 2.0**-126, width=32)
    | st.floats(-4, 4, width=32),
)
scales = st.floats(2.0**-20, 2.0**40)
steps = st.integers(1, 2**31)


def squares(values: np.ndarray) -> int:
    """Sum squares in Python's own integers."""
    return sum(v * v for v in values.tolist())


def unit(gradient: np.ndarray, *, scale: float, bound: int) -> np.ndarray:
    """What one unit adds."""
    total = np.zeros(gradient.size, dtype=np.int64)
    add_unit(total, [gradient], scale=scale, bound=bound)
    return total


@given(vectors, bounds)
def test_a_clipped_update_keeps_the_bound_and_its_direction(
    update: np.ndarray, bound: float
) -> None:
    before = update.copy()
    clipped = clip(update, clip_norm=bound)
    assert norm([clipped.values]) <= bound
    assert clipped.values.dtype == np.float32
    assert np.array_equal(update, before)
    if norm([update]) <= bound:
        assert np.array_equal(clipped.values, update)
    elif norm([update]) < 1e6 * bound:  # beyond, entries underflow
        assert norm([clipped.values]) > 0.999 * bound
        cosine = float(clipped.values.astype(float) @ update.astype(float))
        assert cosine == pytest.approx(
            norm([update]) * norm([clipped.values]), rel=1e-4
        )


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


@given(worst, scales, steps)
def test_a_unit_adds_integers_within_its_bound(
    gradient: np.ndarray, scale: float, bound: int
) -> None:
    added = unit(gradient, scale=scale, bound=bound)
    assert squares(added) <= bound**2
    exact = np.linalg.norm(gradient.astype(np.float64)) * scale
    if exact < bound * (1 - 2.0**-20):
        kept = np.trunc(gradient.astype(np.float64) * scale)
        assert np.array_equal(added, kept.astype(np.int64))
    else:
        lost = math.sqrt(gradient.size)
        assert math.sqrt(squares(added)) > bound * (1 - 2.0**-20) - lost


@given(st.integers(1, 60), steps, st.integers(0, 2**32))
def test_a_unit_at_its_bound_keeps_it_to_the_last_step(
    length: int, bound: int, seed: int
) -> None:
    """Lengths that float64 can just tell from the bound, on both sides of it."""
    direction = np.random.default_rng(seed).normal(size=length)
    direction /= np.linalg.norm(direction)
    for near in (1 - 1e-7, 1 - 1e-9, 1.0, 1 + 1e-9, 1 + 1e-7):
        gradient = (direction * near).astype(np.float32)
        assert squares(unit(gradient, scale=float(bound), bound=bound)) <= bound**2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_unit_that_is_not_finite_adds_nothing(bad: float) -> None:
    total = np.arange(4)
    pieces = [np.ones(3, dtype=np.float32), np.array([bad], dtype=np.float32)]
    assert not math.isfinite(add_unit(total, pieces, scale=1.0, bound=9))
    assert total.tolist() == [0, 1, 2, 3]


@given(worst, worst, scales, steps)
def test_units_add_up_to_the_same_in_any_order_and_in_any_pieces(
    one: np.ndarray, other: np.ndarray, scale: float, bound: int
) -> None:
    size = min(one.size, other.size)
    given_ = [one[:size], other[:size]]
    sums = []
    for order in (given_, given_[::-1]):
        total = np.zeros(size, dtype=np.int64)
        for gradient in order:
            pieces = [gradient[:1], gradient[1:]]
            add_unit(total, pieces, scale=scale, bound=bound)
        sums.append(total)
    assert np.array_equal(sums[0], sums[1])
    alone = [unit(gradient, scale=scale, bound=bound) for gradient in given_]
    assert np.array_equal(sums[0], alone[0] + alone[1])


integers = hnp.arrays(
    np.int64, 12, elements=st.integers(-(2**33), 2**33) | st.integers(-9, 9)
)


@given(integers, integers, st.integers(1, 2**33), st.integers(1, 2**31 - 1))
def test_bounding_a_sum_brings_no_two_further_apart_than_it_says(
    one: np.ndarray, moved: np.ndarray, clip_norm: int, clip_value: int
) -> None:
    found = []
    for total in (one, one + moved):
        bounded = bound_sum(total, clip_norm=clip_norm, clip_value=clip_value)
        assert squares(bounded) <= clip_norm**2
        assert np.abs(bounded).max() <= clip_value
        if squares(total) <= clip_norm**2 and np.abs(total).max() <= clip_value:
            assert np.array_equal(bounded, total)
        found.append(bounded)
    apart = math.sqrt(squares(found[0] - found[1]))
    allowed = math.sqrt(one.size) * (1 + 2.0**-17)
    assert apart <= math.sqrt(squares(moved)) + allowed


def test_a_sum_just_above_its_bound_is_not_thrown_away() -> None:
    """A jump at the bound would let one record move the sum by all of it."""
    at = np.array([300_000, 400_000, 0])
    above = at + np.array([0, 0, 1])
    bounded = [
        bound_sum(total, clip_norm=500_000, clip_value=2**20) for total in (at, above)
    ]
    assert np.array_equal(bounded[0], at)
    assert np.abs(bounded[1] - at).max() <= 1


@given(worst)
def test_a_norm_is_exact_up_to_what_is_said(vector: np.ndarray) -> None:
    exact = sum(Fraction(float(v)) ** 2 for v in vector)
    found = Fraction(norm([vector[:1], vector[1:]])) ** 2
    assert abs(found - exact) <= exact * Fraction(NORM_ERROR)


def test_the_slack_pays_for_a_hundred_times_the_drift_and_for_the_grid() -> None:
    assert 100 * DRIFT + NORM_ERROR + ROUNDING <= SLACK


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
def test_rounding_is_held_below_its_part_of_the_slack(
    multiplier: float, length: int, fits: bool
) -> None:
    apart = 2.0**-30 * multiplier * math.sqrt(length)
    assert (apart <= ROUNDING) is fits
    if fits:
        check_rounding(multiplier, length=length)
        return
    with pytest.raises(ValueError, match="rounded too coarsely"):
        check_rounding(multiplier, length=length)
