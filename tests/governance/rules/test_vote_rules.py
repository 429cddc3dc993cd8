"""Attacks on votes; numbers in brackets are rows of the attack matrix."""

import dataclasses
import re
from collections.abc import Sequence

import pytest

from tapestry.encoding import digest
from tapestry.errors import RuleError
from tapestry.keys import SigningKey
from tapestry_governance.events.member_events import (
    Admission,
    MemberLeft,
    PauseProposal,
    ProposalMade,
    Removal,
    VoteCast,
)
from tapestry_governance.events.possession import PURPOSES, prove_possession
from tapestry_governance.rules.ballots import Vote, voters_digest
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.thresholds import eligible, votes_for, votes_needed
from tapestry_governance.rules.vote_rules import (
    MAX_CASTS,
    MAX_PROPOSALS,
    MAX_WITHDRAWALS,
    proposal_made,
    vote_cast,
)
from tests.support.log_world import NAMES, World, fake_digest
from tests.support.proposals import KINDS, new_policy, new_root, proposal
from tests.support.refusals import refused

ENTRY = fake_digest("a proposal")
PAUSE, RESUME = PauseProposal(kind="pause"), PauseProposal(kind="resume")


def grown(count: int) -> World:
    """Found a federation of some size, with a release that awaits its votes."""
    world = World(
        names=tuple(sorted({*NAMES, *(f"m{n:02}" for n in range(count - 4))}))
    )
    world.adopt()
    for name in NAMES:
        world.add(world.declaration(name), name, "node")
    world.run_round()
    world.add(world.release())
    return world


@pytest.fixture
def world() -> World:
    return grown(4)


def ballot_on(world: World, subject: int, vote: Vote = "yes") -> VoteCast:
    entry = digest(world.entries[subject])
    return VoteCast(subject=subject, entry=entry, vote=vote, reasons=None)


def put(state: FederationState, world: World, kind: str) -> tuple[FederationState, int]:
    """Put a proposal of a kind to the vote, by the rule alone, without a signature."""
    index = state.size
    if kind == "release":
        return state, state.release_named("base-1").index
    made = ProposalMade(
        roster=voters_digest(state.active), proposal=proposal(world, kind)
    )
    by = "de"
    return proposal_made(state, made, actor=by, index=index, entry=ENTRY), index


def cast(
    state: FederationState, subject: int, names: Sequence[str], vote: Vote = "yes"
) -> FederationState:
    entry = state.ballots[subject].entry
    for name in names:
        body = VoteCast(subject=subject, entry=entry, vote=vote, reasons=None)
        state = vote_cast(state, body, actor=name, index=state.size + 1)
    return state


@pytest.mark.parametrize("members", range(4, 41))
def test_no_minority_decides_and_no_single_member_blocks_any_kind(members: int) -> None:
    """Every kind, with exactly enough votes and with one fewer, and back again."""
    world = grown(members)
    running = world.folded
    world.decide(PAUSE)
    paused = world.settled
    for kind in (*KINDS, "release"):
        state, subject = put(paused if kind == "resume" else running, world, kind)
        ballot = state.ballots[subject]
        voters = eligible(state, ballot)
        want = votes_needed(state, ballot)
        assert want <= len(voters) - (members > 4 or kind not in {"remove", "root"})
        assert 2 * want > members or (kind == "pause" and want == 2)
        short = cast(state, subject, voters[: want - 1])
        assert short.ballots[subject].outcome == "open"
        assert not short.waiting
        enough = cast(short, subject, [voters[want - 1]])
        if kind == "coordinator":
            assert enough.ballots[subject].outcome == "in_force"
            continue
        assert enough.ballots[subject].outcome == "decided"
        undone = cast(enough, subject, [voters[1]], "no")
        assert undone.ballots[subject].outcome == "open"
        assert not undone.waiting
        if kind != "release":
            withdrawn = cast(enough, subject, [voters[0]], "no")  # its author
            assert withdrawn.ballots[subject].outcome == "withdrawn"
            assert not withdrawn.waiting
        others = cast(state, subject, voters[-want:])
        assert others.ballots[subject].outcome == "decided"


