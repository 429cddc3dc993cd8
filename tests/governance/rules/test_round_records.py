"""What a state keeps of a round: as much as its accounts are compared with."""

import dataclasses

from tapestry.protocol.round_manifest import NoNoise
from tapestry_governance.rules.round_records import (
    AccountedLoss,
    AccountedSpending,
    AccountingTerms,
)
from tests.support.log_world import NAMES, World, renamed, without_noise


def test_terms_are_those_of_the_plan() -> None:
    manifest = World().found().manifest()
    terms = AccountingTerms.of(manifest)
    assert terms.participants == set(NAMES)
    assert (terms.steps, terms.batch_size) == (20, 50)
    assert terms.noise is not None
    assert terms.noise.mechanism == "poisson-subsampled-gaussian"
    assert (terms.noise.noise_multiplier, terms.noise.own_multiplier) == (1.0, 1.0)
    assert (terms.noise.shares, terms.noise.coordinates, terms.noise.bound) == (1, 0, 0)
    assert AccountingTerms.of(renamed(manifest, round_number=7)) == terms


def test_terms_of_a_plan_without_noise_demand_none() -> None:
    manifest = renamed(World().found().manifest(), privacy=NoNoise(noise="none"))
    assert AccountingTerms.of(manifest).noise is None


def test_a_spending_holds_all_that_the_event_says() -> None:
    world = World().found()
    said = world.account(world.manifest())
    kept = AccountedSpending.of(said, index=9)
    assert kept.index == 9
    for name in ("run_id", "round_number", "attempt", "adapter", "version", "steps"):
        assert getattr(kept, name) == getattr(said, name)
    assert kept.mechanism == said.loss.mechanism
    assert kept.promise is not None
    assert said.promise is not None
    for field in dataclasses.fields(AccountedLoss):
        name = field.name
        assert getattr(kept.promise, name) == getattr(said.promise, name)
    bare = AccountedSpending.of(without_noise(said), index=9)
    assert (bare.mechanism, bare.promise) == ("none", None)


def test_equal_texts_of_many_accounts_are_one_object() -> None:
    world = World().found()
    one, other = (world.account(world.manifest(n)).promise for n in (1, 2))
    assert one is not None
    assert other is not None
    first, second = AccountedLoss.of(one), AccountedLoss.of(other)
    assert first.accountant is second.accountant
    assert first.mechanism is second.mechanism
