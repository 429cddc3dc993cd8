"""The bundle for an auditor: one folder of plain files.

::

    MANIFEST.sha256     every other file with its SHA-256; sha256sum -c reads it
    trust-policy.txt    the trusted keys; compare it with the one you hold
    genesis.sha256      digest of entry 0
    checkpoint          the newest cosigned checkpoint
    outbox.json         the heads of members' outboxes (``log.outbox_heads``)
    turns/<size>        the checkpoints at which other witnesses came into force
    tile/…              the log (``tlog.tiles``)
    artifacts/<name>/…  a release or adapter: its folder, or only its manifest
    blobs/sha256/<hex>  larger content that events name by digest
    sums/<index>/…      the evidence on the sum of a round (``sum_evidence``)

The manifest catches accidents; it is not signed. Against an attacker, all else is
checked to follow from the cosigned checkpoint (``verify``).
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tapestry.artifacts import manifest
from tapestry.artifacts.foreign_files import refuse, take_inventory
from tapestry.encoding import decode_digest, digest, digest_file
from tapestry.errors import (
    ConfigError,
    IncompleteError,
    ProtocolError,
    ResourceError,
    VerificationError,
)
from tapestry.inputs.plain_file import read_plain, reading
from tapestry.schema import check_file_name
from tapestry.storage import durable_files
from tapestry.tlog import tiles
from tapestry.tlog.checkpoint import read_claim
from tapestry.tlog.note import MAX_BYTES
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance.log.outbox_heads import FILE as HEADS
from tapestry_governance.log.outbox_heads import MAX_FILE as MAX_HEADS
from tapestry_governance.log.outbox_heads import encode_heads, read_heads

MANIFEST = "MANIFEST.sha256"
POLICY = "trust-policy.txt"
GENESIS = "genesis.sha256"
CHECKPOINT = "checkpoint"
ARTIFACTS = "artifacts"
BLOBS = "blobs/sha256"
SUMS = "sums"
TURNS = "turns"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)\n")
_HEXDIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_MANIFEST = 64 << 20
_SINGLE = {POLICY, GENESIS, CHECKPOINT, HEADS}
LIMITS = {
    **dict.fromkeys(_SINGLE, MAX_BYTES),
    HEADS: MAX_HEADS,
    "tile": tiles.WIDTH * (2 + tiles.MAX_ENTRY_BYTES),
    BLOBS.partition("/")[0]: 64 << 20,
    SUMS: 8 << 20,
    TURNS: MAX_BYTES,
    ARTIFACTS: 4 << 20,  # beside a manifest; itself as well
}
"""Bytes of a file of a bundle, by the folder or file at the top."""

_FOLDERS = ("tile/", f"{ARTIFACTS}/", f"{BLOBS}/", f"{SUMS}/", f"{TURNS}/")
_SIZE = re.compile("[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose files are plain, complete and as its manifest lists them.

    The files of artifacts were not read yet, but for what lies beside their manifests.
    """

    folder: Path
    listed: Mapping[str, str]  # SHA-256 in hex, by name

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all files."""
        return tuple(sorted(self.listed))

    @property
    def unread(self) -> tuple[str, ...]:
        """The names of files that were not read yet."""
        return tuple(name for name in self.files if _is_of_artifact(name))

    @property
    def policy(self) -> bytes:
        """The trust policy that lies in the bundle."""
        return self._read(POLICY)

    @property
    def genesis(self) -> str:
        """The digest of entry 0.

        Raises:
            ProtocolError: The file is not a digest and a line feed.
        """
        text = self._read(GENESIS).decode("ascii", "replace")
        if not text.endswith("\n"):
            raise ProtocolError(f"{GENESIS} is not a digest", code="digest-malformed")
        decode_digest(text[:-1])
        return text[:-1]

    @property
    def checkpoint(self) -> bytes:
        """The newest cosigned checkpoint."""
        return self._read(CHECKPOINT)

    @property
    def heads(self) -> dict[str, bytes]:
        """The heads of members' outboxes, none of them checked."""
        return read_heads(self.folder) if HEADS in self.files else {}

    @property
    def turns(self) -> dict[int, bytes]:
        """The cosigned checkpoints of turns by size, the oldest first."""
        names = (file for file in self.files if file.startswith(f"{TURNS}/"))
        sizes = sorted(int(name.removeprefix(f"{TURNS}/")) for name in names)
        return {size: self._read(f"{TURNS}/{size}") for size in sizes}

    @property
    def artifacts(self) -> dict[str, Path]:
        """The folders of releases and adapters, by name."""
        names = {
            file.split("/")[1] for file in self.files if file.startswith(ARTIFACTS)
        }
        return {name: self.folder / ARTIFACTS / name for name in sorted(names)}

    @property
    def artifact_digests(self) -> dict[str, dict[str, str]]:
        """The digests of artifacts' own files, by name, then by name below it."""
        found: dict[str, dict[str, str]] = {}
        for file in self.unread:
            _, name, rest = file.split("/", 2)
            found.setdefault(name, {})[rest] = f"sha256:{self.listed[file]}"
        return found

    @property
    def blobs(self) -> dict[str, Path]:
        """Larger content, by the digest that it is named by."""
        found = [file for file in self.files if file.startswith(BLOBS)]
        return {f"sha256:{Path(file).name}": self.folder / file for file in found}

    def _read(self, name: str) -> bytes:
        if name not in self.files:
            raise IncompleteError(f"the bundle has no {name}", code="file-missing")
        data = read_small(self.folder / name)
        if not data:
            message = f"{name} is empty; get the bundle again"
            raise IncompleteError(message, code="file-empty")
        return data


