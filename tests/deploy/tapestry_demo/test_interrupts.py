"""One signal stops a demo in order, the next one at once, and none is forgotten."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tapestry_demo.interrupts import Stop, interruptible
from tests.support.process_families import (
    arguments,
    lives,
    pids,
    write_stubborn,
)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux shows an environment"
)
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
        time.sleep(300)
    except KeyboardInterrupt:
        print("stopping", stop.requested, flush=True)
        time.sleep(300)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return write_stubborn(tmp_path)


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
        _, errors = process.communicate(timeout=120)
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


def test_a_stop_that_was_swallowed_is_raised_again_at_the_next_check() -> None:
    stop = Stop()
    stop.check()
    with pytest.raises(KeyboardInterrupt):
        stop.take(signal.SIGINT, None)
    assert stop.requested
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stop.check()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_first_signal_stops_the_block_and_its_handler_is_gone_afterwards(
    number: signal.Signals,
) -> None:
    before, stops = signal.getsignal(number), list[Stop]()

    def work() -> None:
        with interruptible() as stop:
            stops.append(stop)
            os.kill(os.getpid(), number)
            time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert stops[0].requested
    assert signal.getsignal(number) is before


def test_handlers_are_put_back_after_a_block_that_ended_by_itself() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with interruptible() as stop:
        assert all(signal.getsignal(number) == stop.take for number in numbers)
    assert [signal.getsignal(number) for number in numbers] == before
    assert not stop.requested


def test_in_another_thread_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with interruptible() as stop:
            seen.extend([signal.getsignal(signal.SIGTERM), stop.requested])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, False]
