"""A rotation is made once, and its key is there before the log can want it."""

from pathlib import Path

import pytest

from tapestry.encrypted_keys import load_key, load_public
from tapestry.errors import ConfigError, IncompleteError, RuleError
from tapestry.keys import SigningKey, VerifyKey
from tapestry.transport_keys import load_transport_key, public_text, transport_digest
from tapestry_coordinator import coordinator_folder
from tapestry_coordinator.barred_keys import read_barred
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.founding import generate_member_key
from tapestry_governance.founding_files import (
    RequestFile,
    check_request,
    read_document,
)
from tapestry_governance.key_turn import Purpose, Reason, place_key, sign_rotation
from tapestry_node import key_rotation
from tapestry_node.key_rotation import Rotation
from tapestry_node.node_state import NodeState
from tests.support.federation import NAMES, Federation
from tests.support.federation_fixtures import Found
from tests.support.refusals import refused
from tests.support.rotations import rotate

pytestmark = pytest.mark.slow

NAME, OTHER = NAMES[:2]


@pytest.fixture
def federation(found: Found) -> Federation:
    federation = found(coordinator={"rounds": 1})
    federation.run()
    federation.cosign()
    return federation


def rotation(
    federation: Federation, purpose: Purpose, reason: Reason = "routine"
) -> Rotation:
    folder = federation.directory / "nodes" / NAME
    return Rotation(folder, purpose, reason, root=folder / "keys" / "root.key")


@pytest.mark.parametrize("purpose", ["node", "witness", "community", "root"])
def test_a_second_call_says_how_far_the_first_is(
    federation: Federation, purpose: Purpose
) -> None:
    key = rotate(federation, NAME, purpose)
    again = rotation(federation, purpose)
    assert again.under_way == "in the outbox, for the node's next cosignature"
    assert again.public == key
    assert again.path.stat().st_mode & 0o777 == 0o600
    federation.cosign()
    said = rotation(federation, purpose).under_way
    assert said is None or said.startswith(("entry ", "in force"))
    if purpose != "root":
        assert rotation(federation, purpose).reason == "routine"
        assert rotation(federation, purpose, "compromised").under_way != again.under_way


def test_a_call_that_died_before_it_signed_is_taken_up(federation: Federation) -> None:
    first = rotation(federation, "witness").draft()
    again = rotation(federation, "witness")
    assert again.under_way is None
    assert again.draft().key == first.key
    store = federation.nodes[NAME].store
    assert store.reading().witnesses == {first.key}
    assert all(open_entry(e).event.type != "key.rotated" for e in store.outbox())


def test_a_key_that_turns_out_to_be_known_is_signed_for_once_more(
    federation: Federation,
) -> None:
    key = rotate(federation, NAME, "node")
    again = rotation(federation, "node", "compromised")
    assert again.under_way is None  # it waits as a routine one alone
    assert again.draft().key == key
    assert rotation(federation, "node").under_way is not None


@pytest.mark.parametrize("is_logged", [False, True], ids=["posted", "logged"])
def test_a_key_that_was_stolen_is_marked_although_its_rotation_was_a_routine_one(
    federation: Federation, is_logged: bool
) -> None:
    key = rotate(federation, NAME, "node")
    if is_logged:
        federation.cosign()
        assert rotation(federation, "node").under_way is not None
    assert rotation(federation, "node", "compromised").under_way is None
    assert rotate(federation, NAME, "node", "compromised") == key
    for purpose in ("community", "node", "witness"):
        rotate(federation, OTHER, purpose)
        federation.cosign()
        federation.cosign()
    state = federation.nodes[OTHER].mirror.state
    assert state.members[NAME].node == key
    assert [each.compromised for each in state.former_keys[NAME, "node"]] == [True]


def test_a_witness_key_that_may_have_cosigned_what_is_forgotten_is_replaced(
    federation: Federation,
) -> None:
    """It lies in keys/ and its rotation in the outbox; neither makes it a new one."""
    key = rotate(federation, NAME, "witness")
    store = federation.nodes[NAME].store
    store.mark_restored(since=7)
    again = rotation(federation, "witness")
    assert again.under_way is None
    made = again.draft().key
    assert made is not None
    assert made != key
    assert not store.may_cosign(key)
    assert store.may_cosign(made)
    aside = f"witness.next.{VerifyKey.parse(key).id.hex()}"
    assert load_public(again.path.with_name(aside)) == VerifyKey.parse(key)
    assert rotation(federation, "witness").draft().key == made


