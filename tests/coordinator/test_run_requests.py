"""An operator ends a run, or has it tried again; the service does it when it can."""

from pathlib import Path

import pytest

from tapestry.errors import ConfigError
from tapestry_coordinator.run_folders import run_folder
from tapestry_coordinator.run_requests import (
    ask_again,
    ask_to_end,
    begin_again,
    is_asked_again,
    request_in,
    settle,
)
from tapestry_coordinator.superlink.outcome import (
    Outcome,
    read_outcome,
    write_outcome,
)
from tests.coordinator.test_run_folders import queue
from tests.support.refusals import refused

FAILED = Outcome.of(ConfigError("a setting", code="setting-invalid"))


def begun(directory: Path, *names: str) -> None:
    queue(directory, *names)
    (directory / "runs").mkdir(exist_ok=True)
    for name in names:
        (directory / "queue" / name).rename(run_folder(directory, name))


def test_a_request_stands_until_it_was_followed(tmp_path: Path) -> None:
    begun(tmp_path, "run-1")
    folder = run_folder(tmp_path, "run-1")
    assert request_in(folder) is None
    ask_to_end(tmp_path, "run-1")
    assert request_in(folder) == "end"
    ask_again(tmp_path, "run-1", opened=[])  # the operator has thought better of it
    assert request_in(folder) == "again"
    settle(folder)
    settle(folder)
    assert request_in(folder) is None


@pytest.mark.parametrize("data", [b"", b"horse", b"\xff\n"])
def test_what_is_no_request_asks_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "asked").write_bytes(data)
    assert request_in(tmp_path) is None


def test_a_run_that_waits_can_be_ended_and_one_that_ended_cannot(
    tmp_path: Path,
) -> None:
    begun(tmp_path, "run-1")
    queue(tmp_path, "run-2")
    ask_to_end(tmp_path, "run-2")
    assert request_in(tmp_path / "queue" / "run-2") == "end"
    with refused(ConfigError, "run-waits"):
        ask_again(tmp_path, "run-2", opened=[])
    write_outcome(run_folder(tmp_path, "run-1"), Outcome())
    with refused(ConfigError, "run-ended"):
        ask_to_end(tmp_path, "run-1")
    for name in ("run-3", "../run-1", ""):
        with refused(ConfigError, "run-missing", match="it has run-1, run-2"):
            ask_to_end(tmp_path, name)


def test_one_run_at_a_time_is_begun_again(tmp_path: Path) -> None:
    begun(tmp_path, "run-1", "run-2")
    write_outcome(run_folder(tmp_path, "run-1"), FAILED)
    ask_again(tmp_path, "run-1", opened=["run-0"])
    assert is_asked_again(tmp_path)
    assert begin_again(tmp_path) is None  # run-2 goes on
    write_outcome(run_folder(tmp_path, "run-2"), Outcome())
    assert begin_again(tmp_path) == "run-1"
    assert read_outcome(run_folder(tmp_path, "run-1")) is None


def test_what_is_done_or_was_left_behind_is_not_tried_again(tmp_path: Path) -> None:
    begun(tmp_path, "run-1")
    folder = run_folder(tmp_path, "run-1")
    write_outcome(folder, Outcome(message="ended as its operator asked"))
    with refused(ConfigError, "run-ended"):
        ask_again(tmp_path, "run-1", opened=["run-1"])
    write_outcome(folder, FAILED)
    with refused(ConfigError, "run-superseded", match="gone on with run run-2"):
        ask_again(tmp_path, "run-1", opened=["run-1", "run-2"])
    assert not is_asked_again(tmp_path)
    ask_again(tmp_path, "run-1", opened=["run-2", "run-1"])
    assert is_asked_again(tmp_path)
