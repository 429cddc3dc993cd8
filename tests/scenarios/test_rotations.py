"""Members give themselves other keys while the federation goes on."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tapestry.encrypted_keys import load_public
from tapestry.keys import SigningKey, VerifyKey
from tapestry.protocol.messages import Kind, Message
from tapestry.tlog.checkpoint import read_claim
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.envelope import Author, Seen, sign_entry
from tapestry_governance.events.member_events import (
    KeyRotated,
    PauseProposal,
    ProposalMade,
)
from tapestry_governance.key_turn import Purpose, Reason, next_root
from tapestry_governance.rules.ballots import voters_digest
from tapestry_governance.rules.replay import apply
from tests.support.commands import tapestry
from tests.support.federation import NAMES, Deliver, Federation, unanswered
from tests.support.federation_fixtures import Found
from tests.support.founding_place import ok
from tests.support.rotations import rotate, signed_rotation

pytestmark = pytest.mark.slow

NAME, OTHER = NAMES[1], NAMES[2]


def keys_of(federation: Federation, name: str = NAME) -> Path:
    return federation.directory / "nodes" / name / "keys"


def in_force(federation: Federation, purpose: str, name: str = NAME) -> str:
    """The key of a member by the log, as its next entry finds it."""
    return str(getattr(federation.nodes[OTHER].mirror.settled.members[name], purpose))


def go_on(federation: Federation, run_id: str, **changes: object) -> None:
    federation.begin_another_run(run_id, **changes)
    federation.run()


def holds(federation: Federation) -> None:
    shutil.rmtree(federation.directory / "bundle", ignore_errors=True)
    federation.bundle()
    audit = federation.audit()
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1].detail


def test_each_key_is_rotated_and_rounds_go_on(found: Found) -> None:
    federation = found(coordinator={"rounds": 1})
    federation.run()
    purposes: tuple[Purpose, ...] = ("witness", "node", "community", "root")
    for number, purpose in enumerate(purposes, start=1):
        keys = keys_of(federation)
        before = (keys / f"{purpose}.key").read_bytes()
        new = rotate(federation, NAME, purpose)
        go_on(federation, f"run-{number}")
        closed = federation.closed()[-1]
        assert closed.run_id == f"run-{number}"
        assert set(closed.included) == {*NAMES}
        assert in_force(federation, purpose) == new
        assert not (keys / f"{purpose}.next").exists()
        assert (keys / f"{purpose}.key").read_bytes() != before
        assert (keys / f"{purpose}.key").stat().st_mode & 0o777 == 0o600
        assert list(keys.glob("*.new")) == []
    assert len(federation.said(KeyRotated)) == 4
    federation.restart(NAME)
    holds(federation)


def test_keys_of_several_members_change_at_once(found: Found) -> None:
    """More witnesses than a quorum can do without take two checkpoints."""
    federation = found(coordinator={"rounds": 1})
    federation.run()
    new = {name: rotate(federation, name, "witness") for name in NAMES}
    nodes = {name: rotate(federation, name, "node") for name in NAMES}
    go_on(federation, "second", rounds=2)
    assert {name: in_force(federation, "witness", name) for name in NAMES} == new
    assert {name: in_force(federation, "node", name) for name in NAMES} == nodes
    assert all(set(closed.included) == {*NAMES} for closed in federation.closed())
    holds(federation)


def test_a_witness_changes_while_another_member_is_away(found: Found) -> None:
    """The old keys sign the turn as well, so a quorum needs no member more."""
    federation = found(coordinator={"rounds": 1})
    federation.run()
    new = rotate(federation, NAME, "witness")
    federation.kill(OTHER)
    go_on(federation, "second")
    assert OTHER not in federation.closed()[-1].included
    member = federation.nodes[NAME].mirror.settled.members[NAME]
    assert member.witness == new
    assert not (keys_of(federation) / "witness.next").exists()
    federation.start(OTHER)
    go_on(federation, "third")
    assert set(federation.closed()[-1].included) == {*NAMES}
    holds(federation)


def test_no_member_alone_puts_more_keys_into_force_than_a_quorum_can_spare(
    found: Found,
) -> None:
    """It names a checkpoint that was never cosigned, as a replay cannot tell."""
    federation = found(coordinator={"rounds": 1})
    federation.run()
    federation.cosign()
    liar, *others = reversed(NAMES)
    view, store = federation.view(liar), federation.nodes[liar].store
    state = view.logged
    for name in others[:2]:
        store.post(rotation := signed_rotation(federation, name, "witness")[1])
        state = apply(state, rotation, state.size)
    author = Author(federation=state.federation, actor=liar, role="root")
    body = ProposalMade(
        roster=voters_digest(view.state.active), proposal=PauseProposal(kind="pause")
    )
    for _ in range(2):
        seen = Seen(size=state.size, root=state.past.root(state.size).hex())
        event = author.event(body, now=federation.moment(), seen=seen)
        store.post(entry := sign_entry(event, federation.root(liar)))
        state = apply(state, entry, state.size)
    federation.cosign()
    assert len(federation.entries()) == state.size
    assert {in_force(federation, "witness", name) for name in others[:2]} == {
        said.key for said in federation.said(KeyRotated)
    }
    go_on(federation, "second")
    assert set(federation.closed()[-1].included) == {*NAMES}
    holds(federation)


@pytest.mark.parametrize("reason", ["routine", "compromised"])
def test_a_node_that_missed_its_own_turn_is_known_by_both_keys(
    found: Found, reason: Reason
) -> None:
    """The others cosign its rotation while its own requests are lost."""
    federation = found(coordinator={"rounds": 1})
    federation.run()
    federation.cosign()
    made, entry = signed_rotation(
        federation,
        NAME,
        "node",
        reason,
    )
    new, size = made.public, federation.nodes[NAME].mirror.size
    federation.wire.on(NAME, Kind.COSIGN, lambda *_: None, times=99)
    federation.submit(OTHER, entry)
    federation.cosign()
    assert federation.nodes[NAME].mirror.size == size
    federation.wire.faults.clear()
    go_on(federation, "second")
    assert set(federation.closed()[-1].included) == {*NAMES}
    assert in_force(federation, "node") == new
    holds(federation)


def test_a_rotation_waits_for_the_round_that_is_open(found: Found) -> None:
    federation = found(coordinator={"rounds": 1})
    before = SigningKey.load(keys_of(federation) / "node.key").verify_key

    def rotates(_name: str, request: Message, deliver: Deliver) -> Message:
        entry = signed_rotation(federation, NAME, "node")[1]
        federation.nodes[OTHER].store.post(entry)
        return deliver(request)

    federation.wire.on(NAME, Kind.COLLECT_MASKED_INPUTS, rotates)
    federation.run()
    (closed,) = federation.closed()
    assert NAME in closed.included
    assert federation.said(KeyRotated)
    go_on(federation, "second")
    assert NAME in federation.closed()[-1].included
    assert in_force(federation, "node") != str(before)
    holds(federation)


def test_a_key_that_is_compromised_within_a_round_leaves_it(found: Found) -> None:
    """The others finish it; what the old key signed is taken no more."""
    federation = found(coordinator={"rounds": 1})

    def rotates(_name: str, request: Message, deliver: Deliver) -> Message:
        rotate(federation, NAME, "node", "compromised")
        return deliver(request)

    federation.wire.on(NAME, Kind.ADVERTISE_KEYS, rotates)
    federation.run()
    federation.wire.faults.clear()
    go_on(federation, "second")
    assert NAME in federation.closed()[-1].included
    holds(federation)


def test_a_lost_root_is_replaced_by_the_others_votes(
    found: Found, tmp_path: Path
) -> None:
    """By the commands that a person has, from the new key to its first use."""
    federation = found(coordinator={"rounds": 1})
    federation.run()
    federation.cosign()
    phrase, place = tmp_path / "phrase", tmp_path / "root.proposal"
    phrase.write_text("five words are enough here\n")
    phrase.chmod(0o600)
    locked = ("--passphrase-file", phrase)
    path = keys_of(federation) / "root.key"
    path.write_bytes(b"lost")
    coming = next_root(path)
    ok(tapestry("governance", "key", coming, "--name", NAME, *locked))
    new = str(load_public(coming))
    other = keys_of(federation, OTHER).parent
    words = ("root", NAME, coming.with_suffix(".pub"), "--node", other, "-o", place)
    ok(tapestry("governance", "propose", *words))
    federation.submit(OTHER, place.read_bytes())
    index = federation.entries().index(place.read_bytes())
    for name in (name for name in NAMES if name != NAME):
        folder = keys_of(federation, name).parent
        entry = tmp_path / f"{name}.vote"
        ok(tapestry("governance", "vote", index, "yes", "--node", folder, "-o", entry))
        federation.submit(OTHER, entry.read_bytes())
    go_on(federation, "second")
    assert in_force(federation, "root") == new
    assert str(load_public(path)) == new
    ok(tapestry("node", "rotate", path.parent.parent, "community", *locked))
    before = in_force(federation, "community")
    go_on(federation, "third")
    assert in_force(federation, "community") != before
    holds(federation)


def puts_back(found: Found, *, names: Sequence[str], copied: bool = True) -> Federation:
    """Cosign more, and put an older copy of these files back, or delete them."""
    federation = found(coordinator={"rounds": 1})
    federation.cosign()
    folder = keys_of(federation).parent
    federation.kill(NAME)
    copies = federation.directory / "older"
    copies.mkdir()
    for name in names:
        shutil.copy(folder / name, copies)
    federation.start(NAME)
    federation.wire.on(NAME, Kind.ADVERTISE_KEYS, unanswered)
    federation.run()
    federation.cosign()
    federation.kill(NAME)
    for name in names:
        for path in (*folder.glob(f"{name}-*"), folder / name):
            path.unlink(missing_ok=True)
        if copied:
            shutil.copy(copies / name, folder / name)
    return federation


@pytest.mark.parametrize("copied", [True, False], ids=["older", "deleted"])
def test_a_mirror_that_is_lost_alone_is_extended_to_what_was_cosigned(
    found: Found, copied: bool
) -> None:
    """What that was is in node.db: the same key cosigns, and no shorter log."""
    federation = puts_back(found, names=["view.db"], copied=copied)
    node = federation.start(NAME)
    size, _ = node.store.cosigned
    assert node.mirror.size < size
    key = str(node.keys["witness"].verify_key)
    federation.wire.log.clear()
    federation.cosign()
    kinds = {e.reply.kind for e in federation.wire.log if e.node == NAME and e.reply}
    assert Kind.COSIGNATURE in kinds
    assert node.mirror.size >= size
    assert node.store.may_cosign(key)
    go_on(federation, "second")
    assert in_force(federation, "witness") == key
    holds(federation)


def test_an_older_folder_put_back_without_a_word_is_found_out(found: Found) -> None:
    """The log shows a line of the node's own over more than it has stored."""
    names = ["view.db", "node.db", "node.db.mirror"]
    federation = puts_back(found, names=names)
    node = federation.start(NAME)
    federation.wire.log.clear()
    federation.cosign()
    kinds = {e.reply.kind for e in federation.wire.log if e.node == NAME and e.reply}
    assert Kind.COSIGNATURE not in kinds
    assert not node.store.may_cosign(str(node.keys["witness"].verify_key))
    new = rotate(federation, NAME, "witness")
    federation.cosign()
    go_on(federation, "second")
    assert in_force(federation, "witness") == new
    note = node.mirror.accepted
    assert note is not None
    assert VerifyKey.parse(new).keyid in {c.key.keyid for c in note.cosignatures}
    assert read_claim(note.note).size == node.mirror.size
    holds(federation)
