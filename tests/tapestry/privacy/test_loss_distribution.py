"""Epsilon by our loss distributions: an upper bound, as tight as dp-accounting."""

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution

from tapestry.privacy.loss_distribution import LossDistribution

STEPS = [
    (1.0, 0.05, 20),
    (1.0, 0.05, 120),
    (6.0, 0.05, 20),
    (0.7, 0.01, 20),
    (0.25, 1e-5, 5),
    (20.0, 1.0, 1),
    (3.0, 0.3, 3),
    (0.5, 1.0, 1),
    (2.0, 0.001, 100),
]


def composed(*steps: tuple[float, float, int]) -> LossDistribution:
    losses = LossDistribution()
    losses.update({(noise, rate): count for noise, rate, count in steps})
    return losses


@pytest.mark.parametrize(("noise", "rate", "count"), STEPS)
@pytest.mark.parametrize("delta", [1e-5, 1e-8])
def test_epsilon_is_that_of_dp_accounting_on_a_fine_grid(
    noise: float, rate: float, count: int, delta: float
) -> None:
    library = privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=2e-4
    )
    want = library.self_compose(count).get_epsilon_for_delta(delta)
    found = composed((noise, rate, count)).epsilon(target_delta=delta)
    # Of small losses its own grid is the coarser one.
    assert 0.99 * want <= found <= 1.001 * want


def test_different_steps_are_composed_as_dp_accounting_composes_them() -> None:
    draw = np.random.default_rng(5)
    steps = [(draw.uniform(1, 4), draw.uniform(0.01, 0.1), 5) for _ in range(8)]
    total = None
    for noise, rate, count in steps:
        part = privacy_loss_distribution.from_gaussian_mechanism(
            noise, sampling_prob=rate, value_discretization_interval=5e-4
        ).self_compose(count)
        total = part if total is None else total.compose(part)
    assert total is not None
    want = total.get_epsilon_for_delta(1e-5)
    found = composed(*steps).epsilon(target_delta=1e-5)
    assert found == pytest.approx(want, rel=1e-3)


def test_steps_that_come_one_by_one_give_the_same_and_never_less() -> None:
    losses, counts, before = LossDistribution(), {}, 0.0
    draw = np.random.default_rng(7)
    for _ in range(30):  # over several grids
        counts[draw.uniform(0.8, 4), draw.uniform(0.005, 0.05)] = 30
        losses.update(counts)
        found = losses.epsilon(target_delta=1e-6)
        assert found > before
        before = found
    fresh = LossDistribution()
    fresh.update(counts)
    assert fresh.epsilon(target_delta=1e-6) == pytest.approx(before, rel=1e-9)


def test_a_loss_beyond_every_grid_is_infinite() -> None:
    assert composed((0.2, 1.0, 10**6)).epsilon(target_delta=1e-5) == math.inf
    assert composed((1.0, 0.1, 10)).epsilon(target_delta=1e-16) == math.inf
