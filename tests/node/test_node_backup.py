"""Backup and restoration of a node's folder, checked before anything is made."""

import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import (
    ConfigError,
    IncompleteError,
    TapestryError,
    VerificationError,
)
from tapestry.keys import SigningKey
from tapestry.storage.file_lock import lock_file
from tapestry_governance.folder_backup import LIST, BackupContent, write_backup
from tapestry_governance.log.mirror import LogMirror
from tapestry_node import node_backup
from tapestry_node.directory import open_mirror
from tapestry_node.node_backup import back_up, restore
from tapestry_node.node_state import NodeState
from tapestry_node.settings import NodeSettings
from tests.support.federation import RECORDS, sentences
from tests.support.node_folders import NAME, OTHER, change
from tests.support.refusals import refused
from tests.support.settings_files import change_settings

pytestmark = pytest.mark.slow

FILES = {
    *("node.db", "node.db.mirror", "view.db"),
    *("node.toml", "trust-policy.txt", "authority.pem"),
    *(f"{NAME}.invite", f"{NAME}.request"),
}


@pytest.fixture
def place(used: Path) -> Path:
    """A backup of a node that took part in a round."""
    return back_up(used, used.with_name("backup")).folder


def sign_anew(place: Path, key: SigningKey) -> None:
    """Write the list of a changed backup again, as the holder of a key would."""
    name = NodeSettings.read(place / "node.toml").name
    (place / LIST).unlink()
    moved = place.rename(place.with_name("moved"))
    files = {p.relative_to(moved).as_posix(): p for p in moved.rglob("*")}
    content = BackupContent(
        folder=moved,
        kind="node",
        name=name,
        databases=[],
        files=[name for name, path in files.items() if path.is_file()],
    )
    write_backup(place, content, key=key, now=datetime.now(UTC))
    shutil.rmtree(moved)


def test_a_backup_has_state_and_public_files_and_no_key_and_no_record(
    used: Path, place: Path
) -> None:
    found = {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()}
    assert found == FILES | {LIST}
    records = sentences(NAME, RECORDS)
    secrets = [(used / "keys" / name).read_text().strip() for name in ("node.key",)]
    for path in place.rglob("*"):
        data = path.read_bytes()
        assert not any(each.encode() in data for each in [*records, *secrets]), path


