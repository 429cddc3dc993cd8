"""``tapestry node rotate``, with the root key here and on a machine of its own."""

import json
from pathlib import Path

import pytest

from tapestry.encrypted_keys import is_encrypted, load_encrypted
from tapestry.storage.file_lock import lock_file
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import KeyRotated
from tests.support.commands import Result, tapestry
from tests.support.federation import NAMES, Federation
from tests.support.federation_fixtures import Found
from tests.support.founding_place import ok, refuses

pytestmark = pytest.mark.slow

NAME, OTHER = NAMES[:2]
PHRASE = "five words are enough here"


@pytest.fixture
def federation(found: Found) -> Federation:
    federation = found(coordinator={"rounds": 1})
    federation.run()
    federation.cosign()
    return federation


@pytest.fixture
def phrase(tmp_path: Path) -> Path:
    path = tmp_path / "phrase"
    path.write_text(f"{PHRASE}\n")
    path.chmod(0o600)
    return path


def rotate(federation: Federation, purpose: str, *more: object) -> Result:
    folder = federation.directory / "nodes" / NAME
    return tapestry("node", "rotate", folder, purpose, *more)


def posted(federation: Federation) -> list[KeyRotated]:
    outbox = federation.nodes[NAME].store.outbox()
    bodies = [open_entry(entry).event.body for entry in outbox]
    return [body for body in bodies if isinstance(body, KeyRotated)]


def test_a_rotation_is_made_once_and_its_standing_told(federation: Federation) -> None:
    said = ok(rotate(federation, "witness")).stdout
    assert "witness.next: waits beside the one in force" in said
    assert "in the outbox" in said
    found = json.loads(ok(rotate(federation, "witness", "--json")).stdout)
    assert "in the outbox" in found["standing"]
    assert [body.key for body in posted(federation)] == [found["key"]]
    ok(rotate(federation, "witness", "--compromised"))
    assert [body.reason for body in posted(federation)] == ["routine", "compromised"]


def test_an_entry_may_be_carried_to_another_member(
    federation: Federation, tmp_path: Path
) -> None:
    place = tmp_path / "node.entry"
    assert "submit" in ok(rotate(federation, "node", "-o", place)).stdout
    assert posted(federation) == []
    ok(tapestry("node", "submit", federation.directory / "nodes" / OTHER, place))
    federation.cosign()
    assert place.read_bytes() in federation.entries()


@pytest.mark.parametrize("is_logged", [False, True], ids=["posted", "logged"])
def test_an_entry_is_written_also_when_the_rotation_is_under_way(
    federation: Federation, tmp_path: Path, is_logged: bool
) -> None:
    place = tmp_path / "node.entry"
    ok(rotate(federation, "node"))
    (body,) = posted(federation)
    if is_logged:
        federation.cosign()
    ok(rotate(federation, "node", "-o", place))
    assert open_entry(place.read_bytes()).event.body == body
    if not is_logged:
        assert place.read_bytes() in federation.nodes[NAME].store.outbox()


def test_one_call_at_a_time_makes_a_key(federation: Federation) -> None:
    folder = federation.directory / "nodes" / NAME
    with lock_file(folder / "rotate.lock"):
        refuses(rotate(federation, "node"), 64, "folder-in-use")
    assert posted(federation) == []
    assert not (folder / "keys" / "node.next").exists()
    ok(rotate(federation, "node"))


def test_the_root_key_signs_where_it_is(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = tmp_path / "vault"
    vault.mkdir()
    monkeypatch.chdir(vault)
    keys = federation.directory / "nodes" / NAME / "keys"
    (keys / "root.key").rename(vault / "root.key")
    draft = keys.parent / f"{NAME}-witness.rotation"
    said = ok(rotate(federation, "witness")).stdout
    assert f"tapestry governance rotate {draft}" in said
    done = ok(tapestry("governance", "rotate", draft, "--key", "root.key")).stdout
    assert f"member    {NAME} of simulated" in done
    assert "new key   witness, routine" in done
    entry = vault / f"{NAME}-witness.entry"
    ok(tapestry("node", "submit", keys.parent, entry))
    assert len(posted(federation)) == 1
    assert "in the outbox" in ok(rotate(federation, "witness")).stdout


def test_a_new_root_key_is_locked(federation: Federation, phrase: Path) -> None:
    ok(rotate(federation, "root", "--passphrase-file", phrase))
    path = federation.directory / "nodes" / NAME / "keys" / "root.next"
    assert is_encrypted(path)
    public = load_encrypted(path, passphrase=PHRASE).verify_key
    assert [body.key for body in posted(federation)] == [str(public)]
    ok(rotate(federation, "root", "--passphrase-file", phrase))
    assert len(posted(federation)) == 1


def test_a_transport_key_comes_with_its_request(federation: Federation) -> None:
    found = json.loads(ok(rotate(federation, "transport", "--json")).stdout)
    assert Path(found["request"]).name == f"{NAME}.request"
    assert "coordinator enroll" in ok(rotate(federation, "transport")).stdout.replace(
        "\n          ", " "
    )


def test_what_cannot_be_signed_is_refused(
    federation: Federation, tmp_path: Path
) -> None:
    refuses(rotate(federation, "mask"), 64, "usage")
    other = federation.directory / "nodes" / OTHER / "keys" / "root.key"
    refused = rotate(federation, "node", "--root-key", other)
    refuses(refused, 64, "root-key-differs")
    assert posted(federation) == []
    refuses(tapestry("node", "rotate", tmp_path, "node"), 64, "file-missing")
