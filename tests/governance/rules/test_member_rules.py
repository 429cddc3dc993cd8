"""Founders accept the charter: their keys, one by one. A member leaves, alone."""

import dataclasses
from typing import Any

import pytest

from tapestry.errors import RuleError, VerificationError
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.event_body import Body, Role
from tapestry_governance.events.member_events import (
    CharterAccepted,
    MemberLeft,
    MembershipRequest,
    PauseProposal,
    ProposalMade,
    Removal,
)
from tapestry_governance.events.possession import rotation_statement
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.rules.member_rules import MAX_ROOTS, MAX_ROTATIONS, former_key
from tapestry_governance.rules.persistent_collections import PersistentList
from tapestry_governance.rules.round_records import ReleaseRecord
from tests.support.log_world import (
    NAMES,
    World,
    changed,
    claim,
    fake_digest,
    renamed,
)
from tests.support.proposals import new_key, new_root
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


def test_a_founder_that_was_removed_comes_back_by_no_second_acceptance() -> None:
    world = World().adopt()
    world.decide(Removal(kind="remove", member="id"), "de", "es", "fr")
    world.add(world.declaration("fr"), "fr", "node")
    assert "id" not in world.folded.members
    with refused(RuleError, "charter-accepted-twice"):
        accept(world, "id")


@pytest.mark.parametrize("purpose", ["root", "node", "witness", "community"])
def test_a_new_key_takes_the_place_of_the_old_one(purpose: str) -> None:
    world = World().found()
    old = world.keys["fr", purpose].verify_key
    world.rotate("fr", purpose)
    new = world.keys["fr", f"{purpose}'"].verify_key
    state = world.settled
    assert getattr(state.members["fr"], purpose) == str(new)
    (former,) = state.former_keys["fr", purpose]
    assert (former.key, former.compromised) == (old, False)
    assert former.until == world.folded.size
    others = {n: m for n, m in world.folded.members.items() if n != "fr"}
    assert {n: m for n, m in state.members.items() if n != "fr"} == others


@pytest.mark.parametrize("purpose", ["transport", "receipts"])
def test_a_key_of_another_kind_stands_beside_the_roster(purpose: str) -> None:
    world = World().found()
    body = world.rotation("fr", purpose)
    world.add(body, "fr", "root")
    others = dict(world.folded.other_keys)
    assert dict(world.settled.other_keys) == {**others, ("fr", purpose): body.key}
    assert world.settled.roster == world.folded.roster


def test_a_stolen_transport_key_is_marked_also_while_a_round_is_open() -> None:
    world = World().found()
    first = world.request("fr").transport
    world.rotate("fr", "transport", seed="two")
    world.add(world.declaration("fr"), "fr", "node")
    assert not world.settled.stolen_transports  # a routine rotation accuses no key
    second = world.settled.other_keys["fr", "transport"]
    world.add(RoundOpened(manifest=world.manifest()))
    world.rotate("fr", "transport", seed="three", reason="compromised")
    assert set(world.settled.stolen_transports) == {second}
    assert world.settled.transport_owners[first] == "fr"


def test_a_transport_key_may_be_called_stolen_after_it_was_replaced() -> None:
    world = World().found()
    stolen = world.request("fr").transport
    body = world.rotation("fr", "transport")
    world.add(body, "fr", "root")
    world.add(changed(body, reason="compromised"), "fr", "root")
    state = world.settled
    assert set(state.stolen_transports) == {stolen}
    assert state.other_keys["fr", "transport"] == body.key
    assert not state.may_be_stolen("fr", "transport")


def test_a_stolen_transport_key_comes_back_under_no_name() -> None:
    world = World().found()
    stolen = world.request("fr").transport
    world.rotate("fr", "transport", reason="compromised")
    world.add(world.declaration("es"), "es", "node")

    with refused(RuleError, "transport-key-compromised", match="since entry"):
        world.add(claim(world, "fr", stolen), "fr", "root")
    with refused(RuleError, "key-taken", match="'fr'"):
        world.add(claim(world, "es", stolen), "es", "root")


def test_no_member_takes_the_transport_key_of_another_and_calls_it_stolen() -> None:
    """Else any member could shut out any other."""
    world = World().found()
    body = claim(world, "fr", world.request("es").transport)
    with refused(RuleError, "key-taken", match="'es'"):
        world.add(body, "fr", "root")


def test_a_transport_key_that_waits_is_its_owners_already() -> None:
    """Else a claim as compromised, in force at once, would void a routine rotation."""
    world = World().found()
    world.add(RoundOpened(manifest=world.manifest()))
    body = world.rotation("fr", "transport")
    world.add(body, "fr", "root")
    for reason in ("compromised", "routine"):
        with refused(RuleError, "key-taken", match="'fr'"):
            world.add(claim(world, "es", body.key, reason=reason), "es", "root")
    world.add(changed(body, reason="compromised"), "fr", "root")
    state = world.settled
    assert state.other_keys["fr", "transport"] == body.key
    assert set(state.stolen_transports) == {world.request("fr").transport}


