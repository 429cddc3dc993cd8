"""Founders accept the charter: their keys, one by one. A member leaves, alone."""

from typing import Any

import pytest

from tapestry.errors import RuleError, VerificationError
from tapestry_governance.events.event_body import Body, Role
from tapestry_governance.events.member_events import (
    CharterAccepted,
    MemberLeft,
    MembershipRequest,
    PauseProposal,
    ProposalMade,
)
from tapestry_governance.events.round_events import RoundOpened
from tests.support.log_world import NAMES, World, changed, fake_digest, renamed
from tests.support.refusals import refused

PROPOSAL = ProposalMade(
    roster=fake_digest("voters"), proposal=PauseProposal(kind="pause")
)
BEFORE: list[tuple[Body, str, Role]] = [
    (World().adopt().declaration("fr"), "fr", "node"),
    (PROPOSAL, "fr", "root"),
    (RoundOpened(manifest=World().adopt().manifest()), "coordinator", "coordinator"),
    (MemberLeft(), "fr", "root"),
]


def changed_request(name: str, **changes: object) -> MembershipRequest:
    return World().request(name).model_copy(update=changes)


@pytest.fixture
def world() -> World:
    world = World()
    world.add(world.charter())
    return world


def accept(world: World, name: str, body: CharterAccepted | None = None) -> None:
    body = body or world.acceptance(name)
    world.append(world.entry(body, name, "root", seen=None))


def test_a_federation_is_founded_once_all_founders_have_accepted(world: World) -> None:
    for name in reversed(NAMES):
        assert not world.folded.is_founded
        accept(world, name)
    assert world.folded.is_founded
    assert world.folded.members == {name: world.request(name).member for name in NAMES}
    assert world.folded.key_of("fr", "node") == world.key("fr", "node").verify_key
    fresh = World().adopt()  # in another order
    assert fresh.folded.roster.digest == world.folded.roster.digest


def test_before_that_nothing_else_is_taken(world: World) -> None:
    for name in NAMES[:3]:
        accept(world, name)
    for body, actor, role in BEFORE:
        with refused(RuleError, "founding-incomplete"):
            world.append(world.entry(body, actor, role, seen=None))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"charter": fake_digest("another")}, "accepted-charter-differs"),
        (
            {"request": changed_request("fr", records=990)},
            "accepted-request-differs",
        ),
        ({"readers": ("de", "xx")}, "reader-unknown"),
        ({"readers": ("de",)}, "readers-too-few"),
    ],
)
def test_an_acceptance_of_something_else_is_refused(
    world: World, changes: dict[str, Any], code: str
) -> None:
    with refused(RuleError, code):
        accept(world, "fr", changed(world.acceptance("fr"), **changes))
    accept(world, "fr")


def test_a_stranger_and_a_second_acceptance_are_refused(world: World) -> None:
    other = world.request("fr").model_copy(update={"name": "gb"})
    with refused(RuleError, "accepted-request-differs", match="'gb'"):
        body = changed(world.acceptance("fr"), request=other)
        world.append(
            world.entry(
                body, "gb", "root", seen=None, signers=[world.key("fr", "root")]
            )
        )
    accept(world, "fr")
    with refused(RuleError, "charter-accepted-twice"):
        accept(world, "fr")


def test_only_the_root_key_of_the_request_signs(world: World) -> None:
    for purpose in ("node", "community"):
        key = world.keys["fr", purpose]
        entry = world.entry(
            world.acceptance("fr"), "fr", "root", seen=None, signers=[key]
        )
        with refused(RuleError, "signature-missing"):
            world.append(entry)


@pytest.mark.parametrize("purpose", ["node", "witness", "community"])
def test_each_other_key_signs_the_request(world: World, purpose: str) -> None:
    accepted = world.acceptance("fr")
    proofs = accepted.possession.model_dump()
    for forged in (
        world.acceptance("es").possession.model_dump()[purpose],
        proofs["node" if purpose != "node" else "witness"],
        "0" * 128,
    ):
        wrong = changed(accepted, possession={**proofs, purpose: forged})
        with refused(VerificationError, "possession-not-proven", match=purpose):
            accept(world, "fr", wrong)


@pytest.mark.parametrize(
    ("taken", "purpose"),
    [
        (("es", "node"), "community"),
        (("es", "root"), "node"),
        (("es", "witness"), "witness"),
        ("log", "node"),
        ("coordinator", "community"),
    ],
)
def test_a_key_has_one_owner_and_one_purpose(taken: Any, purpose: str) -> None:
    """The owner of two names signs with its own keys, so possession holds."""
    world = World()
    known = {"log": world.log_key, "coordinator": world.coordinator_key}
    world.keys["fr", purpose] = known.get(taken) or world.keys[taken]
    world.add(world.charter())
    accept(world, "es")
    with refused(RuleError, "key-taken"):
        accept(world, "fr")


