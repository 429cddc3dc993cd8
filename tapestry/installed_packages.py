"""The installed packages that a role requires, and the files that each one recorded.

Whoever installs a package leaves a ``RECORD`` of its files and their SHA-256 digests.
Two installers write different RECORDs for one wheel, so the rows that they add on
their own are left out: compiled modules, marks of the installer, and what lies outside
the folder that modules are imported from (scripts, headers, manuals).

Guarantees:
    Fails closed: a requirement that is not installed, a package without a RECORD or
    with one that does not cover its code, and a package of which another copy hides
    a module from imports, are errors; so is a module that hides one of the standard
    library.

Not protected:
    Compiled modules (``__pycache__``), ``.pth`` files, the standard library and the
    system's libraries have no RECORD.
"""

import csv
import hashlib
import importlib.metadata
import io
import json
import os
import stat
import sys
import sysconfig
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, PathFinder
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from tapestry.errors import ResourceError

_INSTALLERS = frozenset(
    {
        *("RECORD", "RECORD.jws", "RECORD.p7s", "INSTALLER", "REQUESTED"),
        *("direct_url.json", "provenance_url.json", "uv_build.json", "uv_cache.json"),
    }
)
_SHA256 = "sha256="
_SUFFIXES = frozenset({*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES})
# Opacus installs these two, which nothing imports; sources have such folders as well.
_NEVER_IMPORTED = frozenset({"benchmarks", "examples"})


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledPackage:
    """A package: its canonical name, its version and what its RECORD lists."""

    name: str
    version: str
    folder: Path  # the paths of files begin here
    files: tuple[tuple[str, str], ...]  # path and SHA-256, in order of path

    @property
    def record_digest(self) -> str:
        """The digest of the files' paths and digests, whoever installed them."""
        hasher = hashlib.sha256()
        for path, content in self.files:
            hasher.update(f"{content}  {path}\n".encode())
        return f"sha256:{hasher.hexdigest()}"

    def stat_digest(self) -> str:
        """Digest what the file system says of the files: it changes with each edit."""
        hasher = hashlib.sha256(f"{self.folder}\n{self.record_digest}\n".encode())
        for path, _ in self.files:
            try:
                found = os.stat(f"{self.folder}/{path}")  # noqa: PTH116  four times faster
            except OSError:
                continue
            row = found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
            hasher.update(f"{path} {row}\n".encode())
        return hasher.hexdigest()

    def differing_files(self) -> Iterator[str]:
        """Name the files that are missing or are not as recorded; read every file."""
        for path, recorded in self.files:
            if _sha256(self.folder / path) != recorded:
                yield path


def required_packages(project: str, extra: str) -> list[InstalledPackage]:
    """Return what a project requires with an extra, and what that requires in turn.

    Edge cases:
        The project itself is not among them. Requirements whose markers exclude this
        machine are not followed.

    Raises:
        ResourceError: A package is not installed, has no RECORD that covers its code,
            or is hidden by another copy; or a module of the standard library is.
    """
    require_standard_library(sys.path)
    found: dict[str, importlib.metadata.Distribution] = {}
    pending, followed = [(canonicalize_name(project), extra)], set[tuple[str, str]]()
    while pending:
        name, wanted = pending.pop()
        if (name, wanted) in followed:
            continue
        followed.add((name, wanted))
        if name not in found:
            found[name] = _distribution(name)
            pending.append((name, ""))  # what is required whatever the extra
        pending += _required(found[name], wanted)
    del found[canonicalize_name(project)]
    return [_read(name, found[name]) for name in sorted(found)]


def unrecorded_files(packages: Iterable[InstalledPackage]) -> Iterator[str]:
    """Name the files in the packages' folders that no installed package recorded."""
    packages = list(packages)
    for folder in sorted({package.folder for package in packages}):
        recorded: set[str] = set()
        for each in importlib.metadata.distributions(path=[str(folder)]):
            recorded.update(row[0] for row in _rows("", each) if row)
        here = [path for p in packages if p.folder == folder for path, _ in p.files]
        for top in sorted({path.partition("/")[0] for path in here if "/" in path}):
            for path in sorted((folder / top).rglob("*")):
                name = path.relative_to(folder).as_posix()
                is_known = "/__pycache__/" in name or name in recorded
                if not is_known and not path.is_dir():
                    yield name


def _required(
    distribution: importlib.metadata.Distribution, extra: str
) -> Iterator[tuple[NormalizedName, str]]:
    """Give what an extra requires, each with an extra of its own."""
    for text in distribution.requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": extra}):
            name = canonicalize_name(requirement.name)
            yield from ((name, each) for each in ("", *requirement.extras))


def _distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise ResourceError(
            f"package {name} is not installed: pip install 'tapestry-federated[node]'",
            code="package-missing",
        ) from None


