"""The text of what a member signs: a policy as a table, a proposal in a few lines.

Guarantees:
    A policy is shown with all its terms. Of a ballot's file, each line that does not
    follow from entries under the checkpoint ends with ``(the file says)``, or names
    with this mark the part that does not. By whom the checkpoint counts, the reader
    says; who has no trust policy of its own is told that nothing is proven.
"""

from collections.abc import Iterator

from tapestry_governance.ballot_paper import OpenedPaper
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

_SAYS = "the file says"


def paper_lines(
    opened: OpenedPaper, *, from_file: bool, is_held: bool = True
) -> Iterator[str]:
    """Say what a vote on a ballot is about, and which of it the ballot proves.

    One that was made from a log, not read from a file, needs no proof: rules were
    applied to all entries. One that was not opened by a trust policy that the reader
    holds (``is_held``) proves nothing, as its own witnesses may be anybody's.
    """
    paper, event = opened.paper, opened.signed.event
    said = f" ({_SAYS})" if from_file else ""
    yield f"log       {paper.federation}, {opened.checkpoint.size} entries, genesis"
    yield f"          {opened.genesis}"
    if opened.proposal is not None:
        yield f"entry     {paper.index}, proposed by {event.actor}"
        if not opened.is_proven:
            yield "          (not cosigned: no coordinator signs the log before this)"
        is_told = from_file and not opened.replaces
        for line in proposal_lines(opened.proposal, paper.policy, is_told=is_told):
            yield f"proposal  {line}"
    if (release := opened.release) is not None:
        yield f"entry     {paper.index}, {release.name} of {release.run_id}, round"
        yield f"          {release.round_number}"
        yield f"manifest  {release.manifest_digest}"
        yield f"model     {release.model_digest}"
    are_named = opened.proposal is not None and opened.is_proven  # not by which keys
    keys = f" ({_SAYS} by which root keys)" if said and are_named else said
    yield f"voters    {', '.join(sorted(paper.voters))}{keys}"
    votes = ", ".join(f"{name} {each}" for name, each in sorted(paper.votes.items()))
    yield f"so far    {votes or 'no vote'}{said}"
    yield f"needed    {paper.needed} yes{'' if opened.replaces else said}"
    if said and not is_held:
        yield "proven    nothing without --trust: whoever made the file may have made"
        yield "          its log and witnesses, too"
    elif said and opened.is_proven:
        yield f"proven    each line without ({_SAYS}), by what members cosigned"


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


def proposal_lines(
    proposal: Proposal, policy: Policy, *, is_told: bool = False
) -> Iterator[str]:
    """Say what a proposal would change, where ``policy`` is in force.

    With ``is_told`` only a file says that it is. A next policy is shown in full, what
    differs with a mark and the old value.
    """
    match proposal:
        case PolicyChange():
            yield f"policy {proposal.policy.version} in place of {policy.version}:"
            yield from _policy_table(policy, proposal.policy, is_told=is_told)
        case Admission():
            yield f"admit {proposal.request.name!r} as a member, with these keys:"
            yield from (f"  {line}" for line in request_lines(proposal.request))
        case CoordinatorReplacement():
            yield f"coordinator {proposal.name!r} at {proposal.address}, at once:"
            yield f"  author       {proposal.key}"
            yield f"  log          {proposal.log}"
            yield f"  certificate  {proposal.authority}"
        case Withdrawal() if is_told:
            yield f"{_line(proposal, policy)} ({_SAYS})"
        case _:
            yield _line(proposal, policy)


def _policy_table(before: Policy, after: Policy, *, is_told: bool) -> Iterator[str]:
    old, new = policy_rows(before), policy_rows(after)
    for term, value in new.items():
        is_same = old.get(term) == value
        was = "unchanged" if is_same else f"was {old.get(term, 'none')}"
        said = f"  ({was}, {_SAYS})" if is_told else f"  ({was})"
        mark = "  " if is_same else "* "
        yield f"{mark}{term:<22} {value}{said if is_told or not is_same else ''}"


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
