"""When what was decided takes effect.

An entry that decides, at index d, changes nothing at once. It takes effect with the
next entry whose author names, as ``seen``, a cosigned checkpoint of more than d
entries: until then a vote may be changed, and every party could learn of it. What
changes members, keys, policy or coordinator also waits until no round is open.

A change of the coordinator takes effect with the deciding vote, also within a round:
the checkpoint that would show it can be signed by the new log key alone, and the new
coordinator ends the round.

Who shows, plans or connects uses :func:`settle` with the newest checkpoint that it
holds, and so acts on what the next entry will find in force.
"""

import dataclasses

from tapestry.errors import RuleError, VerificationError
from tapestry.keys import VerifyKey
from tapestry_governance.events.member_events import (
    KeyRotated,
    PauseProposal,
    Withdrawal,
)
from tapestry_governance.rules.ballots import Ballot, Outcome, Waiting, voters_digest
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.proposal_rules import (
    check_free,
    check_possible,
    check_trust,
    dismiss,
    enact,
)

_AT_ONCE = (PauseProposal, Withdrawal)  # also while a round is open
_FEWEST = 2  # members that count in the quorum, also after an exit


def settle(state: FederationState, *, seen: int) -> FederationState:
    """Put in force what a checkpoint of ``seen`` entries shows to be decided."""
    for each in state.waiting:
        if each.since < seen and _may(state, each):
            waiting = tuple(w for w in state.waiting if w != each)
            state = take_effect(dataclasses.replace(state, waiting=waiting), each)
    return state


def lapse(state: FederationState) -> FederationState:
    """End the proposals that are open, and were put to other voters than now vote."""
    voters, still = voters_digest(state.active), []
    ballots = state.ballots
    for index in state.open_proposals:
        ballot = ballots[index]
        if ballot.outcome == "open" and ballot.voters != voters:
            ballot = dataclasses.replace(ballot, outcome="lapsed")
            ballots = ballots.set(index, ballot)
        else:
            still.append(index)
    return dataclasses.replace(state, ballots=ballots, open_proposals=tuple(still))


def _may(state: FederationState, waiting: Waiting) -> bool:
    if state.open_round is None:
        return True
    if waiting.subject in state.rotations:
        return state.rotations[waiting.subject][1].reason == "compromised"
    ballot: Ballot | None = state.ballots.get(waiting.subject)
    if ballot is None:  # an exit
        return False
    return ballot.proposal is None or isinstance(ballot.proposal, _AT_ONCE)


def take_effect(state: FederationState, waiting: Waiting) -> FederationState:
    """Put one decision in force; a proposal that cannot be any more is overtaken."""
    index = waiting.subject
    if (rotated := state.rotations.get(index)) is not None:
        return _rotate(state, *rotated, index=index)
    if (ballot := state.ballots.get(index)) is None:
        return _leave(state, index)
    if ballot.proposal is None:
        approved = state.approved.set(ballot.release, waiting.since)
        state = dataclasses.replace(state, approved=approved)
        return _end(state, ballot, "in_force")
    try:
        check_possible(state, ballot.proposal)
    except (RuleError, VerificationError):
        return _end(state, ballot, "overtaken")
    state = enact(state, ballot.proposal, index=waiting.since)
    return lapse(_end(state, ballot, "in_force"))


def _end(state: FederationState, ballot: Ballot, outcome: Outcome) -> FederationState:
    ended = dataclasses.replace(ballot, outcome=outcome)
    return dataclasses.replace(
        state,
        ballots=state.ballots.set(ballot.index, ended),
        open_proposals=tuple(i for i in state.open_proposals if i != ballot.index),
    )


def _rotate(
    state: FederationState, name: str, body: KeyRotated, *, index: int
) -> FederationState:
    """Give a member its new key, unless it left or the key was taken since."""
    if name not in state.members:
        return state
    if body.purpose in {"transport", "receipts"}:
        keys = state.other_keys.set((name, body.purpose), body.key)
        return dataclasses.replace(state, other_keys=keys)
    try:
        check_free(state, [VerifyKey.parse(body.key)])
        rotated = state.with_key(
            name,
            body.purpose,
            body.key,
            index=index,
            compromised=body.reason == "compromised",
        )
        check_trust(rotated)
    except RuleError:
        return state
    return rotated


def _leave(state: FederationState, index: int) -> FederationState:
    """Take a member that left out of the quorum, as long as two are in it."""
    name = next(each for each, at in state.left.items() if at == index)
    if name not in state.members or len(state.members) <= _FEWEST:
        return state
    return dismiss(state, name, index=index)
