"""How members stand to a release."""

import pytest

from tapestry.errors import RuleError
from tapestry_governance.vote_count import (
    VoteCount,
    adapter_standing,
    count_ballots,
    count_votes,
    newest_counts,
    unknown_files,
    withdrawn_files,
)
from tests.support.log_world import World, changed, fake_digest
from tests.support.proposals import proposal, withdrawal
from tests.support.refusals import refused


def grown(**rules: object) -> World:
    world = World(rules=rules).found()
    world.run_round(1)
    world.add(world.release(1))
    return world


def count(world: World) -> VoteCount:
    return count_votes(world.folded, "base-1", size=len(world.entries))


def counted(world: World) -> str:
    return str(count(world))


def withdraw(world: World, reason: str) -> None:
    world.decide(changed(withdrawal(world, "base-1"), reason=reason))


def test_a_release_is_a_candidate_until_the_share_of_the_policy_says_yes() -> None:
    world = grown()
    index = world.folded.release_named("base-1").index
    assert counted(world) == "candidate; 0 yes, 3 are needed (no vote)"
    world.vote(index, "de", "fr")
    world.vote(index, "es", vote="no")
    said = "candidate; 2 yes, 3 are needed (de yes, es no, fr yes)"
    assert counted(world) == said
    at = world.vote(index, "id")
    assert counted(world).startswith(f"approved by entry {at}; 3 yes")
    before = count_votes(world.folded, "base-1", size=len(world.entries) - 1)
    assert before.standing == "candidate"  # no checkpoint shows the vote yet


def test_what_members_withdraw_is_said_with_the_reason() -> None:
    world = grown()
    world.approve("base-1")
    world.add(world.adapter_account(), "fr", "node")
    world.add(world.adapter(1), "fr", "community")
    adapter = world.folded.adapters["fr-culture"]

    def standing() -> str:
        size = len(world.entries)
        return str(adapter_standing(world.folded, adapter, size=size))

    assert standing().startswith("base-1: approved by entry ")
    world.decide(withdrawal(world, "base-1"))
    at = len(world.entries) - 1
    assert counted(world).startswith(
        f"withdrawn by entry {at}: harmful, the policy refuses it; 3 yes"
    )
    assert standing().startswith(f"base-1: withdrawn by entry {at}: harmful, ")
    world.decide(withdrawal(world, "fr-culture"))
    at = len(world.entries) - 1
    said = f"fr-culture is withdrawn by entry {at}: harmful, the policy refuses it; "
    assert standing().startswith(f"{said}base-1: withdrawn")


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.parametrize("warns", [(), ("harmful",), ("superseded",)])
def test_what_may_be_used_is_approved_and_not_refused(
    approved: bool, warns: tuple[str, ...]
) -> None:
    """A candidate that was withdrawn with a warning was never approved either."""
    world = grown(withdrawn_warns=warns)
    if approved:
        world.approve("base-1")
    world.add(world.adapter_account(), "fr", "node")
    world.add(world.adapter(1), "fr", "community")
    adapter = world.folded.adapters["fr-culture"]

    def usable() -> tuple[bool, bool]:
        size = len(world.entries)
        return (
            count_votes(world.folded, "base-1", size=size).may_be_used,
            adapter_standing(world.folded, adapter, size=size).may_be_used,
        )

    is_warned = warns == ("harmful",)
    assert usable() == (approved, approved)
    world.decide(withdrawal(world, "fr-culture"))
    assert usable() == (approved, approved and is_warned)
    world.decide(withdrawal(world, "base-1"))
    assert usable() == (approved and is_warned, approved and is_warned)
    told = count_votes(world.folded, "base-1", size=len(world.entries)).to_json()
    assert told["standing"] == "withdrawn"
    assert told["reason"] == "harmful"
    assert told["withdrawn"] == len(world.entries) - 1
    assert (told["approved"] is not None) is approved


