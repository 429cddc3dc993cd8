"""When decisions, new keys and exits take effect, and when they must not."""

import dataclasses

import pytest

from tapestry.errors import RuleError
from tapestry.protocol.messages import Reason
from tapestry_governance.events.envelope import Seen
from tapestry_governance.events.member_events import (
    MemberLeft,
    PauseProposal,
    Removal,
)
from tapestry_governance.events.round_events import (
    ContributionRefused,
    RoundDisputed,
    RoundOpened,
)
from tapestry_governance.rules.ballots import Waiting
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply_all
from tapestry_governance.rules.settlement import lapse, settle, take_effect
from tests.fuzzing.draws import Draw
from tests.support.log_world import NAMES, World, renamed
from tests.support.proposals import (
    KINDS,
    new_coordinator,
    new_key,
    new_policy,
    new_root,
    proposal,
    withdrawal,
)
from tests.support.refusals import refused
from tests.support.vote_walks import Walk, aborted

OTHERS = ("de", "es", "id")
PAUSE, REMOVAL = PauseProposal(kind="pause"), Removal(kind="remove", member="id")


@pytest.fixture
def world() -> World:
    return World().found()


def declare(world: World, name: str, seen: Seen | None) -> None:
    """Append an entry whose author saw so much of the log."""
    body = world.declaration(name)
    world.append(world.entry(body, name, "node", seen=seen))


def reopen(world: World, seen: Seen | None) -> bytes:
    """Sign an opening by a coordinator that saw so much, of what was planned before."""
    manifest = renamed(
        world.manifest(attempt=2),
        policy_digest=world.folded.policy.digest,
        roster_digest=world.folded.roster.digest,
    )
    return world.entry(RoundOpened(manifest=manifest), seen=seen)


def test_a_decision_is_in_force_once_an_author_saw_it_in_a_checkpoint(
    world: World,
) -> None:
    index = world.propose(REMOVAL)
    decided = world.vote(index, "de", "es", "fr")
    declare(world, "de", world.seen(decided))  # all but the deciding vote
    declare(world, "es", None)
    assert world.folded.ballots[index].outcome == "decided"
    assert "id" in world.folded.members
    declare(world, "fr", world.seen(decided + 1))
    assert world.folded.ballots[index].outcome == "in_force"
    assert "id" not in world.folded.members


def test_the_entry_that_brings_a_decision_in_force_obeys_it(world: World) -> None:
    world.decide(REMOVAL, "de", "es", "fr")
    with refused(RuleError, "actor-unknown", match="id is not a node"):
        declare(world, "id", world.seen())
    declare(world, "id", world.seen(9))  # its author had not seen it
    assert "id" in world.folded.members


def test_who_shows_or_plans_sees_what_the_next_entry_will_find(world: World) -> None:
    index = world.decide(new_policy(world, max_attempt=7))
    decided = world.folded.ballots[index].decided
    assert decided is not None
    assert settle(world.folded, seen=decided) == world.folded
    ahead = settle(world.folded, seen=decided + 1)
    assert ahead.policy.max_attempt == 7
    world.add(world.declaration("fr"), "fr", "node")
    assert world.folded.policy == ahead.policy


@pytest.mark.parametrize("kind", ["policy", "admit", "remove", "root"])
def test_members_keys_and_policy_wait_for_the_end_of_the_round(
    world: World, kind: str
) -> None:
    world.add(RoundOpened(manifest=world.manifest()))
    before = world.folded
    index = world.propose(proposal(world, kind), by="de")
    world.vote(index, "de", "es")
    world.vote(index, "id")
    world.add(world.declaration("es"), "es", "node")
    assert world.folded.roster == before.roster
    assert world.folded.policy == before.policy
    world.add(aborted(world.folded))
    assert world.folded.roster == before.roster  # the round ended with this entry
    world.add(world.declaration("es"), "es", "node")
    assert world.folded.ballots[index].outcome == "in_force"
    assert (world.folded.roster, world.folded.policy) != (before.roster, before.policy)


