"""The kinds of proposals: what each wants of the log, and what it changes."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from tapestry.errors import IncompleteError, ProtocolError, RuleError
from tapestry.keys import VerifyKey
from tapestry_governance.events.federation_events import MAX_MEMBERS, Coordinator
from tapestry_governance.events.member_events import (
    Admission,
    CoordinatorReplacement,
    PauseProposal,
    PolicyChange,
    Proposal,
    Removal,
    RootReplacement,
    Withdrawal,
)
from tapestry_governance.events.possession import check_possession
from tapestry_governance.rules.federation_state import FederationState, Leadership

_FEWEST = 2  # members that a federation is left with


def check_possible(state: FederationState, proposal: Proposal) -> None:
    """Require that a proposal could be put in force as the log stands.

    Raises:
        RuleError: A key has an owner, a name is no member's or is one already, the
            policy is not the next one, nothing is paused, or nothing of this name and
            digest is published.
        VerificationError: A key of a new member did not sign its request.
        IncompleteError: This release has no rule for a kind of proposal.
    """
    if proposal.kind not in _KINDS:
        message = f"this release has no rule for a proposal of {proposal.kind}"
        raise IncompleteError(message, code="event-without-rule")
    _KINDS[proposal.kind].check(state, proposal)


def enact(state: FederationState, proposal: Proposal, *, index: int) -> FederationState:
    """Put a proposal in force that :func:`check_possible` found possible.

    ``index`` is that of the entry that decided it.
    """
    return _KINDS[proposal.kind].enact(state, proposal, index)


def dismiss(state: FederationState, name: str) -> FederationState:
    """Take a member off the roster; what it owes it may still say."""
    for purpose in ("root", "node", "witness", "community"):
        state = state.retire(name, purpose)
    members = {n: state.members[n] for n in state.members if n != name}
    return state.with_members(members)


def published_digest(state: FederationState, name: str) -> str | None:
    """Return the digest of the manifest that a release or adapter was published by."""
    found = state.releases.get(name) or state.adapters.get(name)
    return found.manifest_digest if found else None


def check_free(
    state: FederationState,
    keys: Iterable[VerifyKey],
    *,
    besides: Collection[VerifyKey] = (),
) -> None:
    """Require that no party has, or ever had, one of these keys or of their ids.

    Raises:
        RuleError: A key has an owner already, for whatever purpose.
    """
    kept = {each.public for each in besides}
    for key in keys:
        if key.public not in kept and (owned := state.owned(key)) is not None:
            raise RuleError(
                f"key {key.keyid} is {owned} already: one key, one owner and purpose",
                code="key-taken",
            )


def reserve_transport(
    state: FederationState, digest: str, *, name: str
) -> FederationState:
    """Give a transport key to the party whose entry names it first, for ever.

    Guarantees:
        From that entry on no other party can claim the key, or have it called
        compromised: no admission and no rotation that waits is overtaken by a claim.

    Edge cases:
        A digest proves no possession. Who learns of one and gets it into the log
        before its owner does bars the owner from that key; the owner makes another.

    Raises:
        RuleError: An entry named it for another party, or it was compromised.
    """
    if (owner := state.transport_owners.get(digest, name)) != name:
        raise RuleError(
            f"transport key {digest} is that of {owner!r}: one key, one owner",
            code="key-taken",
        )
    if (since := state.stolen_transports.get(digest)) is not None:
        raise RuleError(
            f"transport key {digest} is compromised since entry {since}: others may"
            " know it; make another",
            code="transport-key-compromised",
        )
    owners = state.transport_owners.set(digest, name)
    return dataclasses.replace(state, transport_owners=owners)


def check_trust(state: FederationState) -> None:
    """Require that the witnesses make a trust policy, in which each has its own name.

    Raises:
        RuleError: Two are called alike, or one as a group of the policy is.
    """
    try:
        _ = state.trust
    except ProtocolError as error:
        raise RuleError(
            f"with these witnesses {error}; name their keys after their owners, as in"
            " NAME/witness",
            code="witness-name-taken",
        ) from None


def _check_policy(state: FederationState, body: PolicyChange) -> None:
    if body.policy.version != state.policy.version + 1:
        message = f"policy {body.policy.version} after {state.policy.version}"
        raise RuleError(message, code="policy-version-not-next")
    check_free(state, body.policy.witness_keys, besides=state.policy.witness_keys)


def _adopt(state: FederationState, body: PolicyChange, _: int) -> FederationState:
    return dataclasses.replace(
        state.knowing(body.policy.witness_keys),
        policy=body.policy,
        policy_digest=body.policy.digest,
        policies=(*state.policies, body.policy),
        pause_lifted=False,
    )


def _check_admission(state: FederationState, body: Admission) -> None:
    request = body.request
    if request.name in {*state.members, state.lead.coordinator.name}:
        message = f"{request.name!r} is a party of this federation already"
        raise RuleError(message, code="member-known")
    if len(state.members) >= MAX_MEMBERS:
        message = f"{request.name!r} would be one more than {MAX_MEMBERS} members"
        raise RuleError(message, code="members-too-many")
    check_possession(request, body.possession, federation=state.federation)
    check_free(state, request.member.verify_keys)


def _admit(state: FederationState, body: Admission, _: int) -> FederationState:
    name, member = body.request.name, body.request.member
    state = state.knowing(member.verify_keys)
    left, others = state.left, state.other_keys
    left = left.without(name) if name in left else left
    if (key := (name, "receipts")) in others:  # of a former membership
        others = others.without(key)
    state = dataclasses.replace(state, left=left, other_keys=others)
    state = state.with_transport(name, body.request.transport, compromised=False)
    return state.with_members({**state.members, name: member})


def _check_removal(state: FederationState, body: Removal) -> None:
    _check_member(state, body.member)
    if len(state.members) <= _FEWEST:
        message = f"without {body.member!r} fewer than {_FEWEST} members are left"
        raise RuleError(message, code="removal-leaves-too-few")


def _remove(state: FederationState, body: Removal, _: int) -> FederationState:
    return dismiss(state, body.member)


def _check_root(state: FederationState, body: RootReplacement) -> None:
    _check_member(state, body.member)
    check_free(state, [VerifyKey.parse(body.key)])


def _replace_root(
    state: FederationState, body: RootReplacement, _: int
) -> FederationState:
    return state.with_key(body.member, "root", body.key, compromised=True)


def _check_coordinator(state: FederationState, body: CoordinatorReplacement) -> None:
    """Require new keys, or those in use, for the same log and no member's name."""
    lead = state.lead
    key, log = VerifyKey.parse(body.key), VerifyKey.parse(body.log)
    if body.name in state.members or (body.name, "root") in state.former_keys:
        message = f"{body.name!r} is or was a member, which leads no round"
        raise RuleError(message, code="coordinator-is-member")
    before = VerifyKey.parse(lead.log)
    if log.name != before.name:
        message = f"the log is {before.name!r}, not {log.name!r}; a log keeps its name"
        raise RuleError(message, code="log-origin-differs")
    if key.public == log.public:
        raise RuleError("one key, one purpose: a key occurs twice", code="key-taken")
    check_free(state, [key], besides=[VerifyKey.parse(lead.coordinator.key)])
    check_free(state, [log], besides=[before])


