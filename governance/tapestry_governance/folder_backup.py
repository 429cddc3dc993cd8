"""Backups of a node's or a coordinator's folder: copied while it works, and signed.

::

    BACKUP          "tapestry-backup/1" LF kind SP name SP time LF, a line for each
                    file as ``sha256sum`` prints it, and a signature in hex
    node.db, ...    the files, under the names that they have in the folder

The signature is by a key of the folder, over all lines before it; no parser of notes,
events or messages takes bytes that begin like these.

Not protected:
    Whoever holds the key can write another backup. An older one is whole, too: what
    came after it, the log alone can tell.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from tapestry.artifacts.foreign_files import take_inventory
from tapestry.encoding import digest_file
from tapestry.errors import ConfigError, IncompleteError, VerificationError
from tapestry.inputs.plain_file import read_plain, reading
from tapestry.keys import SigningKey, VerifyKey
from tapestry.schema import check_file_name
from tapestry.storage import durable_files
from tapestry.storage.sqlite_database import copy_database

LIST = "BACKUP"
KEYS = "keys"
_MOST_BYTES = 64 << 20  # of the list
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)\n")
_TEXT = re.compile(
    r"(tapestry-backup/1\n(node|coordinator) ([!-~]{1,128}) ([0-9TZ:+-]{20,25})\n"
    r"((?:[0-9a-f]{64}  [^\n]+\n)*))([0-9a-f]{128})\n"
)
Kind = Literal["node", "coordinator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderBackup:
    """A backup whose files are plain, complete and as its list says."""

    folder: Path
    name: str  # of the node, or the federation
    time: str
    files: Mapping[str, str]  # SHA-256 in hex, by name
    signed: bytes
    signature: bytes

    def require_signature(self, key: VerifyKey) -> None:
        """Require that the list was written by the holder of a key.

        Raises:
            VerificationError: It was changed, or written by another one.
        """
        try:
            key.verify(self.signed, self.signature)
        except VerificationError:
            raise VerificationError(
                f"{self.folder / LIST} is not signed by {key.keyid}: it was changed, or"
                " is the backup of another; take one that was not",
                code="backup-signature-invalid",
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupContent:
    """The files of a folder that go into a backup, by their names in it.

    A plain file that vanishes meanwhile is left out: the folder is in use.
    """

    folder: Path
    kind: Kind
    name: str
    databases: Sequence[str]  # copied first, in this order
    files: Sequence[str]


def write_backup(
    place: Path,
    content: BackupContent,
    *,
    key: SigningKey,
    now: datetime,
    check: Callable[[Path], None] = lambda _: None,
) -> FolderBackup:
    """Copy files and databases into a new folder, which is whole or absent.

    Guarantees:
        Folders are of mode 0700, files of mode 0600. No file below ``keys/`` is copied.

    Args:
        place: A folder that does not exist yet.
        content: The files.
        key: Signs the list.
        now: The time that the list names.
        check: Called with the copied databases, to which it may add; raises if they do
            not hold.

    Raises:
        ConfigError: The place is taken, or in the folder itself.
        ResourceError: A file cannot be copied.
        VerificationError: A name is not portable, so that no list can have it.
    """
    if place.exists() or place.is_symlink():
        raise ConfigError(f"{place} exists; choose a new folder", code="file-exists")
    if place.resolve().is_relative_to(content.folder.resolve()):
        raise ConfigError(
            f"{place} is in {content.folder}, and would be in the next backup; choose a"
            " folder elsewhere, best on another disk",
            code="backup-inside-folder",
        )
    with durable_files.replace_folder(place) as draft:
        draft.mkdir(mode=0o700)
        for name in content.databases:
            copy_database(content.folder / name, _place(draft, name))
        check(draft)
        for name in content.files:
            with suppress(FileNotFoundError):
                _copy(content.folder / name, _place(draft, name))
        for path in sorted(draft.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()  # its files vanished meanwhile
        _write_list(draft, content, key=key, now=now)
    return open_backup(place, kind=content.kind)


def open_backup(folder: Path, *, kind: Kind) -> FolderBackup:
    """Compare a backup with its list.

    Guarantees:
        The folder holds exactly the listed files with the listed bytes; no link, no
        device, no other file. The signature is not checked: the caller knows the key.

    Raises:
        ConfigError: It is the backup of another kind of folder.
        IncompleteError: The list, or a file that it names, is missing.
        VerificationError: A file was changed or is no plain file, or the list is none.
        ForeignFileError: The folder holds links, or files that are not listed.
        ResourceError: A file cannot be read.
    """
    with reading(folder):
        backup = _read_list(folder, kind)
        found = take_inventory(folder, backup.files, own=LIST, own_is_folder=False)
        for name, path in found.files.items():
            if digest_file(path) != f"sha256:{backup.files[name]}":
                message = f"{path} was changed since the backup; take another backup"
                raise VerificationError(message, code="backup-file-changed")
    if found.odd:
        message = f"{folder / found.odd[0]} is no plain file"
        raise VerificationError(message, code="file-not-plain")
    found.refuse_foreign(str(folder))
    if found.missing:
        message = f"{found.missing[0]} is missing from {folder}; take another backup"
        raise IncompleteError(message, code="file-missing")
    return backup


@contextmanager
def restoring(backup: FolderBackup, folder: Path) -> Iterator[Path]:
    """Copy a backup into a draft of a folder, which the block completes.

    Guarantees:
        The folder is whole or as it was. What it holds already is never replaced: the
        newer state of two is the one that was not restored.

    Yields:
        The path of the draft, whose files are as the list says, whatever became of the
        backup meanwhile: what is checked in the draft is what is restored.

    Raises:
        ConfigError: The folder is there and not empty.
        VerificationError: A file of the backup was changed while it was copied.
        ResourceError: A file cannot be written.
    """
    with reading(folder):
        is_taken = folder.is_symlink() or (folder.exists() and any(folder.iterdir()))
    if is_taken:
        raise ConfigError(
            f"{folder} is not empty, and what it holds may be newer than the backup of"
            f" {backup.time}; if it is damaged, move it away, and restore into a new"
            " folder",
            code="restore-folder-taken",
        )
    with durable_files.replace_folder(folder) as draft:
        draft.mkdir(mode=0o700)
        for name, listed in backup.files.items():
            _copy(backup.folder / name, _place(draft, name))
            if digest_file(draft / name) != f"sha256:{listed}":
                message = f"{backup.folder / name} was changed while it was copied"
                raise VerificationError(message, code="backup-file-changed")
        yield draft


def _place(draft: Path, name: str) -> Path:
    """Return where a file goes; its folders are made, for their owner alone."""
    _check_name(name)
    path = draft
    for part in name.split("/"):
        if not path.exists():
            path.mkdir(mode=0o700)
        path = path / part
    return path


def _check_name(name: str) -> None:
    """Require a name that a backup may have.

    Raises:
        VerificationError: The name is not portable, or of a private key's folder.
    """
    try:
        first, *_ = check_file_name(name).split("/")
    except ValueError as error:
        raise VerificationError(str(error), code="name-not-portable") from None
    if first == KEYS:
        message = f"{name} is a private key's place; keys are kept apart from backups"
        raise VerificationError(message, code="backup-with-key")


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target, follow_symlinks=False)
    if target.is_symlink():
        message = f"{source} became a link while it was copied"
        raise VerificationError(message, code="file-not-plain")
    target.chmod(0o600)


def _write_list(
    draft: Path, content: BackupContent, *, key: SigningKey, now: datetime
) -> None:
    time = now.isoformat(timespec="seconds")
    lines = [f"tapestry-backup/1\n{content.kind} {content.name} {time}\n"]
    found = {path.relative_to(draft).as_posix(): path for path in draft.rglob("*")}
    for name, path in sorted(found.items()):
        if path.is_file():
            lines.append(f"{digest_file(path).removeprefix('sha256:')}  {name}\n")
    text = "".join(lines).encode("ascii")
    signature = f"{key.sign(text).hex()}\n".encode("ascii")
    durable_files.replace_file(draft / LIST, text, signature, mode=0o600)


def _read_list(folder: Path, kind: Kind) -> FolderBackup:
    try:
        text = read_plain(folder / LIST, limit=_MOST_BYTES).decode("ascii", "replace")
    except FileNotFoundError:
        message = f"{folder} has no {LIST}; name the folder of a backup"
        raise IncompleteError(message, code="backup-missing") from None
    found = _TEXT.fullmatch(text)
    if found is None:
        message = f"{folder / LIST} was changed: it is no list of a backup"
        raise VerificationError(message, code="backup-list-malformed")
    if found[2] != kind:
        message = f"{folder} is the backup of a {found[2]}, not of a {kind}"
        raise ConfigError(message, code="backup-kind-differs")
    rows = {match[2]: match[1] for match in _LINE.finditer(found[5])}
    for name in rows:
        _check_name(name)
    return FolderBackup(
        folder=folder,
        name=found[3],
        time=found[4],
        files=rows,
        signed=found[1].encode("ascii"),
        signature=bytes.fromhex(found[6]),
    )