def test_a_restored_folder_has_the_state_and_says_that_it_is_older(
    used: Path, place: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "restored"
    assert restore(place, folder).name == NAME
    before, after = (NodeState(p / "node.db", readonly=True) for p in (used, folder))
    assert before.restored is None
    assert after.restored is not None
    assert after.restored.since > 0
    assert after.reading().number == before.reading().number + 1
    assert [r.content for r in after.receipts()] == [
        r.content for r in before.receipts()
    ]
    assert after.accounts() == before.accounts()
    before.close()
    after.close()
    assert not (folder / "keys").exists()


def test_a_public_file_with_a_private_key_in_it_is_left_out(used: Path) -> None:
    key = (used / "keys" / "transport").read_bytes()
    (used / "authority.pem").write_bytes(key)
    assert "authority.pem" not in back_up(used, used.with_name("backup")).files


@pytest.mark.parametrize("name", ["node.db", "view.db"])
def test_a_node_that_never_ran_has_nothing_to_back_up(idle: Path, name: str) -> None:
    for path in idle.glob(f"{name}*"):
        path.unlink()
    with refused(IncompleteError, "state-missing", match=f"{idle} has no {name}:"):
        back_up(idle, idle.with_name("backup"))


def test_a_backup_in_the_folder_itself_is_refused(used: Path) -> None:
    with refused(ConfigError, "backup-inside-folder", match=str(used)):
        back_up(used, used / "backups" / "monday")
    assert not (used / "backups").exists()


def test_a_backup_without_a_log_that_knows_the_node_is_refused(
    idle: Path, used: Path, tmp_path: Path
) -> None:
    """Nothing would tell who signed it: settings of any kind could be put into it."""
    place = back_up(idle, tmp_path / "backup").folder
    with refused(VerificationError, "backup-without-log"):
        restore(place, tmp_path / "restored")
    place = back_up(used, tmp_path / "other").folder
    (place / "view.db").unlink()
    sign_anew(place, SigningKey.load(used / "keys" / "node.key"))
    with refused(TapestryError, "database-unavailable"):
        restore(place, tmp_path / "restored")


def test_a_state_that_does_not_hold_is_not_backed_up(used: Path) -> None:
    store = NodeState(used / "node.db")
    store.database.query("UPDATE entries SET body = x'7b7d' WHERE number = 2")
    store.close()
    with pytest.raises(VerificationError):
        back_up(used, used.with_name("backup"))
    assert not used.with_name("backup").exists()


def test_a_folder_in_use_and_one_that_holds_a_state_are_refused(
    used: Path, place: Path
) -> None:
    with (
        lock_file(used / "node.lock"),
        refused(ConfigError, "folder-in-use", match=str(used)),
    ):
        restore(place, used)
    with refused(ConfigError, "restore-folder-taken", match=str(used)):
        restore(place, used)


def test_a_file_that_was_changed_or_is_gone_is_refused(
    place: Path, tmp_path: Path
) -> None:
    for name in sorted(FILES):
        whole = (place / name).read_bytes()
        data = bytearray(whole)
        data[len(data) // 2] ^= 1
        (place / name).write_bytes(bytes(data))
        with refused(VerificationError, "backup-file-changed", match=name):
            restore(place, tmp_path / "restored")
        (place / name).unlink()
        with refused(TapestryError, "file-missing", match=name):
            restore(place, tmp_path / "restored")
        assert not (tmp_path / "restored").exists()
        (place / name).write_bytes(whole)
    restore(place, tmp_path / "restored")


def test_a_backup_that_another_key_signed_is_refused(
    used: Path, place: Path, tmp_path: Path
) -> None:
    """Who can write the folder of backups holds no key of the node."""
    sign_anew(place, SigningKey.generate(f"{NAME}/node"))
    with refused(VerificationError, "backup-signature-invalid"):
        restore(place, tmp_path / "restored")
    sign_anew(place, SigningKey.load(used.parent / OTHER / "keys" / "node.key"))
    with refused(VerificationError, "backup-signature-invalid"):
        restore(place, tmp_path / "restored")
    sign_anew(place, SigningKey.load(used / "keys" / "node.key"))
    restore(place, tmp_path / "restored")


@pytest.mark.parametrize("name", ["node.db", "view.db"])
def test_a_database_with_other_tables_is_not_read(
    place: Path, tmp_path: Path, name: str
) -> None:
    """Which key signs a backup is in its databases: they are opened before."""
    with closing(sqlite3.connect(place / name)) as database:
        database.execute("CREATE VIEW more AS SELECT 1")
    sign_anew(place, SigningKey.generate(f"{NAME}/node"))
    with refused(VerificationError, "database-kind-differs", match=name):
        restore(place, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_what_is_checked_is_what_is_restored(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup that shows another state at each look is none."""
    seen: list[Path] = []

    def look(folder: Path, settings: NodeSettings, **rest: Any) -> LogMirror:
        seen.append(folder)
        return open_mirror(folder, settings, **rest)

    monkeypatch.setattr(node_backup, "open_mirror", look)
    restore(place, tmp_path / "restored")
    assert len(seen) == 1
    assert seen != [place]


def test_a_state_from_before_the_mirror_is_refused(
    used: Path, place: Path, tmp_path: Path
) -> None:
    """The parts of two backups, put together by someone who holds the key."""
    key = SigningKey.load(used / "keys" / "node.key")
    for path in place.glob("node.db*"):
        path.unlink()
    NodeState(place / "node.db").mark_restored(since=0)
    store = NodeState(place / "node.db")
    with store.writing() as replay:
        replay.append({"type": "settled", "size": 0})
    store.close()
    sign_anew(place, key)
    with refused(VerificationError, "state-restored", match="node.db"):
        restore(place, tmp_path / "restored")


def test_a_backup_with_the_settings_of_another_node_is_refused(
    used: Path, place: Path, tmp_path: Path
) -> None:
    change(place, {"name": OTHER})
    listed = (place / LIST).read_text()
    sign_anew(place, SigningKey.load(used / "keys" / "node.key"))
    written = (place / LIST).read_text()
    assert f" {OTHER} " in written
    with refused(VerificationError, "backup-signature-invalid"):
        restore(place, tmp_path / "restored")  # that one has another key in the log
    (place / LIST).write_text(written.replace(f" {OTHER} ", f" {NAME} "))
    assert f" {NAME} " in listed
    with refused(VerificationError, "backup-of-another"):
        restore(place, tmp_path / "restored")


def test_a_mirror_of_another_log_is_refused(
    used: Path, place: Path, tmp_path: Path
) -> None:
    genesis = {"genesis": "sha256:" + "0" * 64}
    change_settings(place / "node.toml", NodeSettings, genesis)
    sign_anew(place, SigningKey.load(used / "keys" / "node.key"))
    with refused(VerificationError, "genesis-differs"):
        restore(place, tmp_path / "restored")
