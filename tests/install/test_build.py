"""Whoever builds a wheel or source archive from one commit gets the same bytes.

The backend comes from a package index, so ``.ci/run`` asks for it with
``CHECK_INSTALL=1``.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tapestry.software_digest import software_manifest
from tests.install.environments import ROOT, build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("CHECK_INSTALL") != "1",
        reason="needs a package index; CHECK_INSTALL=1 asks for it, as .ci/run does",
    ),
]
SURROUNDINGS = {
    "here": {
        "umask": "022",
        "time": "2001-01-01",
        "env": {"TZ": "UTC", "PYTHONHASHSEED": "1", "USER": "one", "LC_ALL": "C"},
    },
    "a longer place/ü": {
        "umask": "077",
        "time": "2024-05-17",
        "env": {
            "TZ": "Asia/Kathmandu",
            "PYTHONHASHSEED": "77",
            "USER": "two",
            "LC_ALL": "C.UTF-8",
            "SOURCE_DATE_EPOCH": "1700000000",
        },
    },
}


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders with a wheel and a source archive, each from a copy of its own."""
    found = []
    for name, surroundings in SURROUNDINGS.items():
        place = tmp_path_factory.mktemp("build") / name
        source = copy_source(place / "source", surroundings)
        env = surroundings["env"]
        assert isinstance(env, dict)
        build(source, place / "built", env=env)
        found.append(place / "built")
    return found


def copy_source(folder: Path, surroundings: Mapping[str, object]) -> Path:
    """Copy what the commit holds, with other modes, times and order of files."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True
    )
    names = sorted(filter(None, os.fsdecode(listed.stdout).split("\0")))
    if surroundings["umask"] == "077":
        names.reverse()
    before = os.umask(int(str(surroundings["umask"]), 8))
    try:
        for name in names:
            if (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)
    finally:
        os.umask(before)
    stamp: list[str | Path] = [
        "find",
        folder,
        "-exec",
        "touch",
        "-d",
        str(surroundings["time"]),
        "{}",
    ]
    subprocess.run([*stamp, "+"], check=True)
    return folder


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_two_builds_in_unlike_surroundings_have_the_same_bytes(
    builds: list[Path], kind: str
) -> None:
    found = [next(folder.glob(kind)) for folder in builds]
    assert len({path.name for path in found}) == 1
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in found}) == 1


def test_a_wheel_and_the_checkout_have_the_same_digest_of_own_files(
    builds: list[Path], tmp_path: Path
) -> None:
    """Or else a developer's node and an institution's would refuse each other."""
    (wheel,) = builds[0].glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "from tapestry.software_digest import software_manifest as m; print(m().own)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == software_manifest().own
