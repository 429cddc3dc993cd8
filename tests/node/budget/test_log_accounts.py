"""What the log is told about a charge: figures that anyone can recompute."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tapestry.encoding import decode_decimal
from tapestry.errors import BudgetExhausted, ConfigError, PolicyError
from tapestry.privacy import accounting
from tapestry.protocol.round_manifest import NoNoise
from tapestry_governance.audit.privacy_statement import state_privacy
from tapestry_governance.events.privacy_events import PrivacyLoss, UnboundedLoss
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.rules.round_records import AccountedSpending
from tapestry_node.budget.ledger import Charge, Ledger, PrivacyPromise
from tapestry_node.budget.log_accounts import (
    ancestry_epsilon,
    check_cap,
    loss_of,
    published_charges,
)
from tapestry_node.node_state import NodeState
from tests.support.log_world import World, changed, renamed, without_noise
from tests.support.plans import privacy_plan
from tests.support.refusals import refused
from tests.support.unsigned_accounts import unsigned

STEPS = accounting.Steps(noise_multiplier=1.0, sampling_rate=0.05, steps=10)
CHARGE = Charge(purpose="round", run="run-1", number=1, steps=STEPS, own_multiplier=1.0)
INTEGER = replace(STEPS, steps=1, coordinates=1000, bound=2.0**20)
SHARED = replace(CHARGE, steps=INTEGER, own_multiplier=0.5)
PLAN = privacy_plan(clip_norm="0.5")
SHARED_PLAN = privacy_plan(noise="shared", clip_norm="0.5")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(NodeState(tmp_path / "node.db"), ledger_terms())


def ledger_terms() -> PrivacyPromise:
    return PrivacyPromise(
        records=1000,
        epsilon=40.0,
        fallback_epsilon=400.0,
        delta=1e-4,  # larger than what the plan promises
    )


def spent(ledger: Ledger) -> list[Charge]:
    return [row.charge for row in ledger.rows() if row.state == "spent"]


def test_the_account_of_local_noise_has_the_epsilon_at_the_plans_delta(
    ledger: Ledger,
) -> None:
    ledger.reserve(CHARGE)
    ledger.spend(CHARGE, unsigned)
    loss = loss_of(CHARGE, PLAN, spent=spent(ledger), unit="record")
    assert isinstance(loss, PrivacyLoss)
    assert (loss.trust_model, loss.mechanism) == ("local", accounting.MECHANISM)
    assert (loss.clip_norm, loss.target_delta) == ("0.5", "0.00001")
    assert (loss.shares, loss.coordinates, loss.epsilon_fallback) == (1, 0, None)
    want = accounting.epsilon([STEPS], target_delta=1e-5)
    assert decode_decimal(loss.epsilon) == pytest.approx(want, abs=1e-6)


def test_the_account_of_shared_noise_names_the_fallback_as_well(
    ledger: Ledger,
) -> None:
    ledger.reserve(SHARED)
    ledger.spend(SHARED, unsigned)
    loss = loss_of(SHARED, SHARED_PLAN, spent=spent(ledger), unit="record")
    assert isinstance(loss, PrivacyLoss)
    assert loss.trust_model == "shared"
    assert loss.mechanism == accounting.INTEGER_MECHANISM
    assert (loss.shares, loss.coordinates, loss.own_multiplier) == (4, 1000, "0.5")
    assert loss.epsilon_fallback is not None
    assert decode_decimal(loss.epsilon_fallback) > decode_decimal(loss.epsilon)


def test_an_account_without_noise_promises_nothing() -> None:
    loss = loss_of(None, NoNoise(noise="none"), spent=[], unit="record")
    assert loss == UnboundedLoss(mechanism="none")


def test_noise_without_a_charge_and_a_charge_without_noise_are_refused() -> None:
    with refused(ConfigError, "privacy-terms-differ"):
        loss_of(None, PLAN, spent=[], unit="record")
    with refused(ConfigError, "privacy-terms-differ", match="noise 'none'"):
        loss_of(CHARGE, NoNoise(noise="none"), spent=[CHARGE], unit="record")


def test_an_account_composes_all_runs_of_the_institution(ledger: Ledger) -> None:
    for charge in (CHARGE, replace(CHARGE, run="run-2")):
        ledger.reserve(charge)
        ledger.spend(charge, unsigned)
    loss = loss_of(CHARGE, PLAN, spent=spent(ledger), unit="record")
    assert isinstance(loss, PrivacyLoss)
    want = accounting.epsilon([STEPS, STEPS], target_delta=1e-5)
    assert want <= decode_decimal(loss.epsilon) < want + 2e-6


def test_what_the_log_would_refuse_is_refused_before_it_is_spent(
    ledger: Ledger, tmp_path: Path
) -> None:
    plain = World().found().folded
    check = partial(check_cap, ledger=ledger, name="fr", target_delta="0.00001")
    check(CHARGE, state=plain)
    bare = World(rules={"noise": ("local", "none")}).found()
    manifest = renamed(bare.manifest(), privacy=NoNoise(noise="none"))
    bare.add(RoundOpened(manifest=manifest))
    bare.add(without_noise(bare.account(manifest)), "fr", "node")
    with refused(PolicyError, "training-without-noise", match="by entry 10"):
        check(CHARGE, state=bare.folded)
    own = Ledger.open(NodeState(tmp_path / "own.db"), ledger_terms())
    NodeState(tmp_path / "own.db").account(("round", "lost", 1), unsigned)
    with refused(PolicyError, "training-without-noise", match="of its own"):
        check_cap(CHARGE, ledger=own, state=plain, name="fr", target_delta="0.00001")
    low = World(rules={"epsilon_cap": "0.1"}).found().folded
    with refused(BudgetExhausted, "epsilon-above-cap"):
        check(CHARGE, state=low)


@pytest.fixture(scope="module")
def world() -> World:
    return World().grow()


def test_charges_are_those_of_the_node_in_the_order_of_the_log(world: World) -> None:
    found = list(published_charges(world.folded, "fr"))
    assert [charge.key for charge in found] == [
        ("round", "run", 1),
        ("round", "run", 2),
        ("adapter", "fr-culture", 1),
    ]
    assert {charge.steps.steps for charge in found} == {20}
    assert len(list(published_charges(world.folded, "id"))) == 1
    assert list(published_charges(world.folded, "nobody")) == []


def test_what_led_to_an_adapter_are_its_training_and_its_bases_rounds() -> None:
    """Another adapter of the node counts in its total, not in this one."""
    world = World().found()
    world.run_round(1)
    world.run_round(2)
    world.add(world.release(2))
    world.add(world.adapter_account("fr-other"), "fr", "node")
    own, state = world.adapter_account("fr-culture"), world.folded
    spending = [*state.spending_of("fr"), AccountedSpending.of(own, index=state.size)]
    told = ancestry_epsilon(own, "base-2", state=state, spending=spending)
    assert told is not None
    world.add(own, "fr", "node")
    world.add(world.adapter(2), "fr", "community")
    (promise,) = state_privacy(world.folded, "fr-culture").promises
    composed, total = promise.account.recomputed, promise.total.recomputed
    assert composed is not None
    assert total is not None
    assert 0 <= decode_decimal(told) - composed < 2e-6
    assert total > composed + 0.3


def test_a_training_without_noise_leaves_an_adapter_no_ancestry_to_compose() -> None:
    world = World(rules={"noise": ("local", "none")}).found()
    world.run_round(1)
    world.add(world.release(1))
    world.add(without_noise(world.adapter_account()), "fr", "node")
    own, state = changed(world.adapter_account(), version=2), world.folded
    spending = [*state.spending_of("fr"), AccountedSpending.of(own, index=state.size)]
    told = ancestry_epsilon(own, "base-1", state=state, spending=spending)
    assert told is None
