"""Noise of the stated size that nobody can predict or repeat."""

import copy
import math
import multiprocessing
import pickle
from multiprocessing.connection import Connection

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from tapestry.privacy.gaussian import NoiseSource, add_gaussian

KEY = bytes(range(32))


@pytest.fixture
def source() -> NoiseSource:
    return NoiseSource.unsafe_from_key(KEY)


def draw(source: NoiseSource, count: int) -> np.ndarray:
    out = torch.empty(count, dtype=torch.float64)
    source.normals(out)
    return out.numpy()


def test_words_are_the_aes_256_ctr_keystream(source: NoiseSource) -> None:
    cipher = Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor()
    want = np.frombuffer(cipher.update(bytes(8 * 100_000)), dtype="<u8")
    got = np.concatenate([source.words(70_000), source.words(30_000)])
    assert np.array_equal(got, want)


@pytest.mark.parametrize("count", [1, 2, 3, 65_535, 65_536, 65_537, 131_073])
def test_every_length_is_filled_with_finite_normals(
    source: NoiseSource, count: int
) -> None:
    out = torch.full((count,), math.nan, dtype=torch.float64)
    source.normals(out)
    assert bool(torch.isfinite(out).all())
    assert len(set(out.tolist())) == count


@pytest.mark.slow
def test_normals_are_standard_normal(source: NoiseSource) -> None:
    drawn = draw(source, 1_000_000)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert stats.kstest(drawn * 1.005, "norm").pvalue < 1e-3  # it would tell
    assert abs(stats.kurtosis(drawn)) < 0.02
    assert 4.4 < np.abs(drawn).max() < 6.5


def test_cosine_and_sine_halves_are_independent(source: NoiseSource) -> None:
    drawn = draw(source, 1_000_000)
    half = drawn.size // 2
    for lag in (1, 2, 32_768, half):
        assert abs(np.mean(drawn[:-lag] * drawn[lag:])) < 5 / math.sqrt(half)
    squares = drawn**2 - 1
    assert abs(np.mean(squares[:half] * squares[half:])) < 10 / math.sqrt(half)


def test_coins_fall_with_their_probability(source: NoiseSource) -> None:
    for probability in (1e-3, 0.1, 0.5, 0.999):
        heads = int(source.coins(400_000, probability=probability).sum())
        assert stats.binomtest(heads, 400_000, probability).pvalue > 1e-4


def test_coins_of_probability_zero_or_one_are_constant(source: NoiseSource) -> None:
    assert source.coins(1000, probability=1.0).all()
    assert not source.coins(1000, probability=0.0).any()


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_a_coin_outside_zero_and_one_is_a_bug(
    source: NoiseSource, probability: float
) -> None:
    with pytest.raises(ValueError, match="probability"):
        source.coins(10, probability=probability)


def test_two_fresh_sources_share_nothing() -> None:
    first, second = (NoiseSource.fresh().words(1000) for _ in range(2))
    assert not np.intersect1d(first, second).size


def test_a_source_cannot_be_copied_and_so_repeated(source: NoiseSource) -> None:
    for repeat in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="never copied"):
            repeat(source)


def _draw_in_child(source: NoiseSource, pipe: Connection) -> None:
    try:
        source.words(1)
        pipe.send("drew")
    except RuntimeError as error:
        pipe.send(str(error))


def test_a_source_does_not_survive_a_fork(source: NoiseSource) -> None:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_draw_in_child, args=(source, there))
    child.start()
    child.join()
    assert here.recv() == "a noise source does not survive a fork"


@pytest.mark.parametrize("stddev", [1e-3, 0.7, 1.0, 300.0])
def test_noise_has_the_stated_deviation_and_rejects_others(
    source: NoiseSource, stddev: float
) -> None:
    total = torch.full((200_000,), 3.0 * stddev, dtype=torch.float64)
    add_gaussian(total, stddev=stddev, source=source)
    noise = (total.numpy() - 3.0 * stddev) / stddev
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    for wrong in (0.98, 1.02):
        assert stats.kstest(noise * wrong, "norm").pvalue < 1e-3


def test_every_noisy_sum_lies_on_one_grid_whatever_the_sum(
    source: NoiseSource,
) -> None:
    grid = 2.0**-31  # of a deviation of 0.7
    for start in (0.0, 1 / 3, -1e-12, 5e4):
        total = torch.full((10_000,), start, dtype=torch.float64)
        add_gaussian(total, stddev=0.7, source=source)
        steps = total.numpy() / grid
        assert np.array_equal(steps, np.round(steps))
        assert np.any(steps % 2 == 1)


def test_each_call_draws_anew(source: NoiseSource) -> None:
    totals = [torch.zeros(1000, dtype=torch.float64) for _ in range(2)]
    for total in totals:
        add_gaussian(total, stddev=1.0, source=source)
    assert abs(float(totals[0] @ totals[1])) < 5 * math.sqrt(1000)


@pytest.mark.parametrize("stddev", [0.0, -1.0, math.nan, math.inf])
def test_a_deviation_that_is_not_positive_is_a_value_error(
    source: NoiseSource, stddev: float
) -> None:
    with pytest.raises(ValueError, match="deviation"):
        add_gaussian(torch.zeros(4).double(), stddev=stddev, source=source)


def test_noise_is_never_drawn_in_low_precision(source: NoiseSource) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ValueError, match="float64"):
            add_gaussian(torch.zeros(4, dtype=dtype), stddev=1.0, source=source)
