"""What rests on the blocks of some persons, and the cost of doing without them."""

import pytest

from tapestry.privacy import accounting
from tapestry_governance.events.privacy_events import BlockEpsilon
from tapestry_governance.events.round_events import RoundOpened
from tapestry_node.data.withdrawal import plan_retraining
from tests.support.log_world import NAMES, World, changed, with_loss


def close(world: World, number: int, blocks: tuple[int, ...]) -> None:
    """Close a round in which fr trained on some blocks, and release its base."""
    manifest = world.manifest(number)
    world.add(RoundOpened(manifest=manifest))
    said = tuple(
        BlockEpsilon(block=each, epsilon=str(number + 1), epsilon_fallback=None)
        for each in blocks
    )
    commitments = {}
    for name in NAMES:
        account = world.account(manifest)
        if name == "fr":
            account = with_loss(account, blocks=said)
        world.add(account, name, "node")
        commitments[name] = world.add(world.commitment(name, manifest), name, "node")
    world.add(world.closing(manifest, commitments))
    world.add(world.release(number))


@pytest.fixture
def world() -> World:
    found = World(unit="person").found()
    close(found, 1, (1,))
    found.add(changed(found.declaration("fr"), block=2), "fr", "node")
    close(found, 2, (1, 2))
    return found


def test_retraining_starts_before_the_persons_came_in(world: World) -> None:
    plan = plan_retraining(world.folded, "fr", [2])
    assert (plan.releases, plan.start, plan.rounds) == (("base-2",), "base-1", 1)
    steps = accounting.Steps(noise_multiplier=1, sampling_rate=0.05, steps=20)
    want = accounting.epsilon([steps], target_delta=1e-5)
    assert plan.epsilon == pytest.approx(want)
    assert plan.delta == 1e-5


def test_without_a_release_before_it_starts_at_the_given_base(world: World) -> None:
    plan = plan_retraining(world.folded, "fr", [1])
    assert (plan.releases, plan.start, plan.rounds) == (("base-1", "base-2"), None, 2)


def test_adapters_of_the_institution_and_on_those_releases_rest_on_it(
    world: World,
) -> None:
    world.approve("base-1")
    account = with_loss(
        world.adapter_account("fr-culture"),
        blocks=(BlockEpsilon(block=1, epsilon="4", epsilon_fallback=None),),
    )
    world.add(account, "fr", "node")
    assert plan_retraining(world.folded, "fr", [1]).adapters == ("fr-culture 1",)
    assert plan_retraining(world.folded, "fr", [2]).adapters == ()
    assert plan_retraining(world.folded, "de", [1]).adapters == ()


def test_nothing_rests_on_a_block_that_was_never_trained_on(world: World) -> None:
    world.add(changed(world.declaration("fr"), block=3), "fr", "node")
    plan = plan_retraining(world.folded, "fr", [3])
    assert (plan.releases, plan.adapters, plan.others) == ((), (), ())
    assert list(plan.lines()) == [("releases", "none"), ("adapters", "none")]