@pytest.mark.parametrize("count", [2, 3])
def test_in_small_federations_both_or_two_decide(count: int) -> None:
    world = World(names=NAMES[:count]).adopt()
    index = world.propose(new_policy(world, max_attempt=5), by="de")
    world.vote(index, "de")
    assert world.folded.ballots[index].outcome == "open"
    world.vote(index, "es")
    assert world.folded.ballots[index].outcome == "decided"


@pytest.mark.parametrize("count", [2, 3])
def test_a_root_of_one_of_two_is_replaced_by_no_vote(count: int) -> None:
    world = World(names=("de", "fr", "id")[:count]).adopt()
    if count == 2:
        with refused(RuleError, "votes-cannot-suffice", match="root takes 2 votes"):
            world.propose(new_root("fr"), by="de")
        return
    index = world.propose(new_root("fr"), by="de")
    world.vote(index, "de", "id")
    assert world.folded.ballots[index].outcome == "decided"


def test_a_single_member_pauses_nothing() -> None:
    world = World(names=NAMES[:2]).adopt()
    world.add(MemberLeft(), "es", "root")
    with refused(RuleError, "votes-cannot-suffice", match="pause takes 2 votes, and 1"):
        world.propose(PAUSE, by="de")


def test_votes_of_no_and_abstention_count_for_nothing(world: World) -> None:
    index = world.propose(PAUSE)
    world.vote(index, "de", vote="no")
    world.vote(index, "es", vote="abstain")
    world.vote(index, "fr")
    state = world.folded
    assert votes_for(state, state.ballots[index]) == 1
    assert state.ballots[index].outcome == "open"
    world.vote(index, "es")
    assert world.folded.ballots[index].outcome == "decided"


def test_a_proposal_is_put_to_those_who_are_members_now(world: World) -> None:
    before = voters_digest(world.folded.active)
    world.add(MemberLeft(), "id", "root")
    late = ProposalMade(roster=before, proposal=PAUSE)
    with refused(RuleError, "proposal-voters-differ", match=re.escape(before)):
        world.add(late, "fr", "root")
    world.propose(PAUSE)


def test_a_member_has_a_few_open_proposals(world: World) -> None:
    """Until one is in force or ended: what is decided counts as long as it waits."""
    made = [world.propose(new_policy(world), by="fr") for _ in range(MAX_PROPOSALS)]
    with refused(RuleError, "proposals-too-many", match=f"'fr' has {MAX_PROPOSALS}"):
        world.propose(PAUSE, by="fr")
    world.propose(PAUSE, by="de")
    world.vote(made[0], "de", "es", "fr")
    world.propose(PAUSE, by="fr")  # one is in force, and the others are overtaken
    assert [world.folded.ballots[each].outcome for each in made] == [
        "in_force",
        *["overtaken"] * (MAX_PROPOSALS - 1),
    ]


def test_there_is_a_vote_on_proposals_and_releases_alone(world: World) -> None:
    other = VoteCast(
        subject=3, entry=digest(world.entries[3]), vote="yes", reasons=None
    )
    with refused(RuleError, "vote-without-subject", match="entry 3"):
        world.add(other, "fr", "root")
    beyond = other.model_copy(update={"subject": 2**53 - 1})
    with refused(RuleError, "vote-without-subject"):
        world.add(beyond, "fr", "root")


def test_a_vote_names_the_entry_that_it_is_on(world: World) -> None:  # [26]
    index = world.propose(PAUSE)
    other = world.folded.release_named("base-1").index
    vote = ballot_on(world, index).model_copy(
        update={"entry": digest(world.entries[other])}
    )
    with refused(RuleError, "vote-subject-differs", match=vote.entry):
        world.add(vote, "fr", "root")


def test_only_a_member_votes_and_each_root_key_once(world: World) -> None:  # [16, 18]
    index = world.propose(Removal(kind="remove", member="id"))
    vote = ballot_on(world, index)
    with refused(RuleError, "vote-not-allowed", match="about 'id'"):
        world.add(vote, "id", "root")
    with refused(RuleError, "role-not-allowed"):
        world.add(vote, "fr", "node")
    for stranger in ("xx", "coordinator"):
        entry = world.entry(vote, stranger, "root", signers=[world.key("fr", "root")])
        with refused(RuleError, "actor-unknown"):
            world.append(entry)
    stolen: list[tuple[SigningKey, str]] = [
        (world.keys["fr", "node"], "signature-missing"),
        (world.keys["fr", "community"], "signature-missing"),
        (world.keys["de", "root"], "signature-missing"),
        (world.coordinator_key, "signature-missing"),
    ]
    for key, code in stolen:
        with refused(RuleError, code):
            world.append(world.entry(vote, "fr", "root", signers=[key]))
    world.vote(index, "fr")
    with refused(RuleError, "vote-unchanged", match="'fr' voted yes"):
        world.vote(index, "fr")
    assert votes_for(world.folded, world.folded.ballots[index]) == 1


