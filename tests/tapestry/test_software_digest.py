"""The digest changes with every file, package and setting that changes results."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry import software_digest as module
from tapestry.encoding import decode_digest
from tapestry.errors import ResourceError
from tapestry.software_digest import (
    PACKAGES,
    RESULT_VARIABLES,
    software_digest,
    software_manifest,
)
from tests.house.test_house import PACKAGES as FOLDERS
from tests.support.installed_folders import CODE, install
from tests.support.refusals import refused


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two packages of the product, and one that they require, in a folder."""
    for name in ("one", "two"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text(f"# {name}\n")
        (tmp_path / name / "inner" / "module.py").write_text("x = 1\n")
        (tmp_path / name / "page.css").write_text("p {}\n")
    install(tmp_path, "project", requires=["required"])
    install(tmp_path, "required")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "PACKAGES", ("one", "two"))
    monkeypatch.setattr(module, "PROJECT", "project")
    for name in RESULT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    software_manifest.cache_clear()
    yield tmp_path
    software_manifest.cache_clear()


def _digest() -> str:
    software_manifest.cache_clear()
    return software_digest()


def test_every_package_of_the_product_is_in_the_digest() -> None:
    assert sorted(PACKAGES) == sorted(Path(folder).name for folder in FOLDERS)


@pytest.mark.slow
def test_two_processes_of_one_install_have_one_digest_unless_one_drops_asserts() -> (
    None
):
    code = "from tapestry.software_digest import software_digest as d; print(d())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    decode_digest(software_digest())
    assert done.stdout.strip() == software_digest()
    words = [sys.executable, "-O", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() != software_digest()


@pytest.mark.parametrize(
    "path", ["one/__init__.py", "two/inner/module.py", "two/page.css"]
)
def test_a_changed_byte_in_any_file_changes_the_digest(
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


def test_a_new_data_file_changes_the_digest_but_compiled_modules_do_not(
    installed: Path,
) -> None:
    before = _digest()
    (installed / "one" / "__pycache__").mkdir()
    (installed / "one" / "__pycache__" / "module.pyc").write_bytes(b"x")
    assert _digest() == before
    (installed / "one" / "notes.txt").touch()
    assert _digest() != before


def test_the_place_of_the_packages_does_not_count(
    installed: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = _digest()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "packages"
    shutil.move(installed, elsewhere)
    monkeypatch.syspath_prepend(elsewhere)
    assert _digest() == before


@pytest.mark.parametrize(
    "change",
    [
        {"version": "1.1"},
        {"files": {"required/__init__.py": b"VALUE = 2\n"}},
        {"files": {"required/__init__.py": CODE, "required/table.bin": b"x"}},
        {"requires": ["another"]},
    ],
)
def test_a_required_package_of_another_release_changes_the_digest(
    installed: Path, change: dict[str, Any]
) -> None:
    install(installed, "another")
    before = _digest()
    shutil.rmtree(installed / "required-1.0.dist-info")
    install(installed, "required", **change)
    assert _digest() != before


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("what", ["python_version", "python_implementation"])
def test_another_interpreter_changes_the_digest(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    before = _digest()
    monkeypatch.setattr(platform, what, lambda: "4.0")
    assert _digest() != before


@pytest.mark.usefixtures("installed")
def test_each_variable_that_changes_results_changes_the_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [_digest()]
    for name in RESULT_VARIABLES:
        for value in ("0", "1"):
            monkeypatch.setenv(name, value)
            found.append(_digest())
    assert len(set(found)) == 2 * len(RESULT_VARIABLES) + 1
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("PATH", "/nowhere")
    assert _digest() == found[-1]


@pytest.mark.slow
def test_torch_computes_in_full_precision_unless_a_variable_says_otherwise() -> None:
    code = "import torch; print(torch.get_float32_matmul_precision())"
    for value, precision in ((None, "highest"), ("1", "high")):
        name = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
        env = {k: v for k, v in os.environ.items() if k not in RESULT_VARIABLES}
        env |= {} if value is None else {name: value}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == precision


@pytest.mark.parametrize("name", ["no_such_package", "json.decoder"])
@pytest.mark.usefixtures("installed")
def test_a_package_that_is_not_there_as_files_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("one", name))
    with refused(ResourceError, "package-missing", match=name):
        _digest()
