"""Backup and restoration of a node's folder.

A backup has ``node.db`` with all obligations in one, the mirror of the log, settings
and public files. It has no private key, no records, and nothing that is made again:
snapshots of the base, an adapter under way.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from tapestry.encoding import digest
from tapestry.errors import ConfigError, IncompleteError, VerificationError
from tapestry.keys import SigningKey, VerifyKey
from tapestry.storage import durable_files
from tapestry.storage.file_lock import is_locked
from tapestry.storage.sqlite_database import open_database
from tapestry_governance.folder_backup import (
    BackupContent,
    FolderBackup,
    open_backup,
    restoring,
    write_backup,
)
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.rules.federation_state import FederationState
from tapestry_node.directory import open_mirror
from tapestry_node.node_keys import KeyRing
from tapestry_node.node_state import DATABASE, NodeState
from tapestry_node.round.spot_checks import DISPUTES
from tapestry_node.settings import NodeSettings

VIEW = "view.db"
HEAD = f"{DATABASE}.mirror"
SETTINGS = "node.toml"
_PRIVATE = b"PRIVATE KEY"


def back_up(folder: Path, place: Path) -> FolderBackup:
    """Copy a node's folder into a new one, also while the node runs.

    Guarantees:
        The state is that of one moment, and not older than the mirror of the log: it
        was copied after it. It was checked as a node checks it at its start.

    Raises:
        IncompleteError: The node never ran.
        ConfigError: A setting is invalid, or the place is taken or
            in the folder itself.
        ResourceError: A file cannot be copied.
        VerificationError: The state does not hold.
    """
    settings = NodeSettings.read(folder / SETTINGS)
    databases = (VIEW, DATABASE)
    if missing := [name for name in databases if not (folder / name).exists()]:
        raise IncompleteError(
            f"{folder} has no {' and no '.join(missing)}: the node never ran, or it was"
            " deleted; there is nothing to back up",
            code="state-missing",
        )
    content = BackupContent(
        folder=folder,
        kind="node",
        name=settings.name,
        databases=databases,
        files=list(_public_files(folder, settings)),
    )
    return write_backup(
        place,
        content,
        key=_signing_key(folder, settings),
        now=datetime.now(UTC),
        check=_check_copy,
    )


def restore(place: Path, folder: Path) -> FolderBackup:
    """Make a node's folder from a backup, and note in its state that it is older.

    Guarantees:
        What was reserved counts as spent. The node does nothing that binds it before
        it has counted all that the log may tell of later (``restored_state``).

    Raises:
        ConfigError: The folder is in use or not empty, or a setting is invalid.
        IncompleteError, ForeignFileError: A file is missing from the backup, or was put
            into it.
        VerificationError: The backup was changed, or is not this node's.
        ResourceError: A file cannot be read or written.
    """
    if is_locked((folder / DATABASE).with_suffix(".lock")):
        raise ConfigError(
            f"another process serves {folder}; stop it: a folder that works is newer"
            " than its backup",
            code="folder-in-use",
        )
    backup = open_backup(place, kind="node")
    with restoring(backup, folder) as draft:
        since = _check_backup(backup, draft)
        state = NodeState(draft / DATABASE)
        state.mark_restored(since=since)
        state.close()
    return backup


def _check_backup(backup: FolderBackup, copy: Path) -> int:
    """Check state and mirror of a copy; return since when the log may know more.

    Raises:
        VerificationError: One does not hold, or is of another node.
    """
    settings = NodeSettings.read(copy / SETTINGS)
    if backup.name != settings.name:
        raise VerificationError(
            f"{backup.folder} is a backup of {backup.name!r} with settings of"
            f" {settings.name!r}",
            code="backup-of-another",
        )
    with ExitStack() as opened:
        state = NodeState(copy / DATABASE, readonly="still")
        opened.callback(state.close)
        mirror = open_mirror(copy, settings, readonly="still")
        opened.callback(mirror.close)
        return _check_mirror(backup, mirror, state)


def _check_mirror(backup: FolderBackup, mirror: LogMirror, state: NodeState) -> int:
    """Require the member's signature, and a state that is not behind the mirror.

    Returns:
        The index of the last round that was opened, which may go on after the backup.

    Raises:
        VerificationError: The log that was mirrored does not know the node, so that its
            key cannot be told.
    """
    member = mirror.state.members.get(backup.name) if mirror.size else None
    if member is None:
        raise VerificationError(
            f"{backup.folder} has no log with {backup.name!r} in it, so that nothing"
            " tells whose backup it is; a node that saw no log has spent nothing, and"
            " starts from its keys and settings",
            code="backup-without-log",
        )
    _require_signature(backup, mirror.state)
    state.require(mirror.state.uploads_of(backup.name))
    last = mirror.state.last
    return mirror.size if last is None else mirror.state.rounds[last].opened


def _signing_key(folder: Path, settings: NodeSettings) -> SigningKey:
    """Return the node key that the mirrored log has in force."""
    mirror = open_mirror(folder, settings, readonly=True)
    try:
        ring = KeyRing.read(folder, settings.name)
        return (ring.as_of(mirror.state) if mirror.size else ring.held)["node"]
    finally:
        mirror.close()


def _require_signature(backup: FolderBackup, log: FederationState) -> None:
    """Require the member's signature, by its node key or the one just before.

    A rotation may have come into force while the backup was written.

    Raises:
        VerificationError: Neither signed, or the former one was compromised.
    """
    former = log.former_keys.get((backup.name, "node"), ())[-1:]
    try:
        backup.require_signature(VerifyKey.parse(log.members[backup.name].node))
    except VerificationError:
        if not former or former[0].compromised:
            raise
        backup.require_signature(former[0].key)


def _check_copy(draft: Path) -> None:
    """Write the head of the copied state beside it, and check the state as a whole."""
    copy = open_database(draft / DATABASE, None, readonly="still")
    rows = copy.query("SELECT number, body FROM entries ORDER BY number DESC LIMIT 1")
    copy.close()
    line = "".join(f"{number} {digest(bytes(body))}\n" for number, body in rows)
    durable_files.replace_file(draft / HEAD, line.encode("ascii"), mode=0o600)
    NodeState(draft / DATABASE, readonly="still").close()


def _public_files(folder: Path, settings: NodeSettings) -> Iterator[str]:
    """Name the files that people wrote or sent, and proofs of false sums."""
    names = [SETTINGS, "trust-policy.txt", f"{settings.name}.invite"]
    names.append(f"{settings.name}.request")
    if settings.transport is not None:
        names.append(settings.transport.root_certificates)
    names += [] if settings.manifest is None else [settings.manifest]
    for name in names:
        path = folder / name
        inside = path.is_file() and path.resolve().is_relative_to(folder.resolve())
        if inside and _PRIVATE not in path.read_bytes():
            yield path.relative_to(folder).as_posix()
    for path in sorted((folder / DISPUTES).rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(folder).as_posix()