def test_a_key_that_was_made_meanwhile_is_kept(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have handed its entry in by then."""
    late, made = rotation(federation, "node"), list[str]()

    def is_overtaken(name: str, purpose: str) -> SigningKey:
        monkeypatch.undo()
        made.append(rotate(federation, NAME, "node"))
        return generate_member_key(name, purpose)

    monkeypatch.setattr(key_rotation, "generate_member_key", is_overtaken)
    with refused(ConfigError, "file-exists"):
        late.draft()
    assert [str(load_public(late.path))] == made


def test_a_former_key_from_an_old_copy_of_the_keys_is_replaced(
    federation: Federation,
) -> None:
    keys = federation.directory / "nodes" / NAME / "keys"
    old = SigningKey.load(keys / "node.key")
    rotate(federation, NAME, "node")
    for purpose in ("community", "witness"):
        rotate(federation, OTHER, purpose)
        federation.cosign()
        federation.cosign()
    assert not (keys / "node.next").exists()
    place_key(old, keys / "node.next")
    again = rotation(federation, "node")
    assert again.under_way is None
    made = again.draft().key
    assert made == str(load_public(keys / "node.next"))
    assert made != str(old.verify_key)


def test_the_node_signs_for_its_new_transport_key_and_is_enrolled_by_it(
    federation: Federation,
) -> None:
    folder = federation.directory / "nodes" / NAME
    sent = folder / f"{NAME}.request"
    before = sent.read_bytes()
    digest = rotate(federation, NAME, "transport")
    found = rotation(federation, "transport")
    assert found.under_way is not None
    path = found.write_request()
    asked = read_document(path, RequestFile)
    check_request(asked, federation="simulated")
    public = public_text(load_transport_key(folder / "keys" / "transport.next"))
    assert asked.transport_key == public
    assert asked.request.transport == transport_digest(public) == digest
    federation.cosign()
    federation.begin_another_run("second")
    federation.run()
    assert rotation(federation, "transport").in_force == digest
    assert coordinator_folder.enroll(federation.coordinator, path) == NAME
    enrolled = federation.coordinator / "enrolled" / f"{NAME}.pub"
    assert enrolled.read_text() == f"{public}\n"
    sent.write_bytes(before)
    with refused(RuleError, "transport-key-differs", match="rotate wrote"):
        coordinator_folder.enroll(federation.coordinator, sent)


def test_a_stolen_transport_key_is_barred_by_the_coordinator(
    federation: Federation,
) -> None:
    """A routine rotation bars no key, until it is called compromised."""
    folder, enrolled = (
        federation.directory / "nodes" / NAME,
        federation.coordinator / "enrolled",
    )
    stolen = transport_digest((folder / "keys" / "transport.pub").read_text().strip())
    sent = (folder / f"{NAME}.request").read_bytes()
    rotate(federation, NAME, "transport")
    for _ in range(2):
        federation.cosign()
    assert read_barred(enrolled) == frozenset()
    found = rotation(federation, "transport", "compromised")
    assert found.under_way is None
    rotate(federation, NAME, "transport", "compromised")
    for _ in range(2):
        federation.cosign()
    assert read_barred(enrolled) == {stolen}
    said = rotation(federation, "transport", "compromised").under_way
    assert (said or "").startswith("in force")
    (folder / f"{NAME}.request").write_bytes(sent)
    with refused(RuleError, "transport-key-differs"):
        coordinator_folder.enroll(federation.coordinator, folder / f"{NAME}.request")
    path = found.write_request()
    assert coordinator_folder.enroll(federation.coordinator, path) == NAME
    new = (enrolled / f"{NAME}.pub").read_text().strip()
    assert transport_digest(new) not in read_barred(enrolled)


def test_a_request_is_signed_by_the_keys_in_force(federation: Federation) -> None:
    folder = federation.directory / "nodes" / NAME
    (folder / "keys" / "community.key").unlink()
    rotate(federation, NAME, "transport")
    found = rotation(federation, "transport")
    with refused(ConfigError, "own-key-missing", match="community"):
        found.write_request()
    (folder / "keys" / "node.key").unlink()
    with refused(ConfigError, "own-key-missing", match="node"):
        found.draft()


def test_who_is_in_no_log_rotates_nothing(
    federation: Federation, tmp_path: Path
) -> None:
    folder = federation.directory / "nodes" / NAME
    federation.kill(NAME)
    (folder / "view.db").rename(tmp_path / "view.db")
    with refused(IncompleteError, "mirror-empty"):
        rotation(federation, "node")
    (tmp_path / "view.db").rename(folder / "view.db")
    root = load_key(folder / "keys" / "root.key", passphrase=None)
    entry = sign_rotation(
        rotation(federation, "node").draft(), root, now=federation.moment()
    )
    assert open_entry(entry).event.actor == NAME
    key = SigningKey.load(folder / "keys" / "node.next")
    assert key.verify_key.name == f"{NAME}/node"
    assert NodeState(folder / "node.db", readonly=True).outbox() is not None
