"""A backup of a folder: whole, private, signed, and refused when anything differs."""

import os
import re
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tapestry.encoding import digest_file
from tapestry.errors import (
    ConfigError,
    ForeignFileError,
    IncompleteError,
    ResourceError,
    TapestryError,
    VerificationError,
)
from tapestry.keys import SigningKey
from tapestry.storage.sqlite_database import Schema, open_database
from tapestry_governance.folder_backup import (
    LIST,
    BackupContent,
    FolderBackup,
    open_backup,
    restoring,
    write_backup,
)
from tests.support.refusals import refused

KEY = SigningKey.generate("fr/node")
NOW = datetime(2026, 11, 30, 6, 0, tzinfo=UTC)
_TABLES = "CREATE TABLE number (value INTEGER NOT NULL) STRICT;\n"
SCHEMA = Schema(application="TpTs", version=1, tables=_TABLES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a database that a process has open, and two files."""
    folder = tmp_path / "folder"
    (folder / "disputes").mkdir(parents=True)
    (folder / "node.toml").write_text("name")
    (folder / "disputes" / "7").write_text("proof")
    database = open_database(folder / "node.db", SCHEMA)
    database.query("INSERT INTO number VALUES (1)")
    database.close()
    return folder


def content(folder: Path, *more: str) -> BackupContent:
    return BackupContent(
        folder=folder,
        kind="node",
        name="fr",
        databases=["node.db"],
        files=["node.toml", "disputes/7", *more],
    )


def backed_up(folder: Path) -> FolderBackup:
    place = folder.with_name("backup")
    return write_backup(place, content(folder), key=KEY, now=NOW)


def test_a_backup_is_for_its_owner_alone_and_signed(folder: Path) -> None:
    backup = backed_up(folder)
    found = {p.relative_to(backup.folder).as_posix() for p in backup.folder.rglob("*")}
    files = {"node.db", "node.toml", "disputes/7"}
    assert found == {LIST, "disputes", *files}
    assert set(backup.files) == files
    for path in (backup.folder, *backup.folder.rglob("*")):
        mode = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == mode, path
    assert (backup.name, backup.time) == ("fr", "2026-11-30T06:00:00+00:00")
    backup.require_signature(KEY.verify_key)
    other = SigningKey.generate("fr/node").verify_key
    with refused(
        VerificationError, "backup-signature-invalid", match=re.escape(other.keyid)
    ):
        backup.require_signature(other)


def test_a_database_is_copied_as_of_one_moment_while_it_is_written(
    folder: Path,
) -> None:
    writer = open_database(folder / "node.db", SCHEMA)
    with writer.transaction():
        writer.execute("INSERT INTO number VALUES (2)")
        place = backed_up(folder).folder
        writer.execute("INSERT INTO number VALUES (3)")
    writer.close()
    copy = open_database(place / "node.db", SCHEMA, readonly="still")
    assert copy.query("SELECT value FROM number") == [(1,)]
    copy.close()
    assert not list(place.glob("node.db-*"))


def test_a_place_that_is_taken_and_a_failed_check_change_nothing(folder: Path) -> None:
    def fail(_: Path) -> None:
        raise VerificationError("no", code="state-changed")

    place = folder.with_name("backup")
    with refused(VerificationError, "state-changed"):
        write_backup(place, content(folder), key=KEY, now=NOW, check=fail)
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    place.mkdir()
    with refused(ConfigError, "file-exists", match=str(place)):
        backed_up(folder)
    assert list(place.iterdir()) == []


def test_a_file_that_vanishes_meanwhile_is_left_out(folder: Path) -> None:
    place = folder.with_name("backup")
    backup = write_backup(place, content(folder, "gone"), key=KEY, now=NOW)
    assert "gone" not in backup.files


def test_a_folder_whose_files_vanish_meanwhile_is_left_out(folder: Path) -> None:
    """As the uploads of a round, when its release is made."""
    place = folder.with_name("backup")
    gone = content(folder, "runs/run-1/uploads/fr", "runs/run-1/uploads/more/de")
    backup = write_backup(place, gone, key=KEY, now=NOW)
    assert set(backup.files) == {"node.db", "node.toml", "disputes/7"}
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("name", "code"),
    [("keys/node.key", "backup-with-key"), ("../node.toml", "name-not-portable")],
)
def test_a_key_and_a_path_that_leaves_the_folder_are_never_copied(
    folder: Path, name: str, code: str
) -> None:
    (folder / "keys").mkdir()
    KEY.save(folder / "keys" / "node.key")
    place = folder.with_name("backup")
    with refused(VerificationError, code):
        write_backup(place, content(folder, name), key=KEY, now=NOW)
    assert not place.exists()


def _edit(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _link(place: Path) -> None:
    path = place / "node.toml"
    path.rename(place.with_name("elsewhere"))
    path.symlink_to(place.with_name("elsewhere"))


def _fifo(place: Path) -> None:
    (place / "node.toml").unlink()
    os.mkfifo(place / "node.toml")


DAMAGES: dict[str, tuple[Callable[[Path], object], type[TapestryError], str]] = {
    "database": (
        lambda p: _flip(p / "node.db"),
        VerificationError,
        "backup-file-changed",
    ),
    "file": (
        lambda p: (p / "node.toml").write_text("other"),
        VerificationError,
        "backup-file-changed",
    ),
    "file in a folder": (
        lambda p: _flip(p / "disputes" / "7"),
        VerificationError,
        "backup-file-changed",
    ),
    "removed": (
        lambda p: (p / "disputes" / "7").unlink(),
        IncompleteError,
        "file-missing",
    ),
    "added": (lambda p: (p / "more").touch(), ForeignFileError, "foreign-file"),
    "wal": (lambda p: (p / "node.db-wal").touch(), ForeignFileError, "foreign-file"),
    "link": (_link, ForeignFileError, "foreign-file"),
    "fifo": (_fifo, VerificationError, "file-not-plain"),
    "no list": (lambda p: (p / LIST).unlink(), IncompleteError, "backup-missing"),
    "list cut": (
        lambda p: (p / LIST).write_bytes((p / LIST).read_bytes()[:-9]),
        VerificationError,
        "backup-list-malformed",
    ),
    "another kind": (
        lambda p: _edit(p / LIST, b"node fr", b"coordinator fr"),
        ConfigError,
        "backup-kind-differs",
    ),
    "key in the list": (
        lambda p: _edit(p / LIST, b"  disputes/7", b"  keys/node.key"),
        VerificationError,
        "backup-with-key",
    ),
    "path in the list": (
        lambda p: _edit(p / LIST, b"  disputes/7", b"  ../disputes"),
        VerificationError,
        "name-not-portable",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_whatever_is_changed_in_a_backup_is_refused(folder: Path, name: str) -> None:
    place = backed_up(folder).folder
    damage, kind, code = DAMAGES[name]
    damage(place)
    with refused(kind, code):
        open_backup(place, kind="node")


@pytest.mark.parametrize(("old", "new"), [(b"node fr", b"node fi"), (b"2026", b"2027")])
def test_a_list_that_was_edited_is_not_signed(
    folder: Path, old: bytes, new: bytes
) -> None:
    place = backed_up(folder).folder
    _edit(place / LIST, old, new)
    edited = open_backup(place, kind="node")
    with refused(VerificationError, "backup-signature-invalid"):
        edited.require_signature(KEY.verify_key)


def test_a_file_and_its_line_changed_together_are_not_signed(folder: Path) -> None:
    place = backed_up(folder).folder
    was = digest_file(place / "node.toml").removeprefix("sha256:")
    (place / "node.toml").write_text("other")
    now = digest_file(place / "node.toml").removeprefix("sha256:")
    _edit(place / LIST, was.encode(), now.encode())
    edited = open_backup(place, kind="node")
    with refused(VerificationError, "backup-signature-invalid"):
        edited.require_signature(KEY.verify_key)


def test_a_backup_becomes_a_folder_that_is_whole_or_absent(folder: Path) -> None:
    backup, target = backed_up(folder), folder.with_name("again")
    target.mkdir()
    with suppress(KeyError), restoring(backup, target) as draft:
        (draft / "node.toml").unlink()
        raise KeyError
    assert list(target.iterdir()) == []
    with restoring(backup, target) as draft:
        (draft / "more").touch()
    assert sorted(p.name for p in target.iterdir()) == [
        "disputes",
        "more",
        "node.db",
        "node.toml",
    ]
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert (target / "disputes" / "7").read_text() == "proof"


def test_a_folder_with_something_in_it_is_never_replaced(folder: Path) -> None:
    backup = backed_up(folder)
    before = (folder / "node.toml").read_text()
    with refused(ConfigError, "restore-folder-taken", match="2026-11-30"):
        restored(backup, folder)
    assert (folder / "node.toml").read_text() == before
    link = folder.with_name("link")
    link.symlink_to(shutil.copytree(backup.folder, folder.with_name("copy")))
    with refused(ConfigError, "restore-folder-taken"):
        restored(backup, link)
    file = folder.with_name("file")
    file.touch()
    with refused(ResourceError, "file-unreadable"):
        restored(backup, file)


def restored(backup: FolderBackup, folder: Path) -> None:
    with restoring(backup, folder):
        pass


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda path: path.write_text("other"), "backup-file-changed"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/null")), "file-not-plain"),
    ],
    ids=["content", "link"],
)
def test_a_file_that_changes_after_it_was_compared_is_not_restored(
    folder: Path, change: Callable[[Path], object], code: str
) -> None:
    """Who can write to the backup can wait for the moment."""
    backup = backed_up(folder)
    change(backup.folder / "node.toml")
    target = folder.with_name("restored")
    with refused(VerificationError, code), restoring(backup, target) as draft:
        (draft / "done").touch()
    assert not target.exists()
