"""The text of what a member signs: a policy as a table, a proposal in a few lines."""

from collections.abc import Iterator

from tapestry_governance.events.federation_events import Policy
from tapestry_governance.events.member_events import (
    Admission,
    CoordinatorReplacement,
    MembershipRequest,
    PauseProposal,
    PolicyChange,
    Proposal,
    Removal,
    RootReplacement,
    Withdrawal,
)


def policy_rows(policy: Policy) -> dict[str, str]:
    """Return the terms of a policy with their values as text."""
    rows: dict[str, str] = {}
    for term, value in policy.model_dump(mode="json").items():
        match value:
            case dict():
                rows |= {f"{term}.{name}": str(part) for name, part in value.items()}
            case list() if term == "withdrawn_warns":
                rows[term] = _withdrawn(value)
            case list():
                rows[term] = ", ".join(map(_item, value)) or "none"
            case _:
                rows[term] = str(value)
    return rows


def policy_changes(before: Policy, after: Policy) -> list[tuple[str, str, str]]:
    """List the terms that differ, each with its old and new value."""
    old, new = policy_rows(before), policy_rows(after)
    return [(term, old[term], new[term]) for term in new if old[term] != new[term]]


def proposal_lines(proposal: Proposal, policy: Policy) -> Iterator[str]:
    """Say what a proposal would change, where ``policy`` is in force."""
    match proposal:
        case PolicyChange():
            yield f"policy {proposal.policy.version} in place of {policy.version}:"
            for term, old, new in policy_changes(policy, proposal.policy):
                yield f"  {term:<22} {old}  ->  {new}"
        case Admission():
            yield f"admit {proposal.request.name!r} as a member, with these keys:"
            yield from (f"  {line}" for line in request_lines(proposal.request))
        case CoordinatorReplacement():
            yield f"coordinator {proposal.name!r} at {proposal.address}, at once:"
            yield f"  author       {proposal.key}"
            yield f"  log          {proposal.log}"
            yield f"  certificate  {proposal.authority}"
        case _:
            yield _line(proposal, policy)


def _line(proposal: Proposal, policy: Policy) -> str:
    line = f"{proposal.kind}: this version does not know what that changes"
    match proposal:
        case Removal(member=name):
            line = f"end the membership of {name!r}; its budget stays spent"
        case RootReplacement(member=name, key=key):
            line = f"give {name!r} the root key {key}, in place of the one it lost"
        case PauseProposal(kind="pause"):
            line = "pause: no round is opened until the members resume"
        case PauseProposal():
            line = "resume: rounds may be opened again"
        case Withdrawal(name=name, subject=subject, reason=reason):
            line = f"withdraw {name}, {subject}: {reason}; {policy.said_of(reason)}"
    return line


def request_lines(request: MembershipRequest) -> Iterator[str]:
    """Say who asks for membership."""
    languages = ", ".join(request.languages) or "no language"
    yield f"{'records':<10} {request.records} or more, {languages}"
    for purpose in ("root", "node", "witness", "community", "transport"):
        yield f"{purpose:<10} {getattr(request, purpose)}"


def _withdrawn(reasons: list[str]) -> str:
    """Say what becomes of what members withdraw."""
    if not reasons:
        return "refused, whatever the reason"
    return f"used with a warning if {' or '.join(reasons)}, else refused"


def _item(value: object) -> str:
    """Spell one item of a list; a field that is left out could hide a change."""
    if not isinstance(value, dict):
        return str(value)
    return " ".join(f"{name} {part}" for name, part in value.items())
