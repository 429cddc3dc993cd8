"""An edited file of a package is noticed at the next start, wherever it lies."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.errors import VerificationError
from tapestry.installed_files import require_installed_files
from tapestry.installed_packages import InstalledPackage, required_packages
from tests.support.file_times import let_a_step_pass
from tests.support.installed_folders import CODE, install
from tests.support.refusals import refused


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of an installed package."""
    place = tmp_path / "packages"
    place.mkdir()
    install(place, "first", requires=["second"])
    install(place, "second")
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("TAPESTRY_CACHE", str(tmp_path / "cache"))
    return place / "second" / "__init__.py"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The packages that were read, in order."""
    names: list[str] = []
    real = InstalledPackage.differing_files

    def noting(package: InstalledPackage) -> Iterator[str]:
        names.append(package.name)
        return real(package)

    monkeypatch.setattr(InstalledPackage, "differing_files", noting)
    return names


def start() -> None:
    require_installed_files(required_packages("first", "node"))


def test_files_are_read_once_and_again_after_they_were_written(
    file: Path, reads: list[str]
) -> None:
    start()
    start()
    assert reads == ["second"]
    let_a_step_pass()
    file.write_bytes(CODE)
    start()
    start()
    assert reads == ["second"] * 2


@pytest.mark.parametrize("checks_before", [0, 2])
def test_an_edited_file_stops_every_start_until_it_is_put_back(
    file: Path, checks_before: int
) -> None:
    for _ in range(checks_before):
        start()
    kept = file.stat()
    let_a_step_pass()
    file.write_bytes(CODE.replace(b"1", b"2"))
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    for _ in range(2):
        with refused(VerificationError, "installed-file-differs", match=str(file)):
            start()
    file.unlink()
    with refused(VerificationError, "installed-file-differs", match=str(file)):
        start()
    file.write_bytes(CODE)
    start()


def test_another_recorded_file_is_read_again(file: Path, reads: list[str]) -> None:
    start()
    install(file.parent.parent, "second", files={"second/__init__.py": b"VALUE = 5\n"})
    start()
    assert reads == ["second"] * 2


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"x": [1]}', "\x00"])
def test_a_damaged_cache_costs_a_read_and_excuses_nothing(
    file: Path, reads: list[str], tmp_path: Path, content: str
) -> None:
    start()
    (tmp_path / "cache" / "installed-files.json").write_text(content)
    start()
    assert reads == ["second"] * 2
    (tmp_path / "cache" / "installed-files.json").write_text(content)
    file.write_bytes(b"VALUE = 2\n")
    with refused(VerificationError, "installed-file-differs", match=str(file)):
        start()


def test_without_a_cache_every_start_reads_all(
    file: Path, reads: list[str], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("no folder")
    start()
    start()
    assert reads == ["second"] * 2
    file.write_bytes(b"VALUE = 2\n")
    with refused(VerificationError, "installed-file-differs", match=str(file)):
        start()
