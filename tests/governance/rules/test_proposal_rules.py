"""Attacks on proposals: keys, names and subjects that are not free or not there."""

import dataclasses
from typing import Any

import pytest

from tapestry.errors import IncompleteError, RuleError, VerificationError
from tapestry.keys import Algorithm, SigningKey, VerifyKey
from tapestry_governance.events.member_events import (
    Admission,
    ConstitutionChange,
    MemberLeft,
    PauseProposal,
    Removal,
)
from tapestry_governance.events.possession import (
    PURPOSES,
    prove_possession,
    rotation_statement,
)
from tapestry_governance.events.round_events import RoundAborted, RoundOpened
from tapestry_governance.rules.proposal_rules import (
    check_free,
    check_possible,
    published_digest,
)
from tests.support.log_world import NAMES, World, changed, claim, fake_digest
from tests.support.proposals import (
    new_coordinator,
    new_key,
    new_policy,
    new_root,
    withdrawal,
)
from tests.support.refusals import refused

OTHERS = ("de", "es", "id")
ABORT = RoundAborted(
    run_id="run",
    round_number=1,
    attempt=1,
    stage=None,
    reason="coordinator_restarted",
    survivors=(),
)


@pytest.fixture
def world() -> World:
    return World().found()


def outsider(name: str = "archive", key: VerifyKey | None = None) -> dict[str, Any]:
    key = key or dataclasses.replace(
        new_key(name).verify_key, algorithm=Algorithm.COSIGNATURE
    )
    return {"name": name, "key": str(key), "url": "https://archive.example/"}


def test_policies_follow_one_another_and_the_first_of_two_is_taken(
    world: World,
) -> None:
    for version in (1, 3):
        body = changed(new_policy(world), policy=world.policy(version=version))
        with refused(RuleError, "policy-version-not-next", match=f"{version} after 1"):
            world.propose(body)
    world.add(RoundOpened(manifest=world.manifest()))  # both are decided within it
    one, other = (world.propose(new_policy(world, max_attempt=n)) for n in (5, 6))
    for index in (other, one):
        world.vote(index, *OTHERS)
    assert world.settled.policy.version == 1
    world.add(ABORT)
    assert world.settled.policy.max_attempt == 6
    assert world.settled.ballots[one].outcome == "overtaken"
    assert [p.version for p in world.settled.policies] == [1, 2]


def test_an_outside_witness_has_a_key_of_its_own_and_keeps_it(world: World) -> None:
    for key in (world.keys["fr", "witness"], world.log_key, world.keys["es", "node"]):
        owned = dataclasses.replace(key.verify_key, algorithm=Algorithm.COSIGNATURE)
        with refused(RuleError, "key-taken"):
            world.propose(new_policy(world, witnesses=(outsider(key=owned),)))
    world.change_policy(witnesses=(outsider(),))
    world.change_policy(witnesses=(outsider(),), max_attempt=5)
    world.change_policy(witnesses=())
    with refused(RuleError, "key-taken"):  # it had it; another one needs another
        world.propose(new_policy(world, witnesses=(outsider(),)))


def test_a_new_member_has_its_keys_and_a_vote(world: World) -> None:
    world.decide(world.invent("zz"))
    assert "zz" in world.settled.members
    assert world.settled.key_of("zz", "node") == world.keys["zz", "node"].verify_key
    index = world.propose(PauseProposal(kind="pause"), by="zz")
    world.vote(index, "zz", "fr")
    assert world.folded.ballots[index].outcome == "decided"
    world.add(world.declaration("zz"), "zz", "node")


def test_an_applicant_says_nothing_before_its_admission_is_in_force(  # [17]
    world: World,
) -> None:
    index = world.propose(world.invent("zz"))
    declared = world.entry(world.declaration("zz"), "zz", "node")
    with refused(RuleError, "actor-unknown", match="zz"):
        world.append(declared)
    world.vote(index, "de", "es")
    early = world.entry(world.declaration("zz"), "zz", "node")
    world.vote(index, "fr")
    assert world.folded.ballots[index].decided is not None
    with refused(RuleError, "actor-unknown", match="zz"):
        world.append(early)  # its author saw nothing of the decision
    world.add(world.declaration("zz"), "zz", "node")


