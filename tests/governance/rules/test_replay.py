"""Attacks on the rules; numbers in brackets are rows of the attack matrix."""

import dataclasses
import re
from datetime import timedelta

import pytest

from tapestry.encoding import canonical_json, decode_json, encode_base64
from tapestry.errors import (
    IncompleteError,
    ProtocolError,
    RuleError,
    VerificationError,
)
from tapestry.keys import SigningKey
from tapestry.tlog.merkle import leaf_hash, root
from tapestry_governance import rules
from tapestry_governance.events.envelope import Author, Seen, open_entry, sign_entry
from tapestry_governance.events.event_body import Body, Role
from tapestry_governance.events.member_events import PauseProposal, ProposalMade
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import MAX_DECLARATIONS, apply, apply_all
from tests.support import error_codes
from tests.support.event_samples import sample_bodies
from tests.support.log_world import World, changed, fake_digest
from tests.support.refusals import refused


@pytest.fixture
def world() -> World:
    return World().found()


def test_a_whole_history_is_valid_and_leaves_the_expected_state() -> None:
    state = World().grow().folded
    assert state.base == fake_digest("base 2")
    assert [each.number for each in state.spending_of("fr")] == [1, 2, 3]
    assert state.newest_account["id"].number == 1
    assert state.paid_by["fr-culture"] == state.newest_account["fr"].index
    assert list(state.releases) == ["base-2"]
    assert state.publishers == {"fr-culture": "fr"}
    assert state.next_rounds == (("run", 3, 1),)


def test_the_same_entries_give_the_same_state() -> None:
    world = World().grow()
    again = apply_all(None, world.entries)
    assert again is not None
    assert again.root == world.folded.root == root(map(leaf_hash, world.entries))
    one = dataclasses.replace(again, past=world.folded.past)
    assert one == world.folded


def test_a_state_is_not_changed_by_what_follows_it(world: World) -> None:
    before = world.folded
    root_before = before.root
    left = world.entry(world.declaration("de"), "de", "node")
    right = world.entry(world.declaration("es"), "es", "node")
    one = apply(before, left, before.size)
    other = apply(before, right, before.size)
    assert before.root == root_before
    assert one.root != other.root
    assert one.past.root(before.size) == other.past.root(before.size)
    with refused(RuleError, "event-duplicated"):
        apply(other, right, other.size)
    apply(other, left, other.size)  # unknown on this branch


def test_a_log_starts_with_its_charter_and_has_one(world: World) -> None:
    with refused(RuleError, "charter-not-first", match="not with charter.accepted"):
        apply(None, world.entries[1], 0)
    with refused(RuleError, "charter-not-first", match="entry 9"):
        world.append(world.entry(world.charter()))


def test_a_duplicate_event_is_refused(world: World) -> None:  # [16]
    with refused(RuleError, "event-duplicated", match="at 2"):
        world.append(world.entries[2])


def test_nobody_takes_the_id_of_anothers_event(world: World) -> None:
    own = world.entry(world.declaration("fr"), "fr", "node")
    _, _, evaluated = sample_bodies()["evaluation.recorded"]
    taken: list[tuple[str, Role, Body]] = [
        ("es", "node", world.declaration("es")),
        ("coordinator", "coordinator", evaluated),
    ]
    for actor, role, body in taken:
        event = Author(federation="tapestry", actor=actor, role=role).event(
            body, now=world.now, seen=world.seen()
        )
        event = event.model_copy(update={"id": open_entry(own).event.id})
        world.append(sign_entry(event, world.key(actor, role)))
    assert world.append(own) == 11
    with refused(RuleError, "event-duplicated", match="of fr .* at 11"):
        world.append(own)


def test_a_member_declares_its_data_a_few_times_between_rounds(world: World) -> None:
    for _ in range(MAX_DECLARATIONS - 1):  # the first is in the world
        world.add(world.declaration("fr"), "fr", "node")
    with refused(RuleError, "declarations-too-many"):
        world.add(world.declaration("fr"), "fr", "node")
    world.add(world.declaration("es"), "es", "node")
    world.run_round()
    for _ in range(MAX_DECLARATIONS):
        world.add(world.declaration("fr"), "fr", "node")
    with refused(RuleError, "declarations-too-many", match="wait for the next round"):
        world.add(world.declaration("fr"), "fr", "node")