def test_a_replayed_vote_changes_nothing(world: World) -> None:  # [16]
    index = world.propose(PAUSE, by="es")
    at = world.vote(index, "fr")
    world.vote(index, "fr", vote="no")
    with refused(RuleError, "event-duplicated"):
        world.append(world.entries[at])
    assert votes_for(world.folded, world.folded.ballots[index]) == 0


def test_a_vote_that_was_held_back_does_not_follow_a_later_one(world: World) -> None:
    """Else a coordinator chose which of the votes that a member signed is the last."""
    index = world.propose(PAUSE, by="es")
    held_back = world.entry(ballot_on(world, index), "fr", "root")
    removal = world.propose(Removal(kind="remove", member="id"))
    other = world.entry(ballot_on(world, removal), "fr", "root")
    world.vote(index, "fr", vote="no")
    with refused(RuleError, "entry-superseded", match=f"vote on {index}"):
        world.append(held_back)
    world.append(other)  # of another subject
    world.vote(index, "de")
    assert world.folded.ballots[index].outcome == "open"
    world.vote(index, "fr")
    assert world.folded.ballots[index].outcome == "decided"


def test_an_author_withdraws_its_proposal_by_voting_no(world: World) -> None:
    made = [world.propose(PAUSE, by="fr") for _ in range(MAX_PROPOSALS)]
    world.vote(made[0], "de", vote="no")
    assert world.folded.ballots[made[0]].outcome == "open"
    world.vote(made[0], "fr", vote="no")
    assert world.folded.ballots[made[0]].outcome == "withdrawn"
    with refused(RuleError, "vote-closed", match="is withdrawn"):
        world.vote(made[0], "es")
    again = world.propose(PAUSE, by="fr")  # there is room for another
    decided = world.vote(again, "de", "es")
    late = ballot_on(world, again, "no")
    world.append(world.entry(late, "fr", "root", seen=world.seen(decided)))
    assert world.folded.ballots[again].outcome == "decided"  # enough without it
    assert world.settled.paused == decided


def test_an_author_takes_a_decision_back_that_needs_its_vote(world: World) -> None:
    index = world.propose(PAUSE, by="fr")
    world.vote(index, "fr")
    decided = world.vote(index, "de")
    change = ballot_on(world, index, "no")
    world.append(world.entry(change, "fr", "root", seen=world.seen(decided)))
    state = world.settled
    assert state.ballots[index].outcome == "withdrawn"
    assert (state.waiting, state.open_proposals, state.paused) == ((), (), None)


def test_an_authors_no_ends_nothing_by_anothers_vote(world: World) -> None:
    """What is decided without it stays open when another takes its yes back."""
    index = world.propose(PAUSE, by="fr")
    decided = world.vote(index, "de", "es")
    for name in ("fr", "es"):
        change = ballot_on(world, index, "no")
        world.append(world.entry(change, name, "root", seen=world.seen(decided)))
    assert world.folded.ballots[index].outcome == "open"
    again = ballot_on(world, index, "yes")
    world.append(world.entry(again, "es", "root", seen=world.seen(decided)))
    assert world.folded.ballots[index].outcome == "decided"


def test_a_member_withdraws_only_so_many_proposals_between_two_rounds(
    world: World,
) -> None:
    for _ in range(MAX_WITHDRAWALS):
        world.vote(world.propose(PAUSE, by="fr"), "fr", vote="no")
    with refused(RuleError, "proposals-too-many", match="withdrew"):
        world.propose(PAUSE, by="fr")
    world.propose(PAUSE, by="de")
    world.run_round(len(world.folded.closed) + 1)
    world.propose(PAUSE, by="fr")