def test_an_admission_of_a_party_is_refused(world: World) -> None:
    admission = world.invent("zz")
    for name in ("fr", "coordinator"):
        request = admission.request.model_copy(update={"name": name})
        with refused(RuleError, "member-known", match=name):
            world.propose(changed(admission, request=request))


@pytest.mark.parametrize("purpose", PURPOSES)
def test_an_applicant_holds_the_keys_of_its_request(world: World, purpose: str) -> None:
    admission = world.invent("zz")
    proofs = {**admission.possession.model_dump(), purpose: "0" * 128}
    with refused(VerificationError, "possession-not-proven", match=purpose):
        world.propose(changed(admission, possession=proofs))
    elsewhere = prove_possession(
        admission.request,
        {each: world.keys["zz", each] for each in PURPOSES},
        federation="elsewhere",
    )
    with refused(VerificationError, "possession-not-proven"):
        world.propose(changed(admission, possession=elsewhere))


def test_no_member_takes_the_transport_key_of_one_that_is_voted_on(
    world: World,
) -> None:
    """Else any member vetoes an admission, and bars the applicant's key for ever."""
    admission = world.invent("zz")
    theirs = admission.request.transport
    index = world.propose(admission)
    with refused(RuleError, "key-taken", match="'zz'"):
        world.add(claim(world, "es", theirs), "es", "root")
    world.carry(index, ("fr", "de", "id"))
    with refused(RuleError, "key-taken", match="'zz'"):
        world.add(claim(world, "es", theirs, reason="compromised"), "es", "root")
    state = world.settled
    assert state.ballots[index].outcome == "in_force"
    assert state.other_keys["zz", "transport"] == theirs
    assert not state.stolen_transports


def test_an_applicant_keeps_its_transport_key_for_another_try(world: World) -> None:
    admission = world.invent("zz")
    world.vote(world.propose(admission), "fr", vote="no")
    with refused(RuleError, "key-taken", match="'zz'"):
        world.add(claim(world, "es", admission.request.transport), "es", "root")
    world.decide(admission, "fr", "de", "id")
    assert "zz" in world.settled.members


def test_an_applicant_has_a_transport_key_of_its_own(world: World) -> None:
    admission = world.invent("zz")
    world.add(claim(world, "es", admission.request.transport), "es", "root")
    with refused(RuleError, "key-taken", match="'es'"):
        world.propose(admission)


@pytest.mark.parametrize("purpose", ["root", "node", "community"])
@pytest.mark.parametrize(
    "owner", [("fr", "root"), ("es", "node"), "log", "coordinator"]
)
def test_no_key_of_a_party_is_an_applicants(
    world: World, owner: Any, purpose: str
) -> None:
    known = {"log": world.log_key, "coordinator": world.coordinator_key}
    admission = world.invent("zz")
    world.keys["zz", purpose] = known.get(owner) or world.keys[owner]
    request = world.request("zz")
    proofs = prove_possession(
        request,
        {each: world.keys["zz", each] for each in PURPOSES},
        federation="tapestry",
    )
    with refused(RuleError, "key-taken"):
        world.propose(changed(admission, request=request, possession=proofs))


def test_a_federation_has_at_most_128_members() -> None:
    world = World().found()
    admission = world.invent("zz")
    member = world.folded.members["fr"]
    full = {f"m{n:03}": member for n in range(128)}
    with refused(RuleError, "members-too-many", match="128"):
        check_possible(world.folded.with_members(full), admission)
    del full["m000"]
    check_possible(world.folded.with_members(full), admission)


def test_a_removed_member_is_gone_from_the_next_round(world: World) -> None:
    for missing in (Removal(kind="remove", member="xx"), new_root("xx")):
        with refused(RuleError, "member-unknown", match="'xx' is no member"):
            world.propose(missing)
    world.decide(Removal(kind="remove", member="id"), "de", "es", "fr")
    assert set(world.settled.members) == {"de", "es", "fr"}
    with refused(RuleError, "participant-not-in-roster"):
        world.add(RoundOpened(manifest=world.manifest()))
    for role in ("root", "node", "community"):
        assert world.settled.key_of("id", role) is None