def test_an_event_by_a_key_that_is_not_the_actors_is_refused(world: World) -> None:
    body = world.declaration("fr")  # [17]
    cases = [
        ([world.keys["de", "node"]], "signature-missing"),
        ([world.keys["fr", "community"]], "signature-missing"),
        ([world.coordinator_key], "signature-missing"),
        ([SigningKey.generate("fr.example/node")], "signature-missing"),
        ([world.keys["fr", "node"], world.keys["de", "node"]], "signer-not-allowed"),
    ]
    for signers, code in cases:
        with refused(RuleError, code, match=re.escape(signers[-1].verify_key.keyid)):
            world.append(world.entry(body, "fr", "node", signers=signers))
    with refused(RuleError, "actor-unknown", match="xx is not a node"):
        world.append(
            world.entry(body, "xx", "node", signers=[world.keys["fr", "node"]])
        )


def test_a_node_key_cannot_speak_in_another_role(world: World) -> None:  # [18]
    world.run_round(1)
    stolen = [world.keys["fr", "node"]]
    claims: list[tuple[str, Role, str]] = [
        ("fr", "node", "role-not-allowed"),
        ("fr", "root", "role-not-allowed"),
        ("coordinator", "coordinator", "signature-missing"),
    ]
    for actor, role, code in claims:
        with refused(RuleError, code):
            world.append(world.entry(world.release(1), actor, role, signers=stolen))
    pause = PauseProposal(kind="pause")
    proposal = ProposalMade(roster=fake_digest("voters"), proposal=pause)
    with refused(RuleError, "role-not-allowed", match="a node key"):
        world.append(world.entry(proposal, "fr", "node", signers=stolen))


def test_a_forged_signature_is_a_cryptographic_failure(world: World) -> None:
    entry = world.entry(world.declaration("fr"), "fr", "node")
    envelope = decode_json(entry)
    envelope["signatures"][0]["sig"] = encode_base64(bytes(64))
    with refused(VerificationError, "signature-invalid", match="entry 9: "):
        world.append(canonical_json(envelope))


def test_bytes_that_are_no_event_stop_the_fold(world: World) -> None:  # [10]
    with refused(ProtocolError, "schema-violated"):
        world.append(b"{}")
    envelope = decode_json(world.entry(world.declaration("fr"), "fr", "node"))
    envelope["payload"] = encode_base64(b'{"type":"vote.lost","v":1}')
    with refused(IncompleteError, "event-type-unknown", match="vote.lost"):
        world.append(canonical_json(envelope))


def test_an_event_of_another_federation_is_refused(world: World) -> None:
    body = world.declaration("fr")
    with refused(RuleError, "federation-differs", match="federation.b"):
        world.append(world.entry(body, "fr", "node", federation="federation.b"))


@pytest.mark.parametrize(
    ("seen", "code", "value"),
    [
        (Seen(size=10, root="0" * 64), "seen-size-invalid", "fr .* seen 10"),
        (Seen(size=9, root="0" * 64), "log-forked", "fr .* 9 entries"),
        (Seen(size=1, root="0" * 64), "log-forked", "fr .* 1 entries"),
    ],
    ids=["ahead", "fork", "old fork"],
)
def test_a_view_that_is_no_prefix_of_the_log_is_refused(  # [5]
    world: World, seen: Seen, code: str, value: str
) -> None:
    with refused(RuleError, code, match=value):
        world.append(world.entry(world.declaration("fr"), "fr", "node", seen=seen))


def test_what_was_signed_earlier_may_come_later(world: World) -> None:
    """A reply that was lost is given again; its view is older than the last one."""
    late = [world.seen(5), None]
    world.add(world.declaration("fr"), "fr", "node")
    for seen in late:
        world.append(world.entry(world.declaration("fr"), "fr", "node", seen=seen))
    assert world.folded.data["fr"].version == 4