def _read(name: str, distribution: importlib.metadata.Distribution) -> InstalledPackage:
    folder = Path(str(distribution.locate_file("")))
    rows = _rows(name, distribution)
    if not rows or _is_editable(distribution):
        raise ResourceError(
            f"package {name} in {folder} has no RECORD of its code; install it with pip"
            " or uv from a wheel",
            code="package-record-missing",
        )
    files = sorted(_entry(name, row) for row in rows if not _is_installers(row))
    _require_visible(name, folder, [path for path, _ in files])
    return InstalledPackage(
        name=name, version=distribution.version, folder=folder, files=tuple(files)
    )


def _rows(name: str, distribution: importlib.metadata.Distribution) -> list[list[str]]:
    try:
        text = distribution.read_text("RECORD") or ""
        return list(csv.reader(io.StringIO(text, newline="")))
    except (csv.Error, UnicodeDecodeError) as error:
        raise _invalid(name, str(error)) from None


def _is_editable(distribution: importlib.metadata.Distribution) -> bool:
    """Return whether the code lies elsewhere; true where that cannot be read."""
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        return bool(origin.get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError):
        return True


def _is_installers(row: list[str]) -> bool:
    text = row[0] if row else ""
    if "__pycache__" in text.split("/"):
        return True
    if text[:1] not in {".", "/"} and ".dist-info" not in text:
        return (
            False  # nearly all rows: a path object for each takes a fifth of a second
        )
    path = PurePosixPath(text)
    if path.is_absolute() or path.parts[:1] == ("..",):
        return True
    return path.parent.suffix == ".dist-info" and path.name in _INSTALLERS


def _entry(name: str, row: list[str]) -> tuple[str, str]:
    """Read the path and the SHA-256 from a row."""
    path, recorded, *_ = [*row, "", ""]
    length = len(_SHA256) + 43  # 32 bytes in base64, without padding
    is_digest = recorded.startswith(_SHA256) and len(recorded) == length
    if not is_digest or not path.isprintable():
        raise _invalid(name, f"row {row!r}")
    return path, recorded.removeprefix(_SHA256)


def _invalid(name: str, what: str) -> ResourceError:
    return ResourceError(
        f"the RECORD of package {name} gives no path and SHA-256 ({what}); install the"
        " package again",
        code="package-record-invalid",
    )


def _require_visible(name: str, folder: Path, paths: Iterable[str]) -> None:
    """Require that an import of each module of a package finds a file of its RECORD."""
    for module, recorded in _modules(paths).items():
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or top in _NEVER_IMPORTED:
            continue
        origin = _origin(module)
        if origin is None:
            continue  # its own file is missing, which a check of the files tells
        if Path(origin).resolve() not in {
            (folder / path).resolve() for path in recorded
        }:
            raise ResourceError(
                f"package {name} is installed in {folder}, but {module} is imported"
                f" from {origin}; remove that copy, or unset PYTHONPATH",
                code="package-hidden",
            )


def _modules(paths: Iterable[str]) -> dict[str, set[str]]:
    """Map modules to the files that define each: at the top, or in a namespace."""
    code: list[tuple[list[str], str, str]] = []
    packages: dict[str, set[str]] = {}
    for path in paths:
        *folders, file = path.split("/")
        stem, _, suffix = file.partition(".")
        if f".{suffix}" in _SUFFIXES and all(map(str.isidentifier, (*folders, stem))):
            code.append((folders, stem, path))
            if stem == "__init__":
                packages.setdefault(".".join(folders), set()).add(path)
    found: dict[str, set[str]] = {}
    for folders, stem, path in code:
        above = (".".join(folders[:depth]) for depth in range(1, len(folders) + 1))
        package = next((each for each in above if each in packages), None)
        if package is None:
            found.setdefault(".".join((*folders, stem)), set()).add(path)
        else:
            found[package] = packages[package]
    return found


def _origin(module: str) -> str | None:
    """Find the file that an import would load, and import nothing.

    Edge cases:
        A module or package in the place of a namespace hides all that is in it.
    """
    top, *names = module.split(".")
    spec = find_spec(top)
    for name in names:
        if spec is None or spec.has_location:
            break
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations or ()))
    return None if spec is None else spec.origin


def require_standard_library(search_path: Sequence[str]) -> None:
    """Require that no entry before the standard library hides a module of it.

    Edge cases:
        The folder of the program that was started, the present folder and those of
        ``PYTHONPATH`` may hold any other modules.

    Raises:
        ResourceError: An entry holds a module of such a name; remove or rename it.
    """
    library = Path(sysconfig.get_path("stdlib")).resolve()
    archive = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    before = []
    for entry in search_path:
        if Path(entry).resolve() == library:
            break
        if Path(entry).name != archive:
            before.append(entry)
    for name in sorted(sys.stdlib_module_names - set(sys.builtin_module_names)):
        spec = PathFinder.find_spec(name, before)
        if spec is not None and spec.has_location:
            raise ResourceError(
                f"module {name} of the standard library is imported from {spec.origin};"
                " rename that file, or unset PYTHONPATH",
                code="standard-library-hidden",
            )


def _sha256(path: Path) -> str:
    """Digest a regular file as RECORD does; anything else has no digest."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return ""
    return urlsafe_b64encode(found).decode().rstrip("=")