def test_two_members_are_left() -> None:
    pair = World(names=("de", "fr")).adopt()
    with refused(RuleError, "removal-leaves-too-few", match="without 'fr'"):
        pair.propose(Removal(kind="remove", member="fr"))


def test_no_member_takes_the_witness_name_of_one_that_is_voted_on(world: World) -> None:
    """Two witnesses of one name count in no trust policy."""
    admission = world.invent("gb")
    world.propose(admission)
    name = world.keys["gb", "witness"].name
    taken = SigningKey.generate(name, algorithm=Algorithm.COSIGNATURE)
    key = str(taken.verify_key)
    said = rotation_statement("witness", key, name="es", federation="tapestry")
    body = changed(
        world.rotation("es", "witness"), key=key, possession=taken.sign(said).hex()
    )
    with refused(RuleError, "witness-name-differs", match=f"{name}.*node rotate"):
        world.add(body, "es", "root")


def test_no_member_is_admitted_with_a_stolen_transport_key(world: World) -> None:
    stolen = world.request("id").transport
    world.rotate("id", "transport", reason="compromised")
    world.add(world.declaration("fr"), "fr", "node")
    world.decide(Removal(kind="remove", member="id"), "de", "es", "fr")
    world.add(world.declaration("fr"), "fr", "node")
    for name, code in (("id", "transport-key-compromised"), ("zz", "key-taken")):
        for purpose in ("root", "node", "witness", "community"):
            world.rotation(name, purpose, seed="again")
            world.keys[name, purpose] = world.keys[name, f"{purpose}'"]
        request = changed(world.request(name), transport=stolen)
        keys = {each: world.keys[name, each] for each in PURPOSES}
        proofs = prove_possession(request, keys, federation="tapestry")
        body = Admission(kind="admit", request=request, possession=proofs)
        with refused(RuleError, code):
            world.propose(body)


def test_a_member_comes_back_with_other_keys_and_its_old_debts(world: World) -> None:
    world.run_round()
    spent = world.folded.spending_of("id")
    old = world.invent("id")
    world.rotate("id", "transport")
    world.rotate("id", "receipts")
    receipts = world.keys["id", "receipts'"]
    world.decide(Removal(kind="remove", member="id"), "de", "es", "fr")
    with refused(RuleError, "key-taken"):
        world.propose(old)
    for purpose in ("root", "node", "witness", "community"):
        world.rotation("id", purpose, seed="again")
        world.keys["id", purpose] = world.keys["id", f"{purpose}'"]
    request = world.request("id")
    keys = {each: world.keys["id", each] for each in PURPOSES}
    proofs = prove_possession(request, keys, federation="tapestry")
    back = changed(old, request=request, possession=proofs)
    world.decide(back, "de", "es", "fr")
    state = world.settled
    assert state.spending_of("id") == spent
    assert ("id", "receipts") not in state.other_keys
    assert state.other_keys["id", "transport"] == request.transport
    assert state.owned(receipts.verify_key)
    with refused(RuleError, "data-version-not-next"):
        first = changed(world.declaration("id"), version=1)
        world.add(first, "id", "node")
    world.add(world.declaration("id"), "id", "node")


def test_one_that_left_comes_back_by_admission(world: World) -> None:
    world.add(MemberLeft(), "id", "root")
    world.add(world.declaration("fr"), "fr", "node")
    assert "id" not in world.folded.members
    for purpose in ("root", "node", "witness", "community"):
        world.rotation("id", purpose)
        world.keys["id", purpose] = world.keys["id", f"{purpose}'"]
    request = world.request("id")
    keys = {each: world.keys["id", each] for each in PURPOSES}
    proofs = prove_possession(request, keys, federation="tapestry")
    world.decide(changed(world.invent("zz"), request=request, possession=proofs))
    assert "id" in world.settled.active
    world.add(world.declaration("id"), "id", "node")


