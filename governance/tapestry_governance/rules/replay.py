"""The replay of a log: state and entry in, next state out.

    state' = apply(state, entry, index)

Node, witness, coordinator and auditor run this same function over the same bytes,
so they agree on what is valid without asking one another. Rules that every entry
obeys are here; those of one type are in the other modules of this package.

Guarantees:
    A state is returned only for an entry in its one spelling, signed by the key
    that its author holds in that role, with an id that it never used, a view
    (``seen``) that is none or a prefix of this very log, and a body that breaks no
    rule. An entry of an unknown type or version stops the replay; nothing is skipped.
"""

import dataclasses
from collections.abc import Collection, Iterable

from tapestry.errors import IncompleteError, RuleError, TapestryError
from tapestry.keys import VerifyKey
from tapestry_governance.events import round_events
from tapestry_governance.events.envelope import Event, Seen, Signed, open_entry
from tapestry_governance.events.federation_events import CharterAdopted
from tapestry_governance.events.member_events import (
    CharterAccepted,
    KeyRotated,
    MemberLeft,
    ProposalMade,
    VoteCast,
)
from tapestry_governance.events.model_events import (
    AdapterPublished,
    EvaluationRecorded,
    ReleasePublished,
)
from tapestry_governance.events.privacy_events import DataDeclared, DpAccounted
from tapestry_governance.events.publication_events import AdapterWithdrawn
from tapestry_governance.rules.account_rules import dp_accounted
from tapestry_governance.rules.federation_state import (
    FederationState,
    Leadership,
    Past,
    Roster,
    TrustedFrom,
)
from tapestry_governance.rules.member_rules import (
    charter_accepted,
    check_accepted,
    check_not_left,
    former_key,
    key_rotated,
    member_left,
)
from tapestry_governance.rules.model_rules import (
    adapter_published,
    adapter_withdrawn,
    release_published,
)
from tapestry_governance.rules.persistent_collections import PersistentMap
from tapestry_governance.rules.round_records import Departure
from tapestry_governance.rules.round_rules import (
    contribution_committed,
    contribution_refused,
    round_aborted,
    round_closed,
    round_disputed,
    round_opened,
)
from tapestry_governance.rules.settlement import settle
from tapestry_governance.rules.vote_rules import proposal_made, vote_cast

MAX_DECLARATIONS = 4  # of a member's data between two openings of rounds


def apply(state: FederationState | None, entry: bytes, index: int) -> FederationState:
    """Return the state after one more entry.

    The state is the one after the entries before it; None before the first.

    Raises:
        ProtocolError: The bytes are not an entry in its one spelling.
        VerificationError: A signature of the entry does not hold.
        RuleError: The entry is authentic and breaks a rule; the code names it.
        IncompleteError: The type or version of the event is not known here, or its
            type has no rule.
        ValueError: The index is not the state's size: a bug of the caller.
    """
    if index != (state.size if state else 0):
        raise ValueError(f"entry {index} does not come next")
    try:
        signed = open_entry(entry)
    except TapestryError as error:
        raise error.at(f"entry {index}") from error
    return apply_signed(state, signed)


def apply_signed(state: FederationState | None, signed: Signed) -> FederationState:
    """Return the state after an entry that :func:`open_entry` took apart.

    Raises:
        VerificationError: A signature of the entry does not hold.
        RuleError: The entry is authentic and breaks a rule; the code names it.
        IncompleteError: The type of the event has no rule here.
    """
    index = state.size if state else 0
    try:
        if state is None:
            return _found(signed)
        before = state
        shown = max(state.shown, signed.event.seen.size if signed.event.seen else 0)
        if state.waiting:
            state = settle(state, seen=shown)
        _check_author(state, signed)
        _check_place(state, signed.event, index)
        seen = _check_seen(state, signed.event, index)
        following = _dispatch(state, signed, index)
    except TapestryError as error:
        raise error.at(f"entry {index}") from error
    past = state.past.push(signed.entry, signed.event)
    following = following.but(past=past, seen=seen, shown=shown)
    return _turned(before, following)


def _turned(before: FederationState, state: FederationState) -> FederationState:
    """Note from when on other witnesses count, if an entry changed that."""
    is_same = (
        before.roster is state.roster
        and before.lead is state.lead
        and before.policy is state.policy
    )
    if is_same or not state.is_founded:
        return state
    trust = state.trust
    if state.trusted and state.trusted[-1].policy == trust:
        return state
    turn = TrustedFrom(size=state.size, policy=trust)
    return dataclasses.replace(state, trusted=(*state.trusted, turn))


def apply_all(
    state: FederationState | None, entries: Iterable[bytes]
) -> FederationState | None:
    """Return the state after several entries, in order; all or none.

    Raises:
        TapestryError: :func:`apply` refuses one of the entries.
    """
    for entry in entries:
        state = apply(state, entry, state.size if state else 0)
    return state


