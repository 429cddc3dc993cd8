"""The lock and the outcome by which a supervisor knows the state of the work."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tapestry.errors import ConfigError
from tapestry_coordinator.superlink.outcome import (
    Outcome,
    clear_outcome,
    is_worked_on,
    read_outcome,
    working_on,
    write_outcome,
)
from tests.support.refusals import refused


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(),
        Outcome(kind="QuorumError", code="quorum-not-reached", message="2 of 3"),
    ],
    ids=["done", "failed"],
)
def test_an_outcome_is_read_as_written_and_cleared(
    tmp_path: Path, outcome: Outcome
) -> None:
    assert read_outcome(tmp_path) is None
    write_outcome(tmp_path, outcome)
    assert read_outcome(tmp_path) == outcome
    clear_outcome(tmp_path)
    clear_outcome(tmp_path)
    assert read_outcome(tmp_path) is None


@pytest.mark.parametrize("data", [b"", b"[]", b'{"x":1}', b"\xff"])
def test_a_damaged_outcome_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "outcome.json").write_bytes(data)
    with refused(ConfigError, "outcome-damaged", match=r"outcome\.json is damaged"):
        read_outcome(tmp_path)


def test_the_lock_shows_from_outside_and_ends_with_the_work(tmp_path: Path) -> None:
    assert not is_worked_on(tmp_path)
    with working_on(tmp_path):
        assert is_worked_on(tmp_path)
    assert not is_worked_on(tmp_path)


def test_a_look_at_the_lock_leaves_it_free_for_the_next_coordinator(
    tmp_path: Path,
) -> None:
    with working_on(tmp_path):
        pass
    assert not is_worked_on(tmp_path)
    with working_on(tmp_path):
        assert is_worked_on(tmp_path)


def test_a_second_coordinator_waits_until_the_first_lets_go(tmp_path: Path) -> None:
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


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
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
