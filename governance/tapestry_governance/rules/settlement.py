"""The time at which a decision takes effect.

An entry that decides, at index d, changes nothing at once. It takes effect with the
next entry once an author has named, as ``seen``, a cosigned checkpoint of more than d
entries: until then a vote may be changed, and every party could learn of it. A
decision on members or policy, an exit, and a new key that replaces none that was
compromised also wait until no round is open.

Of changes of members and witness keys no more take effect at a time than the quorum of
the newest checkpoint can do without, as the next one needs it.

A change of the coordinator takes effect with the deciding vote, also within a round:
the checkpoint that would show it can be signed by the new log key alone, and the new
coordinator ends the round.

Who shows, plans or connects uses :func:`settle` with the newest checkpoint that it
holds, and so acts on what the next entry will find in force.
"""

import dataclasses
from typing import cast

from tapestry.errors import RuleError, VerificationError
from tapestry.keys import VerifyKey
from tapestry_governance.events.member_events import (
    KeyRotated,
    PauseProposal,
    Proposal,
    Withdrawal,
)
from tapestry_governance.rules.ballots import Ballot, Waiting, voters_digest
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.proposal_rules import (
    check_possible,
    check_trust,
    dismiss,
    enact,
)
from tapestry_governance.rules.vote_endings import disown, end

_AT_ONCE = (PauseProposal, Withdrawal)  # also while a round is open
_FEWEST = 2  # members count in the quorum, also those that left


def settle(state: FederationState, *, seen: int) -> FederationState:
    """Put in force what a checkpoint of ``seen`` entries shows to be decided.

    Guarantees:
        Nothing is left that the same checkpoint would put in force: to settle twice,
        or first by a shorter checkpoint, gives the same state.
    """
    blocked: set[Waiting] = set()
    while (due := _due(state, seen, blocked)) is not None:
        waiting = tuple(each for each in state.waiting if each != due)
        following = take_effect(dataclasses.replace(state, waiting=waiting), due)
        if _can_turn(state, following, seen=seen):
            state = following
        else:
            blocked.add(due)
    return state


def _can_turn(before: FederationState, after: FederationState, *, seen: int) -> bool:
    """Return whether enough witnesses of the newest checkpoint still sign.

    The next one needs a quorum of them: so many at most change at a time as it can do
    without. The rest waits until a checkpoint shows the first.
    """
    if before.roster is after.roster or not before.trusted:
        return True
    size = max(seen, before.shown, before.trusted[0].size)
    members = before.trusted_at(size).policy.groups[0]
    keys = {VerifyKey.parse(each.witness) for each in after.members.values()}
    named = before.trusted_at(size).policy.witnesses
    kept = [w for w in named if w.name in members.members and w.key in keys]
    return len(kept) >= members.threshold


def lapse(state: FederationState) -> FederationState:
    """End the open proposals that can never be put in force.

    They were put to other voters than now vote, or another decision overtook them.
    """
    voters = voters_digest(state.active)
    for index in state.open_proposals:
        ballot = state.ballots[index]
        if ballot.outcome != "open":
            continue
        if ballot.voters != voters:
            state = end(state, ballot, "lapsed")
        elif not _is_possible(state, ballot):
            state = end(state, ballot, "overtaken")
    return state


def _due(state: FederationState, seen: int, blocked: set[Waiting]) -> Waiting | None:
    for each in state.waiting:
        if each.since < seen and each not in blocked and _may(state, each):
            return each
    return None


def _may(state: FederationState, waiting: Waiting) -> bool:
    between = state.open_round is None
    if (rotated := state.rotations.get(waiting.subject)) is not None:
        return between or rotated[1].reason == "compromised"
    ballot: Ballot | None = state.ballots.get(waiting.subject)
    if ballot is None:  # an exit
        return between and len(state.members) > _FEWEST
    return between or ballot.proposal is None or isinstance(ballot.proposal, _AT_ONCE)


def take_effect(state: FederationState, waiting: Waiting) -> FederationState:
    """Put one decision in force; a proposal that cannot be any more is overtaken."""
    index = waiting.subject
    if (rotated := state.rotations.get(index)) is not None:
        return _rotate(state, *rotated)
    if (ballot := state.ballots.get(index)) is None:
        return _leave(state, index)
    if ballot.proposal is None:
        approved = state.approved.set(ballot.release, waiting.since)
        state = dataclasses.replace(state, approved=approved)
        return end(state, ballot, "in_force")
    if _is_possible(state, ballot):
        following = enact(state, ballot.proposal, index=waiting.since)
        if _names_witnesses(following):
            following = end(following, ballot, "in_force")
            if ballot.concerned is not None:  # removed, or its root key replaced
                following = disown(following, ballot.concerned)
            return lapse(following)
    return end(state, ballot, "overtaken")


def _names_witnesses(state: FederationState) -> bool:
    """Return whether each witness has a name of its own, as when it was proposed."""
    try:
        check_trust(state)
    except RuleError:
        return False
    return True


def _is_possible(state: FederationState, ballot: Ballot) -> bool:
    try:
        check_possible(state, cast("Proposal", ballot.proposal))
    except (RuleError, VerificationError):
        return False
    return True


def _rotate(state: FederationState, name: str, body: KeyRotated) -> FederationState:
    following = _turn(state, name, body)
    is_stolen = body.purpose == "root" and body.reason == "compromised"
    if following is not state and is_stolen:
        return disown(following, name, voters=voters_digest(state.active))
    return following


def _turn(state: FederationState, name: str, body: KeyRotated) -> FederationState:
    """Give a member its new key, unless it left or the key was taken since.

    A transport key was reserved by the entry: no other can have taken it.
    """
    if name not in state.members:
        return state
    compromised = body.reason == "compromised"
    if body.purpose == "transport":
        return state.with_transport(name, body.key, compromised=compromised)
    key = VerifyKey.parse(body.key)
    if state.owned(key) is not None:
        is_late = calls_compromised(state, body, actor=name)
        return state.with_compromised(name, body.purpose) if is_late else state
    if body.purpose == "receipts":
        others = state.other_keys.set((name, body.purpose), body.key)
        return dataclasses.replace(state.knowing([key]), other_keys=others)
    rotated = state.with_key(name, body.purpose, body.key, compromised=compromised)
    return rotated if _names_witnesses(rotated) else state


def calls_compromised(state: FederationState, body: KeyRotated, *, actor: str) -> bool:
    """Return whether a rotation that is in force is called compromised only now.

    It gives the key that the member has already, and says of the one before that others
    may know it, which no entry has said yet.
    """
    return (
        body.reason == "compromised"
        and state.may_be_stolen(actor, body.purpose)
        and state.present_key(actor, body.purpose) == body.key
    )


def _leave(state: FederationState, index: int) -> FederationState:
    """Take a member that left out of the quorum, unless it came back since."""
    for name, at in state.left.items():
        if at == index and name in state.members:
            return disown(dismiss(state, name), name)
    return state
