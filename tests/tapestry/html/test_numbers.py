"""Numbers, dates and lists have one spelling, and a bound is never rounded down."""

import re
from collections.abc import Callable

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
        (numbers.date("2026-02-31 21:40 UTC"), "2026-02-31 21:40 UTC"),
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


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.bits(0.0), "0"),
        (numbers.short(-2.5), "\u22122.5"),
        (numbers.whole(-1234.0), "\u22121,234"),
        (numbers.size(2.5e15), "2,500\u00a0TB"),
        (numbers.duration(0.04), "0.0\u00a0s"),
        (numbers.epsilon(None), "no bound"),
        (numbers.epsilon(1234.5), "1,234.50"),
        (numbers.chance(0.2), "20.0\u00a0%"),
        (numbers.probability(0.0412), "0.041"),
        (numbers.at_most(2.0), "at most 2.00"),
        (numbers.at_most(2e6), "more than 1,000,000, which in practice is no bound"),
        (numbers.enumerated([]), ""),
        (numbers.enumerated(["a"]), "a"),
        (numbers.enumerated(["a", "b", "c"]), "a, b and c"),
        (numbers.spelled(12), "twelve"),
        (numbers.spelled(13), "13"),
        (numbers.spelled(-1), "\u22121"),
        (numbers.counted(2, "node"), "two nodes"),
        (numbers.counted(2, "entry", "entries"), "two entries"),
        (numbers.capital("éa B"), "Éa B"),
        (numbers.date("2026-13-01"), "2026-13-01"),
    ],
)
def test_a_zero_and_an_end_of_a_range_have_their_spelling(
    shown: str, expected: str
) -> None:
    assert shown == expected


@given(st.floats(0.5, 1.0))
def test_a_bound_on_a_probability_is_never_rounded_down(value: float) -> None:
    shown = numbers.likely(value)
    if shown.startswith("nearly"):
        assert 0.999 < value < 1
    else:
        said = float(shown.removesuffix("\u00a0%")) / 100
        assert value - 1e-9 <= said <= value + 0.00101
        assert said < 1 or value > 0.9989


@given(st.integers(0, 10**16))
def test_a_size_is_near_what_it_stands_for(count: int) -> None:
    text, unit = numbers.size(count).split("\u00a0")
    power = ["bytes", "kB", "MB", "GB", "TB"].index(unit)
    value = float(text.replace(",", "")) * 1000**power
    assert value == pytest.approx(count, rel=0.051)


@given(st.integers(0, 10**7))
def test_a_duration_is_near_what_it_stands_for(seconds: int) -> None:
    scale = {"s": 1, "min": 60, "h": 3600}
    words = numbers.duration(seconds).replace(",", "").replace("\u00a0", " ").split()
    value = sum(
        float(n) * scale[unit] for n, unit in zip(words[::2], words[1::2], strict=True)
    )
    assert len(words) <= 4
    assert abs(value - seconds) < (60 if "h" in words else 1)


@pytest.mark.parametrize(
    "form",
    [numbers.bits, numbers.better, numbers.short, numbers.whole, numbers.size],
    ids=lambda form: form.__name__,
)
def test_a_number_that_is_missing_is_a_dash(
    form: Callable[[float | None], str],
) -> None:
    assert form(None) == numbers.NONE
    assert form(1.5) != numbers.NONE


def test_empty_lists_and_words_are_spelled_as_nothing() -> None:
    assert numbers.capital("") == ""
    assert numbers.spelled(0) == numbers.short(0.0) == "0"
    assert numbers.chance(0.0) == numbers.NONE
