"""Central training on the pooled text: the same work, and the same promise."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from tapestry.privacy import accounting
from tapestry.protocol.round_manifest import PrivacyPlan, TrainingPlan
from tapestry.vectors import FloatVector
from tapestry.workloads.base import Example
from tapestry.workloads.plan_checks import local_steps
from tapestry_demo.central_baseline import Reference, train_centrally
from tapestry_node.training import dp_sgd
from tests.support.demo_folders import demo_settings
from tests.support.federation import Base, sentences

ROUNDS, NODES = 2, 3


class Watched:
    """What was trained, and the training itself, which is the product's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plans: list[tuple[TrainingPlan, PrivacyPlan, int]] = []
        honest = dp_sgd.update

        def update(
            workload: Any,
            units: Sequence[Example],
            *,
            training: TrainingPlan,
            privacy: PrivacyPlan,
            records: int,
            runtime: Any,
        ) -> Any:
            self.plans.append((training, privacy, records))
            return honest(
                workload,
                units,
                training=training,
                privacy=privacy,
                records=records,
                runtime=runtime,
            )

        monkeypatch.setattr(dp_sgd, "update", update)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def _train(base: Base, epsilon: float | None) -> tuple[dict[str, FloatVector], Any]:
    units = base.workload.examples(sentences("fr", 30), {"sequence_length": 16})
    told: list[tuple[int, int]] = []
    parameters = train_centrally(
        base.workload,
        units,
        reference=Reference(
            settings=demo_settings(rounds=ROUNDS), nodes=NODES, epsilon=epsilon
        ),
        base=base.replica,
        report=lambda done, total: told.append((done, total)),
    )
    return dict(parameters), told


@pytest.fixture(autouse=True)
def unchanged(base: Base) -> Iterator[None]:
    """The given base is shared with other tests, and is no reference's to change."""
    yield
    base.workload.load(base.replica.parameters)


def test_without_noise_it_takes_the_work_of_all_nodes_in_steps_of_half_the_rate(
    base: Base, watched: Watched
) -> None:
    plan = demo_settings(rounds=ROUNDS).training
    _, told = _train(base, None)
    assert told == [(1, ROUNDS), (2, ROUNDS)]
    for training, privacy, records in watched.plans:
        assert training.steps == plan.steps * NODES
        assert training.batch_size == plan.batch_size
        assert float(training.learning_rate) == float(plan.learning_rate) / 2
        assert privacy.noise == "none"
        assert records == 30


@pytest.mark.slow
def test_with_noise_it_joins_all_batches_and_keeps_the_promise_over_all_rounds(
    base: Base, watched: Watched
) -> None:
    plan = demo_settings(rounds=ROUNDS).training
    _train(base, 6.0)
    costs = []
    for training, privacy, records in watched.plans:
        assert training.steps == plan.steps
        assert training.batch_size == plan.batch_size * NODES
        assert training.learning_rate == plan.learning_rate
        assert privacy.noise == "local"
        cost = local_steps(training, privacy, records=records)
        assert cost is not None
        costs.append(cost)
    assert len(costs) == ROUNDS
    spent = accounting.epsilon(costs, target_delta=1e-5)
    assert 0.95 * 6.0 < spent <= 6.0


def test_each_round_goes_on_from_the_one_before_over_factors_of_its_own(
    base: Base, watched: Watched
) -> None:
    before = {name: value.copy() for name, value in base.replica.parameters.items()}
    parameters, _ = _train(base, None)
    seeds = [training.factor_seed for training, _, _ in watched.plans]
    assert len(set(seeds)) == ROUNDS
    moved = {n for n, v in parameters.items() if not np.array_equal(v, before[n])}
    assert moved
    assert all("q_proj" in name for name in moved)
    for name in moved:  # two rounds of rank 2 over different factors
        sizes = np.linalg.svd(parameters[name] - before[name], compute_uv=False)
        assert sizes[2] > 1e-2 * sizes[0] > 10 * sizes[4]
    for name, value in base.replica.parameters.items():
        assert np.array_equal(value, before[name])
