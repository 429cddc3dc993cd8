"""The verifiers in Go and JavaScript, as programs that a test asks for a verdict."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.go_programs import build_go

SOURCES = Path(__file__).parents[2] / "governance" / "verifiers"


@pytest.fixture(scope="session")
def go_verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the Go verifier without network."""
    return build_go(SOURCES, tmp_path_factory.mktemp("go"))


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("NOT CHECKED AGAINST WEBCRYPTO: install Node 20 or newer")
    return found


def refusal(command: list[str]) -> str | None:
    """Return why a verifier refuses, or None if it says that all holds."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (done.stdout == "holds\n"), done.stderr
    return done.stderr if done.returncode else None


def holds(command: list[str]) -> bool:
    return refusal(command) is None
