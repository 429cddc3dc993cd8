"""Results out of the folders of runs, also of those that ended long ago."""

from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tapestry.encoding import digest
from tapestry.protocol.messages import ApplyResultRequest, Kind, RoundName
from tapestry.protocol.secagg_messages import Result
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.missed_results import (
    ClosedResult,
    find_result,
    tell_missing,
)
from tapestry_coordinator.run_folders import HELD_OUT, run_folder
from tests.support.gate_models import inputs, naming
from tests.support.message_samples import sample_bodies

TOTAL = np.arange(5, dtype=np.uint32)


@cache
def result() -> Result:
    body = sample_bodies()[Kind.APPLY_RESULT]
    assert isinstance(body, ApplyResultRequest)
    return body.result


def write_run(directory: Path, run_id: str, *, status: str = "closed") -> Path:
    """Write a run's folder with one round, whose sum is known."""
    folder = run_folder(directory, run_id)
    (folder / HELD_OUT).mkdir(parents=True)
    with closing(Journal(folder)) as journal:
        journal.open_round(1, naming(inputs()).encode())
        journal.store_sum(1, TOTAL)
        journal.store_result(1, result().encode())
        journal.settle(1, status)
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Journal]:
    """The journal of the run that is under way."""
    folder = write_run(tmp_path, "own")
    with closing(Journal(folder)) as journal:
        yield journal


def find(directory: Path, own: Journal, run_id: str) -> ClosedResult | None:
    wanted = RoundName(run_id=run_id, round_number=1)
    return find_result(directory, wanted, own=own, own_run="own")


@pytest.mark.parametrize("run_id", ["own", "earlier"])
def test_a_closed_round_of_any_run_is_found(
    tmp_path: Path, own: Journal, run_id: str
) -> None:
    if run_id == "earlier":
        write_run(tmp_path, run_id)
    found = find(tmp_path, own, run_id)
    assert found is not None
    assert found.result == result()
    assert b"".join(map(bytes, found.chunks)) == TOTAL.tobytes()
    assert found.held_out == inputs().held_out


@pytest.mark.parametrize("status", ["open", "aborted"])
def test_the_sum_of_a_round_that_was_not_closed_is_given_to_no_one(
    tmp_path: Path, own: Journal, status: str
) -> None:
    write_run(tmp_path, "earlier", status=status)
    assert find(tmp_path, own, "earlier") is None
    own.settle(1, status)
    assert find(tmp_path, own, "own") is None


@pytest.mark.parametrize("lacking", ["folder", "journal.db", HELD_OUT, "sums", "row"])
def test_what_is_not_there_is_told_once_with_what_to_do(
    tmp_path: Path, own: Journal, lacking: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_run(tmp_path, "earlier")
    if lacking == "folder":
        folder.rename(tmp_path / "elsewhere")
    elif lacking == "row":
        with closing(Journal(folder)) as journal:
            journal.database.query("DELETE FROM round")
    elif lacking == "sums":
        next((folder / lacking).iterdir()).unlink()
    elif lacking == HELD_OUT:
        (folder / lacking).rmdir()
    else:
        (folder / lacking).unlink()
    kept = {path: digest(path.read_bytes()) for path in folder.glob("*.db")}
    for _ in range(3):
        assert find(tmp_path, own, "earlier") is None
    (said,) = (record.getMessage() for record in caplog.records)
    assert f"lack results of run 'earlier' do not get them from {folder}: " in said
    assert "name as base in node.toml" in said
    assert {path: digest(path.read_bytes()) for path in kept} == kept
    tell_missing(folder, "for another reason")
    assert len(caplog.records) == 2
