"""The rules of events by which institutions become members, and leave."""

import dataclasses
from collections.abc import Collection, Mapping

from tapestry.errors import RuleError
from tapestry.keys import VerifyKey
from tapestry_governance.events import round_events
from tapestry_governance.events.envelope import Event
from tapestry_governance.events.federation_events import CharterAdopted
from tapestry_governance.events.member_events import CharterAccepted
from tapestry_governance.events.possession import check_possession
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.rules.federation_state import FederationState

_READERS = 2  # other members that a founder hears the fingerprint from
_OWED = (  # about what a member did before it left, or was in when it did
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
    roster = state.roster.joined(body.request.member)
    if len(roster.members) == len(state.charter.members):
        _check_connected(readers)
    return dataclasses.replace(state, roster=roster, readers=readers)


def check_not_left(state: FederationState, event: Event) -> None:
    """Require that a member has not left, unless it owes the entry.

    Raises:
        RuleError: The log has its ``member.left``, and this entry is none that says
            what it did before: another exit, data, an adapter, or a policy.
    """
    index = state.left.get(event.actor)
    if index is not None and not isinstance(event.body, _OWED):
        raise RuleError(
            f"{event.actor!r} left by entry {index}, and {event.type} is nothing that"
            " it still owes; come back by an admission",
            code="member-left",
        )


def member_left(state: FederationState, *, actor: str, index: int) -> FederationState:
    """Note that a member left: from here on no round takes it in.

    Guarantees:
        It needs nobody's consent and waits for nothing. A round that is open goes on
        with it. Roster and quorum stay as they are, and so do its obligations.
    """
    return dataclasses.replace(state, left=state.left.set(actor, index))


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
    charter, member = state.charter, body.request.member
    texts = [charter.log, charter.coordinator.key]
    texts += [each.key for each in charter.policy.witnesses]
    taken = [VerifyKey.parse(text) for text in texts]
    for each in state.members.values():
        taken += each.verify_keys
    for key in member.verify_keys:
        for other in taken:
            if key.public == other.public or key.keyid == other.keyid:
                raise RuleError(
                    f"{member.name!r} has key {key.keyid}, which is {other.keyid}"
                    " already: one key, one owner and purpose",
                    code="key-taken",
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
