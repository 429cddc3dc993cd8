"""Real processes of this program's Python, in an environment of the test's own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

STRANGER = 54321  # a user id that no passwd file names

as_root = pytest.mark.skipif(
    os.getuid() != 0, reason="only root may become another user"
)


def environment(**changed: str | None) -> dict[str, str]:
    """This process's environment, without what names a cache; None unsets."""
    names = {"HOME", "XDG_CACHE_HOME", "TAPESTRY_CACHE", *changed}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return kept | {name: value for name, value in changed.items() if value is not None}


def run(
    *arguments: str, env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=dict(env),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def process(*words: object, **changed: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command as a process of its own, with its output in pipes."""
    env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **changed}
    started = subprocess.Popen(
        [sys.executable, "-m", "tapestry", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**env),
    )
    with started:
        try:
            yield started
        finally:
            started.kill()
