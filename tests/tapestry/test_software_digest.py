"""The digest of the running code changes with every module, and with nothing else."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry import software_digest as module
from tapestry.encoding import decode_digest
from tapestry.errors import ResourceError
from tapestry.software_digest import PACKAGES, software_digest
from tests.house.test_house import PACKAGES as FOLDERS


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two packages of which the digest is taken, in a folder of their own."""
    for name in ("one", "two"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text(f"# {name}\n")
        (tmp_path / name / "inner" / "module.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "PACKAGES", ("one", "two"))
    software_digest.cache_clear()
    yield tmp_path
    software_digest.cache_clear()


def _digest() -> str:
    software_digest.cache_clear()
    return software_digest()


def test_every_package_of_the_product_is_in_the_digest() -> None:
    assert sorted(PACKAGES) == sorted(Path(folder).name for folder in FOLDERS)


def test_two_processes_of_one_install_have_the_same_digest() -> None:
    code = "from tapestry.software_digest import software_digest as d; print(d())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    decode_digest(software_digest())
    assert done.stdout.strip() == software_digest()


@pytest.mark.parametrize("path", ["one/__init__.py", "two/inner/module.py"])
def test_a_changed_byte_in_any_module_changes_the_digest(
    installed: Path, path: str
) -> None:
    before = _digest()
    assert _digest() == before
    (installed / path).write_text("x = 2\n")
    assert _digest() != before


def test_a_module_that_is_new_gone_or_moved_changes_the_digest(installed: Path) -> None:
    found = [_digest()]
    (installed / "one" / "new.py").touch()
    found.append(_digest())
    (installed / "one" / "new.py").rename(installed / "two" / "new.py")
    found.append(_digest())
    (installed / "two" / "new.py").rename(installed / "two" / "inner" / "new.py")
    found.append(_digest())
    (installed / "two" / "inner" / "module.py").unlink()
    found.append(_digest())
    assert len(set(found)) == 5


def test_files_that_are_no_modules_and_the_place_do_not_count(
    installed: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = _digest()
    (installed / "one" / "notes.txt").write_text("x")
    (installed / "one" / "__pycache__").mkdir()
    (installed / "one" / "__pycache__" / "module.pyc").write_bytes(b"x")
    assert _digest() == before
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in module.PACKAGES:
        shutil.copytree(installed / name, elsewhere / name)
        shutil.rmtree(installed / name)
    monkeypatch.syspath_prepend(elsewhere)
    assert _digest() == before


@pytest.mark.parametrize("name", ["no_such_package", "json.decoder"])
@pytest.mark.usefixtures("installed")
def test_a_package_that_is_not_there_as_files_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("one", name))
    with pytest.raises(ResourceError, match=f"{name} is not installed"):
        _digest()
