"""What an evaluation says, and how sure it is."""

import math

import numpy as np
import pytest

from tapestry.workloads.ratio_score import RatioScore


def evaluation(bits: list[float], sizes: list[int]) -> RatioScore:
    return RatioScore(amounts=tuple(bits), sizes=tuple(sizes))


def test_long_texts_count_for_more() -> None:
    assert evaluation([30.0, 10.0], [10, 10]).score == 2.0
    assert evaluation([30.0, 10.0], [10, 30]).score == 1.0


def test_a_gain_that_is_the_same_for_every_byte_has_no_error() -> None:
    sizes = [10, 20, 70]
    before = evaluation([31.0, 44.0, 200.0], sizes)
    after = evaluation([26.0, 34.0, 165.0], sizes)
    assert after.difference_error(before) == pytest.approx(0.0, abs=1e-12)


def test_the_error_is_what_other_texts_would_have_changed() -> None:
    draw = np.random.default_rng(7)
    sizes = draw.integers(40, 160, 400)
    before = sizes * draw.uniform(2.0, 4.0, 400)
    after = before * draw.uniform(0.9, 1.0, 400)
    first = evaluation(before.tolist(), sizes.tolist())
    error = evaluation(after.tolist(), sizes.tolist()).difference_error(first)
    chosen = draw.integers(0, 400, (2000, 400))  # other texts, 2000 times
    gaps = (after - before)[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    assert error == pytest.approx(gaps.std(), rel=0.1)


def test_where_nothing_can_be_said_nothing_is() -> None:
    one = evaluation([3.0], [1])
    assert one.difference_error(one) is None
    pair = evaluation([3.0, 4.0], [1, 2])
    assert pair.difference_error(evaluation([3.0, 4.0], [2, 1])) is None
    broken = evaluation([math.nan, 4.0], [1, 2]).difference_error(pair)
    assert broken is not None
    assert math.isnan(broken)