def test_a_lost_root_is_replaced_and_signs_no_more(world: World) -> None:
    for key in (world.keys["es", "node"], world.coordinator_key):
        owned = changed(new_root("fr"), key=str(key.verify_key))
        with refused(RuleError, "key-taken"):
            world.propose(owned)
    world.decide(new_root("fr"), *OTHERS)
    assert world.settled.key_of("fr", "root") == new_key("found-again").verify_key
    with refused(RuleError, "signature-missing"):
        world.add(MemberLeft(), "fr", "root")
    world.keys["fr", "root"] = new_key("found-again")
    world.add(MemberLeft(), "fr", "root")


def test_another_coordinator_leads_at_once_and_ends_the_open_round(
    world: World,
) -> None:
    world.add(RoundOpened(manifest=world.manifest()))
    index = world.propose(new_coordinator(world))
    world.vote(index, *OTHERS)
    state = world.folded
    assert state.ballots[index].outcome == "in_force"
    assert (state.lead.coordinator.name, state.lead.address) == (
        "rivers",
        "rivers.example:443",
    )
    with refused(RuleError, "actor-unknown", match="coordinator is not a coordinator"):
        world.add(ABORT)
    old = [world.coordinator_key]
    with refused(RuleError, "signature-missing"):
        world.append(world.entry(ABORT, "rivers", "coordinator", signers=old))
    with refused(RuleError, "vote-closed"):
        world.vote(index, "fr")
    world.coordinator_key = new_key("rivers")
    world.append(world.entry(ABORT, "rivers", "coordinator"))
    assert world.folded.open_round is None
    with refused(RuleError, "key-taken"):  # a former key comes back no more
        back = changed(
            new_coordinator(world),
            name="coordinator",
            key=str(old[0].verify_key),
        )
        world.propose(back)


def test_a_coordinator_may_move_and_keep_its_keys(world: World) -> None:
    lead = world.folded.lead
    moved = new_coordinator(
        world, name="coordinator", key=lead.coordinator.key, log=lead.log
    )
    world.decide(moved, *OTHERS)
    assert world.folded.lead.address == "rivers.example:443"
    assert world.folded.lead.coordinator == lead.coordinator
    assert world.folded.former_leads == (lead,)
    world.add(RoundOpened(manifest=world.manifest()))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"name": "fr"}, "coordinator-is-member"),
        ({"log": str(new_key("other.example/log").verify_key)}, "log-origin-differs"),
        (
            {"key": str(new_key("tapestry.example/log").verify_key)},
            "key-taken",
        ),
        ({"key": str(World().keys["fr", "node"].verify_key)}, "key-taken"),
        ({"key": str(World().log_key.verify_key)}, "key-taken"),
    ],
)
def test_a_coordinator_of_other_keys_or_names_is_refused(
    world: World, changes: dict[str, object], code: str
) -> None:
    with refused(RuleError, code):
        world.propose(new_coordinator(world, **changes))


def test_a_member_that_was_is_no_coordinator(world: World) -> None:
    """Its exit stands in the log: under this name nothing would be taken any more."""
    world.add(MemberLeft(), "id", "root")
    world.add(world.declaration("fr"), "fr", "node")
    assert "id" not in world.folded.members
    with refused(RuleError, "coordinator-is-member", match="'id' is or was"):
        world.propose(new_coordinator(world, name="id"))


def test_a_pause_stops_rounds_and_a_majority_lifts_it(world: World) -> None:
    with refused(RuleError, "pause-unchanged", match="running"):
        world.propose(PauseProposal(kind="resume"))
    world.decide(PauseProposal(kind="pause"), "fr", "de")
    with refused(RuleError, "pause-unchanged", match="paused"):
        world.propose(PauseProposal(kind="pause"))
    with refused(RuleError, "federation-paused"):
        world.add(RoundOpened(manifest=world.manifest()))
    world.decide(PauseProposal(kind="resume"), "es", "id")
    with refused(RuleError, "federation-paused"):
        world.add(RoundOpened(manifest=world.manifest()))
    world.decide(PauseProposal(kind="resume"), "es", "id", "fr")
    world.add(RoundOpened(manifest=world.manifest()))


