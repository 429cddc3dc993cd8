"""Backup and restoration of a coordinator's folder.

A backup has the log, the journals, and all files of runs, releases and adapters. It has
no private key, and nothing that is made again: the public files of the log, Flower's.
The log is copied before the journals, which are ahead of it after any crash.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tapestry.errors import ConfigError, VerificationError
from tapestry.keys import SigningKey, VerifyKey
from tapestry.storage import durable_files
from tapestry.storage.file_lock import is_locked
from tapestry_coordinator.restored_log import MARKER
from tapestry_coordinator.run_folders import PUBLISHED, RUNS, begun
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_coordinator.superlink.service_process import HOME
from tapestry_governance.folder_backup import (
    KEYS,
    BackupContent,
    FolderBackup,
    open_backup,
    restoring,
    write_backup,
)
from tapestry_governance.log.database import LogDatabase
from tapestry_governance.rules.federation_state import Leadership
from tapestry_governance.rules.replay import apply_all

_LOG = "log/log.db"
_JOURNAL = "journal.db"
_LEFT_OUT = {KEYS, "log", HOME, MARKER}
_UNFINISHED = (durable_files.SUFFIX, ".lock", "-wal", "-shm", ".key", _JOURNAL)


def back_up(folder: Path, place: Path) -> FolderBackup:
    """Copy a coordinator's folder into a new one, also while it works.

    Raises:
        ConfigError: The folder has no log, a file is invalid, or the place is taken or
            in the folder itself.
        ResourceError: A file cannot be copied.
    """
    settings = CoordinatorSettings.read(folder / "coordinator.toml")
    if not (folder / _LOG).exists():
        raise ConfigError(
            f"{folder} has no {_LOG}; found the federation first, by tapestry"
            " coordinator open",
            code="log-missing",
        )
    journals = [f"{RUNS}/{run_id}/{_JOURNAL}" for run_id in begun(folder)]
    names = [_LOG, *(name for name in journals if (folder / name).exists())]
    content = BackupContent(
        folder=folder,
        kind="coordinator",
        name=settings.federation,
        databases=names,
        files=list(_files(folder)),
    )
    key = SigningKey.load(folder / KEYS / "author.key")
    return write_backup(place, content, key=key, now=datetime.now(UTC))


def restore(place: Path, folder: Path) -> FolderBackup:
    """Make a coordinator's folder from a backup, and mark its log as an older one.

    Guarantees:
        Nothing is appended to the log before all members have told how much of it they
        mirror (``restored_log``).

    Raises:
        ConfigError: The folder is in use or not empty.
        IncompleteError, ForeignFileError: A file is missing from the backup, or was put
            into it.
        VerificationError: The backup was changed, or is not this coordinator's.
        InconsistentLog: The log is damaged, or not of the key that its charter names.
        ResourceError: A file cannot be read or written.
    """
    if is_locked(folder / "log" / "lock"):
        raise ConfigError(
            f"another process has the log of {folder} open; stop it: a folder that"
            " works is newer than its backup",
            code="folder-in-use",
        )
    backup = open_backup(place, kind="coordinator")
    if _LOG not in backup.files:
        raise VerificationError(
            f"{place} is a backup without {_LOG}; take another",
            code="backup-without-log",
        )
    with restoring(backup, folder) as draft:
        lead = _lead(draft)
        backup.require_signature(VerifyKey.parse(lead.coordinator.key))
        marked = f"{backup.time}\n".encode("ascii")
        durable_files.replace_file(draft / MARKER, marked, mode=0o600)
        for name in PUBLISHED:
            _open_to_all(draft / name)
    return backup


def _open_to_all(folder: Path) -> None:
    """Let every user read what is published, as before; a backup is for its owner."""
    folder.mkdir(exist_ok=True)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _lead(folder: Path) -> Leadership:
    """Read who leads the log, and compare the log's key with it.

    Raises:
        VerificationError: The log is empty.
        RuleError: The log breaks a rule, as one without a charter does.
        ConfigError, InconsistentLog: The database is damaged, or of another key.
    """
    store = LogDatabase(folder / "log")
    try:
        store.require_tables()  # nothing has told yet whose backup it is
        rows = store.rows(0, store.size())
        state = apply_all(None, (data for _, _, data in rows))
        if state is None:
            raise VerificationError(
                f"the log of {folder} is empty; take another backup",
                code="backup-without-log",
            )
        store.check_key(state.lead.log)
        return state.lead
    finally:
        store.close()


def _files(folder: Path) -> Iterator[str]:
    """Name the files that are copied; a crash's leftovers are not among them."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_left = name.parts[0] in _LEFT_OUT or path.name.endswith(_UNFINISHED)
        is_hidden = any(part.startswith(".") for part in name.parts)
        is_draft = any(part.endswith(durable_files.SUFFIX) for part in name.parts)
        is_plain = path.is_file() and not path.is_symlink()
        if is_plain and not (is_left or is_hidden or is_draft):
            yield name.as_posix()
