"""What the log says that a node spent is what its ledger is asked for."""

from pathlib import Path

import pytest

from tapestry.encoding import digest
from tapestry.errors import ConfigError, VerificationError
from tapestry.protocol.wire_messages import NoNoise
from tapestry_governance.events.privacy_events import UnboundedLoss
from tapestry_node.budget.ledger import Ledger, PrivacyPromise
from tapestry_node.budget.log_accounts import loss_of, published_charges
from tests.support.log_world import World

TERMS = PrivacyPromise(
    dataset=digest(b"records"),
    records=1000,
    epsilon=8.0,
    fallback_epsilon=40.0,
    delta=1e-5,
)


@pytest.fixture(scope="module")
def world() -> World:
    return World().grow()


def test_charges_are_those_of_the_node_in_the_order_of_the_log(world: World) -> None:
    found = list(published_charges(world.folded, "fr"))
    assert [charge.key for charge in found] == [
        ("round", "run", 1),
        ("round", "run", 2),
        ("adapter", "adapters", 1),
    ]
    assert {charge.steps.steps for charge in found} == {20}
    assert len(list(published_charges(world.folded, "id"))) == 1
    assert list(published_charges(world.folded, "nobody")) == []


def test_charges_since_an_index_are_the_new_ones(world: World) -> None:
    spent = world.folded.spending_of("fr")
    since = spent[1].index
    found = list(published_charges(world.folded, "fr", since=since))
    assert [charge.number for charge in found] == [2, 1]
    assert list(published_charges(world.folded, "fr", since=spent[-1].index + 1)) == []


def test_a_loss_names_what_the_ledger_spent(world: World, tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "budget.db", TERMS)
    charge, *later = published_charges(world.folded, "fr")
    ledger.reserve(charge)
    ledger.spend(charge)
    ledger.require([charge])
    with pytest.raises(VerificationError, match="restored"):
        ledger.require(later)
    plan = world.manifest().privacy
    loss = loss_of(charge, plan, ledger=ledger)
    assert loss.mechanism == "poisson-subsampled-gaussian"
    assert (loss.shares, loss.sampling_rate) == (1, "0.05")
    assert 1.5 < float(loss.epsilon_run) < 2
    assert loss.epsilon_fallback is None


def test_without_noise_there_is_no_charge_and_nothing_is_promised(
    world: World, tmp_path: Path
) -> None:
    ledger = Ledger.open(tmp_path / "budget.db", TERMS)
    bare, plan = NoNoise(noise="none"), world.manifest().privacy
    assert loss_of(None, bare, ledger=ledger) == UnboundedLoss(mechanism="none")
    charge = next(published_charges(world.folded, "fr"))
    for each, privacy in ((charge, bare), (None, plan)):
        with pytest.raises(ConfigError, match="does not go with"):
            loss_of(each, privacy, ledger=ledger)
