"""What each kind of proposal wants of the log, and what it changes once decided."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from tapestry.errors import IncompleteError, ProtocolError, RuleError
from tapestry.keys import VerifyKey
from tapestry_governance.events.federation_events import Coordinator
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
    check_trust(enact(state, proposal, index=state.size))


def enact(state: FederationState, proposal: Proposal, *, index: int) -> FederationState:
    """Put a proposal in force that :func:`check_possible` found possible.

    ``index`` is that of the entry that decided it.
    """
    return _KINDS[proposal.kind].enact(state, proposal, index)


def dismiss(state: FederationState, name: str, *, index: int) -> FederationState:
    """Take a member off the roster; what it owes it may still say."""
    for purpose in ("root", "node", "witness", "community"):
        state = state.retire(name, purpose, index=index)
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
    besides: frozenset[bytes] = frozenset(),
) -> None:
    """Require that no party has, or ever had, one of these keys.

    Raises:
        RuleError: A key is somebody's already, for whatever purpose.
    """
    known = state.known_keys
    for key in keys:
        if key.public in known and key.public not in besides:
            raise RuleError(
                f"key {key.keyid} is {known[key.public]} already: one key, one owner"
                " and purpose",
                code="key-taken",
            )


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
    before = [VerifyKey.parse(each.key).public for each in state.policy.witnesses]
    outside = [VerifyKey.parse(each.key) for each in body.policy.witnesses]
    check_free(state, outside, besides=frozenset(before))


def _adopt(state: FederationState, body: PolicyChange, _: int) -> FederationState:
    return dataclasses.replace(
        state,
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
    check_possession(request, body.possession, federation=state.federation)
    check_free(state, request.member.verify_keys)


def _admit(state: FederationState, body: Admission, _: int) -> FederationState:
    name = body.request.name
    state = state.with_members({**state.members, name: body.request.member})
    left = state.left.without(name) if name in state.left else state.left
    return dataclasses.replace(state, left=left)


def _check_removal(state: FederationState, body: Removal) -> None:
    _check_member(state, body.member)
    if len(state.members) <= _FEWEST:
        message = f"without {body.member!r} fewer than {_FEWEST} members are left"
        raise RuleError(message, code="members-too-few")


def _remove(state: FederationState, body: Removal, index: int) -> FederationState:
    return dismiss(state, body.member, index=index)


def _check_root(state: FederationState, body: RootReplacement) -> None:
    _check_member(state, body.member)
    check_free(state, [VerifyKey.parse(body.key)])


def _replace_root(
    state: FederationState, body: RootReplacement, index: int
) -> FederationState:
    return state.with_key(body.member, "root", body.key, index=index, compromised=True)


def _check_coordinator(state: FederationState, body: CoordinatorReplacement) -> None:
    """Require new keys and the log's name; one of the keys may stay."""
    lead = state.lead
    key, log = VerifyKey.parse(body.key), VerifyKey.parse(body.log)
    if body.name in state.members:
        message = f"{body.name!r} is a member, which leads no round"
        raise RuleError(message, code="coordinator-is-member")
    before = VerifyKey.parse(lead.log)
    if log.name != before.name:
        message = f"the log is {before.name!r}, not {log.name!r}; a log keeps its name"
        raise RuleError(message, code="log-origin-differs")
    if key.public == log.public:
        raise RuleError("one key, one purpose: a key occurs twice", code="key-taken")
    author = VerifyKey.parse(lead.coordinator.key)
    check_free(state, [key], besides=frozenset([author.public]))
    check_free(state, [log], besides=frozenset([before.public]))


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
    return state.with_members(state.members)


def _check_pause(state: FederationState, body: PauseProposal) -> None:
    if (body.kind == "resume") != (state.paused is not None):
        standing = "running" if state.paused is None else "paused"
        message = f"{body.kind}, and the federation is {standing}"
        raise RuleError(message, code="pause-unchanged")


def _pause(state: FederationState, body: PauseProposal, index: int) -> FederationState:
    if body.kind == "pause":
        return dataclasses.replace(state, paused=index)
    return dataclasses.replace(state, paused=None, pause_lifted=True)


def _check_withdrawal(state: FederationState, body: Withdrawal) -> None:
    if published_digest(state, body.name) != body.subject:
        message = f"no {body.name} with manifest {body.subject} is published"
        raise RuleError(message, code="withdrawal-subject-unknown")
    if body.subject in state.withdrawn:
        message = f"{body.name} is withdrawn already"
        raise RuleError(message, code="withdrawn-already")


def _withdraw(state: FederationState, body: Withdrawal, _: int) -> FederationState:
    withdrawn = state.withdrawn.set(body.subject, body)
    return dataclasses.replace(state, withdrawn=withdrawn)


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
        "withdraw": _Kind(_check_withdrawal, _withdraw),
    }
)
