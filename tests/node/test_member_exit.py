"""An exit: one, by the institution's root key alone, in the outbox and in a file."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tapestry.encrypted_keys import load_key
from tapestry.errors import ConfigError, IncompleteError, VerificationError
from tapestry.keys import SigningKey
from tapestry_governance.events.envelope import Author, open_entry, sign_entry
from tapestry_governance.events.member_events import MemberLeft
from tapestry_governance.founding_files import read_entry
from tapestry_node.member_exit import Exit, sign_exit
from tapestry_node.node_state import NodeState
from tests.support.federation import Base
from tests.support.node_folders import NAME, OTHER, change, opened
from tests.support.refusals import refused

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def root_of(folder: Path, name: str = NAME) -> SigningKey:
    path = folder.parent / name / "keys" / "root.key"
    return load_key(path, passphrase=None)


def outbox(folder: Path) -> list[bytes]:
    store = NodeState(folder / "node.db", readonly=True)
    try:
        return store.outbox()
    finally:
        store.close()


@pytest.mark.parametrize("begun", [True, False])
def test_an_exit_is_signed_posted_and_kept(idle: Path, used: Path, begun: bool) -> None:
    folder = used if begun else idle
    found = Exit(folder)
    assert found.index is None
    entry = found.sign(root_of(folder), now=NOW)
    found.hand_in(entry)
    assert entry in outbox(folder)
    assert found.path.read_bytes() == entry
    assert found.path.stat().st_mode & 0o777 == 0o600
    event = open_entry(entry).event
    assert (event.actor, event.role, event.body) == (NAME, "root", MemberLeft())
    assert (event.seen is not None) is begun  # the log that the node knows
    assert Exit(folder).signed_before() == entry


def test_a_second_exit_changes_nothing_in_the_outbox(used: Path) -> None:
    first, second = (Exit(used).sign(root_of(used), now=NOW) for _ in range(2))
    assert first != second
    for entry in (first, second):
        Exit(used).hand_in(entry)
    waiting = [
        e for e in outbox(used) if isinstance(open_entry(e).event.body, MemberLeft)
    ]
    assert waiting == [first]


def test_an_exit_is_posted_beside_a_node_that_runs(used: Path, base: Base) -> None:
    node = opened(used, base)
    before = node.leaves
    assert before is None
    found = Exit(used)
    found.hand_in(found.sign(root_of(used), now=NOW))
    assert node.leaves is not None
    assert node.leaves.code == "member-leaves"
    node.close()


def test_no_other_key_signs_an_exit(used: Path) -> None:
    for key in (root_of(used, OTHER), SigningKey.load(used / "keys" / "node.key")):
        with refused(ConfigError, "root-key-differs"):
            Exit(used).sign(key, now=NOW)


def test_an_exit_of_another_or_by_another_is_not_handed_in(used: Path) -> None:
    found, root = Exit(used), root_of(used)
    public = root.verify_key
    other = root_of(used, OTHER)

    def signed(name: str, federation: str, key: SigningKey) -> bytes:
        return sign_exit(
            name, federation, key, public=key.verify_key, seen=None, now=NOW
        )

    for entry in (
        signed(OTHER, "simulated", other),
        signed(NAME, "elsewhere", root),
    ):
        with refused(ConfigError, "exit-of-another"):
            found.hand_in(entry)
    author = Author(federation="simulated", actor=NAME, role="root")
    event = author.event(MemberLeft(), now=NOW, seen=None)
    for keys in ([other], [root, other]):
        with refused(ConfigError, "root-key-differs"):
            found.hand_in(sign_entry(event, *keys))
    forged = SigningKey(name=public.name, algorithm=public.algorithm, seed=b"\x01" * 32)
    entry = sign_entry(event, forged).replace(
        forged.verify_key.keyid.encode(), public.keyid.encode()
    )
    with refused(VerificationError, "signature-invalid"):
        found.hand_in(entry)
    assert not found.path.exists()
    assert Exit(used).signed_before() is None


def test_a_state_that_was_deleted_is_not_begun_anew(used: Path) -> None:
    (used / "node.db").unlink()
    with refused(IncompleteError, "state-missing"):
        Exit(used)
    assert not (used / "node.db").exists()


def test_a_node_in_no_federation_has_none_to_leave(idle: Path) -> None:
    change(idle, {"genesis": None})
    with refused(IncompleteError, "not-joined"):
        Exit(idle)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 100])
def test_a_file_that_is_no_exit_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "exit"
    path.write_bytes(data)
    with refused(ConfigError, "entry-malformed", match="no signed entry"):
        read_entry(path)
