"""The only way out: whatever goes in, what comes out is clipped and on the grid."""

import secrets
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tapestry.encoding import decode_decimal
from tapestry.privacy.gaussian import NoiseSource
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.vectors import FloatVector
from tapestry_node.round.contribution import prepare
from tests.support.linear_regression import LinearRegression
from tests.support.log_world import World, renamed
from tests.support.plans import privacy_plan
from tests.support.worst_neighbours import (
    SEED,
    prepared,
    shared_manifest,
    worst_sums,
)

LENGTH = 40
MANIFEST = renamed(
    World().found().manifest(),
    length=LENGTH,
    clip_norm="1",
    clip_value="0.25",
    scale_bits=16,
)
VECTORS = arrays.arrays(
    np.float32,
    LENGTH,
    elements=st.floats(-8, 8, width=32),
)


def _decoded(update: FloatVector, manifest: RoundManifest = MANIFEST) -> FloatVector:
    quantized = prepare(
        update,
        manifest=manifest,
        random=secrets.token_bytes,
        noise=NoiseSource.fresh(),
    )
    signed = quantized.values.view(np.int32)
    return np.asarray(signed / 2.0**manifest.scale_bits, dtype=np.float32)


@given(VECTORS)
def test_no_update_is_longer_than_the_bounds(update: FloatVector) -> None:
    found = _decoded(update)
    grid = 2.0**-MANIFEST.scale_bits
    assert np.abs(found).max() <= decode_decimal(MANIFEST.clip_value)
    assert np.linalg.norm(found.astype(np.float64)) <= 1 + 1e-6 + grid * LENGTH**0.5


@given(VECTORS)
def test_an_update_within_the_bounds_comes_through(update: FloatVector) -> None:
    small = update / np.float32(64 * LENGTH**0.5)
    assert np.abs(_decoded(small) - small).max() <= 2.0**-MANIFEST.scale_bits


def test_a_long_update_keeps_its_direction() -> None:
    update = np.full(LENGTH, 3.0, dtype=np.float32)
    found = _decoded(update)
    assert np.allclose(found, 1 / LENGTH**0.5, atol=2.0**-15)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_becomes_nothing_with_an_alarm(
    bad: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Silence would be a dropout that depends on private records."""
    update = np.ones(LENGTH, dtype=np.float32)
    update[7] = bad
    assert not _decoded(update).any()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "is not finite" in caplog.text


def test_rounding_is_fair_and_drawn_anew() -> None:
    """A value between two grid points is rounded up as often as it is above."""
    manifest = renamed(MANIFEST, scale_bits=4)
    update = np.full(LENGTH, 0.25 * 2.0**-4, dtype=np.float32)
    drawn = np.stack([_decoded(update, manifest) for _ in range(100)]) * 2**4
    assert set(np.unique(drawn)) == {0.0, 1.0}
    share = drawn.mean()
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / drawn.size) ** 0.5
    assert abs(0.5 - share) > 5 * (0.25 * 0.75 / drawn.size) ** 0.5


def test_an_update_is_left_as_it_was() -> None:
    update = np.full(LENGTH, 3.0, dtype=np.float32)
    _decoded(update)
    assert np.array_equal(update, np.full(LENGTH, 3.0, dtype=np.float32))


SMALL: dict[str, Any] = {}
LONG: dict[str, Any] = {
    "length": 1 << 16,
    "clip_norm": "0.25",
    "clip_value": "0.25",
    "scale_bits": 30,
    "privacy": privacy_plan(noise="shared", clip_norm="0.0009765625"),
}


@pytest.mark.parametrize(
    ("changes", "trials", "least"),
    [(SMALL, 200, 0.9), (LONG, 8, 0.0)],  # eight trials come as near as it happens
)
def test_no_neighbours_of_a_search_are_further_apart_than_is_paid_for(
    changes: dict[str, Any], trials: int, least: float
) -> None:
    """A norm of float32 and zero for what seems too long gave 256 times the bound."""
    found = worst_sums(
        shared_manifest(LinearRegression(), 6, **changes), trials=trials, seed=SEED
    )
    assert least < found.ratio <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "trials"), [(SMALL, 10_000), (LONG, 300)])
def test_no_neighbours_of_a_long_search_are_further_apart_than_is_paid_for(
    changes: dict[str, Any], trials: int
) -> None:
    found = worst_sums(
        shared_manifest(LinearRegression(), 6, **changes), trials=trials, seed=SEED
    )
    assert 0.9 < found.ratio <= 1


def test_what_a_node_masks_under_shared_noise_is_its_sum_and_its_noise() -> None:
    manifest = shared_manifest(LinearRegression(), 6)
    total = np.array([5, -7, 0, 2**20, -(2**20), 1])
    alone = prepared(np.zeros(6, dtype=np.int64), manifest)
    assert np.array_equal((prepared(total, manifest) - alone).view(np.int32), total)


@pytest.mark.parametrize("update", [np.zeros(6), np.zeros(5, dtype=np.int64)])
def test_an_update_of_another_kind_than_the_rounds_noise_is_a_bug(
    update: np.ndarray,
) -> None:
    with pytest.raises(ValueError, match="want int64"):
        prepared(update, shared_manifest(LinearRegression(), 6))