def test_a_coordinator_with_an_old_view_does_not_put_a_decision_off(
    world: World,
) -> None:
    """Within the round other authors saw it: after its end it is in force."""
    world.add(RoundOpened(manifest=world.manifest()))
    old = world.seen()
    index = world.decide(REMOVAL, "de", "es", "fr")
    world.add(world.declaration("es"), "es", "node")
    world.add(aborted(world.folded))
    for seen in (old, None):
        with refused(RuleError, "roster-differs"):
            world.append(reopen(world, seen))
    declare(world, "de", None)
    assert world.folded.ballots[index].outcome == "in_force"


def test_until_somebody_saw_it_a_round_may_open_as_it_was(world: World) -> None:
    """The votes were the last entries: the plan is of the log before them."""
    world.add(RoundOpened(manifest=world.manifest()))
    world.add(aborted(world.folded))
    old = world.seen()
    index = world.decide(REMOVAL, "de", "es", "fr")
    world.append(reopen(world, old))
    assert world.folded.ballots[index].outcome == "decided"


def test_pauses_withdrawals_and_approvals_wait_for_no_round() -> None:
    world = World().grow()
    world.add(RoundOpened(manifest=world.manifest(3)))
    world.approve("base-2")
    world.decide(withdrawal(world, "fr-culture"), *OTHERS)
    world.decide(PAUSE, "fr", "de")
    world.add(world.declaration("fr"), "fr", "node")
    state = world.folded
    assert state.open_round is not None
    assert state.paused is not None
    assert state.standing == ["base-2"]
    assert [name for name, _ in state.withdrawn] == ["fr-culture"]


def test_a_new_key_waits_for_the_end_of_the_round_unless_the_old_was_stolen(
    world: World,
) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    world.rotate("fr", "node")
    world.rotate("es", "node", reason="compromised")
    world.add(world.account(manifest), "fr", "node")
    with refused(RuleError, "signature-missing"):
        world.add(world.account(manifest), "es", "node")
    world.keys["es", "node"] = world.keys["es", "node'"]
    world.add(world.account(manifest), "es", "node")
    world.add(aborted(world.folded))
    with refused(RuleError, "signature-missing"):
        world.add(world.declaration("fr"), "fr", "node")
    world.keys["fr", "node"] = world.keys["fr", "node'"]
    world.add(world.declaration("fr"), "fr", "node")


def refusal(attempt: int = 1) -> ContributionRefused:
    return ContributionRefused(
        run_id="run", round_number=1, attempt=attempt, reason=Reason.MAINTENANCE
    )


def test_what_was_signed_before_a_rotation_counts_where_it_is_owed(
    world: World,
) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    late = [world.entry(world.account(manifest), "fr", "node") for _ in range(2)]
    refusals = world.entry(refusal(), "fr", "node")
    declared = world.entry(world.declaration("fr"), "fr", "node")
    world.add(aborted(world.folded))
    world.rotate("fr", "node")
    world.add(world.declaration("de"), "de", "node")
    world.append(late[0])
    world.append(refusals)
    assert len(world.folded.spending_of("fr")) == 1
    with refused(RuleError, "signature-missing"):
        world.append(declared)
    with refused(RuleError, "account-duplicated"):
        world.append(late[1])


def test_a_former_key_says_nothing_of_rounds_that_were_opened_after_it(
    world: World,
) -> None:
    """Whoever finds an old key can neither refuse nor account in its member's name."""
    world.rotate("fr", "node")
    world.add(world.declaration("de"), "de", "node")
    manifest = world.manifest()
    new = str(world.keys["fr", "node'"].verify_key)
    participants = tuple(
        each.model_copy(update={"key": new}) if each.name == "fr" else each
        for each in manifest.participants
    )
    manifest = renamed(manifest, participants=participants)
    world.add(RoundOpened(manifest=manifest))
    for body in (refusal(), world.account(manifest)):
        with refused(RuleError, "signature-missing"):
            world.append(world.entry(body, "fr", "node"))
    world.keys["fr", "node"] = world.keys["fr", "node'"]
    world.commit("fr", manifest)


