"""``tapestry coordinator plan``, ``run`` and ``bundle`` say what is wrong in a line."""

from pathlib import Path

import pytest

from tests.support.commands import tapestry


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
