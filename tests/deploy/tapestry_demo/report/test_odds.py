"""What a privacy loss allows: no guesser and no attack does better than the bound."""

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry_demo.report import odds


@pytest.mark.parametrize(
    ("epsilon", "delta", "guess"),
    [
        (0.0, 0.0, 0.5),
        (math.log(3), 0.0, 0.75),
        (6.28, 1e-5, 0.998130),
        (0.0, 0.2, 0.6),
    ],
)
def test_the_best_guess_follows_from_epsilon_and_delta(
    epsilon: float, delta: float, guess: float
) -> None:
    assert odds.right_guess(epsilon, delta=delta) == pytest.approx(guess, abs=1e-6)


@given(st.floats(0, 8), st.floats(0, 0.1))
def test_no_guesser_beats_the_best_guess(epsilon: float, delta: float) -> None:
    """The worst mechanism: it reveals all with chance delta, and else it skews."""
    skew = (1 - delta) / (1 + math.exp(epsilon))
    if_used = (delta, (1 - delta) - skew, skew, 0.0)
    if_not = (0.0, skew, (1 - delta) - skew, delta)
    right = sum(max(a, b) for a, b in zip(if_used, if_not, strict=True)) / 2
    assert odds.right_guess(epsilon, delta=delta) == pytest.approx(right, abs=1e-9)


@given(st.floats(0, 8), st.floats(0, 0.1), st.floats(0, 1))
def test_no_attack_detects_more_than_the_bound(
    epsilon: float, delta: float, false_alarms: float
) -> None:
    """The best test against the worst mechanism, by Neyman and Pearson."""
    skew = (1 - delta) / (1 + math.exp(epsilon))
    outcomes = ((delta, 0.0), (1 - delta - skew, skew), (skew, 1 - delta - skew))
    found, left = 0.0, false_alarms
    for if_used, if_not in outcomes:
        share = min(1.0, left / if_not) if if_not else 1.0
        found, left = found + share * if_used, left - share * if_not
    bound = odds.detected(false_alarms, epsilon, delta=delta)
    assert bound == pytest.approx(found, abs=1e-9)


def test_the_factor_is_exceeded_more_often_than_with_probability_delta() -> None:
    """Why no text may say so: a Gaussian of one step, epsilon tight at delta."""
    normal, shift, delta = NormalDist(), 1.0, 1e-5

    def beyond(epsilon: float) -> tuple[float, float]:
        at = epsilon / shift + shift / 2  # where the loss is epsilon
        used, unused = 1 - normal.cdf(at - shift), 1 - normal.cdf(at)
        return used, used - math.exp(epsilon) * unused

    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle)[1] > delta else (low, middle)
    exceeded, excess = beyond(high)
    assert excess == pytest.approx(delta, rel=1e-3)
    assert exceeded > 3 * delta


def test_odds_hold_for_any_epsilon() -> None:
    assert odds.right_guess(1e9, delta=0.0) == 1.0
    assert odds.detected(0.001, 1e9, delta=0.0) == 1.0
    assert [odds.verdict(g) for g in (0.74, 0.75, 0.95)] == [
        "strong",
        "moderate",
        "weak",
    ]