def test_who_names_a_transport_key_first_has_it_and_bars_no_other_one() -> None:
    """What remains: a digest that reaches the log before its owner's entry."""
    world = World().found()
    body = world.rotation("fr", "transport")
    world.add(claim(world, "es", body.key), "es", "root")
    with refused(RuleError, "key-taken", match="'es'"):
        world.add(body, "fr", "root")
    other = world.rotation("fr", "transport", seed="another")
    world.add(other, "fr", "root")
    assert world.settled.other_keys["fr", "transport"] == other.key


@pytest.mark.parametrize(
    "purpose", ["root", "node", "witness", "community", "transport", "receipts"]
)
def test_a_new_key_signs_for_itself(purpose: str) -> None:
    """For a transport key, which signs nothing, the node's key does."""
    world = World().found()
    body = world.rotation("fr", purpose)
    other = world.rotation("es", purpose).possession
    for forged in (other, "0" * 128):
        with refused(VerificationError, "possession-not-proven", match=purpose):
            world.add(changed(body, possession=forged), "fr", "root")
    with refused(VerificationError, "possession-not-proven"):
        world.add(body, "es", "root")
    world.add(body, "fr", "root")


def test_a_key_in_use_is_no_new_one() -> None:
    world = World().found()
    for owner in (world.keys["es", "node"], world.keys["fr", "root"], world.log_key):
        said = rotation_statement(
            "node", str(owner.verify_key), name="fr", federation="tapestry"
        )
        body = changed(
            world.rotation("fr", "node"),
            key=str(owner.verify_key),
            possession=owner.sign(said).hex(),
        )
        with refused(RuleError, "key-taken"):
            world.add(body, "fr", "root")


@pytest.mark.parametrize("signer", [("es", "root"), ("fr", "node")])
def test_only_the_root_gives_a_new_key(signer: tuple[str, str]) -> None:
    world = World().found()
    body = world.rotation("fr", "node")
    with refused(RuleError, "signature-missing"):
        world.append(world.entry(body, "fr", "root", signers=[world.keys[signer]]))
    with refused(RuleError, "role-not-allowed"):
        world.add(body, "fr", "node")


def test_a_member_has_so_many_new_keys_between_two_rounds() -> None:
    """Each may be another quorum, and a mirror keeps them all."""
    world = World().found()
    for number in range(MAX_ROTATIONS):
        world.rotate("fr", "witness", seed=str(number))
    with refused(RuleError, "rotations-too-many", match="'fr' gave itself 24"):
        world.rotate("fr", "witness", seed="more")
    world.rotate("es", "witness")
    world.add(RoundOpened(manifest=world.manifest()))
    world.rotate("fr", "witness", seed="more")


def test_new_keys_by_a_stolen_root_key_use_up_none_of_the_next_ones() -> None:
    """Its root keys do: else a member had new keys without end by itself."""
    world = World().found()
    for turn in range(MAX_ROOTS):
        for number in range(MAX_ROTATIONS):
            world.rotate("fr", "node", seed=f"{turn}-{number}")
        with refused(RuleError, "rotations-too-many", match="24 new keys"):
            world.rotate("fr", "node", seed="more", reason="compromised")
        world.rotate("fr", "root", seed=str(turn), reason="compromised")
        world.keys["fr", "root"] = world.keys["fr", "root'"]
    world.rotate("fr", "node", seed="last", reason="compromised")
    with refused(RuleError, "rotations-too-many", match="4 new root keys"):
        world.rotate("fr", "root", seed="more", reason="compromised")
    world.carry(world.propose(new_root("fr"), by="de"), ("de", "es", "id"))
    world.keys["fr", "root"] = new_key("found-again")
    world.rotate("fr", "root", seed="more", reason="compromised")


def test_a_former_key_is_found_for_what_was_owed_when_it_ended() -> None:
    world = World().found()
    manifest = world.run_round()
    world.add(world.release())
    old = world.keys["fr", "node"]
    owed = [
        world.entry(body, "fr", "node")
        for body in (world.account(manifest), world.adapter_account())
    ]
    other = changed(world.adapter_account(), run_id="elsewhere")
    unknown = [
        world.entry(body, "fr", "node") for body in (other, world.declaration("fr"))
    ]
    world.rotate("fr", "node")
    state = world.settled
    signers = {old.verify_key.keyid}
    for entry in owed:
        found = former_key(state, open_entry(entry).event, signers)
        assert found == old.verify_key
    for entry in unknown:
        assert former_key(state, open_entry(entry).event, signers) is None
    assert former_key(state, open_entry(owed[0]).event, {"another"}) is None


def test_a_former_key_accounts_for_no_run_that_was_released_after_it() -> None:
    world = World().found()
    world.rotate("fr", "node")
    world.keys["fr", "node"], old = world.keys["fr", "node'"], world.keys["fr", "node"]
    world.add(world.declaration("fr"), "fr", "node")
    state = world.folded
    late = world.entry(world.adapter_account(), "fr", "node", signers=[old])
    record = ReleaseRecord(
        name="base-1",
        run_id="run",
        round_number=1,
        index=state.size,
        ancestry=frozenset(),
    )
    for index, found in ((state.size, None), (8, old.verify_key)):
        none: PersistentList[ReleaseRecord] = PersistentList()
        released = none.append(dataclasses.replace(record, index=index))
        runs = state.released_by_run.set("run", released)
        under = dataclasses.replace(state, released_by_run=runs)
        event = open_entry(late).event
        assert former_key(under, event, {old.verify_key.keyid}) == found
