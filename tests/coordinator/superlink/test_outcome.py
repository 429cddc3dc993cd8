import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tapestry_coordinator.superlink.outcome import (
    clear_outcome,
    is_worked_on,
    read_outcome,
    working_on,
    write_outcome,
)


@pytest.mark.parametrize("error", [None, "QuorumError: 2 of 3"])
def test_an_outcome_is_read_as_written_and_cleared(
    tmp_path: Path, error: str | None
) -> None:
    assert read_outcome(tmp_path) == (False, None)
    write_outcome(tmp_path, error=error)
    assert read_outcome(tmp_path) == (True, error)
    clear_outcome(tmp_path)
    clear_outcome(tmp_path)
    assert read_outcome(tmp_path) == (False, None)


def test_the_lock_shows_from_outside_and_ends_with_the_work(tmp_path: Path) -> None:
    assert not is_worked_on(tmp_path)
    with working_on(tmp_path):
        assert is_worked_on(tmp_path)
    assert not is_worked_on(tmp_path)


def test_asking_does_not_disturb_who_comes_next(tmp_path: Path) -> None:
    with working_on(tmp_path):
        pass
    assert not is_worked_on(tmp_path)
    with working_on(tmp_path):
        assert is_worked_on(tmp_path)


def test_two_take_turns(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with working_on(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    with working_on(tmp_path):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from tapestry_coordinator.superlink.outcome import working_on\n"
        "with working_on(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert is_worked_on(tmp_path)
        process.kill()
        process.wait()
        assert not is_worked_on(tmp_path)
