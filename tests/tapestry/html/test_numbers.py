"""Numbers, dates and lists have one spelling, and a bound is never rounded down."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.html import numbers


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.bits(2.21449), "2.214"),
        (numbers.bits(10.0249), "10.02"),
        (numbers.bits(0.012345), "0.012"),
        (numbers.percent(0.04264), "4.3\u00a0%"),
        (numbers.percent(-0.04264), "\u22124.3\u00a0%"),
        (numbers.better(0.04264), "4.3\u00a0% better"),
        (numbers.better(-0.0006), "0.1\u00a0% worse"),
        (numbers.better(-0.0004), "unchanged"),
        (numbers.likely(0.99966), "nearly 100\u00a0%"),
        (numbers.likely(0.99813), "99.9\u00a0%"),
        (numbers.likely(0.998), "99.8\u00a0%"),
        (numbers.likely(0.50001), "50.1\u00a0%"),
        (numbers.likely(1.0), "100.0\u00a0%"),
        (numbers.chance(1e-05), "1 in 100,000"),
        (numbers.chance(0.001), "1 in 1,000"),
        (numbers.chance(None), "\u2013"),
        (numbers.probability(1e-9), "less than 0.001"),
        (numbers.factor(533.1), "534"),
        (numbers.factor(2.71828), "2.72"),
        (numbers.factor(20.01), "20.1"),
        (numbers.factor(1.0), "1.00"),
        (numbers.factor(1e300), "more than 1,000,000"),
        (numbers.short(1e-05), "0.00001"),
        (numbers.short(8.0), "8"),
        (numbers.short(0.5748), "0.5748"),
        (numbers.short(123456.7), "123,457"),
        (numbers.whole(134515008), "134,515,008"),
        (numbers.size(999), "999\u00a0bytes"),
        (numbers.size(999_960), "1.0\u00a0MB"),
        (numbers.size(11_894_512), "11.9\u00a0MB"),
        (numbers.duration(59.6), "1\u00a0min 0\u00a0s"),
        (numbers.duration(9.96), "10\u00a0s"),
        (numbers.duration(7260), "2\u00a0h 1\u00a0min"),
        (numbers.date("2026-11-23 21:40 UTC"), "23 November 2026, 21:40 UTC"),
        (numbers.date("2026-11-24T21:40:05Z"), "24 November 2026, 21:40 UTC"),
        (numbers.date("2026-11-03"), "3 November 2026"),
        (numbers.date("2026-02-31"), "2026-02-31"),
        (numbers.date("yesterday"), "yesterday"),
        (numbers.counted(1, "entry", "entries"), "one entry"),
        (numbers.counted(0, "record"), "no records"),
        (numbers.counted(1204, "record"), "1,204 records"),
    ],
)
def test_numbers_have_one_format(shown: str, expected: str) -> None:
    assert shown == expected


@given(st.floats(1e-12, 1e12))
def test_no_number_has_an_exponent(value: float) -> None:
    forms = (numbers.bits, numbers.percent, numbers.short, numbers.whole, numbers.size)
    shown = [
        form(value)
        for form in (*forms, numbers.epsilon, numbers.factor, numbers.chance)
    ]
    assert not [text for text in shown if re.search(r"\de", text)]


@given(st.floats(1.0, 9e5))
def test_a_bound_on_a_factor_is_never_rounded_down(value: float) -> None:
    assert float(numbers.factor(value).replace(",", "")) >= value * (1 - 1e-9)
