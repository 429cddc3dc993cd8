"""``tapestry coordinator plan``, ``run`` and ``bundle`` say what is wrong in a line."""

import json
from pathlib import Path

import pytest

from tapestry_coordinator.superlink.outcome import (
    Outcome,
    working_on,
    write_outcome,
)
from tests.support.commands import tapestry
from tests.support.federation_fixtures import Found
from tests.support.founding_place import Place, ok, refuses


@pytest.mark.parametrize("text", ["sequence_length", "=96", ""])
def test_an_option_is_a_key_and_a_value(tmp_path: Path, text: str) -> None:
    done = tapestry(
        *("coordinator", "plan", tmp_path, "run-1", "--base", "tiny"),
        *("--held-out", tmp_path, "--option", text),
    )
    assert done.exit_code == 64
    assert "KEY=VALUE; for example sequence_length=96" in done.stderr


def test_a_number_of_too_many_digits_is_refused(tmp_path: Path) -> None:
    done = tapestry(
        *("coordinator", "plan", tmp_path, "run-1", "--base", "tiny"),
        *("--held-out", tmp_path, "--option", f"sequence_length={'9' * 5000}"),
    )
    assert done.exit_code == 64
    assert done.stderr.count("\n") == 1
    assert "number of 5000 digits" in done.stderr


@pytest.mark.parametrize("place", [".", "/"])
def test_a_bundle_is_a_new_folder(tmp_path: Path, place: str) -> None:
    done = tapestry("coordinator", "bundle", tmp_path, "-o", place)
    assert done.exit_code == 64
    assert f"{place} exists; choose a new folder [file-exists]" in done.stderr


@pytest.mark.parametrize("verb", ["run", "bundle"])
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, verb: str) -> None:
    more = ["-o", tmp_path / "bundle"] if verb == "bundle" else []
    done = tapestry("coordinator", verb, tmp_path, *more)
    assert done.exit_code == 64
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["run", "status", "plan", "bundle", "retry", "enroll"])
def test_before_the_log_is_open_the_next_commands_are_named(
    tmp_path: Path, verb: str
) -> None:
    place = Place.make(tmp_path / "place")
    ok(place.coordinator_init())
    files, more = sorted(place.coordinator.rglob("*")), list[object]()
    if verb == "plan":
        more = ["run-1", "--held-out", tmp_path]
    elif verb == "retry":
        more = ["run-1"]
    elif verb == "bundle":
        more = ["-o", tmp_path / "bundle"]
    elif verb == "enroll":
        more = [tmp_path / "a.request"]
    result = tapestry("coordinator", verb, place.coordinator, *more)
    said = refuses(result, 3, "not-founded")
    for word in ("charter", "accept", "open"):
        assert word in said
    assert sorted(place.coordinator.rglob("*")) == files


@pytest.mark.slow
def test_an_end_is_asked_for_and_shown(found: Found) -> None:
    federation = found()
    folder = federation.coordinator
    done = tapestry("coordinator", "end", folder, "run", "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said == {"run": "run", "asked": "end", "serving": False}
    assert (
        "rounds closed; asked to end"
        in tapestry("coordinator", "status", folder).stdout
    )
    with working_on(folder):
        again = tapestry("coordinator", "retry", folder, "run")
    assert again.stdout == "retry   run run is asked of the service that runs\n"
    shown = tapestry("coordinator", "status", folder).stdout
    assert "rounds closed; asked to try again" in shown


@pytest.mark.slow
def test_a_run_behind_another_one_is_not_tried_again(found: Found) -> None:
    federation = found()
    federation.run()
    ended = federation.begin_another_run("second")
    federation.run()
    write_outcome(ended, Outcome(kind="ConfigError", code="x", message="x"))
    done = tapestry("coordinator", "retry", federation.coordinator, "run")
    assert done.exit_code == 64
    assert done.stderr.endswith("[run-superseded]\n")
    gone = tapestry("coordinator", "end", federation.coordinator, "horse")
    assert gone.stderr.endswith("[run-missing]\n")
