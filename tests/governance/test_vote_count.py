"""How members stand to a release."""

from tapestry_governance.vote_count import (
    count_ballots,
    count_votes,
    unknown_files,
    withdrawals,
    withdrawn_files,
)
from tests.support.log_world import World, fake_digest
from tests.support.proposals import proposal, withdrawal


def grown() -> World:
    world = World().found()
    world.run_round(1)
    world.add(world.release(1))
    return world


def counted(world: World) -> str:
    return str(count_votes(world.folded, "base-1", size=len(world.entries)))


def test_a_release_is_a_candidate_until_the_share_of_the_policy_says_yes() -> None:
    world = grown()
    index = world.folded.release_named("base-1").index
    assert counted(world) == "candidate; 0 yes, 3 are needed (no vote)"
    world.vote(index, "de", "fr")
    world.vote(index, "es", vote="no")
    said = "candidate; 2 yes, 3 are needed (de yes, es no, fr yes)"
    assert counted(world) == said
    world.vote(index, "id")
    assert counted(world).startswith("approved; 3 yes")
    before = count_votes(world.folded, "base-1", size=len(world.entries) - 1)
    assert before.standing == "candidate"  # no checkpoint shows the vote yet


def test_what_members_withdraw_is_said_with_the_reason() -> None:
    world = grown()
    world.approve("base-1")
    world.add(world.adapter_account(), "fr", "node")
    world.add(world.adapter(1), "fr", "community")
    adapter = world.folded.adapters["fr-culture"]
    size = len(world.entries)
    assert withdrawals(world.folded, adapter, size=size) == []
    world.decide(withdrawal(world, "base-1"))
    world.decide(withdrawal(world, "fr-culture"))
    assert counted(world).startswith("withdrawn: harmful; ")
    assert withdrawals(world.folded, adapter, size=len(world.entries)) == [
        "fr-culture is withdrawn: harmful",
        "base-1 is withdrawn: harmful",
    ]


def test_ballots_name_what_they_are_about() -> None:
    world = grown()
    for kind in ("policy", "remove", "withdraw", "pause"):
        world.propose(proposal(world, kind))
    release, *others = count_ballots(world.settled)
    assert (release.what, release.standing) == ("base-1", "candidate")
    assert (release.yes, release.needed) == (0, 3)
    assert release.missing == ("de", "es", "fr", "id")
    said = [each.what for each in others]
    assert said == [
        *("policy by fr", "remove fr by fr", "withdraw base-1 by fr", "pause by fr")
    ]
    assert {each.standing for each in others} == {"open"}


def test_files_are_withdrawn_whatever_their_folder_is_called() -> None:
    world = grown()
    world.approve("base-1")
    world.add(world.adapter_account(), "fr", "node")
    world.add(world.adapter(1), "fr", "community")
    model = world.folded.releases["base-1"].model_digest
    manifest = world.folded.adapters["fr-culture"].manifest_digest
    assert withdrawn_files(world.settled, model=model, manifests=[manifest]) == []
    world.decide(withdrawal(world, "fr-culture"))
    assert withdrawn_files(world.settled, model=model, manifests=[]) == []
    said = ["fr-culture is withdrawn: harmful"]
    assert withdrawn_files(world.settled, model=model, manifests=[manifest]) == said
    world.decide(withdrawal(world, "base-1"))
    said = ["base-1 is withdrawn: harmful"]
    assert withdrawn_files(world.settled, model=model, manifests=[]) == said
    assert withdrawn_files(world.settled, model=fake_digest("x"), manifests=[]) == []


def test_files_that_the_log_does_not_name_are_told() -> None:
    world = grown()
    world.add(world.adapter_account(), "fr", "node")
    world.add(world.adapter(1), "fr", "community")
    state, other = world.settled, fake_digest("x")
    model = state.releases["base-1"].model_digest
    manifest = state.adapters["fr-culture"].manifest_digest
    assert unknown_files(state, model=model, manifests=[manifest]) == []
    bases = state.policy.bases
    assert bases != "any"
    assert unknown_files(state, model=bases[0].model, manifests=[]) == []
    assert unknown_files(state, model=other, manifests=[manifest, other]) == [
        f"the log does not name the base {other}",
        f"the log does not name an adapter with manifest {other} now",
    ]