def read_small(path: Path) -> bytes:
    """Read a trust policy or a checkpoint.

    Raises:
        ConfigError: The file is missing, unreadable or not plain.
        VerificationError: The file is too large to be one of these.
    """
    try:
        if path.exists() and not path.is_file():
            message = f"{path} is no plain file; name the file itself"
            raise ConfigError(message, code="file-not-plain")
        return read_plain(path, limit=MAX_BYTES, links=True)
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise ConfigError(message, code="file-unreadable") from error


def open_bundle(folder: Path) -> Bundle:
    """Compare a folder with its ``MANIFEST.sha256``.

    Guarantees:
        On return the folder holds exactly the listed files with the listed bytes,
        under the names that a bundle may have; no link, no device, no other file. No
        file is read that is larger than one of its place can be.

    Not protected:
        The bytes of artifacts, which may be of any size: their manifests say of which,
        once the log has named the manifests (``published_folders``).

    Raises:
        IncompleteError: The manifest, or a file that it lists, is missing.
        ProtocolError: The manifest is not in its one spelling.
        VerificationError: A file was changed, or is not a plain file.
        ForeignFileError: The folder holds links, or files that are not listed.
        ResourceError: A file cannot be read.
    """
    with reading(folder):
        listed = _read_manifest(folder)
        found = take_inventory(folder, listed, own=MANIFEST, own_is_folder=False)
        for name, path in found.files.items():
            if _is_of_artifact(name):
                continue
            _check_size(name, path)
            if digest_file(path) != f"sha256:{listed[name]}":
                message = f"{name} was changed; get the bundle again"
                raise VerificationError(message, code="manifest-file-changed")
        if found.odd:
            message = f"{found.odd[0]} is no plain file"
            raise VerificationError(message, code="file-not-plain")
    found.refuse_foreign(folder.name)
    if found.missing:
        message = f"{found.missing[0]} is missing from the bundle"
        raise IncompleteError(message, code="file-missing")
    return Bundle(folder=folder, listed=listed)


@contextmanager
def new_bundle(folder: Path) -> Iterator[Path]:
    """Make a bundle in a draft beside its place: it is there whole, or not at all.

    Yields:
        The path of the draft, which is free.

    Raises:
        ConfigError: The bundle's folder exists already.
        ResourceError: A file cannot be written.
    """
    if folder.exists() or folder.is_symlink():
        message = f"{folder} exists; choose a new folder"
        raise ConfigError(message, code="file-exists")
    with durable_files.replace_folder(folder) as draft:
        yield draft


def write_bundle(
    folder: Path,
    *,
    public: Path,
    trust: bytes,
    genesis: str,
    artifacts: Mapping[str, Path],
    blobs: Iterable[bytes] = (),
) -> Bundle:
    """Copy a log and its artifacts into a new bundle.

    Args:
        folder: A folder that does not exist yet.
        public: The log's public folder: ``checkpoint``, ``tile/`` and ``turns/``.
        trust: The trust policy file, which the bundle has in its printed spelling.
        genesis: The digest of entry 0.
        artifacts: Folders of releases and adapters, by the name in the log. A
            folder of which only ``tapestry/`` is copied is still checked by name.
        blobs: Content that events name by digest.

    Raises:
        ConfigError: The folder exists already.
        ProtocolError: The trust policy is none.
        IncompleteError: The log has no cosigned checkpoint yet.
        ResourceError: A file cannot be copied.
    """
    try:
        folder.mkdir(parents=True)
        _write_log(folder, public)
        (folder / POLICY).write_bytes(TrustPolicy.parse(trust).encode())
        (folder / GENESIS).write_text(f"{genesis}\n", encoding="ascii")
        for name, source in artifacts.items():
            check_file_name(name)
            shutil.copytree(source, folder / ARTIFACTS / name)
        for blob in blobs:
            path = folder / BLOBS / digest(blob).removeprefix("sha256:")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(blob)
        write_manifest(folder)
    except FileExistsError:
        message = f"{folder} exists; choose a new folder"
        raise ConfigError(message, code="file-exists") from None
    except (OSError, shutil.Error) as error:
        raise _unwritable(folder, error) from error
    return open_bundle(folder)


