"""Inspection of what a node would train on: its records, and the prices of trainings.

``readiness`` lists why offers would be refused. This module shows an operator the data
that the node would train on, and the price of that for each record.

Guarantees:
    Nothing is charged, reserved or sent. The counts are exact and for the operator's
    own terminal; what the log learns of the records is ``DataDeclared``.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, ProtocolError, TapestryError
from tapestry.privacy import accounting
from tapestry.workloads.base import Summary
from tapestry.workloads.data_manifest import DataManifest
from tapestry_node.readiness import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The cost of one training for each record, and its fit into the budget."""

    title: str
    sampling_rate: float
    steps: int
    noise_multiplier: float
    epsilon: float  # of this training alone
    epsilon_after: float  # together with what is spent or reserved
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A node's records and prices, as its operator needs to see them before joining."""

    data: DataManifest
    records: int
    summary: Summary | None
    version: str  # of the data, in words, with what waits for the next
    coverage: tuple[Summary, ...]
    prices: tuple[Price, ...]
    faults: tuple[TapestryError, ...]  # for which a training has no price


def inspect(standing: Standing) -> Inspection:
    """Inspect the records of a node, and price the trainings that it knows."""
    trainer = standing.trainer
    faults, prices = list[TapestryError](), list[Price]()
    for price in (_round, _adapter):
        try:
            prices.extend(price(standing))
        except (ConfigError, ProtocolError) as error:
            faults.append(error)
    return Inspection(
        data=trainer.manifest,
        records=trainer.count,
        summary=trainer.summary,
        version=str(trainer.holdings),
        coverage=_coverage(standing),
        prices=tuple(prices),
        faults=tuple(faults),
    )


def _coverage(standing: Standing) -> tuple[Summary, ...]:
    """Tell what training reads of the records, for the adapter and the last round.

    Edge cases:
        Options of another workload, and those that this workload does not take, are
        left out: ``readiness`` objects to them.
    """
    trainer, last = standing.trainer, standing.last
    known = [standing.settings.adapter.options]
    if last is not None and last.training.workload == trainer.workload.name:
        known.append(last.training.options)
    found: list[Summary] = []
    for options in known:
        with suppress(ConfigError):
            covered = trainer.coverage(options)
            if covered is not None and covered not in found:
                found.append(covered)
    return tuple(found)


def _round(standing: Standing) -> Iterator[Price]:
    """Price a round like the log's last one, if something is promised."""
    if standing.last and (charge := standing.trainer.charge(standing.last)):
        title = f"a round like {charge.title}, the log's last"
        yield _price(standing, title, charge.steps)


def _adapter(standing: Standing) -> Iterator[Price]:
    """Price the adapter of ``[adapter]``, if it is to be published with noise."""
    plan = standing.settings.adapter
    if plan.publish and plan.noise != "none":
        rate = accounting.sampling_rate(plan.batch_size, records=standing.trainer.count)
        noise = accounting.calibrate(
            target_epsilon=decode_decimal(plan.epsilon),
            target_delta=decode_decimal(standing.settings.policy.target_delta),
            sampling_rate=rate,
            steps=plan.steps,
        )
        steps = accounting.Steps(
            noise_multiplier=noise, sampling_rate=rate, steps=plan.steps
        )
        yield _price(standing, "the adapter", steps)


def _price(standing: Standing, title: str, steps: accounting.Steps) -> Price:
    policy = standing.settings.policy
    delta = decode_decimal(policy.target_delta)
    known = [row.charge for row in standing.ledger.rows()]
    after = min(  # of the block that has most left
        accounting.epsilon(
            [*(each.steps for each in known if block in each.blocks), steps],
            target_delta=delta,
        )
        for block in standing.trainer.holdings.version.trains
    )
    return Price(
        title=title,
        sampling_rate=steps.sampling_rate,
        steps=steps.steps,
        noise_multiplier=steps.noise_multiplier,
        epsilon=accounting.epsilon([steps], target_delta=delta),
        epsilon_after=after,
        fits=after <= decode_decimal(policy.epsilon_limit),
    )
