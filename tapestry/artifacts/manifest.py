"""Manifest of a release or adapter: the name, size and digest of each file.

A manifest lists every file of a folder but those under ``tapestry/``, where it lies
itself next to proofs and approvals. Its digest goes into the log, so that a folder
copied from anywhere can be compared with what was published::

    {"files":[{"content":"sha256:…","name":"config.json","size":612}, …],
     "format":"tapestry-manifest/1"}
"""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tapestry.artifacts.closed_list import MANIFEST, PROOFS, ClosedList
from tapestry.artifacts.foreign_files import Inventory, take_inventory
from tapestry.encoding import digest_file
from tapestry.errors import (
    ConfigError,
    IncompleteError,
    ResourceError,
    VerificationError,
)
from tapestry.inputs.plain_file import read_plain, reading
from tapestry.schema import Digest, FileName, Strict, check_ascending, check_file_name

FOLDER = PROOFS
FILE = MANIFEST
DIFFERS = frozenset({"manifest-file-changed", "manifest-file-missing"})  # codes
_LIMIT = 4 << 20


class File(Strict):
    """One file."""

    name: FileName
    size: Annotated[int, Field(ge=0)]
    content: Digest


class Manifest(Strict):
    """The files of a folder, in order of name."""

    format: Literal["tapestry-manifest/1"]
    files: Annotated[tuple[File, ...], Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = check_ascending(tuple(file.name for file in self.files))
        if len({name.lower() for name in names}) != len(names):
            raise ValueError("two names differ in case only")
        if any(name.lower().split("/")[0] == FOLDER for name in names):
            raise ValueError(f"{FOLDER}/ does not belong into a manifest")
        return self


def describe(folder: Path) -> Manifest:
    """List the files of a folder with sizes and digests.

    Raises:
        ConfigError: The folder does not exist or holds no files.
        ResourceError: A file cannot be read.
        VerificationError: The folder holds a link, a device, or a name that is not
            portable.
    """
    files = []
    with reading(folder):
        for name, path in _walk(folder):
            size = path.stat().st_size
            files.append(File(name=name, size=size, content=digest_file(path)))
    if not files:
        raise ConfigError(f"{folder} holds no files", code="folder-empty")
    return Manifest(
        format="tapestry-manifest/1", files=tuple(sorted(files, key=lambda f: f.name))
    )


def write(folder: Path) -> Manifest:
    """Describe a folder and leave the manifest in ``tapestry/manifest.json``.

    Raises:
        ConfigError, VerificationError: The folder breaks a rule of ``describe``.
        ResourceError: A file cannot be read or written.
    """
    manifest = describe(folder)
    try:
        (folder / FOLDER).mkdir(exist_ok=True)
        (folder / FOLDER / FILE).write_bytes(manifest.encode())
    except OSError as error:
        raise ResourceError(
            f"cannot write into {folder}: {error.strerror}", code="file-unwritable"
        ) from error
    return manifest


def read(folder: Path) -> Manifest:
    """Read a folder's manifest, without comparing the folder with it.

    Raises:
        IncompleteError: The manifest is missing or empty.
        ProtocolError: The bytes are not a canonical manifest.
        VerificationError: The manifest is not a plain file, or is over 4 MiB.
    """
    path = folder / FOLDER / FILE
    try:
        if not (data := read_plain(path, limit=_LIMIT, links=True)):
            raise IncompleteError(
                f"{path} is empty; get the folder again", code="manifest-missing"
            )
        return Manifest.decode(data, limit=_LIMIT)
    except OSError as error:
        raise IncompleteError(
            f"no manifest at {path}: {error.strerror}; name the folder of one release"
            " or adapter",
            code="manifest-missing",
        ) from None


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare a folder with its manifest, byte by byte.

    Guarantees:
        On return the folder holds exactly the listed files with the listed bytes,
        no link, and nothing else outside ``tapestry/``.

    Edge cases:
        What is missing or changed weighs more than what is foreign.

    Raises:
        IncompleteError: The folder does not exist.
        ResourceError: A file cannot be read.
        VerificationError: A listed file is missing, changed, or not a plain file.
        ForeignFileError: The folder holds links, or files that are not listed.
    """
    if not folder.is_dir():
        raise IncompleteError(
            f"no folder {folder}; name another", code="folder-missing"
        )
    with reading(folder):
        found = take_stock(folder, manifest)
        _check_stock(folder, found)
        for file in manifest.files:
            path = found.files.get(file.name)
            if path is not None:
                _check_size(path, file)
                here = file.model_copy(update={"content": digest_file(path)})
                _check_listed(folder, file, here)
    found.refuse_foreign(folder.name)


def read_folder(
    folder: Path, kind: ClosedList, take: Callable[[str], File]
) -> str | None:
    """Read each file of a folder once, and compare what was read with its manifest.

    ``take`` reads the file of a name, keeps what it needs, and describes it.

    Guarantees:
        On return all files of the folder were taken, and no other lay there; the bytes
        that were taken are those of the manifest, if there is one. A file of another
        size than listed is not read.

    Returns:
        The digest of the manifest; None where the folder has none.

    Raises:
        ForeignFileError: The folder holds links, or files that have no place there.
        IncompleteError: The manifest is empty, or ``tapestry/`` lacks it.
        ProtocolError: The manifest is not canonical.
        ResourceError: A file cannot be read.
        VerificationError: A file is not as listed.
    """
    with reading(folder):
        if not (folder / FOLDER / FILE).exists():
            names = kind.names(folder)
            if (folder / FOLDER).exists():
                raise IncompleteError(
                    f"{folder.name}: {FOLDER}/ holds no {FILE}; get the folder again,"
                    f" or remove {FOLDER}/ where the model was not published",
                    code="manifest-missing",
                )
            for name in names:
                take(name)
            return None
        manifest = read(folder)
        stock = take_stock(folder, manifest)
        _check_stock(folder, stock)
        for file in manifest.files:
            if file.name in stock.files and kind.files.fullmatch(file.name):
                _check_size(stock.files[file.name], file)
                _check_listed(folder, file, take(file.name))
    stock.refuse_foreign(folder.name)
    kind.check(folder)
    return manifest.digest


def take_stock(folder: Path, manifest: Manifest) -> Inventory:
    """Compare the names of a folder's files with a manifest.

    Raises:
        OSError: The folder cannot be read.
    """
    listed = frozenset(file.name for file in manifest.files)
    return take_inventory(folder, listed, own=FOLDER, own_is_folder=True)


def _check_stock(folder: Path, stock: Inventory) -> None:
    if stock.missing:
        raise VerificationError(
            f"{folder.name}: {stock.missing[0]} is missing; get the folder again",
            code="manifest-file-missing",
        )
    if stock.odd:
        raise VerificationError(
            f"{folder.name}: {stock.odd[0]} is no plain file", code="file-not-plain"
        )


def _check_size(path: Path, listed: File) -> None:
    """Compare a size before anything is read: a hole of a terabyte costs nothing."""
    if path.stat().st_size != listed.size:
        raise VerificationError(
            f"{path} was changed: it has not the {listed.size} bytes that its manifest"
            " lists; get it again",
            code="manifest-file-changed",
        )


def _check_listed(folder: Path, listed: File, found: File) -> None:
    if found != listed:
        raise VerificationError(
            f"{folder.name}: {listed.name} was changed; get it again",
            code="manifest-file-changed",
        )


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder, refusing whatever is no plain file or folder."""
    if not folder.is_dir():
        raise ConfigError(f"no folder {folder}; name another", code="folder-missing")
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                name = path.relative_to(folder).as_posix()
                mode = entry.stat(follow_symlinks=False).st_mode
                if name == FOLDER and stat.S_ISDIR(mode):
                    continue
                try:
                    check_file_name(name)
                except ValueError as error:
                    raise VerificationError(
                        f"{folder.name}: {error}", code="name-not-portable"
                    ) from None
                if stat.S_ISDIR(mode):
                    pending.append(path)
                elif stat.S_ISREG(mode):
                    yield name, path
                else:
                    raise VerificationError(
                        f"{folder.name}: {name} is no plain file", code="file-not-plain"
                    )