def add_sums(folder: Path, sums: Mapping[int, Path]) -> Bundle:
    """Put evidence on sums (``sum_evidence``) into a bundle.

    ``sums`` has the folder of each round by the log index of ``round.closed``.

    Raises:
        ResourceError: A file cannot be copied.
    """
    try:
        for index, source in sums.items():
            shutil.copytree(source, folder / SUMS / str(index))
        write_manifest(folder)
    except (OSError, shutil.Error) as error:
        raise _unwritable(folder, error) from error
    return open_bundle(folder)


def _unwritable(folder: Path, error: Exception) -> ResourceError:
    message = f"cannot write the bundle {folder}: {error}"
    return ResourceError(message, code="file-unwritable")


def write_manifest(folder: Path) -> None:
    """List the files of a folder; the last step of making a bundle.

    Raises:
        OSError: A folder cannot be read.
        VerificationError: The folder holds a link, a device or a pipe.
    """
    found = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
    lines = []
    for name, path in sorted(found.items()):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            message = f"{name} is no plain file"
            raise VerificationError(message, code="file-not-plain")
        if path.is_file() and name != MANIFEST:
            lines.append(f"{digest_file(path).removeprefix('sha256:')}  {name}\n")
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all that lies below a folder; unlike ``rglob``, fail where it must."""

    def fail(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=fail):
        yield from (Path(place, name) for name in (*folders, *files))


def read_checkpoint(public: Path) -> bytes:
    """Read the newest cosigned checkpoint of a log's public folder.

    Raises:
        IncompleteError: The log has none yet.
        ConfigError: The file is unreadable or not plain.
        VerificationError: The file is too large to be one.
    """
    path = public / CHECKPOINT
    if not path.exists():
        raise IncompleteError(
            f"{public} has no cosigned checkpoint yet; enough members have to cosign"
            " the log first",
            code="checkpoint-missing",
        )
    return read_small(path)


def _write_log(folder: Path, public: Path) -> None:
    heads = read_heads(public)  # before the checkpoint, so none is beyond it
    note = read_checkpoint(public)
    size = read_claim(note).size
    if heads:
        (folder / HEADS).write_bytes(encode_heads(heads))
    (folder / CHECKPOINT).write_bytes(note)
    tiles.write(folder, list(tiles.read_entries(public, size)))
    for turn in (public / TURNS).glob("*"):
        if _SIZE.fullmatch(turn.name) and int(turn.name) <= size:
            (folder / TURNS).mkdir(exist_ok=True)
            (folder / TURNS / turn.name).write_bytes(read_small(turn))


def _read_manifest(folder: Path) -> dict[str, str]:
    text = _manifest_text(folder)
    rows = [(match[2], match[1]) for match in _LINE.finditer(text)]
    if "".join(f"{hexdigest}  {name}\n" for name, hexdigest in rows) != text:
        message = f"{MANIFEST} has a line that is no digest and name"
        raise ProtocolError(message, code="manifest-malformed")
    names = [name for name, _ in rows]
    if names != sorted(set(names)):
        message = f"{MANIFEST} is not in order of name"
        raise ProtocolError(message, code="manifest-malformed")
    placeless = [name for name in names if not _has_place(name)]
    if placeless:
        refuse(folder.name, foreign=placeless)
    return dict(rows)


def _manifest_text(folder: Path) -> str:
    path = folder / MANIFEST
    if path.is_symlink():
        refuse(folder.name, links=[MANIFEST])
    try:
        text = read_plain(path, limit=_MAX_MANIFEST).decode("ascii")
    except FileNotFoundError:
        message = f"{folder} has no {MANIFEST}"
        raise IncompleteError(message, code="manifest-missing") from None
    except UnicodeDecodeError:
        message = f"{MANIFEST} is not ASCII"
        raise ProtocolError(message, code="manifest-malformed") from None
    if not text:
        message = f"{MANIFEST} is empty; get the bundle again"
        raise IncompleteError(message, code="file-empty")
    return text


def _has_place(name: str) -> bool:
    """Return whether a file of a bundle may have this name.

    Raises:
        VerificationError: The name is not portable.
    """
    try:
        check_file_name(name)
    except ValueError as error:
        raise VerificationError(str(error), code="name-not-portable") from None
    if name not in _SINGLE and not name.startswith(_FOLDERS):
        return False
    if name.startswith(f"{ARTIFACTS}/") and name.count("/") < 2:
        return False
    if name.startswith(f"{BLOBS}/"):
        return _HEXDIGEST.fullmatch(name.removeprefix(f"{BLOBS}/")) is not None
    if name.startswith(f"{TURNS}/"):
        return _SIZE.fullmatch(name.removeprefix(f"{TURNS}/")) is not None
    return True


def _is_of_artifact(name: str) -> bool:
    """Return whether a file is an artifact's own, and not beside its manifest."""
    parts = name.split("/")
    return parts[0] == ARTIFACTS and parts[2] != manifest.FOLDER


def _check_size(name: str, path: Path) -> None:
    """Refuse a file that is too large for its place before it is hashed."""
    limit = LIMITS[name.partition("/")[0]]
    if path.stat().st_size > limit:
        message = f"{name} was changed: it is over {limit} bytes"
        raise VerificationError(message, code="file-too-large")