def test_an_entry_is_signed_by_no_other_key_beside_its_authors(world: World) -> None:
    more = [world.keys["fr", "node"], world.keys["id", "node"]]
    with refused(RuleError, "signer-not-allowed", match="id.example/node"):
        world.append(world.entry(world.declaration("fr"), "fr", "node", signers=more))


def test_a_charter_refers_to_nothing_and_has_the_first_policy() -> None:
    world = World()
    seen = Seen(size=1, root="0" * 64)
    with refused(RuleError, "charter-refers-back"):
        world.append(world.entry(world.charter(), seen=seen))
    second = changed(world.charter(), policy=world.policy(version=2))
    with refused(RuleError, "policy-version-not-next", match="version 2, not 1"):
        world.append(world.entry(second))


@pytest.mark.slow
def test_the_list_of_rules_names_each_code_of_the_package() -> None:
    listed = set(re.findall("[a-z]+(?:-[a-z]+)+", rules.__doc__ or ""))
    raised = {s.code for s in error_codes.sites() if "/rules/" in s.file}
    assert raised <= listed
    assert listed <= {site.code for site in error_codes.sites()}


def test_a_state_has_the_key_of_a_party_for_its_role(world: World) -> None:
    state: FederationState = world.folded
    assert state.key_of("fr", "node") == world.keys["fr", "node"].verify_key
    assert state.key_of("fr", "coordinator") is None
    assert state.key_of("coordinator", "node") is None


def test_a_new_key_that_was_held_back_does_not_follow_a_later_one(world: World) -> None:
    """Else a coordinator gave a member a key again that it has destroyed since."""
    held_back = world.entry(world.rotation("fr", "node", seed="one"), "fr", "root")
    other = world.entry(world.rotation("fr", "witness"), "fr", "root")
    world.rotate("fr", "node", seed="two")
    with refused(RuleError, "entry-superseded", match="node key that 'fr'"):
        world.append(held_back)
    world.append(other)
    assert world.settled.key_of("fr", "node") == world.keys["fr", "node'"].verify_key


def test_with_another_root_key_the_order_begins_anew(world: World) -> None:
    """Else who stole it closed a purpose for ever, by an entry dated far ahead."""
    now = world.now
    world.now += timedelta(days=36_500)
    world.rotate("fr", "node", seed="thief")
    world.now = now
    with refused(RuleError, "entry-superseded"):
        world.rotate("fr", "node")
    world.rotate("fr", "root", reason="compromised")
    world.keys["fr", "root"] = world.keys["fr", "root'"]
    world.rotate("fr", "node")
    assert world.settled.key_of("fr", "node") == world.keys["fr", "node'"].verify_key


def test_the_longest_view_of_any_author_counts(world: World) -> None:
    assert world.folded.shown == 8
    world.append(world.entry(world.declaration("fr"), "fr", "node", seen=world.seen(3)))
    assert world.folded.shown == 8
    world.add(world.declaration("de"), "de", "node")
    assert world.folded.shown == 10


def test_an_entry_that_is_refused_puts_nothing_in_force(world: World) -> None:
    """A view of what is not there yet, or of another log, is no checkpoint."""
    index = world.propose(PauseProposal(kind="pause"))
    world.vote(index, "fr", "de")
    state = world.folded
    for seen in (
        Seen(size=state.size + 1, root="0" * 64),
        Seen(size=state.size, root="0" * 64),
    ):
        entry = world.entry(world.declaration("fr"), "fr", "node", seen=seen)
        with pytest.raises(RuleError):
            world.append(entry)
    assert world.folded is state
    assert state.paused is None
    assert state.waiting


def test_entry_by_entry_or_in_one_go_a_governed_log_is_the_same(world: World) -> None:
    world.decide(PauseProposal(kind="pause"), "fr", "de")
    world.rotate("es", "witness")
    world.decide(PauseProposal(kind="resume"))
    world.change_policy(max_attempt=5)
    world.decide(world.invent("zz"))
    world.add(world.declaration("fr"), "fr", "node")
    halves = apply_all(apply_all(None, world.entries[:14]), world.entries[14:])
    assert halves is not None
    assert dataclasses.replace(halves, past=world.folded.past) == world.folded
    assert {b.outcome for b in halves.ballots.values()} == {"in_force"}
