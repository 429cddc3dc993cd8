"""The oldest Flower that is allowed runs in every test, and the newest one here.

``constraints.txt`` pins the oldest. What we rely on in Flower has no promise, so each
version that ``pyproject.toml`` allows has to pass the contract and all tests of the
modules that speak Flower.
"""

import os
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.install.environments import (
    ROOT,
    Installed,
    Plan,
    build_wheel,
    environment,
    install,
    run_uv,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("CHECK_INSTALL") != "1",
        reason="needs a package index; CHECK_INSTALL=1 asks for it, as .ci/run does",
    ),
]
SPEAKERS = (
    "tests/coordinator/superlink/test_flower_contract.py",
    "tests/coordinator/superlink/test_control_client.py",
    "tests/coordinator/superlink/test_flower_programs.py",
    "tests/coordinator/test_flower.py",
    "tests/node/test_flower.py",
)
SOURCES = (".", "node", "coordinator", "governance", "deploy")
NEEDED = ("hypothesis", "psutil", "pytest", "safetensors")  # by the tests


def allowed() -> tuple[str, str]:
    """Return the oldest minor version that is allowed, and the first that is not."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (line,) = (
        each
        for each in extras["optional-dependencies"]["node"]
        if each.startswith("flwr")
    )
    found = re.fullmatch(r"flwr>=(1\.\d+),<(1\.\d+)", line)
    assert found is not None, line
    return found[1], found[2]


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        found = install(Plan(extra="coordinator"), build_wheel(place), place / "env")
        run_uv("pip", "install", "--quiet", "--python", found.folder, *NEEDED)
        yield found


def test_the_newest_flower_that_is_allowed_passes_all_that_speak_it(
    installed: Installed,
) -> None:
    code = "import flwr; print(flwr.__version__)"
    version = installed.run("-c", code, program="python").stdout.strip()
    minor = int(allowed()[1].partition(".")[2]) - 1
    assert version.startswith(f"1.{minor}."), "allow no version that is not tested"
    search = os.pathsep.join(str(ROOT / name) for name in SOURCES)
    done = subprocess.run(
        [
            installed.folder / "bin" / "python",
            *("-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *SPEAKERS,
        ],
        cwd=ROOT,
        env=environment(installed.folder) | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"^\d{2,} passed", done.stdout, re.MULTILINE), done.stdout


def test_all_other_tests_run_with_the_oldest_that_is_allowed() -> None:
    pinned = (ROOT / "constraints.txt").read_text("utf-8")
    assert re.search(rf"^flwr=={re.escape(allowed()[0])}\.\d+$", pinned, re.MULTILINE)
