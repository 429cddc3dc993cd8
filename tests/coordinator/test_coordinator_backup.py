"""Backup and restoration of a coordinator's folder."""

import hashlib
import shutil
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from tapestry.errors import (
    ConfigError,
    InconsistentLog,
    TapestryError,
    VerificationError,
)
from tapestry.keys import SigningKey
from tapestry.protocol.messages import Kind, Message
from tapestry.storage.file_lock import lock_file
from tapestry_coordinator.coordinator_backup import back_up, restore
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.led_log import MARKER
from tapestry_coordinator.restored_log import hear_members
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.folder_backup import LIST
from tapestry_governance.log.writer import Log
from tests.coordinator.conftest import Found
from tests.support.federation import NAMES, Deliver, Federation
from tests.support.refusals import refused

pytestmark = pytest.mark.slow


def put_back(federation: Federation, place: Path) -> None:
    """Lose the coordinator's folder, and restore it; keys come from elsewhere."""
    folder = federation.coordinator
    lost = folder.rename(folder.with_name("lost"))
    restore(place, folder)
    shutil.copytree(lost / "keys", folder / "keys")
    shutil.rmtree(lost)


def test_a_backup_that_nothing_came_after_goes_on_where_it_was(found: Found) -> None:
    federation = found(coordinator={"rounds": 2})
    offers = count(1)
    federation.run_until_killed(
        lambda _, m: m.kind is Kind.ADVERTISE_KEYS and next(offers) > len(NAMES)
    )
    assert len(federation.closed()) == 1
    place = back_up(federation.coordinator, federation.directory / "backup").folder
    put_back(federation, place)
    assert not (federation.coordinator / "log" / "public").exists()
    with refused(TapestryError, "restored-unheard", match="all members"):
        federation.run()
    hear_members(federation.coordinator, federation.wire)
    assert not (federation.coordinator / MARKER).exists()
    federation.run()
    assert len(federation.closed()) == 2
    assert set(federation.uploads().values()) == {1}
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def test_a_backup_taken_while_a_round_runs_is_refused_by_members_who_saw_more(
    found: Found,
) -> None:
    federation = found()
    place = federation.directory / "backup"

    def copy(_name: str, request: Message, deliver: Deliver) -> Message:
        back_up(federation.coordinator, place)
        return deliver(request)

    federation.wire.on("fr", Kind.UNMASK, copy)
    federation.run()
    journal = Journal(place / "runs" / "run", readonly=True)
    assert [row.status for row in journal.rounds()] == ["open"]
    journal.close()
    for path in place.rglob("journal.db-*"):
        path.unlink()
    put_back(federation, place)
    size = len(federation.entries())
    with refused(InconsistentLog, "log-restored", match=r"of \d+ entries"):
        hear_members(federation.coordinator, federation.wire)
    assert len(federation.entries()) == size
    assert (federation.coordinator / MARKER).exists()


def test_a_backup_has_log_journals_and_runs_and_no_key(found: Found) -> None:
    federation = found()
    federation.run()
    folder = federation.coordinator
    (folder / "adapters" / ".draft").mkdir(parents=True)
    (folder / "adapters" / ".draft" / "x").touch()
    (folder / "releases" / "base-9.new").mkdir()
    (folder / "releases" / "base-9.new" / "x").touch()
    place = back_up(folder, federation.directory / "backup").folder
    found_files = {p.relative_to(place).as_posix() for p in place.rglob("*")}
    for name in (
        *("log/log.db", "runs/run/journal.db", "runs/run/run.toml"),
        *("runs/run/sums/round-00001.u32", "releases/base-1/tapestry/release.entry"),
        *("coordinator.toml", "trust-policy.txt", "tls/authority.pem"),
    ):
        assert name in found_files, name
    assert not {name for name in found_files if "key" in Path(name).suffix}
    assert not {n for n in found_files if n.startswith(("keys", "superlink", "log/p"))}
    assert not {n for n in found_files if ".draft" in n or ".new" in n}
    seeds = [p.read_bytes().strip() for p in (folder / "keys").glob("*.key")]
    assert len(seeds) == 3
    for path in place.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(seed in data for seed in seeds), path