def _found(signed: Signed) -> FederationState:
    event, charter = signed.event, signed.event.body
    if not isinstance(charter, CharterAdopted):
        message = f"a log starts with its charter, not with {event.type}"
        raise RuleError(message, code="charter-not-first")
    state = FederationState(
        past=Past(),
        federation=event.federation,
        genesis=signed.digest,
        charter=charter,
        lead=Leadership(
            coordinator=charter.coordinator,
            log=charter.log,
            address=charter.address,
            authority=charter.authority,
        ),
        roster=Roster.of(charter.coordinator, {}),
        policy=charter.policy,
        policy_digest=charter.policy.digest,
        policies=(charter.policy,),
    )
    _check_author(state, signed)
    if event.seen is not None or event.refs:
        raise RuleError("a charter has nothing before it", code="charter-refers-back")
    if charter.policy.version != 1:
        message = f"the first policy has version {charter.policy.version}, not 1"
        raise RuleError(message, code="policy-version-not-next")
    state = state.knowing([*state.lead.verify_keys, *charter.policy.witness_keys])
    return dataclasses.replace(state, past=state.past.push(signed.entry, event))


def _check_author(state: FederationState, signed: Signed) -> None:
    """Demand a signature by the actor's key, whose role may sign this type."""
    event = signed.event
    if event.role not in event.body.roles:
        message = f"a {event.role} key may not sign {event.type}"
        raise RuleError(message, code="role-not-allowed")
    check_not_left(state, event)
    signers = {keyid for keyid, _ in signed.signatures}
    key = _author_key(state, event, signers)
    if key.keyid not in signers:
        message = f"signed by {min(signers)}, not by {key.keyid}"
        raise RuleError(message, code="signature-missing")
    if strangers := signers - {key.keyid}:
        message = f"{min(strangers)} may not sign {event.type}"
        raise RuleError(message, code="signer-not-allowed")
    signed.verify(key)


def _author_key(
    state: FederationState, event: Event, signers: Collection[str]
) -> VerifyKey:
    """Return the key that the actor of an event signs with.

    What a member owes it may also have signed with a key that it had before.
    """
    if isinstance(event.body, CharterAccepted):  # it brings its key into the log
        check_accepted(
            state.charter, event.body, actor=event.actor, genesis=state.genesis
        )
        return VerifyKey.parse(event.body.request.root)
    if state.size and not state.is_founded:
        message = f"{event.type} before all founders accepted the charter"
        raise RuleError(message, code="founding-incomplete")
    key = state.key_of(event.actor, event.role)
    if key is None or key.keyid not in signers:
        key = former_key(state, event, signers) or key
    if key is None:
        message = f"{event.actor} is not a {event.role} of {state.federation}"
        raise RuleError(message, code="actor-unknown")
    return key


def _check_place(state: FederationState, event: Event, index: int) -> None:
    if event.federation != state.federation:
        message = f"event of {event.federation} in the log of {state.federation}"
        raise RuleError(message, code="federation-differs")
    if (first := state.past.index_of(event)) is not None:
        message = f"event {event.id} of {event.actor} is in the log, at {first}"
        raise RuleError(message, code="event-duplicated")
    if any(reference >= index for reference in event.refs):
        message = f"a reference points forward, to {max(event.refs)}"
        raise RuleError(message, code="reference-forward")


def _check_seen(
    state: FederationState, event: Event, index: int
) -> PersistentMap[str, Seen]:
    """Demand that an author saw a prefix of this log.

    It may be a shorter one than before: an entry that was signed earlier may come late.

    Returns:
        The last view of each author.
    """
    if event.seen is None or event.seen == state.seen.get(event.actor):
        return state.seen  # none, or compared when it was new
    if event.seen.size > index:
        raise RuleError(
            f"{event.actor} claims to have seen {event.seen.size} entries, there are"
            f" {index}",
            code="seen-size-invalid",
        )
    if state.past.root(event.seen.size).hex() != event.seen.root:
        message = f"fork: {event.actor} saw another log of {event.seen.size} entries"
        raise RuleError(message, code="log-forked")
    return state.seen.set(event.actor, event.seen)


def _dispatch(state: FederationState, signed: Signed, index: int) -> FederationState:
    body = signed.event.body
    match body:
        case DataDeclared() | EvaluationRecorded() | CharterAdopted():
            return _declare(state, signed.event, index)
        case round_events.RoundOpened():
            return round_opened(state, body, index)
        case round_events.RoundClosed():
            return round_closed(state, body, index)
        case round_events.RoundAborted():
            return round_aborted(state, body, index)
        case _:
            return _dispatch_member(state, signed, index)


