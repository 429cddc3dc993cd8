"""The rules of events by which institutions become members, and leave."""

import dataclasses
from collections.abc import Collection, Mapping

from tapestry.errors import RuleError
from tapestry.keys import VerifyKey
from tapestry_governance.events import round_events
from tapestry_governance.events.envelope import Event
from tapestry_governance.events.federation_events import CharterAdopted
from tapestry_governance.events.member_events import CharterAccepted, KeyRotated
from tapestry_governance.events.possession import check_possession, check_rotation
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.rules.ballots import Waiting
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.proposal_rules import check_free, check_trust
from tapestry_governance.rules.settlement import lapse

_ROTATIONS = 6  # of a member, one for each purpose
_READERS = 2  # other members that a founder hears the fingerprint from
OWED = (  # about what a member did before it left, or was in when it did
    round_events.ContributionCommitted,
    round_events.ContributionRefused,
    round_events.RoundDisputed,
    DpAccounted,
)


def charter_accepted(
    state: FederationState, body: CharterAccepted, *, actor: str
) -> FederationState:
    """Take a founder's keys into the roster.

    Guarantees:
        Before all founders have accepted nothing else is taken. Once they have, who
        heard whom read out the fingerprint connects them all: no coordinator showed
        two groups of them two charters.

    Raises:
        VerificationError: A key of the request did not sign it.
        RuleError: The charter or request is another one, the founder accepted before,
            a key has an owner or a purpose already, or readers are too few, are no
            other founders, or leave the founders in separate groups.
    """
    check_accepted(state.charter, body, actor=actor, genesis=state.genesis)
    if actor in state.members:
        raise RuleError(
            f"{actor!r} accepted the charter before", code="charter-accepted-twice"
        )
    check_possession(body.request, body.possession, federation=state.federation)
    _check_keys(state, body)
    readers = state.readers.set(actor, body.readers)
    members = {**state.members, actor: body.request.member}
    if len(members) == len(state.charter.members):
        _check_connected(readers)
    state = dataclasses.replace(state, readers=readers).with_members(members)
    check_trust(state)
    return state


def check_not_left(state: FederationState, event: Event) -> None:
    """Require that a member has not left, unless it owes the entry.

    Raises:
        RuleError: The log has its ``member.left``, and this entry is none that says
            what it did before: another exit, data, an adapter, or a policy.
    """
    index = state.left.get(event.actor)
    if index is not None and not isinstance(event.body, OWED):
        raise RuleError(
            f"{event.actor!r} left by entry {index}, and {event.type} is nothing that"
            " it still owes; come back by an admission",
            code="member-left",
        )


def member_left(state: FederationState, *, actor: str, index: int) -> FederationState:
    """Note that a member left: from here on no round takes it in, and it has no vote.

    Guarantees:
        It needs nobody's consent and waits for nothing. A round that is open goes on
        with it, and after that it counts in the quorum no more, unless fewer than two
        members would. Its obligations stay.
    """
    waiting = (*state.waiting, Waiting(since=index, subject=index))
    left = state.left.set(actor, index)
    return lapse(dataclasses.replace(state, left=left, waiting=waiting))


def key_rotated(
    state: FederationState, body: KeyRotated, *, actor: str, index: int
) -> FederationState:
    """Note a member's new key, which is in force once no round is open.

    Edge cases:
        Of a key that is called compromised no entry is taken any more; entries that a
        routine rotation found on their way still count, where the member owes them.

    Raises:
        VerificationError: The new key did not sign for itself.
        RuleError: The key is in use, or too many of the member wait.
    """
    key = body.key
    if body.purpose not in {"transport", "receipts"}:
        check_free(state, [VerifyKey.parse(key)])
    if body.purpose == "transport":  # of another kind: the node's key vouches for it
        key = state.members[actor].node
    check_rotation(body, by=key, name=actor, federation=state.federation)
    pending = [state.rotations.get(each.subject) for each in state.waiting]
    if sum(found is not None and found[0] == actor for found in pending) >= _ROTATIONS:
        raise RuleError(
            f"{_ROTATIONS} new keys of {actor!r} are not in force yet; wait for the"
            " round to end",
            code="rotations-too-many",
        )
    return dataclasses.replace(
        state,
        rotations=state.rotations.set(index, (actor, body)),
        waiting=(*state.waiting, Waiting(since=index, subject=index)),
    )


def check_accepted(
    charter: CharterAdopted, body: CharterAccepted, *, actor: str, genesis: str
) -> None:
    """Compare an acceptance with the charter that it names.

    Raises:
        RuleError: The charter or request is another one, or readers are too few or no
            other founders.
    """
    requests = charter.requests
    if body.charter != genesis:
        raise RuleError(
            f"{actor!r} accepts charter {body.charter}, this log's is {genesis}",
            code="accepted-charter-differs",
        )
    if (body.request.name, body.request.digest) != (actor, requests.get(actor)):
        raise RuleError(
            f"{actor!r} accepts with request {body.request.digest} of"
            f" {body.request.name!r}, the charter names {requests.get(actor)}",
            code="accepted-request-differs",
        )
    check_readers(charter, body.readers, actor=actor)


def check_readers(
    charter: CharterAdopted, readers: Collection[str], *, actor: str
) -> None:
    """Require that a founder heard the fingerprint from enough others.

    Raises:
        RuleError: A reader is no other founder, or they are too few.
    """
    others = charter.requests.keys() - {actor}
    if strangers := set(readers) - others:
        raise RuleError(
            f"reader {min(strangers)!r} is none of the other founders,"
            f" {', '.join(sorted(others))}",
            code="reader-unknown",
        )
    want = min(_READERS, len(others))
    if len(readers) < want:
        raise RuleError(
            f"{actor!r} names {len(readers)} readers of the fingerprint, want {want};"
            " hear it from another member",
            code="readers-too-few",
        )


def _check_keys(state: FederationState, body: CharterAccepted) -> None:
    """Require that no two parties have a key, or the id of one, in common."""
    keys = body.request.member.verify_keys
    check_free(state, keys)
    ids = {keyid: keyid for keyid in state.known_keys.values()}
    for key in keys:
        if key.keyid in ids:
            raise RuleError(f"the key id {key.keyid} occurs twice", code="key-taken")


def _check_connected(readers: Mapping[str, tuple[str, ...]]) -> None:
    """Require that hearing joins all founders into one group."""
    linked: dict[str, set[str]] = {name: set(heard) for name, heard in readers.items()}
    for name, heard in readers.items():
        for other in heard:
            linked[other].add(name)
    reached, new = set[str](), {min(linked)}
    while new:
        reached |= new
        new = {other for name in new for other in linked[name]} - reached
    if apart := linked.keys() - reached:
        raise RuleError(
            f"nobody joins {min(reached)!r} and {min(apart)!r}: name as a reader of the"
            " fingerprint a member of the other group",
            code="readers-not-connected",
        )
