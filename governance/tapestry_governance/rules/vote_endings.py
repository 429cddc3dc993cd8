"""The end of a ballot, and of what a root key signed that is its member's no more."""

import dataclasses

from tapestry_governance.rules.ballots import Ballot, Outcome
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.thresholds import votes_for, votes_needed

_NONE = (0, 0)  # since the last opening, whichever it was


def end(state: FederationState, ballot: Ballot, outcome: Outcome) -> FederationState:
    """End the vote on a proposal or a release."""
    ended = dataclasses.replace(ballot, outcome=outcome)
    return dataclasses.replace(
        state,
        ballots=state.ballots.set(ballot.index, ended),
        open_proposals=tuple(i for i in state.open_proposals if i != ballot.index),
    )


def disown(
    state: FederationState, name: str, *, voters: str | None = None
) -> FederationState:
    """Let nothing count of what a member signed by a root key that is its own no more.

    The key was lost or stolen, or its member left or was removed. Its votes on what is
    not in force are taken back, and its proposals lapse that are not decided. What is
    decided, and lacks those votes now, is open again.

    Args:
        state: The federation without that key or member.
        name: The member's name.
        voters: Where the member did it by itself, who could vote just before.

    Guarantees:
        By itself a member takes back its own votes alone, and undoes no decision whose
        voters had changed, on which no vote counts. Votes, withdrawals and new keys by
        the next root key are counted from zero; root keys are only where others decided
        so: they bound all the rest.
    """
    indexes = {*state.voted_on.get(name, ()), *state.open_proposals}
    for ballot in (state.ballots[index] for index in sorted(indexes)):
        is_theirs = name == ballot.by or name in ballot.votes
        if is_theirs and _is_undecided(ballot):
            is_late = bool(ballot.proposal) and ballot.voters != voters
            stands = voters is not None and is_late
            state = _take_back(state, ballot, name, stands=stands)
    rotated = state.rotated.set(name, _NONE)
    if voters is None:
        rotated = rotated.set(rotation_count(name, "root"), _NONE)
    withdrawals = state.withdrawals.set(name, _NONE)
    return dataclasses.replace(
        state,
        rotated=rotated,
        withdrawals=withdrawals,
        voted_on=state.voted_on.set(name, ()),
    )


def note_vote(state: FederationState, name: str, index: int) -> FederationState:
    """Note that a member votes on a ballot, beside the others that may be taken back.

    So nobody's votes are looked for in all ballots that there ever were.
    """
    before = state.voted_on.get(name, ())
    kept = [each for each in before if _is_undecided(state.ballots[each])]
    indexes = tuple(dict.fromkeys([*kept, index]))
    return dataclasses.replace(state, voted_on=state.voted_on.set(name, indexes))


def _is_undecided(ballot: Ballot) -> bool:
    return ballot.outcome in {"open", "decided"}


def _take_back(
    state: FederationState, ballot: Ballot, name: str, *, stands: bool
) -> FederationState:
    waiting = state.waiting
    if name in ballot.votes:
        votes, casts = ballot.votes.without(name), ballot.casts.without(name)
        ballot = dataclasses.replace(ballot, votes=votes, casts=casts)
        if not stands and votes_for(state, ballot) < votes_needed(state, ballot):
            ballot = dataclasses.replace(ballot, decided=None, outcome="open")
            waiting = tuple(w for w in waiting if w.subject != ballot.index)
    ballots = state.ballots.set(ballot.index, ballot)
    state = dataclasses.replace(state, ballots=ballots, waiting=waiting)
    if ballot.proposal and ballot.by == name and ballot.outcome == "open":
        return end(state, ballot, "lapsed")
    return state


def rotation_count(name: str, purpose: str) -> str:
    """Name the count of new keys of a member: its root keys have one of their own."""
    return f"{name} root" if purpose == "root" else name