def _dispatch_member(
    state: FederationState, signed: Signed, index: int
) -> FederationState:
    body, actor = signed.event.body, signed.event.actor
    match body:
        case round_events.ContributionCommitted():
            return contribution_committed(state, body, actor=actor, index=index)
        case round_events.ContributionRefused():
            return contribution_refused(state, body, actor=actor)
        case round_events.RoundDisputed():
            return round_disputed(state, body, actor=actor)
        case DpAccounted():
            return dp_accounted(state, body, actor=actor, index=index)
        case _:
            return _dispatch_model(state, signed, index)


def _dispatch_model(
    state: FederationState, signed: Signed, index: int
) -> FederationState:
    body = signed.event.body
    match body:
        case ReleasePublished():
            return release_published(state, body, index, entry=signed.digest)
        case AdapterPublished():
            actor = signed.event.actor
            return adapter_published(state, body, actor=actor, index=index)
        case AdapterWithdrawn():
            actor = signed.event.actor
            return adapter_withdrawn(state, body, actor=actor, index=index)
        case ProposalMade():
            by, entry = signed.event.actor, signed.digest
            return proposal_made(state, body, actor=by, index=index, entry=entry)
        case _:
            return _dispatch_choice(state, signed.event, index)


def _dispatch_choice(
    state: FederationState, event: Event, index: int
) -> FederationState:
    body, actor = event.body, event.actor
    match body:
        case VoteCast():
            state = _in_order(state, event, f"vote on {body.subject}")
            return vote_cast(state, body, actor=actor, index=index)
        case CharterAccepted():
            return charter_accepted(state, body, actor=actor)
        case KeyRotated():
            state = _in_order(state, event, f"{body.purpose} key")
            return key_rotated(state, body, actor=actor, index=index)
        case MemberLeft():
            return member_left(state, actor=actor, index=index)
        case _:
            message = f"this release has no rule for {event.type}"
            raise IncompleteError(message, code="event-without-rule")


def _in_order(state: FederationState, event: Event, subject: str) -> FederationState:
    """Demand that what takes the place of an earlier entry was signed after it.

    Ids are in the order in which an author made them (UUIDv7). Otherwise a coordinator
    that held the earlier entry back could let it take the place of the later one. With
    another root key the order begins anew: who had stolen it may have signed far ahead.
    """
    place = state.members[event.actor].root, subject
    last = state.signed_last.get(place)
    if last is not None and event.id <= last:
        raise RuleError(
            f"the log has a {subject} that {event.actor!r} signed later; sign another",
            code="entry-superseded",
        )
    signed = state.signed_last.set(place, event.id)
    return dataclasses.replace(state, signed_last=signed)


def _check_version(before: DataDeclared | None, body: DataDeclared) -> None:
    version, block = (before.version, before.block) if before else (0, 0)
    least = max(block, 1)  # without new units a version keeps the newest block
    if body.version != version + 1 or not least <= body.block <= block + 1:
        raise RuleError(
            f"data version {body.version} with block {body.block} after version"
            f" {version} with block {block}",
            code="data-version-not-next",
        )
    if before is not None and body.unit != before.unit:
        raise RuleError(
            f"data version {body.version} of each {body.unit} after {before.unit}; the"
            " unit of privacy stays what it was",
            code="unit-differs",
        )
    if body.block > 1 and body.unit == "record":
        # Nothing tells a record that was edited from a new one: a new block of them
        # would buy the same persons a fresh budget.
        raise RuleError(
            f"block {body.block} of single records; data grow by units with a key",
            code="block-without-key",
        )


def _count_declaration(
    state: FederationState, actor: str
) -> PersistentMap[str, tuple[int, int]]:
    """Count a member's declarations since the last opening: every mirror keeps them."""
    opened, number = state.counted(state.declarations, actor)
    if number > MAX_DECLARATIONS:
        raise RuleError(
            f"{actor} declares its data for time {number} since the last round was"
            f" opened, at most {MAX_DECLARATIONS} are allowed; wait for the next round",
            code="declarations-too-many",
        )
    return state.declarations.set(actor, (opened, number))


def _declare(state: FederationState, event: Event, index: int) -> FederationState:
    match event.body:
        case DataDeclared() as body:
            _check_version(state.data.get(event.actor), body)
            first = state.first_data.get(event.actor, body)
            left: tuple[Departure, ...] = state.departures.get(event.actor, ())
            if body.withdrawn:
                left += (Departure(index=index, units=body.withdrawn),)
            return dataclasses.replace(
                state,
                data=state.data.set(event.actor, body),
                first_data=state.first_data.set(event.actor, first),
                departures=state.departures.set(event.actor, left),
                declarations=_count_declaration(state, event.actor),
            )
        case EvaluationRecorded():
            return state
        case _:
            message = "there is one charter, and it comes first"
            raise RuleError(message, code="charter-not-first")
