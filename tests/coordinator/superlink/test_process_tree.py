"""Families of processes: all of one are ended, and nothing else is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tapestry_coordinator.superlink import process_tree

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux shows an environment"
)
# A child that does not listen, whose own child has a session of its own and, once the
# middle one has ended, another parent.
_STUBBORN = """
import os, pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 2:
    subprocess.Popen([sys.executable, __file__, sys.argv[1]], start_new_session=True)
pathlib.Path(sys.argv[1], str(os.getpid())).touch()
time.sleep(60)
"""
# What `tapestry demo` does around its engine, without the engine.
_STOPPED = """
import os, subprocess, sys, time
from tapestry_coordinator.superlink import process_tree
from tapestry_demo.interrupts import interruptible
with interruptible() as stop:
    environment = {**os.environ, process_tree.VARIABLE: process_tree.new_mark()}
    subprocess.Popen([sys.executable, *sys.argv[1:]], env=environment)
    print("started", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("stopping", stop.requested, flush=True)
        time.sleep(60)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "stubborn.py"
    path.write_text(_STUBBORN)
    (tmp_path / "pids").mkdir()
    return path


def arguments(script: Path) -> list[str]:
    return [str(script), str(script.parent / "pids"), "with a child"]


def pids(script: Path, number: int) -> list[int]:
    """Wait until so many processes have said that they run."""
    folder = script.parent / "pids"
    wait_until(lambda: len(list(folder.iterdir())) == number)
    return [int(path.name) for path in folder.iterdir()]


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


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


def test_a_process_that_listens_is_not_killed(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(60)"
    )
    mark = process_tree.new_mark()
    environment = {**os.environ, process_tree.VARIABLE: mark}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as process:
        wait_until((tmp_path / "ready").exists)
        process_tree.end(mark, seconds=10)
        assert process.wait() == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_second_signal_kills_at_once_and_leaves_nothing(
    script: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _STOPPED, *arguments(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        family = pids(script, 2)
        process.send_signal(number)
        assert process.stdout.readline() == "stopping True\n"
        assert all(map(lives, family))
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "\nkilled at once\n"
    assert not any(map(lives, family))


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    """As under nohup, or for a job that a script put into the background."""
    code = (
        "import os, signal\nfrom tapestry_demo.interrupts import interruptible\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "before = signal.getsignal(signal.SIGTERM)\n"
        "with interruptible() as stop:\n    os.kill(os.getpid(), signal.SIGHUP)\n"
        "assert not stop.requested\n"
        "assert signal.getsignal(signal.SIGTERM) is before\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