def test_a_compromised_key_never_counts_again(world: World) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    late = world.entry(world.account(manifest), "fr", "node")
    world.add(aborted(world.folded))
    world.rotate("fr", "node", reason="compromised")
    world.add(world.declaration("de"), "de", "node")
    with refused(RuleError, "signature-missing"):
        world.append(late)
    world.keys["fr", "node"] = world.keys["fr", "node'"]
    world.add(world.account(manifest), "fr", "node")


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "in force"])
def test_a_routine_rotation_may_be_called_one_of_a_compromised_key_later(
    world: World, waits: bool
) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    late = world.entry(world.account(manifest), "fr", "node")
    world.add(aborted(world.folded))
    key = world.rotation("fr", "node")
    world.add(key, "fr", "root")
    if not waits:
        world.add(world.declaration("de"), "de", "node")
    worse = key.model_copy(update={"reason": "compromised"})
    world.add(worse, "fr", "root")
    world.add(world.declaration("es"), "es", "node")
    state = world.folded
    assert str(state.key_of("fr", "node")) == key.key
    assert [each.compromised for each in state.former_keys["fr", "node"]] == [True]
    with refused(RuleError, "signature-missing"):
        world.append(late)
    for again in (worse, key):
        with refused(RuleError, "key-taken"):
            world.add(again, "fr", "root")


def test_a_root_that_is_called_compromised_later_takes_along_what_waits(
    world: World,
) -> None:
    key = world.rotation("fr", "root")
    world.add(key, "fr", "root")
    world.add(world.declaration("de"), "de", "node")
    world.add(RoundOpened(manifest=world.manifest()))
    world.keys["fr", "root"] = world.keys["fr", "root'"]
    world.rotate("fr", "community", seed="thief")
    world.rotate("de", "node")
    world.add(key.model_copy(update={"reason": "compromised"}), "fr", "root")
    assert {world.settled.rotations[w.subject][0] for w in world.settled.waiting} == {
        "de"
    }


def test_another_member_calls_no_key_compromised(world: World) -> None:
    key = world.rotation("fr", "node")
    world.add(key, "fr", "root")
    world.add(world.declaration("de"), "de", "node")
    with refused(RuleError, "key-taken"):
        world.add(key.model_copy(update={"reason": "compromised"}), "de", "root")


def test_a_removed_member_owes_its_account_and_no_more(world: World) -> None:
    manifest = world.run_round(names=NAMES[:3])
    adapter = world.adapter_account()
    world.decide(REMOVAL, "de", "es", "fr")
    declared = world.declaration("id")
    for body in (declared, adapter):
        with refused(RuleError, "actor-unknown"):
            world.add(body, "id", "node")
    dispute = RoundDisputed(
        run_id="run", round_number=1, attempt=1, subject="gate", chunk=None
    )
    world.add(world.account(manifest), "id", "node")
    world.add(dispute, "id", "node")
    other = renamed(
        world.manifest(2),
        participants=tuple(p for p in manifest.participants if p.name != "id"),
        threshold=3,
    )
    world.add(RoundOpened(manifest=other))
    committed = {name: world.commit(name, other) for name in NAMES[:3]}
    closing = world.closing(other, committed)
    world.add(closing.model_copy(update={"dropped": ()}))
    later = dispute.model_copy(update={"round_number": 2})
    with refused(RuleError, "actor-unknown"):
        world.add(later, "id", "node")


def test_one_that_left_disputes_no_round_without_it(world: World) -> None:
    """It counts in the quorum as long as two members are in it, and says no more."""
    world.run_round()
    world.add(MemberLeft(), "id", "root")
    state = world.folded
    assert "id" in state.members
    dispute = RoundDisputed(
        run_id="run", round_number=1, attempt=1, subject="gate", chunk=None
    )
    world.append(world.entry(dispute, "id", "node", seen=None))
    others = frozenset(NAMES) - {"id"}
    key = ("run", 1, 1)
    record = state.rounds[key]
    terms = dataclasses.replace(record.terms, participants=others)
    world.state = dataclasses.replace(
        state,
        rounds=state.rounds.set(key, dataclasses.replace(record, terms=terms)),
        past=world.folded.past,
    )
    with refused(RuleError, "node-not-in-cohort", match="id left"):
        world.append(world.entry(dispute, "id", "node", seen=None))