def test_two_groups_that_did_not_hear_one_another_found_nothing() -> None:
    """Each pair was read a charter by the coordinator alone: two may differ."""
    names = ("aa", "bb", "cc", "dd", "ee", "ff")
    world = World(names=names)
    world.add(world.charter())
    heard = {n: tuple(sorted({*names[:3]} - {n})) for n in names[:3]}
    heard |= {n: tuple(sorted({*names[3:]} - {n})) for n in names[3:]}
    for name in names[:-1]:
        accept(world, name, changed(world.acceptance(name), readers=heard[name]))
    last = world.acceptance("ff")
    with refused(RuleError, "readers-not-connected", match="'aa' and 'dd'"):
        accept(world, "ff", changed(last, readers=heard["ff"]))
    accept(world, "ff", changed(last, readers=("aa", "dd")))
    assert world.folded.is_founded


@pytest.mark.parametrize("count", [2, 3, 40, pytest.param(128, marks=pytest.mark.slow)])
def test_two_to_128_institutions_found_a_federation(count: int) -> None:
    names = tuple(f"{number:03d}".ljust(63, "n") for number in range(count))
    world = World(names=names)
    world.add(world.charter())
    for name in names:
        others = tuple(other for other in names if other != name)
        accept(world, name, changed(world.acceptance(name), readers=others[-2:]))
    assert world.folded.is_founded
    assert len(world.folded.members) == count


def test_a_founder_of_two_hears_the_other() -> None:
    pair = World(names=("de", "es"))
    pair.add(pair.charter())
    accept(pair, "de")
    accept(pair, "es")
    assert pair.folded.is_founded


def test_a_member_that_left_is_in_no_further_round_and_the_others_are() -> None:
    world = World().found()
    index = world.add(MemberLeft(), "fr", "root")
    assert dict(world.folded.left) == {"fr": index}
    assert set(world.folded.active) == {*NAMES} - {"fr"}
    with refused(RuleError, "participant-left", match=f"fr left .* {index}"):
        world.add(RoundOpened(manifest=world.manifest()))
    others = tuple(p for p in world.manifest().participants if p.name != "fr")
    plan = renamed(world.manifest(), participants=others, threshold=3)
    world.add(RoundOpened(manifest=plan))
    assert world.folded.open_round is not None


def test_the_round_that_is_open_goes_on_with_a_member_that_leaves() -> None:
    """What it sent and spent is told in full; members and quorum are as before."""
    world = World().found()
    members, roster = world.folded.members, world.folded.roster.digest
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    world.commit("de", manifest)
    world.add(MemberLeft(), "fr", "root")
    committed = [world.commit(name, manifest) for name in ("es", "fr", "id")]
    assert len(committed) == 3
    assert world.folded.spending_of("fr")
    assert (world.folded.members, world.folded.roster.digest) == (members, roster)


@pytest.mark.parametrize("signer", [("es", "root"), ("fr", "node"), ("fr", "witness")])
def test_nobody_else_says_that_a_member_left(signer: tuple[str, str]) -> None:
    world = World().found()
    key = world.keys[signer]
    with refused(RuleError, "signature-missing"):
        world.append(world.entry(MemberLeft(), "fr", "root", signers=[key]))
    with refused(RuleError, "signer-not-allowed"):
        both = [world.key("fr", "root"), key]
        world.append(world.entry(MemberLeft(), "fr", "root", signers=both))
    assert not world.folded.left


def test_no_stranger_leaves_and_no_node_for_its_institution() -> None:
    world = World().found()
    with refused(RuleError, "actor-unknown"):
        key = world.key("fr", "root")
        world.append(world.entry(MemberLeft(), "xx", "root", signers=[key]))
    with refused(RuleError, "role-not-allowed"):
        world.add(MemberLeft(), "fr", "node")
    with refused(RuleError, "actor-unknown"):
        key = world.coordinator_key
        world.append(world.entry(MemberLeft(), "coordinator", "root", signers=[key]))


def test_a_member_leaves_once_and_then_declares_nothing_new() -> None:
    world = World().found()
    index = world.add(MemberLeft(), "fr", "root")
    after: list[tuple[Body, str, Role]] = [
        (MemberLeft(), "fr", "root"),
        (world.declaration("fr"), "fr", "node"),
        (PROPOSAL, "fr", "root"),
    ]
    for body, actor, role in after:
        with refused(RuleError, "member-left", match=f"by entry {index}"):
            world.add(body, actor, role)
    world.add(world.declaration("de"), "de", "node")


def test_an_exit_signed_on_another_log_is_refused() -> None:
    world, other = World().found(), World(names=NAMES).found()
    other.add(other.declaration("id"), "id", "node")
    entry = other.entry(MemberLeft(), "fr", "root")
    world.add(world.declaration("es"), "es", "node")
    with refused(RuleError, "log-forked"):
        world.append(entry)
    foreign = world.entry(MemberLeft(), "fr", "root", federation="other")
    with refused(RuleError, "federation-differs"):
        world.append(foreign)


def test_a_member_that_left_publishes_no_adapter() -> None:
    world = World().grow()
    world.add(MemberLeft(), "fr", "root")
    with refused(RuleError, "member-left"):
        world.add(world.adapter(2), "fr", "community")
