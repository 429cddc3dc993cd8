"""A root key signs for what it can check, and for nothing else."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from tapestry.encrypted_keys import load_encrypted, load_public
from tapestry.errors import ConfigError, VerificationError
from tapestry.keys import SigningKey
from tapestry.storage.file_lock import lock_folder
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import KeyRotated
from tapestry_governance.events.possession import check_rotation
from tapestry_governance.founding import generate_member_key
from tapestry_governance.key_turn import (
    Purpose,
    RotationDraft,
    make_next_root,
    next_root,
    place_key,
    rotated_body,
    sign_rotation,
)
from tests.support.refusals import refused

NAME, FEDERATION = "sueden", "rivers"
NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
ROOT, NODE = (generate_member_key(NAME, purpose) for purpose in ("root", "node"))
PHRASE = "five words are enough here"


def draft(
    purpose: Purpose, key: str | None = None, signer: SigningKey | None = None
) -> RotationDraft:
    """Draft a rotation as ``tapestry node rotate`` does."""
    body = None
    if key is not None and signer is not None:
        body = rotated_body(
            key,
            signer,
            purpose=purpose,
            reason="routine",
            name=NAME,
            federation=FEDERATION,
        )
    return RotationDraft(
        kind="tapestry-rotation-draft/1",
        federation=FEDERATION,
        name=NAME,
        root=str(ROOT.verify_key),
        node=str(NODE.verify_key),
        seen=None,
        purpose=purpose,
        reason="routine",
        key=key,
        possession=None if body is None else body.possession,
    )


def body_of(entry: bytes) -> KeyRotated:
    signed = open_entry(entry)
    signed.verify(ROOT.verify_key)
    assert (signed.event.actor, signed.event.role) == (NAME, "root")
    assert isinstance(signed.event.body, KeyRotated)
    return signed.event.body


@pytest.mark.parametrize("purpose", ["node", "witness", "community"])
def test_a_new_key_signs_for_itself_and_the_root_for_it(purpose: Purpose) -> None:
    key = generate_member_key(NAME, purpose)
    asked = draft(purpose, str(key.verify_key), key)
    body = body_of(sign_rotation(asked, ROOT, now=NOW))
    assert (body.purpose, body.key) == (purpose, str(key.verify_key))
    check_rotation(body, by=body.key, name=NAME, federation=FEDERATION)
    with refused(VerificationError, "possession-not-proven"):
        sign_rotation(draft(purpose, str(key.verify_key), NODE), ROOT, now=NOW)


def test_a_node_key_vouches_for_a_transport_key() -> None:
    body = body_of(sign_rotation(draft("transport", "a" * 64, NODE), ROOT, now=NOW))
    assert body.key == "a" * 64
    with refused(VerificationError, "possession-not-proven"):
        sign_rotation(draft("transport", "a" * 64, ROOT), ROOT, now=NOW)


def test_a_draft_that_was_changed_on_its_way_is_not_signed() -> None:
    key = generate_member_key(NAME, "witness")
    asked = draft("witness", str(key.verify_key), key)
    for change in ({"name": "norden"}, {"federation": "lakes"}):
        with refused(VerificationError, "possession-not-proven"):
            sign_rotation(asked.model_copy(update=change), ROOT, now=NOW)
    with refused(ConfigError, "root-key-differs", match="the root key of 'sueden'"):
        sign_rotation(asked, NODE, now=NOW)


def test_a_root_is_drafted_without_a_key_and_others_with_theirs() -> None:
    new = generate_member_key(NAME, "root")
    body = body_of(sign_rotation(draft("root"), ROOT, new_root=new, now=NOW))
    assert body.key == str(new.verify_key)
    check_rotation(body, by=body.key, name=NAME, federation=FEDERATION)
    with pytest.raises(ValueError, match="takes the place"):
        sign_rotation(draft("root"), ROOT, now=NOW)
    for asked in (draft("root"), draft("node", str(NODE.verify_key), NODE)):
        other = "node" if asked.purpose == "root" else "root"
        with pytest.raises(ValueError, match="made where the root is"):
            RotationDraft.model_validate({**asked.model_dump(), "purpose": other})


def test_a_new_root_lies_locked_beside_the_old_and_is_made_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "root.key"
    place_key(ROOT, path)
    made = make_next_root(path, NAME, passphrase=PHRASE)
    assert next_root(path).stat().st_mode & 0o777 == 0o600
    assert load_encrypted(next_root(path), passphrase=PHRASE).verify_key == made
    assert make_next_root(path, NAME, passphrase=None) == made
    assert load_public(path) == ROOT.verify_key
    with refused(ConfigError, "file-exists", match="never overwritten"):
        make_next_root(path, "norden", passphrase=PHRASE)


def test_no_key_takes_the_place_of_another(tmp_path: Path) -> None:
    """The log may expect that one already, by the entry of another process."""
    place = tmp_path / "node.next"
    with (
        lock_folder(tmp_path),
        refused(ConfigError, "folder-in-use", match="another process"),
    ):
        place_key(NODE, place)
    place_key(NODE, place)
    with refused(ConfigError, "file-exists", match=r"node\.next"):
        place_key(generate_member_key(NAME, "node"), place)
    assert SigningKey.load(place).verify_key == NODE.verify_key


@pytest.mark.parametrize(
    ("purpose", "key"),
    [("witness", "junk"), ("witness", str(NODE.verify_key)), ("transport", "junk")],
    ids=["junk", "of a node", "no digest"],
)
def test_a_draft_names_a_key_of_the_kind_for_its_purpose(
    purpose: Purpose, key: str
) -> None:
    whole = draft("node", str(NODE.verify_key), NODE).model_dump()
    with pytest.raises(ValidationError):
        RotationDraft.model_validate({**whole, "purpose": purpose, "key": key})


def test_what_a_crash_left_of_a_key_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "node.next.new").write_bytes(b"half")
    place_key(NODE, tmp_path / "node.next")
    assert SigningKey.load(tmp_path / "node.next").verify_key == NODE.verify_key
    assert not (tmp_path / "node.next.new").exists()