def test_a_member_that_left_counts_in_the_quorum_until_the_round_ends(
    world: World,
) -> None:
    world.add(RoundOpened(manifest=world.manifest()))
    world.add(MemberLeft(), "id", "root")
    world.add(world.declaration("de"), "de", "node")
    assert "id" in world.folded.members
    world.add(aborted(world.folded))
    world.add(world.declaration("de"), "de", "node")
    assert "id" not in world.folded.members


def test_two_members_stay_in_the_quorum_and_one_goes_when_another_comes() -> None:
    world = World(names=NAMES[:3]).adopt()
    for name in ("fr", "es"):
        world.add(MemberLeft(), name, "root")
    world.add(world.declaration("de"), "de", "node")
    assert set(world.folded.members) == {"de", "es"}
    world.vote(world.propose(world.invent("zz"), by="de"), "de")
    assert set(world.settled.members) == {"de", "es", "zz"}  # whose quorum is needed
    world.add(world.declaration("de"), "de", "node")
    assert set(world.settled.members) == {"de", "zz"}
    assert not world.settled.waiting


def test_no_more_witnesses_change_at_a_time_than_a_turn_can_do_without() -> None:
    world = World().found()
    before = world.seen()
    for name in ("de", "es", "fr"):
        body = world.rotation(name, "witness")
        world.append(world.entry(body, name, "root", seen=before))

    def renewed() -> set[str]:
        members = world.settled.members
        old = {name: str(world.keys[name, "witness"].verify_key) for name in NAMES}
        return {name for name in NAMES if members[name].witness != old[name]}

    for number in range(1, 4):
        assert len(renewed()) == number  # three of the last quorum still sign
        world.add(world.declaration("id"), "id", "node")
    assert renewed() == {"de", "es", "fr"}
    sizes = [each.size for each in world.folded.trusted]
    assert len(sizes) == 4


def test_of_two_members_none_gives_its_witness_another_key() -> None:
    world = World(names=NAMES[:2]).adopt()
    with refused(RuleError, "witness-not-spared"):
        world.rotate("de", "witness")
    world.rotate("de", "node")


def test_who_is_removed_while_its_exit_waits_may_come_back() -> None:
    """The exit of the membership before takes nothing of the next one."""
    trio = World(names=NAMES[:3]).adopt()
    removal = trio.propose(Removal(kind="remove", member="fr"), by="de")
    decided = trio.vote(removal, "de", "es")
    trio.append(trio.entry(MemberLeft(), "fr", "root", seen=trio.seen(decided)))
    state = settle(trio.folded, seen=trio.folded.size)
    assert set(state.members) == {"de", "es"}
    exit_ = Waiting(since=decided + 1, subject=decided + 1)
    assert state.waiting == (exit_,)
    back = dataclasses.replace(state, left=state.left.without("fr")).with_members(
        trio.folded.members
    )
    assert take_effect(back, exit_).members == back.members


def test_a_proposal_lapses_with_each_change_of_the_voters(world: World) -> None:
    """[25] By an admission, a removal or an exit; one that is decided stands."""
    for change in (world.invent("zz"), REMOVAL):
        waiting = world.propose(PAUSE, by="es")
        world.vote(waiting, "es")
        world.decide(change, "de", "es", "fr", "zz")
        assert world.settled.ballots[waiting].outcome == "lapsed"
        assert waiting not in world.settled.open_proposals
    last = world.propose(PAUSE, by="es")
    world.add(MemberLeft(), "zz", "root")
    assert world.folded.ballots[last].outcome == "lapsed"
    assert lapse(world.folded) == world.folded


def test_a_decision_does_not_lapse(world: World) -> None:
    index = world.propose(new_policy(world, max_attempt=7))
    decided = world.vote(index, "de", "es", "fr")
    entry = world.entry(MemberLeft(), "id", "root", seen=world.seen(decided))
    world.append(entry)
    assert world.folded.ballots[index].outcome == "decided"
    assert world.settled.policy.max_attempt == 7


def test_a_new_key_lets_no_proposal_lapse(world: World) -> None:
    index = world.propose(PAUSE)
    world.rotate("de", "node")
    world.rotate("de", "root")
    world.keys["de", "root"] = world.keys["de", "root'"]
    world.vote(index, "de", "fr")
    assert world.folded.ballots[index].outcome == "decided"


