"""``tapestry governance rotate``, on a machine that has a draft and the root key."""

import json
from pathlib import Path

import pytest

from tapestry.encrypted_keys import load_encrypted
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import KeyRotated
from tapestry_governance.founding import generate_member_key
from tapestry_governance.key_turn import place_key
from tests.governance.test_key_turn import NAME, PHRASE, ROOT, draft
from tests.support.commands import Result, tapestry
from tests.support.founding_place import ok, refuses


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder, elsewhere = tmp_path / "vault", tmp_path / "phrase"
    folder.mkdir()
    elsewhere.write_text(f"{PHRASE}\n")
    elsewhere.chmod(0o600)
    place_key(ROOT, folder / "root.key", passphrase=PHRASE)
    monkeypatch.chdir(folder)
    return folder


def sign(*more: object) -> Result:
    words = ("--key", "root.key", "--passphrase-file", "../phrase", *more)
    return tapestry("governance", "rotate", "draft", *words)


def test_a_key_that_was_made_elsewhere_is_shown_and_signed_for(vault: Path) -> None:
    key = generate_member_key(NAME, "witness")
    asked = draft("witness", str(key.verify_key), key)
    (vault / "draft").write_bytes(asked.encode())
    said = ok(sign()).stdout
    assert str(key.verify_key) in said
    signed = open_entry((vault / f"{NAME}-witness.entry").read_bytes())
    signed.verify(ROOT.verify_key)
    (vault / "draft").write_bytes(asked.encode().replace(b"rivers", b"lakes1"))
    refuses(sign(), 1, "possession-not-proven")


def test_a_draft_that_was_changed_is_refused_and_signs_nothing(vault: Path) -> None:
    key = generate_member_key(NAME, "witness")
    asked = draft("witness", str(key.verify_key), key)
    changed = asked.encode().replace(str(key.verify_key).encode(), b"junk")
    (vault / "draft").write_bytes(changed)
    refuses(sign(), 1, "schema-violated")
    assert list(vault.glob("*.entry")) == []


@pytest.mark.slow
def test_a_new_root_key_is_made_beside_the_old_one_and_locked(vault: Path) -> None:
    (vault / "draft").write_bytes(draft("root").encode())
    done = ok(sign("--json", "-o", "new.entry"))
    assert "new key   root, routine" in done.stderr  # also then it is shown
    found = json.loads(done.stdout)
    assert found == {"entry": "new.entry"}
    body = open_entry((vault / "new.entry").read_bytes()).event.body
    assert isinstance(body, KeyRotated)
    made = load_encrypted(vault / "root.next", passphrase=PHRASE).verify_key
    assert body.key == str(made)


def test_another_key_than_the_drafts_root_signs_nothing(vault: Path) -> None:
    (vault / "root.key").unlink()
    place_key(generate_member_key(NAME, "root"), vault / "root.key")
    (vault / "draft").write_bytes(draft("root").encode())
    refuses(sign(), 64, "root-key-differs")
    assert not (vault / "root.next").exists()
