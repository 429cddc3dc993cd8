"""The rules of events by which institutions become members, and leave."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import cast

from tapestry.errors import RuleError
from tapestry.keys import VerifyKey
from tapestry.tlog.trust_policy import witness_quorum
from tapestry_governance.events import round_events
from tapestry_governance.events.envelope import Event
from tapestry_governance.events.event_body import Body
from tapestry_governance.events.federation_events import CharterAdopted
from tapestry_governance.events.member_events import CharterAccepted, KeyRotated
from tapestry_governance.events.possession import check_possession, check_rotation
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.rules.ballots import Waiting, voters_digest
from tapestry_governance.rules.federation_state import FederationState, round_key
from tapestry_governance.rules.persistent_collections import PersistentList
from tapestry_governance.rules.proposal_rules import (
    check_free,
    check_trust,
    reserve_transport,
)
from tapestry_governance.rules.round_records import ReleaseRecord, RoundRecord
from tapestry_governance.rules.settlement import calls_compromised, lapse
from tapestry_governance.rules.vote_endings import disown, rotation_count

MAX_ROTATIONS = 24  # of a member between two openings of rounds, by one root key
MAX_ROOTS = 4  # of a member between two openings: one stolen begins a new count
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
    if actor in state.readers:
        raise RuleError(
            f"{actor!r} accepted the charter before", code="charter-accepted-twice"
        )
    check_possession(body.request, body.possession, federation=state.federation)
    check_free(state, body.request.member.verify_keys)
    state = reserve_transport(state, body.request.transport, name=actor)
    readers = state.readers.set(actor, body.readers)
    members = {**state.members, actor: body.request.member}
    if len(members) == len(state.charter.members):
        _check_connected(readers)
    state = state.knowing(body.request.member.verify_keys)
    state = state.with_transport(actor, body.request.transport, compromised=False)
    state = dataclasses.replace(state, readers=readers).with_members(members)
    check_trust(state)
    return state


def former_key(
    state: FederationState, event: Event, signers: Collection[str]
) -> VerifyKey | None:
    """Return the former key of a member by which it signed what it owes, or None.

    Guarantees:
        It is not one that was compromised, and the round, or the first release of the
        run, is of a time at which it was in force. So no holder of an old key speaks
        about anything later, also where a name was given again.
    """
    if not isinstance(event.body, OWED):
        return None
    begun = _begun(state, event.body)
    for each in state.former_keys.get((event.actor, event.role), ()):
        is_theirs = each.key.keyid in signers and not each.compromised
        if is_theirs and begun is not None and begun < each.until:
            return cast("VerifyKey", each.key)
    return None


def _begun(state: FederationState, body: Body) -> int | None:
    """Return the index of the opening, or of a run's first release, that is meant."""
    if isinstance(body, DpAccounted) and body.adapter is not None:
        releases: PersistentList[ReleaseRecord] = state.released_by_run.get(
            body.run_id, PersistentList()
        )
        return min((each.index for each in releases.newest_first()), default=None)
    owed = cast("round_events.InRound", body)
    record: RoundRecord | None = state.rounds.get(round_key(owed))
    return record.opened if record else None


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
        members would. Its obligations stay, its votes on what is not in force do not.
    """
    waiting = (*state.waiting, Waiting(since=index, subject=index))
    left = state.left.set(actor, index)
    following = dataclasses.replace(state, left=left, waiting=waiting)
    voters = voters_digest(state.active)
    return lapse(disown(following, actor, voters=voters))


def key_rotated(
    state: FederationState, body: KeyRotated, *, actor: str, index: int
) -> FederationState:
    """Note a member's new key, which is in force once no round is open.

    Edge cases:
        Of a key that is called compromised no entry is taken any more; entries that a
        routine rotation found on their way still count, where the member owes them,
        until the same rotation is declared once more as one of a compromised key.

    Raises:
        VerificationError: The new key did not sign for itself.
        RuleError: The key is in use, a witness has another name than before, no
            witness can be spared for the turn, or the member has had too many since a
            round was opened: each may be another quorum, which every mirror keeps.
    """
    key, members = body.key, len(state.members)
    is_late = calls_compromised(state, body, actor=actor)
    if body.purpose == "witness" and witness_quorum(members) == members and not is_late:
        raise RuleError(
            f"with {members} members each must cosign, by the key that it has, before a"
            " new one counts; admit another member first",
            code="witness-not-spared",
        )
    if body.purpose == "transport":  # of another kind: the node's key vouches for it
        state = reserve_transport(state, body.key, name=actor)
        key = state.members[actor].node
    elif not is_late:
        check_free(state, [VerifyKey.parse(key)])
    check_rotation(body, by=key, name=actor, federation=state.federation)
    if body.purpose == "witness":
        _check_witness_name(state, body, actor=actor)
    count = rotation_count(actor, body.purpose)
    opened, number = state.counted(state.rotated, count)
    is_root = body.purpose == "root"
    most, what = (MAX_ROOTS, "root keys") if is_root else (MAX_ROTATIONS, "keys")
    if number > most:
        raise RuleError(
            f"{actor!r} gave itself {most} new {what} since the last round was opened,"
            " which is as many as it may; wait for the next round, or, if others know"
            " its root key, have the members vote for another",
            code="rotations-too-many",
        )
    return dataclasses.replace(
        state,
        rotated=state.rotated.set(count, (opened, number)),
        rotations=state.rotations.set(index, (actor, body)),
        waiting=(*state.waiting, Waiting(since=index, subject=index)),
    )


def _check_witness_name(
    state: FederationState, body: KeyRotated, *, actor: str
) -> None:
    """Require a witness's name of before: a new one could be that of an applicant's."""
    named = VerifyKey.parse(body.key).name
    if named != (now := VerifyKey.parse(state.members[actor].witness).name):
        raise RuleError(
            f"the new witness key of {actor!r} is named {named!r}, the one in force"
            f" {now!r}; make it with tapestry node rotate",
            code="witness-name-differs",
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
