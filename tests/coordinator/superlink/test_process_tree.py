"""Families of processes: all of one are ended, and nothing else is."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tapestry_coordinator.superlink import process_tree
from tests.support.process_families import (
    arguments,
    lives,
    pids,
    wait_until,
    write_stubborn,
)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux shows an environment"
)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return write_stubborn(tmp_path)


@pytest.fixture
def start(script: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    started = []

    def start(mark: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, process_tree.VARIABLE: mark}
        command = [sys.executable, *arguments(script)]
        started.append(subprocess.Popen(command, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
    process_tree.end(process_tree.OURS, seconds=0)


@pytest.mark.parametrize("seconds", [0, 0.2])
def test_a_family_is_ended_with_those_who_left_home_and_no_other(
    script: Path,
    start: Callable[[str], subprocess.Popen[bytes]],
    seconds: float,
) -> None:
    mine, other = process_tree.new_mark(), process_tree.new_mark()
    parent = start(mine)
    family = pids(script, 2)
    start(other)
    everybody = pids(script, 4)
    parent.kill()
    parent.wait()
    assert process_tree.count(mine) == 1
    assert process_tree.count(process_tree.OURS) == 3
    process_tree.end(mine, seconds=seconds)
    assert not any(map(lives, family))
    assert all(map(lives, set(everybody) - set(family)))
    process_tree.end(mine, seconds=seconds)


def test_the_families_of_a_member_are_part_of_its_own(
    script: Path,
    start: Callable[[str], subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = process_tree.new_mark()
    monkeypatch.setenv(process_tree.VARIABLE, mine)
    start(process_tree.new_mark())
    found = pids(script, 2)
    process_tree.end(mine, seconds=0)
    assert not any(map(lives, found))


def test_a_process_that_listens_is_not_killed(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(300)"
    )
    mark = process_tree.new_mark()
    environment = {**os.environ, process_tree.VARIABLE: mark}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as process:
        wait_until((tmp_path / "ready").exists)
        process_tree.end(mark, seconds=120)
        assert process.wait() == 7
