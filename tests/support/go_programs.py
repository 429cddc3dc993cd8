"""Go programs by which tests compare with others, built without network."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def build_go(folder: Path, work: Path) -> Path:
    """Build a folder's program; skip loudly where Go or its library is missing."""
    go = os.environ.get("TAPESTRY_GO") or shutil.which("go")
    gopath = Path(os.environ.get("TAPESTRY_GOPATH", "/usr/share/gocode"))
    if go is None or not (gopath / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        pytest.skip(
            "NOT CHECKED AGAINST GO: apt-get install golang-go golang-golang-x-mod-dev"
        )
    settings = {
        "CGO_ENABLED": "0",
        "GO111MODULE": "off",
        "GOCACHE": str(work / "cache"),
        "GOFLAGS": "",
        "GOPATH": str(gopath),
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
    }
    program = work / "program"
    subprocess.run(
        [go, "build", "-o", str(program), "."],
        cwd=folder,
        env=os.environ | settings,
        check=True,
    )
    return program
