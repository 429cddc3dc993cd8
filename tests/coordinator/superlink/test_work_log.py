"""The log of the process that Flower starts: in a file, and where operators look."""

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tapestry_coordinator.superlink import work_log
from tapestry_coordinator.superlink.work_log import FILE, LogFollower, write_log


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for each in root.handlers:
        if each not in before:
            each.close()
    root.handlers, root.level = before, level


def test_it_is_private_and_has_what_libraries_warn_of(tmp_path: Path) -> None:
    write_log(tmp_path)
    logging.getLogger("tapestry_coordinator.service").info("run run-1 waits\x1b[2J")
    logging.getLogger("httpx").info("GET /pull")
    logging.getLogger("httpx").warning("no answer")
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    first, second = (tmp_path / FILE).read_text().splitlines()
    assert first.endswith(r"tapestry_coordinator.service run run-1 waits\x1b[2J")
    assert second.endswith("httpx no answer")


def test_it_is_followed_from_file_to_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(work_log, "_MOST_BYTES", 4000)
    (tmp_path / FILE).write_text("of an earlier start\n")
    log = logging.getLogger("tapestry_coordinator")
    with closing(LogFollower(tmp_path)) as follower:
        write_log(tmp_path)
        for number in range(200):
            log.warning("line %d", number)
            if number % 10 == 9:
                follower.pass_on()
    said = [line.split(" ", 3)[-1] for line in capsys.readouterr().err.splitlines()]
    assert said == [f"line {number}" for number in range(200)]
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == [FILE, f"{FILE}.1"]
    for path in paths:
        assert path.stat().st_size <= 4000
        assert path.stat().st_mode & 0o777 == 0o600


def test_half_a_line_waits_for_its_end_and_a_file_for_its_making(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    follower = LogFollower(tmp_path)
    follower.pass_on()
    with (tmp_path / FILE).open("a") as file:
        print("one\ntw", end="", file=file, flush=True)
        follower.pass_on()
        assert capsys.readouterr().err == "one\n"
        print("o", file=file, flush=True)
    follower.close()
    assert capsys.readouterr().err == "two\n"