def test_a_release_is_withdrawn_by_no_vote_of_its_publishers_name(world: World) -> None:
    """Who led once may be a member later; a release is no proposal of its own."""
    state = world.folded
    subject = state.release_named("base-1").index
    ballot = dataclasses.replace(state.ballots[subject], by="fr")
    ballots = state.ballots.set(subject, ballot)
    state = dataclasses.replace(state, ballots=ballots)
    after = cast(state, subject, ["fr"], "no")
    assert after.ballots[subject].outcome == "open"


def test_a_vote_on_another_log_is_refused(world: World) -> None:
    index = world.propose(PAUSE)
    other = grown(4)
    other.add(other.declaration("id"), "id", "node")
    entry = other.entry(ballot_on(world, index), "fr", "root")
    world.vote(index, "de")
    with refused(RuleError, "log-forked"):
        world.append(entry)


def test_a_vote_is_changed_a_few_times(world: World) -> None:
    index = world.propose(PAUSE, by="es")
    votes: tuple[Vote, ...] = ("yes", "no")
    for turn in range(MAX_CASTS):
        world.vote(index, "fr", vote=votes[turn % 2])
    with refused(RuleError, "votes-too-many", match=f"{MAX_CASTS} times"):
        world.vote(index, "fr")
    world.vote(index, "de", "es")
    assert world.folded.ballots[index].outcome == "decided"


def test_a_vote_is_changed_until_the_decision_is_in_force(world: World) -> None:
    index = world.propose(PAUSE, by="es")
    world.vote(index, "fr")
    decided = world.vote(index, "de")
    seen = world.seen(decided)  # the author does not know of the decision
    change = world.entry(ballot_on(world, index, "no"), "fr", "root", seen=seen)
    world.append(change)
    assert not world.settled.waiting
    decided = world.vote(index, "es")
    again = world.entry(ballot_on(world, index), "fr", "root", seen=world.seen(decided))
    world.append(again)  # one more than enough
    assert world.settled.paused == decided
    with refused(RuleError, "vote-closed", match=f"entry {index} is in force"):
        world.vote(index, "fr", vote="no")


def test_what_lapsed_gets_no_more_votes(world: World) -> None:
    index = world.propose(PAUSE)
    world.vote(index, "fr")
    world.add(MemberLeft(), "id", "root")
    with refused(RuleError, "vote-closed", match="is lapsed"):
        world.vote(index, "de")
    with refused(RuleError, "member-left"):
        world.add(ballot_on(world, index), "id", "root")


def test_a_decision_stands_as_it_is_once_the_voters_changed(world: World) -> None:
    index = world.propose(PAUSE, by="es")
    decided = world.vote(index, "fr", "de")
    entry = world.entry(MemberLeft(), "id", "root", seen=world.seen(decided))
    world.append(entry)
    change = ballot_on(world, index, "no")
    late = world.entry(change, "fr", "root", seen=world.seen(decided))
    with refused(RuleError, "vote-closed", match="is decided"):
        world.append(late)
    assert world.settled.paused == decided


def test_a_removed_member_and_a_former_root_have_no_vote(world: World) -> None:
    old = world.key("es", "root")
    world.rotate("es", "root")
    index = world.propose(PAUSE)
    with refused(RuleError, "signature-missing", match=re.escape(old.verify_key.keyid)):
        world.vote(index, "es")
    world.keys["es", "root"] = world.keys["es", "root'"]
    world.vote(index, "es")
    world.decide(Removal(kind="remove", member="id"), "de", "es", "fr")
    index = world.propose(PAUSE)
    with refused(RuleError, "actor-unknown", match="id is not a root"):
        world.vote(index, "id")


def test_a_pause_that_a_majority_lifted_takes_a_majority_again(world: World) -> None:
    """Until the next policy: two members stop a federation once, and not for ever."""
    early = world.propose(PAUSE, by="id")
    world.vote(early, "id")
    world.decide(PAUSE, "id", "de")
    resume = world.propose(RESUME)
    assert world.folded.ballots[early].outcome == "overtaken"
    with refused(RuleError, "vote-closed"):
        world.vote(early, "de")  # would pause again as soon as it is lifted
    world.vote(resume, "es", "fr", "id")
    second = world.propose(PAUSE, by="id")
    world.vote(second, "id", "de")
    assert world.folded.ballots[second].outcome == "open"
    world.vote(second, "es")
    assert world.folded.ballots[second].outcome == "decided"
    world.decide(RESUME, "de", "es", "fr")
    world.change_policy()
    third = world.propose(PAUSE, by="id")
    world.vote(third, "id", "de")
    assert world.folded.ballots[third].outcome == "decided"