def test_a_folder_that_was_never_founded_has_nothing_to_back_up(
    found: Found, tmp_path: Path
) -> None:
    folder = found().coordinator
    (folder / "log").rename(tmp_path / "log")
    with refused(ConfigError, "log-missing", match="coordinator open"):
        back_up(folder, tmp_path / "backup")


def test_a_folder_in_use_and_one_that_holds_a_log_are_refused(found: Found) -> None:
    federation = found()
    folder = federation.coordinator
    place = back_up(folder, federation.directory / "backup").folder
    with (
        lock_file(folder / "log" / "lock"),
        refused(ConfigError, "folder-in-use", match=str(folder)),
    ):
        restore(place, folder)
    with refused(ConfigError, "restore-folder-taken", match=str(folder)):
        restore(place, folder)


@pytest.mark.parametrize(
    "name", ["log/log.db", "runs/run/run.toml", "trust-policy.txt"]
)
def test_a_file_that_was_changed_or_lost_is_refused(
    found: Found, tmp_path: Path, name: str
) -> None:
    place = back_up(found().coordinator, tmp_path / "backup").folder
    data = bytearray((place / name).read_bytes())
    data[len(data) // 2] ^= 1
    (place / name).write_bytes(bytes(data))
    with refused(VerificationError, "backup-file-changed", match=name):
        restore(place, tmp_path / "restored")
    (place / name).unlink()
    with refused(TapestryError, "file-missing", match=name):
        restore(place, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_a_list_that_another_key_signed_is_refused(
    found: Found, tmp_path: Path
) -> None:
    place = back_up(found().coordinator, tmp_path / "backup").folder
    lines = (place / LIST).read_bytes().splitlines(keepends=True)
    text = b"".join(lines[:-1])
    other = SigningKey.generate("coordinator/author")
    (place / LIST).write_bytes(text + other.sign(text).hex().encode() + b"\n")
    with refused(VerificationError, "backup-signature-invalid"):
        restore(place, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_a_log_with_other_tables_is_not_read(found: Found, tmp_path: Path) -> None:
    """Which key signs a backup is in its log, which is opened before."""
    place = back_up(found().coordinator, tmp_path / "backup").folder
    log = place / "log" / "log.db"
    before = hashlib.sha256(log.read_bytes()).hexdigest()
    with closing(sqlite3.connect(log)) as database:
        database.execute("ALTER TABLE entry RENAME TO other")
        database.execute("CREATE VIEW entry AS SELECT * FROM other")
    after = hashlib.sha256(log.read_bytes()).hexdigest()
    listed = (place / LIST).read_text()
    assert before in listed
    (place / LIST).write_text(listed.replace(before, after))
    with refused(InconsistentLog, "database-kind-differs", match="log.db"):
        restore(place, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_what_is_published_is_readable_for_all_when_it_was_put_back(
    found: Found,
) -> None:
    federation = found()
    federation.run()
    assert not (federation.coordinator / "adapters").exists()
    place = back_up(federation.coordinator, federation.directory / "backup").folder
    put_back(federation, place)
    for name in ("releases", "adapters"):
        folder = federation.coordinator / name
        for path in (folder, *folder.rglob("*")):
            assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)
    assert list((federation.coordinator / "releases").rglob("*.safetensors"))
    log = federation.coordinator / "log" / "log.db"
    assert log.stat().st_mode & 0o777 == 0o600


def test_the_public_log_is_written_again(found: Found) -> None:
    federation = found()
    federation.run()
    public = federation.coordinator / "log" / "public"
    before = {
        p.relative_to(public): p.read_bytes() for p in public.rglob("*") if p.is_file()
    }
    place = back_up(federation.coordinator, federation.directory / "backup").folder
    put_back(federation, place)
    Log.open(federation.coordinator / "log", key=federation.log_key()).close()
    after = {
        p.relative_to(public): p.read_bytes() for p in public.rglob("*") if p.is_file()
    }
    del before[Path("outbox.json")]  # members sign others with the next checkpoint
    assert before.items() <= after.items()
    assert set(NAMES) <= set(federation.nodes)
