"""What a thief of a root key, and a member that goes, leave behind: nothing."""

import pytest

from tapestry.errors import RuleError
from tapestry_governance.events.member_events import (
    MemberLeft,
    PauseProposal,
    Removal,
)
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.rules.ballots import Vote
from tapestry_governance.rules.member_rules import MAX_ROTATIONS
from tapestry_governance.rules.thresholds import votes_for
from tapestry_governance.rules.vote_endings import disown, end, rotation_count
from tapestry_governance.rules.vote_rules import (
    MAX_CASTS,
    MAX_PROPOSALS,
    MAX_WITHDRAWALS,
)
from tests.support.log_world import NAMES, World
from tests.support.proposals import new_key, new_policy, new_root
from tests.support.refusals import refused
from tests.support.vote_walks import aborted

OTHERS = ("de", "es", "id")
PAUSE, REMOVAL = PauseProposal(kind="pause"), Removal(kind="remove", member="id")


@pytest.fixture
def world() -> World:
    return World().found()


def exhaust(world: World, name: str, subject: int) -> None:
    """Vote as often as one may, at last with yes."""
    votes: tuple[Vote, ...] = ("no", "yes")
    for turn in range(MAX_CASTS):
        world.vote(subject, name, vote=votes[turn % 2])


def take_root_back(world: World, how: str) -> None:
    """Give fr another root key, by the vote of the others or by its own word."""
    if how == "vote":
        world.carry(world.propose(new_root("fr"), by="de"), OTHERS)
        world.keys["fr", "root"] = new_key("found-again")
        return
    world.rotate("fr", "root", seed="owner", reason=how)
    world.keys["fr", "root"] = world.keys["fr", "root'"]


@pytest.mark.parametrize("how", ["vote", "compromised"])
def test_votes_by_a_stolen_root_key_count_no_more(world: World, how: str) -> None:
    index = world.propose(REMOVAL, by="de")
    exhaust(world, "fr", index)
    take_root_back(world, how)
    world.vote(index, "fr", vote="no")
    world.vote(index, "de", "es")
    state = world.settled
    assert votes_for(state, state.ballots[index]) == 2
    assert "id" in state.members
    world.vote(index, "fr")
    assert world.folded.ballots[index].outcome == "decided"


def test_votes_before_a_rotation_that_is_called_compromised_later_are_taken_back(
    world: World,
) -> None:
    index = world.propose(REMOVAL, by="de")
    world.vote(index, "fr")
    key = world.rotation("fr", "root")
    world.add(key, "fr", "root")
    world.keys["fr", "root"] = world.keys["fr", "root'"]
    world.vote(world.propose(PAUSE, by="es"), "fr")
    assert dict(world.settled.ballots[index].votes) == {"fr": "yes"}
    world.add(key.model_copy(update={"reason": "compromised"}), "fr", "root")
    assert not any(each.votes for each in world.settled.ballots.values())


def test_a_new_root_key_keeps_votes_and_limits(world: World) -> None:
    index, own = world.propose(REMOVAL, by="de"), world.propose(REMOVAL, by="fr")
    exhaust(world, "fr", index)
    for number in range(MAX_ROTATIONS):
        world.rotate("fr", "node", seed=str(number))
    before = world.settled
    take_root_back(world, "routine")
    assert world.settled.roster != before.roster
    assert world.settled.ballots == before.ballots
    assert world.settled.open_proposals == (index, own)
    with refused(RuleError, "votes-too-many"):
        world.vote(index, "fr", vote="no")
    with refused(RuleError, "rotations-too-many"):
        world.rotate("fr", "node", seed="more")


@pytest.mark.parametrize("how", ["vote", "compromised"])
def test_a_decision_that_a_thief_carried_is_open_again(world: World, how: str) -> None:
    """What has the votes without the thief's stands."""
    world.add(RoundOpened(manifest=world.manifest()))
    index = world.propose(new_policy(world, max_attempt=7), by="de")
    enough = world.propose(world.invent("zz"), by="de")
    world.vote(enough, *OTHERS)
    if how == "vote":
        world.decide(new_root("fr"), *OTHERS)
    world.vote(enough, "fr")
    decided = world.vote(index, "de", "es", "fr")
    assert world.folded.ballots[index].decided == decided
    if how != "vote":
        take_root_back(world, how)
        ballot = world.settled.ballots[index]
        assert (ballot.outcome, ballot.decided) == ("open", None)
        assert [each.subject for each in world.settled.waiting] == [enough]
    world.add(aborted(world.folded))
    state = world.settled
    assert "zz" in state.members
    assert state.ballots[index].outcome == "lapsed"  # as zz is a voter now
    assert (state.policy.max_attempt, state.waiting) == (3, ())