def test_releases_and_adapters_are_withdrawn_once(world: World) -> None:
    world = World().grow()
    for name in ("base-2", "fr-culture"):
        body = withdrawal(world, name)
        unknown = changed(body, subject=fake_digest("another"))
        with refused(RuleError, "withdrawal-subject-unknown"):
            world.propose(unknown)
        world.decide(body, *OTHERS)
        assert world.settled.is_withdrawn(name, body.subject)
        with refused(RuleError, "withdrawn-already", match=name):
            world.propose(body)
    assert world.settled.standing == []


def test_another_version_of_an_adapter_escapes_no_vote(world: World) -> None:
    world = World().grow()
    older = withdrawal(world, "fr-culture")
    index = world.propose(older, by="de")
    account = changed(world.adapter_account(), version=2)
    world.add(account, "fr", "node")
    another = fake_digest("files of version 2")
    newer = changed(world.adapter(2), version=2, manifest_digest=another)
    world.add(newer, "fr", "community")
    world.carry(index, OTHERS)
    assert world.settled.is_withdrawn("fr-culture", older.subject)
    assert not world.settled.is_withdrawn("fr-culture", another)
    world.decide(changed(older, subject=another), *OTHERS)
    assert world.settled.is_withdrawn("fr-culture", another)


def test_an_adapter_under_the_digest_of_a_release_does_not_take_it_along(
    world: World,
) -> None:
    world = World().grow()
    world.approve("base-2")
    state = world.settled
    adapter = state.adapters["fr-culture"]
    files = state.releases["base-2"].manifest_digest
    twin = adapter.model_copy(update={"manifest_digest": files})
    world.state = dataclasses.replace(
        state, adapters=state.adapters.set("fr-culture", twin)
    )
    world.decide(withdrawal(world, "fr-culture"), *OTHERS)
    assert world.settled.standing == ["base-2"]
    world.decide(withdrawal(world, "base-2"), *OTHERS)
    assert world.settled.standing == []


def test_what_was_published_is_found_by_its_name() -> None:
    state = World().grow().folded
    assert published_digest(state, "base-2") == fake_digest("files of base-2")
    assert published_digest(state, "fr-culture") == fake_digest("adapter files")
    assert published_digest(state, "base-3") is None


def test_a_kind_without_a_rule_gets_no_verdict(world: World) -> None:
    text = fake_digest("constitution")
    body = ConstitutionChange(kind="constitution", member="fr", version=1, text=text)
    with pytest.raises(IncompleteError, match="no rule for a proposal of constitution"):
        world.propose(body)


def test_a_key_that_a_party_ever_had_is_free_for_no_purpose(world: World) -> None:
    keys = [world.keys["fr", purpose] for purpose in ("root", "node", "witness")]
    for purpose in ("node", "witness", "receipts", "root"):
        world.rotate("fr", purpose)
    world.keys["fr", "root"] = world.keys["fr", "root'"]
    world.decide(new_coordinator(world), *OTHERS)
    keys += [world.keys["fr", f"{p}'"] for p in ("root", "node", "witness", "receipts")]
    keys += [world.log_key, world.coordinator_key, new_key("rivers")]
    assert len(keys) == 10
    for key in keys:
        for algorithm in Algorithm:
            spelt = VerifyKey(
                name="other", algorithm=algorithm, public=key.verify_key.public
            )
            with refused(RuleError, "key-taken", match=key.verify_key.name):
                check_free(world.settled, [spelt])
    check_free(world.settled, [new_key("fresh").verify_key])


def test_two_keys_of_one_id_are_not_both_taken(world: World) -> None:
    """Ids have 32 bits: an attacker can make a key that a note cannot tell apart."""
    key = new_key("fresh").verify_key
    known = world.folded.known_keys.set(key.keyid, key.keyid)
    with refused(RuleError, "key-taken", match="fresh"):
        check_free(dataclasses.replace(world.folded, known_keys=known), [key])


def test_every_key_of_the_founding_is_known(world: World) -> None:
    for owner in NAMES:
        for purpose in ("root", "node", "witness", "community"):
            assert world.folded.owned(world.keys[owner, purpose].verify_key)
