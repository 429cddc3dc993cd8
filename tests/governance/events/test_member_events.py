"""Bodies of acceptance, proposals, votes, keys and exit."""

import pytest
from pydantic import TypeAdapter, ValidationError

from tapestry.errors import IncompleteError
from tapestry_governance.events.member_events import (
    CharterAccepted,
    KeyRotated,
    MemberLeft,
    MembershipRequest,
    Possession,
    Proposal,
    VoteCast,
)
from tests.support.event_samples import request_of, sample_bodies
from tests.support.log_world import World, changed, fake_digest
from tests.support.refusals import refused

PROOF = Possession(node="1" * 128, witness="2" * 128, community="3" * 128)


@pytest.mark.parametrize(
    "kind",
    [
        "evaluation.planned",
        "evaluation.reported",
        "constitution.published",
        "limits.committed",
        "courses.committed",
    ],
)
def test_a_type_without_a_rule_is_refused_and_never_skipped(kind: str) -> None:
    actor, role, body = sample_bodies()[kind]
    world = World().found()
    with refused(IncompleteError, "event-without-rule"):
        world.add(body, actor, role)


def test_a_request_has_one_key_for_each_purpose() -> None:
    request = request_of(World(), "fr")
    with pytest.raises(ValidationError, match="one key, one purpose"):
        MembershipRequest.model_validate(
            {**request.model_dump(), "community": request.node}
        )


@pytest.mark.parametrize("readers", [("es", "de"), ("de", "de"), ("de", "fr"), ()])
def test_the_readers_of_a_fingerprint_are_other_members(
    readers: tuple[str, ...],
) -> None:
    with pytest.raises(ValidationError):
        CharterAccepted(
            charter=fake_digest("charter"),
            request=request_of(World(), "fr"),
            possession=PROOF,
            readers=readers,
        )


@pytest.mark.parametrize(
    "proposal",
    [
        {"kind": "policy", "policy": World().policy(version=2).model_dump()},
        {
            "kind": "admit",
            "request": request_of(World(), "fr").model_dump(),
            "possession": PROOF.model_dump(),
        },
        {"kind": "remove", "member": "de"},
        {"kind": "root", "member": "de", "key": request_of(World(), "de").root},
        {
            "kind": "coordinator",
            "name": "other",
            "key": request_of(World(), "de").node,
            "log": request_of(World(), "es").node,
            "address": "log.example:443",
            "authority": fake_digest("certificate"),
        },
        {"kind": "pause"},
        {"kind": "resume"},
        {
            "kind": "withdraw",
            "subject": fake_digest("manifest"),
            "name": "base-3",
            "reason": "harmful",
        },
        {
            "kind": "constitution",
            "member": "fr",
            "version": 2,
            "text": fake_digest("constitution"),
        },
    ],
)
def test_a_proposal_has_the_fields_of_its_kind_and_no_other(
    proposal: dict[str, object],
) -> None:
    reader = TypeAdapter(Proposal)
    assert reader.validate_python(proposal).kind == proposal["kind"]
    for name in proposal.keys() - {"kind"}:
        with pytest.raises(ValidationError):
            reader.validate_python({k: v for k, v in proposal.items() if k != name})
    with pytest.raises(ValidationError):
        reader.validate_python({**proposal, "comment": "as agreed"})
    with pytest.raises(ValidationError):
        reader.validate_python({**proposal, "kind": "dissolve"})


@pytest.mark.parametrize(
    ("purpose", "key"),
    [
        ("witness", "node"),
        ("node", "witness"),
        ("root", "witness"),
        ("receipts", "witness"),
        ("transport", "node"),
    ],
)
def test_a_new_key_is_of_the_kind_that_its_purpose_needs(
    purpose: str, key: str
) -> None:
    _, _, body = sample_bodies()["key.rotated"]
    assert isinstance(body, KeyRotated)
    request = request_of(World(), "fr")
    with pytest.raises(ValidationError):
        changed(body, purpose=purpose, key=getattr(request, key))
    fits = {"witness": request.witness, "transport": request.transport}
    changed(body, purpose=purpose, key=fits.get(purpose, request.community))


def test_a_vote_is_one_of_three_words() -> None:
    vote = VoteCast(subject=1, entry=fake_digest("entry"), vote="abstain", reasons=None)
    with pytest.raises(ValidationError):
        changed(vote, vote="maybe")


def test_an_exit_says_nothing_else() -> None:
    assert MemberLeft().encode() == b"{}"