def _lead(
    state: FederationState, body: CoordinatorReplacement, _: int
) -> FederationState:
    lead = Leadership(
        coordinator=Coordinator(name=body.name, key=body.key),
        log=body.log,
        address=body.address,
        authority=body.authority,
    )
    former = (*state.former_leads, state.lead)
    state = dataclasses.replace(state, lead=lead, former_leads=former)
    return state.knowing(lead.verify_keys).with_members(state.members)


def _check_pause(state: FederationState, body: PauseProposal) -> None:
    if (body.kind == "resume") != (state.paused is not None):
        standing = "running" if state.paused is None else "paused"
        message = f"{body.kind}, and the federation is {standing}"
        raise RuleError(message, code="pause-unchanged")


def _pause(state: FederationState, body: PauseProposal, index: int) -> FederationState:
    if body.kind == "pause":
        return dataclasses.replace(state, paused=index)
    return dataclasses.replace(state, paused=None, pause_lifted=True)


def check_withdrawal(state: FederationState, body: Withdrawal) -> None:
    """Require that these files are published, and not withdrawn as gravely before.

    Raises:
        RuleError: Nothing of this name and digest is published, or it is withdrawn for
            a reason that is no less grave.
    """
    # An older version of an adapter too: its owner escapes no vote by another version.
    files = body.name, body.subject
    newest = published_digest(state, body.name)
    if newest != body.subject and files not in state.adapter_files:
        message = f"no {body.name} with manifest {body.subject} is published"
        raise RuleError(message, code="withdrawal-subject-unknown")
    present, gravity = (
        state.withdrawal_of(body.name, body.subject),
        state.policy.gravity,
    )
    if present is not None and gravity(body.reason) <= gravity(present.reason):
        raise RuleError(
            f"{body.name} is withdrawn already, as {present.reason}; by the policy in"
            f" force {body.reason} is no graver",
            code="withdrawn-already",
        )


def withdraw(state: FederationState, body: Withdrawal) -> FederationState:
    """Return the state with one more withdrawal in force."""
    files = body.name, body.subject
    reasons = (*state.withdrawn.get(files, ()), body)
    return dataclasses.replace(state, withdrawn=state.withdrawn.set(files, reasons))


def _check_member(state: FederationState, name: str) -> None:
    if name not in state.members:
        members = ", ".join(sorted(state.members))
        message = f"{name!r} is no member; members are {members}"
        raise RuleError(message, code="member-unknown")


class _Kind(NamedTuple):
    check: Callable[[FederationState, Any], None]
    enact: Callable[[FederationState, Any, int], FederationState]


_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "policy": _Kind(_check_policy, _adopt),
        "admit": _Kind(_check_admission, _admit),
        "remove": _Kind(_check_removal, _remove),
        "root": _Kind(_check_root, _replace_root),
        "coordinator": _Kind(_check_coordinator, _lead),
        "pause": _Kind(_check_pause, _pause),
        "resume": _Kind(_check_pause, _pause),
        "withdraw": _Kind(
            check_withdrawal, lambda state, body, _: withdraw(state, body)
        ),
    }
)