def test_the_policy_in_force_says_what_becomes_of_a_withdrawal() -> None:
    world = grown()
    world.approve("base-1")
    world.decide(withdrawal(world, "base-1"))
    model = world.folded.releases["base-1"].model_digest
    (found,) = withdrawn_files(world.settled, model=model, manifests=[])
    assert found.refused
    world.change_policy(withdrawn_warns=("harmful",))
    (found,) = withdrawn_files(world.settled, model=model, manifests=[])
    assert not found.refused
    assert str(found).endswith(": harmful, the policy only warns")


@pytest.mark.parametrize("reason", ["compromised", "unlawful_data", "harmful"])
def test_a_withdrawal_that_warns_shields_no_release_from_one_that_refuses(
    reason: str,
) -> None:
    world = grown(withdrawn_warns=("superseded",))
    world.approve("base-1")
    withdraw(world, "superseded")
    assert count(world).may_be_used
    withdraw(world, reason)
    told = count(world)
    assert not told.may_be_used
    assert told.withdrawn is not None
    assert told.withdrawn.decided == len(world.entries) - 1
    assert told.withdrawn.reason == reason
    with refused(RuleError, "withdrawn-already", match=f"as {reason}; .* superseded"):
        withdraw(world, "superseded")


@pytest.mark.parametrize("lighter", ["superseded", "harmful"])
def test_a_lighter_withdrawal_overtakes_no_graver_one(lighter: str) -> None:
    world = grown(withdrawn_warns=("superseded",))
    world.approve("base-1")
    body = withdrawal(world, "base-1")
    grave = world.propose(changed(body, reason="compromised"))
    light = world.propose(changed(body, reason="superseded"), by="de")
    withdraw(world, lighter)
    assert world.settled.ballots[grave].outcome == "open"
    assert world.settled.ballots[light].outcome == "overtaken"
    world.carry(grave, ("de", "es", "fr", "id"))
    assert world.settled.ballots[grave].outcome == "in_force"
    assert count(world).to_json()["reason"] == "compromised"


def test_no_policy_frees_what_was_withdrawn_for_a_reason_that_it_refuses() -> None:
    """What refuses one day may warn the next: each reason is kept."""
    world = grown(withdrawn_warns=("superseded",))
    world.approve("base-1")
    for reason in ("superseded", "harmful"):
        withdraw(world, reason)
    for warns, said in (
        (("harmful",), "superseded"),
        (("superseded",), "harmful"),
    ):
        world.change_policy(withdrawn_warns=warns)
        assert not count(world).may_be_used
        assert count(world).to_json()["reason"] == said
    world.change_policy(withdrawn_warns=("harmful", "superseded"))
    assert count(world).may_be_used
    withdraw(world, "compromised")
    world.change_policy(withdrawn_warns=("broken", "harmful", "superseded"))
    assert not count(world).may_be_used
    with refused(RuleError, "withdrawn-already"):
        withdraw(world, "unlawful_data")


def test_the_newest_releases_come_first() -> None:
    world = grown()
    world.run_round(2)
    world.add(world.release(2))
    size = len(world.entries)
    found = newest_counts(world.folded, size=size)
    assert [each.release for each in found] == ["base-2", "base-1"]
    assert [e.release for e in newest_counts(world.folded, size=size, most=1)] == [
        "base-2"
    ]


def test_ballots_name_what_they_are_about() -> None:
    world = grown()
    for kind in ("policy", "remove", "withdraw", "pause"):
        world.propose(proposal(world, kind))
    release, *others = count_ballots(world.settled)
    assert (release.what, release.standing) == ("base-1", "candidate")
    assert (release.yes, release.needed) == (0, 3)
    assert release.missing == ("de", "es", "fr", "id")
    assert release.decided is None
    world.approve("base-1")
    at = count_votes(world.folded, "base-1", size=len(world.entries)).approved
    assert count_ballots(world.settled)[0].decided == at == len(world.entries) - 1
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
    (found,) = withdrawn_files(world.settled, model=model, manifests=[manifest])
    assert (found.name, found.reason, found.refused) == ("fr-culture", "harmful", True)
    world.decide(withdrawal(world, "base-1"))
    (found,) = withdrawn_files(world.settled, model=model, manifests=[])
    assert (found.name, found.refused) == ("base-1", True)
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
