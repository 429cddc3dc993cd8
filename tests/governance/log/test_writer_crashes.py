"""kill -9 at any instant: nothing acknowledged is lost, no size has two roots."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


def _crash(directory: Path, *, stride: int) -> int:
    """Return how often a log was killed and found whole (see crashes.py)."""
    command = [sys.executable, "-m", "tests.support.crashes", str(directory)]
    done = subprocess.run(
        [*command, str(stride)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_log_survives_being_killed_here_and_there(tmp_path: Path) -> None:
    """Attack 13."""
    assert _crash(tmp_path, stride=293) > 4


@pytest.mark.slow
def test_a_log_survives_being_killed_at_every_seventh_line(tmp_path: Path) -> None:
    """Attack 13."""
    assert _crash(tmp_path, stride=7) > 150
