"""The verifiers in Go and JavaScript, as programs that a test asks for a verdict."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "governance" / "verifiers"


@pytest.fixture(scope="session")
def go_verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the Go verifier without network."""
    go = os.environ.get("TAPESTRY_GO") or shutil.which("go")
    gopath = Path(os.environ.get("TAPESTRY_GOPATH", "/usr/share/gocode"))
    if go is None or not (gopath / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        pytest.skip(
            "NOT CHECKED AGAINST GO: apt-get install golang-go golang-golang-x-mod-dev"
        )
    work = tmp_path_factory.mktemp("go")
    settings = {
        "CGO_ENABLED": "0",
        "GO111MODULE": "off",
        "GOCACHE": str(work / "cache"),
        "GOFLAGS": "",
        "GOPATH": str(gopath),
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
    }
    subprocess.run(
        [go, "build", "-o", str(work / "verify"), "."],
        cwd=SOURCES,
        env=os.environ | settings,
        check=True,
    )
    return work / "verify"


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
