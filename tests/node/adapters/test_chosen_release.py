"""An adapter is trained on a release that members approved, and that is here."""

from pathlib import Path

import pytest

from tapestry.errors import PolicyError
from tapestry.model.replica import Replica
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_governance.rules.federation_state import FederationState
from tapestry_node.adapters.chosen_release import find_release, held_base
from tapestry_node.refusal import Refused
from tapestry_node.round.base_snapshots import BaseSnapshots
from tests.support.federation import Federation
from tests.support.log_world import World
from tests.support.proposals import withdrawal
from tests.support.refusals import refused


def released(*approved: str) -> World:
    """Two releases of one run, of which some are approved."""
    world = World().found()
    for number in (1, 2):
        world.run_round(number)
        world.add(world.release(number))
    for name in approved:
        world.approve(name)
    return world


def state(*approved: str) -> FederationState:
    return released(*approved).settled


@pytest.mark.parametrize("wanted", [None, "run", "base-1"])
def test_the_newest_approved_release_is_chosen(wanted: str | None) -> None:
    assert find_release(state("base-1"), wanted).name == "base-1"


def test_a_release_is_named_by_the_index_of_its_entry_too() -> None:
    both = state("base-1", "base-2")
    index = both.release_named("base-1").index
    assert find_release(both, str(index)).name == "base-1"
    assert find_release(both, None).name == "base-2"


@pytest.mark.parametrize("wanted", ["base-2", "run"])
def test_a_candidate_is_refused(wanted: str) -> None:
    approved = ("base-1",) if wanted == "base-2" else ()
    with refused(PolicyError, "release-not-approved", match="base-2 is candidate"):
        find_release(state(*approved), wanted)


def test_a_release_that_was_withdrawn_is_refused() -> None:
    world = released("base-1")
    world.decide(withdrawal(world, "base-1"), "de", "es", "id")
    with refused(PolicyError, "release-not-approved", match="base-1 is withdrawn"):
        find_release(world.settled, "base-1")


@pytest.mark.parametrize("wanted", [None, "base-3", "other", "0"])
def test_a_release_that_is_not_there_is_refused(wanted: str | None) -> None:
    with refused(PolicyError, "release-unknown", match="base-1, base-2"):
        find_release(state(), wanted)


@pytest.mark.slow
def test_a_base_is_the_one_held_now_the_given_one_or_a_snapshot(
    settled: Federation, tmp_path: Path
) -> None:
    node = settled.nodes["fr"]
    first, second = (node.mirror.state.releases[n] for n in ("base-1", "base-2"))

    def find(
        release: ReleasePublished = first,
        snapshots: BaseSnapshots = node.base.snapshots,
        current: Replica | None = node.replica,
    ) -> Replica:
        return held_base(
            release,
            snapshots,
            mirror=node.mirror,
            store=node.store,
            current=current,
        )

    assert find(second) is node.replica
    assert find(first).release_digest == first.model_digest
    elsewhere = BaseSnapshots(directory=tmp_path, given=find(first))
    assert find(first, snapshots=elsewhere) is elsewhere.given
    nothing = BaseSnapshots(directory=tmp_path, given=settled.base.replica)
    with refused(Refused, "release-not-held", match="name the folder as base"):
        find(first, snapshots=nothing, current=None)
