"""The folder of a demo: its choice, its lock, and the record of its progress.

``demo.json`` holds what a later call needs in order to go on: the code, base and engine
that began the demo, the steps that are done, and the time they took. The file is
replaced as a whole, so a demo that is killed at any instant leaves the old record or
the new one.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tapestry.errors import ConfigError, ResourceError, VerificationError
from tapestry.inputs.plain_file import read_plain, reading
from tapestry.software_digest import software_digest
from tapestry.storage import durable_files
from tapestry.storage.file_lock import FileLock, lock_folder
from tapestry_demo.shell_command import command

FILE = "demo.json"
DEFAULT = "demo"
FINISHED = "report"  # the last step
_DRAFT = FILE + durable_files.SUFFIX
_FORMAT = "tapestry-demo/1"
_PREPARED = (FILE, _DRAFT, "text", "coordinator", "nodes")  # by the first step
_MOST_FOLDERS = 1000
_MOST_BYTES = 1 << 20  # of demo.json, which holds a few hundred


@dataclass(slots=True, kw_only=True)
class Record:
    """The content of ``demo.json``."""

    engine: str
    base: str
    references: bool = False  # train centrally as well
    software: str = field(default_factory=software_digest)
    base_digest: str = ""
    genesis: str = ""
    done: list[str] = field(default_factory=list)  # steps
    seconds: dict[str, float] = field(default_factory=dict)
    tap: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replace the file in a folder.

        Raises:
            ResourceError: The folder cannot be written.
        """
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=2) + "\n"
        durable_files.replace_file(folder / FILE, text.encode())


@dataclass(slots=True)
class Claim:
    """A folder that this process alone works in, and the folders made for it."""

    folder: Path
    made: list[Path] = field(default_factory=list)  # folders, the outermost first

    def withdraw(self) -> None:
        """Remove the files of a failed start, so that the place is as it was.

        Guarantees:
            Only files that a start makes are removed, by name, from a folder that was
            empty or missing when it was claimed. A file that another program put
            beside them meanwhile stays.
        """
        for name in _PREPARED:
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for path in reversed(self.made):
            with suppress(OSError):  # another program put something there
                path.rmdir()


def free_folder() -> Path:
    """Return the first of ``demo``, ``demo-2``, ``demo-3`` … that is free.

    Raises:
        ConfigError: All of a thousand names are in use.
    """
    for path in _numbered():
        if not os.path.lexists(path) or (path.is_dir() and _is_empty(path)):
            return path
    raise ConfigError(
        f"{DEFAULT} to {path} are all in use: remove some", code="folder-not-empty"
    )


def unfinished_folder() -> Path:
    """Return the last of ``demo``, ``demo-2`` … that was begun and is not finished.

    Raises:
        ConfigError: No such folder has an unfinished demo in it.
    """
    for path in reversed([path for path in _numbered() if (path / FILE).exists()]):
        with suppress(ConfigError):
            if FINISHED not in read_record(path).done:
                return path
    raise ConfigError(
        f"no unfinished demo here: name its folder, {command('demo', '--resume')} --out"
        " DIR (under make: RESUME=1 OUT=DIR)",
        code="demo-missing",
    )


def check_space(folder: Path, *, needed: int) -> None:
    """Require that ``needed`` bytes are free on the disk, before a folder is made.

    Raises:
        ResourceError: Less is free, or the disk cannot be read.
    """
    with reading(f"the disk of {folder}"):
        above = (folder.absolute(), *folder.absolute().parents)
        place = next(path for path in above if path.is_dir())
        free = shutil.disk_usage(place).free
    if free < needed:
        raise ResourceError(
            f"{free >> 20} MiB free at {place}, {needed >> 20} are needed; make room,"
            " or choose another folder with --out",
            code="disk-full",
        )


@contextmanager
def claim_new(folder: Path) -> Iterator[Claim]:
    """Make a folder for a new demo and keep others away while the block runs.

    Raises:
        ConfigError: The path is a file, the folder is not empty, or another process
            works in it.
        ResourceError: The folder cannot be made or read.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise ConfigError(
            f"{folder} is a file; choose a folder with --out", code="not-a-folder"
        )
    claim = Claim(folder)
    try:
        for path in reversed([folder, *folder.parents]):
            if not path.exists():
                path.mkdir(exist_ok=True)
                claim.made.append(path)
    except OSError as error:
        raise ResourceError(
            f"cannot make {folder}: {error.strerror}", code="file-unwritable"
        ) from error
    with _lock(folder):
        if not _is_empty(folder):
            raise ConfigError(_in_use(folder), code="folder-not-empty")
        yield claim


@contextmanager
def claim_begun(folder: Path) -> Iterator[Record]:
    """Open the folder of a demo that was begun; keep others away meanwhile.

    Raises:
        ConfigError: The folder holds no demo or a damaged one, other code began it, or
            another process works in it.
        ResourceError: The folder cannot be read.
    """
    record = read_record(folder)
    if record.software != software_digest():
        raise ConfigError(
            f"{folder} was begun by other code ({record.software}; this is"
            f" {software_digest()}): go on with that code, or begin again with"
            f" {command('demo', '--out')} and another folder",
            code="demo-software-differs",
        )
    with _lock(folder):
        yield record


def read_record(folder: Path) -> Record:
    """Read the record of the demo in a folder.

    Raises:
        ConfigError: The folder holds no demo, or its record is damaged or has another
            format.
        ResourceError: The record cannot be read.
    """
    value = _read_json(folder)
    known = {each.name for each in fields(Record)}
    if not isinstance(value, dict) or value.pop("format", None) != _FORMAT:
        raise _damaged(folder)
    try:
        record = TypeAdapter(Record).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        raise _damaged(folder) from None
    if value.keys() != known:
        raise _damaged(folder)
    return record


def _read_json(folder: Path) -> Any:
    """Read the file; return None if it is not a small plain file of JSON."""
    path = folder / FILE
    try:
        return json.loads(read_plain(path, limit=_MOST_BYTES, links=True))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{folder} holds no demo to go on with; begin one with"
            f" {command('demo', '--out', folder)}",
            code="demo-missing",
        ) from None
    except OSError as error:
        raise ResourceError(
            f"cannot read {path}: {error.strerror}", code="file-unreadable"
        ) from error
    except (VerificationError, ValueError, RecursionError):
        return None


def _damaged(folder: Path) -> ConfigError:
    return ConfigError(
        f"{folder / FILE} is damaged or of another version: begin again with"
        f" {command('demo', '--out')} and another folder",
        code="demo-record-invalid",
    )


def _in_use(folder: Path) -> str:
    said = f"{folder} is not empty"
    with suppress(ConfigError):
        if FINISHED in read_record(folder).done:
            said += ": a finished demo lies there"
        else:
            words = command("demo", "--out", folder, "--resume")
            said += f": a demo was begun there; go on with it by {words}"
    return f"{said}; choose another folder with --out (under make: OUT=...)"


def _numbered() -> Iterator[Path]:
    yield Path(DEFAULT)
    for number in range(2, _MOST_FOLDERS):
        yield Path(f"{DEFAULT}-{number}")


def _is_empty(folder: Path) -> bool:
    with reading(folder):
        return not any(folder.iterdir())


def _lock(folder: Path) -> FileLock:
    try:
        return lock_folder(folder)
    except BlockingIOError:
        raise ConfigError(
            f"another demo works in {folder}: stop it, or choose another folder"
            " with --out",
            code="folder-in-use",
        ) from None
