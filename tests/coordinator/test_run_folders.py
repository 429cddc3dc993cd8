"""Runs wait, begin and end, each in a folder of its own."""

from pathlib import Path

from tapestry.errors import ConfigError, ResourceError
from tapestry_coordinator.run_folders import (
    begin_next,
    begun,
    current,
    run_folder,
    unfinished,
    waiting,
    write_progress,
)
from tapestry_coordinator.superlink.outcome import Outcome, write_outcome
from tests.support.refusals import refused


def queue(directory: Path, *names: str) -> None:
    for name in names:
        place = directory / "queue" / name
        (place / "held-out").mkdir(parents=True)
        (place / "run.toml").write_text(name)


def test_runs_begin_in_the_order_of_their_names(tmp_path: Path) -> None:
    assert begin_next(tmp_path) is None
    queue(tmp_path, "run-2", "run-1")
    (tmp_path / "queue" / "half").mkdir()  # without a plan it is no run
    assert waiting(tmp_path) == ["run-1", "run-2"]
    assert begin_next(tmp_path) == "run-1"
    assert (waiting(tmp_path), begun(tmp_path)) == (["run-2"], ["run-1"])
    assert (run_folder(tmp_path, "run-1") / "run.toml").read_text() == "run-1"
    assert (run_folder(tmp_path, "run-1") / "held-out").is_dir()


def test_a_run_is_worked_on_until_it_has_an_outcome(tmp_path: Path) -> None:
    queue(tmp_path, "run-1", "run-2")
    begin_next(tmp_path)
    assert unfinished(tmp_path) == current(tmp_path) == "run-1"
    write_outcome(run_folder(tmp_path, "run-1"), Outcome())
    assert unfinished(tmp_path) is None
    assert current(tmp_path) == "run-1"  # the last one, to look at
    begin_next(tmp_path)
    assert unfinished(tmp_path) == current(tmp_path) == "run-2"


def test_a_name_is_used_once(tmp_path: Path) -> None:
    queue(tmp_path, "run-1", "run-2")
    begin_next(tmp_path)
    queue(tmp_path, "run-1")
    assert waiting(tmp_path) == ["run-2"]
    assert [begin_next(tmp_path), begin_next(tmp_path)] == ["run-2", None]
    assert (tmp_path / "queue" / "run-1" / "run.toml").exists()


def test_a_folder_that_no_run_may_be_called_does_not_begin(tmp_path: Path) -> None:
    queue(tmp_path, "Run", "a b", "-", ".hidden", "run_1")
    assert waiting(tmp_path) == []
    assert begin_next(tmp_path) is None


def test_a_folder_without_a_run_says_how_to_plan_one(tmp_path: Path) -> None:
    with refused(ConfigError, "run-missing", match="tapestry coordinator plan"):
        current(tmp_path)


def test_a_full_disk_under_the_progress_is_named() -> None:
    with refused(ResourceError, "file-unwritable", match="/dev/full: No space"):
        write_progress(Path("/dev/full"), {"stage": "round"})
