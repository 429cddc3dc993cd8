"""The encoding: bounded, unbiased, invertible up to rounding; zero when in doubt."""

import secrets
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tapestry.errors import ProtocolError
from tapestry.secagg.quantization import Encoding, check_sum, mean, quantize
from tapestry.vectors import Clipped, FloatVector, RingVector
from tests.support.randomness import FixedRandom
from tests.support.refusals import refused
from tests.support.secagg_cohort import manifest_for, members


def encoding(length: int, *, scale_bits: int = 16, bound: int = 2**20) -> Encoding:
    return Encoding(
        length=length,
        scale_bits=scale_bits,
        bound=bound,
        clip_norm=1e12,
    )


def encode(values: FloatVector, enc: Encoding, seed: str = "ring") -> RingVector:
    clipped = Clipped(values=values, clip_norm=enc.clip_norm)
    return quantize(clipped, encoding=enc, random=FixedRandom(seed)).values


floats = hnp.arrays(
    np.float32,
    st.integers(1, 300),
    elements=st.floats(-10, 10, width=32),
)


@given(values=floats, bits=st.integers(0, 20))
def test_decoding_is_the_inverse_up_to_one_grid_step(
    values: FloatVector, bits: int
) -> None:
    enc = encoding(values.size, scale_bits=bits, bound=10 * 2**bits)
    back = mean(encode(values, enc), encoding=enc, survivors=1)
    assert np.abs(back - values).max() <= 2.0**-bits * (1 + 1e-6)


@given(values=floats)
def test_whole_numbers_of_steps_are_exact(values: FloatVector) -> None:
    whole = np.rint(values * 1000).astype(np.float32)
    enc = encoding(values.size, scale_bits=0)
    assert np.array_equal(encode(whole, enc).view(np.int32), whole.astype(np.int32))


@given(values=floats)
def test_every_coordinate_stays_within_the_bound(values: FloatVector) -> None:
    enc = encoding(values.size, bound=3000)
    assert np.abs(encode(values, enc).view(np.int32)).max() <= 3000


@pytest.mark.parametrize("bound", [2**24 - 1, 2**24 + 1, 2**29 - 1, 536870879])
def test_a_bound_that_float32_cannot_hold_is_kept(bound: int) -> None:
    enc = encoding(2, scale_bits=0, bound=bound)
    values = np.array([6e8, -6e8], dtype=np.float32)
    high, low = encode(values, enc).view(np.int32).tolist()
    assert bound - 64 < high <= bound
    assert low == -high


@given(values=floats)
def test_the_memory_of_the_update_may_take_the_result(values: FloatVector) -> None:
    enc = encoding(values.size, bound=3000)
    want = encode(values.copy(), enc)
    own = values.view(np.uint32)
    quantized = quantize(
        Clipped(values=values, clip_norm=enc.clip_norm),
        encoding=enc,
        random=FixedRandom("ring"),
        out=own,
    )
    assert quantized.values is own
    assert np.array_equal(own, want)


MEMORY = np.zeros(12, dtype=np.float32)


@pytest.mark.parametrize(
    "out",
    [
        np.zeros(9, dtype=np.uint32),
        np.zeros(8, dtype=np.int32),
        np.zeros(16, dtype=np.uint32)[::2],
        MEMORY[1:9].view(np.uint32),
    ],
)
def test_memory_that_does_not_fit_is_refused(out: RingVector) -> None:
    with pytest.raises(ValueError, match="out "):
        quantize(
            Clipped(values=MEMORY[:8], clip_norm=1e12),
            encoding=encoding(8),
            random=FixedRandom("ring"),
            out=out,
        )


STEPS = [0.5, 0.25, 0.9, 2.3, -0.3, -2.75, 1e-4, -1e-4]


@pytest.mark.parametrize("step", STEPS)
def test_rounding_is_unbiased(step: float) -> None:
    count = 1_000_000
    enc = encoding(count, scale_bits=0)
    values = np.full(count, step, dtype=np.float32)
    drawn = encode(values, enc, seed=str(step)).view(np.int32)
    fraction = step - np.floor(step)
    error = np.sqrt(fraction * (1 - fraction) / count)
    assert abs(drawn.mean() - step) < 5 * error
    assert set(np.unique(drawn)) <= {np.floor(step), np.floor(step) + 1}


def test_rounding_tolerance_detects_the_bias_of_float32_addition() -> None:
    count = 1_000_000
    rng = np.random.default_rng(0)
    values = np.full(count, 2.0**15 + 0.5, dtype=np.float32)
    trapped = np.floor(values + rng.random(count, dtype=np.float32))
    assert abs(trapped.mean() - values[0]) > 5 * np.sqrt(0.25 / count)
    enc = encoding(count, scale_bits=0)
    right = encode(values, enc).view(np.int32)
    assert abs(right.mean() - values[0]) < 5 * np.sqrt(0.25 / count)


def test_an_update_of_another_length_or_norm_raises_value_error() -> None:
    enc = encoding(10)
    short = Clipped(values=np.zeros(9, dtype=np.float32), clip_norm=1.0)
    with pytest.raises(ValueError, match="want"):
        quantize(short, encoding=enc, random=secrets.token_bytes)
    long = Clipped(values=np.zeros(10, dtype=np.float32), clip_norm=2e12)
    with pytest.raises(ValueError, match="clipped to"):
        quantize(long, encoding=enc, random=secrets.token_bytes)


def test_threads_do_not_change_the_result() -> None:
    values = np.random.default_rng(0).normal(size=300_001).astype(np.float32)
    enc = encoding(values.size)
    results = [
        quantize(
            Clipped(values=values, clip_norm=1e12),
            encoding=enc,
            random=FixedRandom("threads"),
            threads=threads,
        ).values
        for threads in (1, 2, 5)
    ]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_rounding_differs_from_draw_to_draw() -> None:
    values = np.full(64, 0.5, dtype=np.float32)
    enc = encoding(64, scale_bits=0)
    assert not np.array_equal(encode(values, enc, "a"), encode(values, enc, "b"))


def test_the_encoding_is_read_exactly_from_the_manifest() -> None:
    manifest = manifest_for(members(4), clip_value="0.1", scale_bits=20)
    enc = Encoding.of(manifest)
    assert enc.bound == int(Fraction("0.1") * 2**20)
    assert len(members(4)) * enc.bound < 2**31


def test_a_mean_divides_by_the_survivors_and_the_grid() -> None:
    total = np.array([48, -24], dtype=np.int32).view(np.uint32)
    enc = encoding(2, scale_bits=4)
    assert mean(total, encoding=enc, survivors=3).tolist() == [1.0, -0.5]
    with pytest.raises(ValueError, match="at least one survivor"):
        mean(total, encoding=enc, survivors=0)


def test_sums_that_honest_nodes_cannot_give_are_refused() -> None:
    enc = Encoding(
        length=100,
        scale_bits=4,
        bound=8,
        clip_norm=1.0,
    )
    total = np.zeros(100, dtype=np.int32)
    total[0] = 24
    check_sum(total.view(np.uint32), encoding=enc, survivors=3)
    for bad in (25, -25, -(2**31)):
        total[0] = bad
        with refused(ProtocolError, "sum-out-of-range", match="at most 24"):
            check_sum(total.view(np.uint32), encoding=enc, survivors=3)
    total[:] = 24  # in range everywhere, but far too long
    with refused(ProtocolError, "sum-norm-too-large", match="240 .* 78$"):
        check_sum(total.view(np.uint32), encoding=enc, survivors=3)