def test_what_another_decision_overtook_is_no_burden_on_its_author(
    world: World,
) -> None:
    mine = world.propose(new_policy(world, max_attempt=7), by="fr")
    twice = world.propose(world.invent("zz"), by="fr")
    world.decide(new_policy(world, max_attempt=6))
    assert world.settled.ballots[mine].outcome == "overtaken"
    assert world.settled.open_proposals == (twice,)


def test_a_stolen_root_key_leaves_no_new_key_behind(world: World) -> None:
    """The thief's own new keys wait, and would be in force after the owner's."""
    world.add(RoundOpened(manifest=world.manifest()))
    for purpose in ("root", "node", "witness"):
        world.rotate("fr", purpose, seed="thief")
    world.rotate("de", "node")
    world.rotate("fr", "root", seed="owner", reason="compromised")
    owner = world.keys["fr", "root'"].verify_key
    world.add(aborted(world.folded))
    world.add(world.declaration("es"), "es", "node")
    assert world.folded.key_of("fr", "root") == owner
    assert world.folded.key_of("fr", "node") == world.key("fr", "node").verify_key
    assert world.folded.key_of("de", "node") == world.keys["de", "node'"].verify_key
    assert not world.folded.waiting


def test_a_vote_on_a_root_outlives_what_the_thief_signs_after_it(world: World) -> None:
    index = world.propose(new_root("fr"), by="de")
    decided = world.vote(index, *OTHERS)
    body = world.rotation("fr", "root", seed="thief")
    world.append(world.entry(body, "fr", "root", seen=world.seen(decided)))
    assert world.settled.key_of("fr", "root") == new_key("found-again").verify_key
    assert not world.settled.waiting


def test_a_key_that_was_taken_meanwhile_is_not_given_again(world: World) -> None:
    world.add(RoundOpened(manifest=world.manifest()))
    first = world.rotation("fr", "node", seed="one")
    world.add(first, "fr", "root")
    world.add(first, "fr", "root")
    world.rotate("fr", "receipts", seed="two")
    world.add(aborted(world.folded))
    world.add(world.declaration("de"), "de", "node")
    state = world.folded
    assert str(state.key_of("fr", "node")) == first.key
    assert len(state.former_keys["fr", "node"]) == 1
    assert {purpose for _, purpose in state.other_keys} == {"receipts", "transport"}


def test_a_new_coordinator_leads_although_a_round_is_open(world: World) -> None:
    world.add(RoundOpened(manifest=world.manifest()))
    world.decide(new_coordinator(world), *OTHERS)
    assert world.folded.lead.coordinator.name == "rivers"
    assert world.folded.open_round is not None


def test_settling_again_or_step_by_step_changes_nothing(world: World) -> None:
    world.add(RoundOpened(manifest=world.manifest()))
    for made in (new_policy(world, max_attempt=7), REMOVAL, PAUSE):
        world.decide(made, "de", "es", "fr")
    world.rotate("de", "node")
    world.add(MemberLeft(), "es", "root")
    world.state = dataclasses.replace(world.folded, open_round=None)
    check_settling(world.folded)


def check_settling(state: FederationState) -> None:
    whole = settle(state, seen=state.size)
    assert settle(whole, seen=state.size) == whole
    step = state
    for each in sorted({each.since + 1 for each in state.waiting}):
        step = settle(step, seen=each)
        assert step == settle(state, seen=each)
    assert settle(step, seen=state.size) == whole


@pytest.mark.parametrize("number", range(6))
def test_whatever_is_signed_the_state_keeps_its_promises(number: int) -> None:
    """Members change, and keys, and who leads; most of what is signed is refused."""
    walk = Walk(Draw(2026, number))
    for _ in range(160):
        walk.step()
        check_settling(walk.world.folded)
    again = apply_all(None, walk.world.entries)
    assert again is not None
    assert dataclasses.replace(again, past=walk.world.folded.past) == walk.world.folded
    assert walk.codes["taken"] > 40
    assert sum(walk.codes[f"decided {kind}"] for kind in KINDS) > 0