def test_an_open_decision_is_carried_again_by_the_new_root_key(world: World) -> None:
    world.add(RoundOpened(manifest=world.manifest()))
    index = world.propose(new_policy(world, max_attempt=7), by="de")
    world.vote(index, "de", "es", "fr")
    take_root_back(world, "compromised")
    decided = world.vote(index, "fr")
    assert world.settled.ballots[index].decided == decided


def test_no_member_undoes_alone_what_no_vote_undoes(world: World) -> None:
    """Once the voters changed no vote on a decision is changed, nor taken back."""
    world.add(RoundOpened(manifest=world.manifest()))
    index = world.propose(new_policy(world, max_attempt=7), by="fr")
    decided = world.vote(index, "de", "es", "fr")
    world.add(MemberLeft(), "id", "root")
    with refused(RuleError, "vote-closed", match="is decided"):
        world.vote(index, "fr", vote="no")
    take_root_back(world, "compromised")
    world.add(world.declaration("de"), "de", "node")
    world.add(MemberLeft(), "es", "root")
    ballot = world.settled.ballots[index]
    assert (ballot.outcome, ballot.decided) == ("decided", decided)
    assert ballot.votes.keys() == {"de"}


@pytest.mark.parametrize("how", ["left", "removed"])
def test_a_decision_loses_the_vote_of_one_that_goes(how: str) -> None:
    """Three of five carried it; without one of them it takes three of four."""
    world = World(names=(*NAMES, "it")).found()
    world.add(RoundOpened(manifest=world.manifest()))
    if how == "removed":
        world.decide(Removal(kind="remove", member="fr"), "de", "es", "id", "it")
    index = world.propose(new_policy(world, max_attempt=7), by="de")
    world.vote(index, "de", "es", "fr")
    assert world.folded.ballots[index].outcome == "decided"
    if how == "left":
        world.add(MemberLeft(), "fr", "root")
    world.add(aborted(world.folded))
    state = world.settled
    assert "fr" not in state.members
    assert state.ballots[index].outcome == "lapsed"
    assert (state.policy.max_attempt, state.waiting) == (3, ())


@pytest.mark.parametrize("how", ["vote", "compromised"])
def test_proposals_by_a_stolen_root_key_are_no_burden(world: World, how: str) -> None:
    """Neither those that are open, nor those that the thief withdrew."""
    for _ in range(MAX_WITHDRAWALS - 1):
        world.vote(world.propose(PAUSE, by="fr"), "fr", vote="no")
    *made, last = [world.propose(PAUSE, by="fr") for _ in range(MAX_PROPOSALS)]
    world.vote(last, "fr", vote="no")
    with refused(RuleError, "proposals-too-many", match="withdrew"):
        world.propose(PAUSE, by="fr")
    take_root_back(world, how)
    assert {world.settled.ballots[each].outcome for each in made} == {"lapsed"}
    for _ in range(MAX_PROPOSALS):
        world.propose(PAUSE, by="fr")


def test_what_is_in_force_keeps_its_votes(world: World) -> None:
    index = world.decide(PAUSE, "fr", "de")
    state = world.settled
    after = disown(state, "fr")
    assert (after.ballots, after.paused) == (state.ballots, state.paused)
    assert state.ballots[index].votes == {"de": "yes", "fr": "yes"}


def test_an_ended_proposal_is_open_no_more(world: World) -> None:
    first, second = world.propose(PAUSE), world.propose(PAUSE)
    state = end(world.folded, world.folded.ballots[first], "overtaken")
    assert state.ballots[first].outcome == "overtaken"
    assert state.open_proposals == (second,)


def test_root_keys_have_a_count_of_their_own() -> None:
    counts = {rotation_count("fr", each) for each in ("root", "node", "witness")}
    assert len(counts) == 2
    assert rotation_count("fr", "root") != rotation_count("de", "root")


def test_a_member_is_looked_up_by_the_undecided_ballots_that_it_voted_on(
    world: World,
) -> None:
    """Not in all ballots that there ever were: a replay stays linear."""
    first = world.propose(PAUSE, by="de")
    world.carry(first, ("fr", "de"))
    assert first in world.folded.voted_on["fr"]
    second = world.propose(REMOVAL, by="de")
    world.vote(second, "fr")
    world.vote(second, "fr", vote="no")
    assert world.folded.ballots[first].outcome == "in_force"
    assert world.folded.voted_on["fr"] == (second,)
    assert disown(world.settled, "fr").voted_on["fr"] == ()
