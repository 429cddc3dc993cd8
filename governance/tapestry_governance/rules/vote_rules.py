"""The rules of proposals and votes.

A proposal is an entry of one member; votes are entries of their own, one root key a
vote. No entry says what was decided: it follows from the votes, so no coordinator can
withhold it, and there is no deadline, as a log has no clock.
"""

import dataclasses

from tapestry.errors import RuleError
from tapestry_governance.events.member_events import (
    Admission,
    ProposalMade,
    VoteCast,
)
from tapestry_governance.rules.ballots import Ballot, Waiting, voters_digest
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.proposal_rules import (
    check_possible,
    check_trust,
    enact,
    reserve_transport,
)
from tapestry_governance.rules.settlement import take_effect
from tapestry_governance.rules.thresholds import eligible, votes_for, votes_needed
from tapestry_governance.rules.vote_endings import end, note_vote

MAX_PROPOSALS = 4  # of a member, open at a time
MAX_CASTS = 8  # votes of a member on one subject
MAX_WITHDRAWALS = 8  # of a member's own proposals between two openings of rounds


def proposal_made(
    state: FederationState, body: ProposalMade, *, actor: str, index: int, entry: str
) -> FederationState:
    """Put a proposal to the vote of those who are members now.

    Guarantees:
        An applicant's transport key is its own from here on, also if it is refused.

    Raises:
        RuleError: It names other voters, its author has too many open ones, no votes
            would suffice, or it could not be put in force as the log stands.
    """
    voters = voters_digest(state.active)
    if body.roster != voters:
        raise RuleError(
            f"the proposal is to voters {body.roster}, the members are {voters}; make"
            " it again",
            code="proposal-voters-differ",
        )
    waiting = [state.ballots[each] for each in state.open_proposals]
    if sum(each.by == actor for each in waiting) >= MAX_PROPOSALS:
        raise RuleError(
            f"{actor!r} has {MAX_PROPOSALS} open proposals; wait until one is"
            " decided, or withdraw one by a vote of no",
            code="proposals-too-many",
        )
    if state.counted(state.withdrawals, actor)[1] > MAX_WITHDRAWALS:
        raise RuleError(
            f"{actor!r} withdrew {MAX_WITHDRAWALS} proposals since the last round was"
            " opened, which is as many as it may; another member can make this one",
            code="proposals-too-many",
        )
    check_possible(state, body.proposal)
    if isinstance(body.proposal, Admission):
        asked = body.proposal.request
        state = reserve_transport(state, asked.transport, name=asked.name)
    check_trust(enact(state, body.proposal, index=index))
    ballot = Ballot(
        index=index,
        entry=entry,
        kind=body.proposal.kind,
        proposal=body.proposal,
        by=actor,
        voters=voters,
    )
    count = len(eligible(state, ballot))
    if votes_needed(state, ballot) > count:
        raise RuleError(
            f"{ballot.kind} takes {votes_needed(state, ballot)} votes, and {count}"
            " members may vote",
            code="votes-cannot-suffice",
        )
    return dataclasses.replace(
        state,
        ballots=state.ballots.set(index, ballot),
        open_proposals=(*state.open_proposals, index),
    )


def vote_cast(
    state: FederationState, body: VoteCast, *, actor: str, index: int
) -> FederationState:
    """Count a vote; the last one of a member counts.

    Guarantees:
        A proposal that lacks the votes ends with the entry in which its author votes
        no: who made it takes it back, and any member may make it again.

    Raises:
        RuleError: There is nothing to vote on, it is decided or lapsed, the voter is
            the member concerned, or voted so before, or too often.
    """
    ballot = state.ballots.get(body.subject)
    if ballot is None:
        raise RuleError(
            f"entry {body.subject} is neither a proposal nor a release; tapestry"
            " governance list shows what may be voted on",
            code="vote-without-subject",
        )
    if body.entry != ballot.entry:
        raise RuleError(
            f"the vote is on entry {body.entry}, entry {body.subject} of this log is"
            f" {ballot.entry}",
            code="vote-subject-differs",
        )
    _check_open(state, ballot)
    _check_voter(ballot, body, actor)
    ballot = dataclasses.replace(
        ballot,
        votes=ballot.votes.set(actor, body.vote),
        casts=ballot.casts.set(actor, ballot.casts.get(actor, 0) + 1),
    )
    return _count(note_vote(state, actor, ballot.index), ballot, index, by=actor)


def _count(
    state: FederationState, ballot: Ballot, index: int, *, by: str
) -> FederationState:
    enough = votes_for(state, ballot) >= votes_needed(state, ballot)
    waiting = state.waiting
    if enough and ballot.decided is None:
        ballot = dataclasses.replace(ballot, decided=index, outcome="decided")
        waiting = (*waiting, Waiting(since=index, subject=ballot.index))
    elif not enough:
        ballot = dataclasses.replace(ballot, decided=None, outcome="open")
        waiting = tuple(each for each in waiting if each.subject != ballot.index)
    ballots = state.ballots.set(ballot.index, ballot)
    if enough and ballot.kind == "coordinator":
        state = dataclasses.replace(state, ballots=ballots)
        return take_effect(state, Waiting(since=index, subject=ballot.index))
    state = dataclasses.replace(state, ballots=ballots, waiting=waiting)
    is_own = by == ballot.by and ballot.votes[by] == "no"
    if ballot.proposal and not enough and is_own:
        return _withdraw(state, ballot)
    return state


def _withdraw(state: FederationState, ballot: Ballot) -> FederationState:
    opened, number = state.counted(state.withdrawals, ballot.by)
    counts = state.withdrawals.set(ballot.by, (opened, number))
    state = dataclasses.replace(state, withdrawals=counts)
    return end(state, ballot, "withdrawn")


def _check_open(state: FederationState, ballot: Ballot) -> None:
    is_closed = ballot.outcome not in {"open", "decided"}
    is_late = ballot.proposal and ballot.voters != voters_digest(state.active)
    if is_closed or is_late:
        raise RuleError(
            f"the {ballot.kind} of entry {ballot.index} is"
            f" {ballot.outcome.replace('_', ' ')}, so no vote on it counts",
            code="vote-closed",
        )


def _check_voter(ballot: Ballot, body: VoteCast, actor: str) -> None:
    if actor == ballot.concerned:
        raise RuleError(
            f"entry {ballot.index} is about {actor!r}, which has no vote on it",
            code="vote-not-allowed",
        )
    if ballot.votes.get(actor) == body.vote:
        raise RuleError(
            f"{actor!r} voted {body.vote} on entry {ballot.index} before",
            code="vote-unchanged",
        )
    if ballot.casts.get(actor, 0) >= MAX_CASTS:
        raise RuleError(
            f"{actor!r} voted {MAX_CASTS} times on entry {ballot.index}, which is as"
            " often as a vote may be changed",
            code="votes-too-many",
        )
