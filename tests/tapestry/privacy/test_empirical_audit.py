"""A lower bound on epsilon from canaries: it convicts, and never wrongly."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.empirical_audit import gaussian_bound


def test_the_audit_bound_holds_for_a_gaussian_of_known_shift() -> None:
    from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

    generator = np.random.default_rng(0)
    truth = get_epsilon_gaussian(1.0, 1e-5)
    bounds = []
    for _ in range(300):
        excluded = generator.standard_normal(500)
        included = generator.standard_normal(500) + 1.0
        bounds.append(
            gaussian_bound(included, excluded, target_delta=1e-5, confidence=0.95)
        )
    assert np.mean(np.array(bounds) > truth) < 0.05
    assert np.mean(bounds) > 0.7 * truth
    excluded = generator.standard_normal(500)
    same = gaussian_bound(excluded, excluded, target_delta=1e-5, confidence=0.95)
    assert same == 0
    with pytest.raises(ValueError, match="ten canaries"):
        gaussian_bound(excluded[:9], excluded, target_delta=1e-5, confidence=0.95)


def _groups(size: int, *, shift: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    excluded = generator.standard_normal(size)
    return generator.standard_normal(size) + shift, excluded


def _bound(included: np.ndarray, excluded: np.ndarray, **changes: float) -> float:
    terms = {"target_delta": 1e-5, "confidence": 0.95, **changes}
    return gaussian_bound(included, excluded, **terms)


@given(st.floats(-3, 3), st.floats(0.01, 100))
def test_the_bound_is_the_same_in_any_unit_and_from_any_zero(
    start: float, scale: float
) -> None:
    included, excluded = _groups(100, shift=2.0)
    moved = _bound(start + scale * included, start + scale * excluded)
    assert math.isclose(moved, _bound(included, excluded), rel_tol=1e-6)


def test_groups_further_apart_convict_of_more() -> None:
    included, excluded = _groups(200, shift=0.0)
    bounds = [_bound(included + shift, excluded) for shift in (0.5, 1.0, 2.0, 4.0)]
    assert bounds == sorted(set(bounds))
    assert bounds[0] > 0


def test_a_group_that_moved_the_other_way_convicts_of_nothing() -> None:
    included, excluded = _groups(200, shift=-5.0)
    assert _bound(included, excluded) == 0.0


def test_more_confidence_and_more_delta_convict_of_less() -> None:
    included, excluded = _groups(200, shift=2.0)
    plain = _bound(included, excluded)
    assert _bound(included, excluded, confidence=0.999) < plain
    assert _bound(included, excluded, target_delta=1e-3) < plain


def test_more_canaries_convict_of_more_and_never_of_more_than_there_was() -> None:
    from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

    truth = get_epsilon_gaussian(1 / 2.0, 1e-5)
    few, many = (
        np.mean(
            [
                _bound(*_groups(size, shift=2.0, seed=seed), confidence=0.999)
                for seed in range(40)
            ]
        )
        for size in (20, 2000)
    )
    assert few < many < truth


@pytest.mark.parametrize("sizes", [(9, 100), (100, 9), (0, 0)])
def test_fewer_than_ten_scores_in_either_group_are_no_audit(
    sizes: tuple[int, int],
) -> None:
    included, excluded = (np.arange(float(size)) for size in sizes)
    with pytest.raises(ValueError, match="ten canaries"):
        _bound(included, excluded)
    assert _bound(np.arange(10.0), np.arange(10.0)) == 0.0