def test_a_release_is_approved_by_the_share_of_the_policy(world: World) -> None:
    index = world.folded.release_named("base-1").index
    assert world.settled.standing == []
    world.vote(index, "de", "es")
    assert world.settled.standing == []
    decided = world.vote(index, "fr")
    assert world.settled.standing == ["base-1"]
    assert world.settled.approved == {"base-1": decided}


def test_a_release_keeps_its_votes_when_the_members_change(world: World) -> None:
    """It is put to whoever is a member; votes of those who left count no more."""
    index = world.folded.release_named("base-1").index
    world.vote(index, "de", "id")
    world.add(MemberLeft(), "id", "root")
    state = world.folded
    assert votes_for(state, state.ballots[index]) == 1
    assert eligible(state, state.ballots[index]) == ["de", "es", "fr"]
    world.vote(index, "es")
    assert world.folded.ballots[index].outcome == "decided"  # two of three


@pytest.mark.parametrize("how", ["left", "removed"])
def test_no_vote_comes_back_with_the_name_of_a_former_member(
    world: World, how: str
) -> None:
    index = world.folded.release_named("base-1").index
    world.vote(index, "de", "id")
    if how == "removed":
        world.decide(Removal(kind="remove", member="id"), "de", "es", "fr")
    else:
        world.add(MemberLeft(), "id", "root")
    world.decide(come_back(world, "id"), "de", "es", "fr")
    state = world.settled
    assert "id" in state.active
    assert votes_for(state, state.ballots[index]) == 1
    world.vote(index, "es")
    assert world.folded.ballots[index].outcome == "open"
    world.vote(index, "id")
    assert world.folded.ballots[index].outcome == "decided"


def come_back(world: World, name: str) -> Admission:
    """Ask for admission once more, by other keys."""
    for purpose in ("root", *PURPOSES):
        world.rotation(name, purpose, seed="again")
        world.keys[name, purpose] = world.keys[name, f"{purpose}'"]
    request = world.request(name)
    keys = {each: world.keys[name, each] for each in PURPOSES}
    proofs = prove_possession(request, keys, federation="tapestry")
    return Admission(kind="admit", request=request, possession=proofs)


def test_a_policy_that_lowers_a_share_takes_the_largest_one(world: World) -> None:
    lax = {**world.policy().voting.model_dump(), "release": "1/2", "admit": "1/2"}
    eight = grown(8)
    index = eight.propose(new_policy(world, voting=lax))
    eight.vote(index, "de", "es", "fr", "id", "m00")
    assert eight.folded.ballots[index].outcome == "open"
    eight.vote(index, "m01")
    assert eight.folded.ballots[index].outcome == "decided"


def test_a_member_that_left_proposes_nothing(world: World) -> None:
    world.add(MemberLeft(), "fr", "root")
    with refused(RuleError, "member-left"):
        world.propose(PAUSE, by="fr")


def test_a_policy_that_comes_between_counts_no_vote_by_itself(  # [25]
    world: World,
) -> None:
    """The share is that of the deciding vote; to lower it takes the larger share."""
    eight = grown(8)
    removal = eight.propose(Removal(kind="remove", member="id"))
    eight.vote(removal, "de", "es", "fr", "m00", "m01")
    assert votes_needed(eight.settled, eight.folded.ballots[removal]) == 6
    lax = {**world.policy().voting.model_dump(), "remove": "1/2"}
    policy = eight.propose(new_policy(world, voting=lax))
    eight.vote(policy, "de", "es", "fr", "m00", "m01")
    assert eight.folded.ballots[policy].outcome == "open"
    eight.vote(policy, "m02")
    eight.add(eight.declaration("fr"), "fr", "node")
    assert eight.folded.policy.voting.remove == "1/2"
    assert eight.folded.ballots[removal].decided is None
    eight.vote(removal, "m01", vote="no")
    assert eight.folded.ballots[removal].decided is None
    eight.vote(removal, "m02")
    assert eight.folded.ballots[removal].decided is not None
