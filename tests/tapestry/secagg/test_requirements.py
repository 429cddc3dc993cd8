"""Tests of requirements: the high-water mark is on disk before the upload."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tapestry.errors import ProtocolError
from tapestry.secagg import client
from tapestry.secagg.requirements import (
    ClientProgress,
    ClientStep,
)
from tests.support.plans import recommended_colluding
from tests.support.refusals import refused
from tests.support.secagg_cohort import Federation, manifest_for, terms_for


class FileMarks:
    """High-water marks in a file; a stand-in for the node's own store."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def highest(self, run_id: str) -> int:
        if not self._path.exists():
            return 0
        run, number = self._path.read_text().split()
        return int(number) if run == run_id else 0

    def raise_to(self, run_id: str, round_number: int) -> None:
        if round_number <= self.highest(run_id):
            raise ProtocolError(
                f"uploaded for round {round_number} already",
                code="round-already-uploaded",
            )
        with self._path.open("w") as file:
            file.write(f"{run_id} {round_number}")
            file.flush()
            os.fsync(file.fileno())


KILLED = """
import os, signal, sys
from pathlib import Path
from tapestry.secagg import client
from tests.support.secagg_cohort import Federation
from tests.tapestry.secagg.test_requirements import FileMarks

federation = Federation.of(4)
federation.run("receive_shares")
marks = FileMarks(Path(sys.argv[1]))
client.reserve(federation.cohort[0].state, marks)
os.kill(os.getpid(), signal.SIGKILL)  # after the mark, before the upload
"""


def test_a_node_killed_between_mark_and_upload_does_not_join_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "marks"
    root = Path(__file__).parents[3]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)],
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    federation = Federation.of(4)
    again = manifest_for(federation.cohort, attempt=2)
    highest = FileMarks(path).highest(again.run_id)
    me = federation.cohort[0].identity
    with refused(ProtocolError, "round-already-uploaded", match="round 1"):
        client.advertise_keys(again, me, terms=terms_for(again, highest_round=highest))


def test_a_node_restored_from_a_backup_trusts_what_the_log_says_it_did() -> None:
    """The mark in the backup is old; the log shows a later commitment of its own."""
    federation = Federation.of(4)
    in_backup, in_log = 0, 1
    me = federation.cohort[0].identity
    terms = terms_for(federation.manifest, highest_round=max(in_backup, in_log))
    with refused(ProtocolError, "round-already-uploaded", match="round 1"):
        client.advertise_keys(federation.manifest, me, terms=terms)


def test_a_reservation_raises_the_high_water_mark_before_the_upload(
    tmp_path: Path,
) -> None:
    federation = Federation.of(4)
    federation.run("receive_shares")
    marks = FileMarks(tmp_path / "marks")
    client.reserve(federation.cohort[0].state, marks)
    assert marks.highest("run-1") == 1
    with refused(ProtocolError, "step-out-of-order", match="mask_input"):
        client.reserve(federation.cohort[0].state, marks)


def test_a_high_water_mark_that_cannot_be_written_leaves_the_step_open() -> None:
    class Broken(FileMarks):
        def raise_to(self, run_id: str, round_number: int) -> None:
            raise OSError(f"disk full at {run_id} {round_number}")

    federation = Federation.of(4)
    federation.run("receive_shares")
    state = federation.cohort[0].state
    with pytest.raises(OSError, match="disk full"):
        client.reserve(state, Broken(Path("nowhere")))
    assert state.round.progress.step is ClientStep.RESERVE


def test_a_step_of_a_round_is_taken_once() -> None:
    progress = ClientProgress()
    progress.advance(ClientStep.SHARE_KEYS)
    with refused(
        ProtocolError, "step-out-of-order", match="receive_shares, not share_keys"
    ):
        progress.advance(ClientStep.SHARE_KEYS)
    assert progress.step is ClientStep.RECEIVE_SHARES


@pytest.mark.parametrize(
    ("cohort", "colluding"),
    [(2, 0), (3, 0), (4, 1), (7, 2), (10, 3), (50, 16), (200, 66)],
)
def test_recommended_colluding_is_just_under_a_third_of_the_cohort(
    cohort: int, colluding: int
) -> None:
    assert recommended_colluding(cohort) == colluding
