"""The results of closed rounds, as the folders of their runs have them.

A member that was away asks for a result by run and round, also of runs that ended long
ago. Their folders stay, so that it can catch up by itself. Where one is gone, as after
``coordinator recover``, its members need the folder of a release instead.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tapestry.errors import IncompleteError, TapestryError
from tapestry.protocol.messages import Bulk, RoundName
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import Result
from tapestry.secagg.chunks import cut
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.run_folders import HELD_OUT, run_folder

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedResult:
    """The result of a closed round, and what a member needs to check it."""

    result: Result
    chunks: Bulk  # of the sum
    held_out: str  # the digest of the public data of the gate


def find_result(
    directory: Path, wanted: RoundName, *, own: Journal, own_run: str
) -> ClosedResult | None:
    """Read a result that a member asks for; None, with a word, where it is not here.

    ``own`` is the open journal of the run that is under way.

    Guarantees:
        The sum of a round that was not closed is given to no one, also if it is known.

    Edge cases:
        That a run's results are not here is told once by a process.
    """
    run_id, number = wanted.run_id, wanted.round_number
    try:
        with _journal(directory, run_id, own=own, own_run=own_run) as journal:
            row = journal.row(number)
            if row.status != "closed":
                raise IncompleteError(
                    f"round {number} of {run_id!r} is {row.status}, not closed",
                    code="journal-round-missing",
                )
            return ClosedResult(
                result=Result.decode(journal.result(number)),
                chunks=cut(journal.load_sum(number)),
                held_out=RoundManifest.decode(row.manifest).gate.held_out,
            )
    except TapestryError as error:
        tell_missing(run_folder(directory, run_id), f"{error} [{error.code}]")
        return None


@lru_cache(maxsize=1024)
def tell_missing(folder: Path, why: str) -> None:
    """Tell the operator, once, that members get no results out of a run's folder."""
    _logger.warning(
        "members that lack results of run %r do not get them from %s: %s; put the"
        " folder back, or give them the folder of the newest approved release, which"
        " they name as base in node.toml, and its identity in policy.bases",
        *(folder.name, folder, why),
    )


@contextmanager
def _journal(
    directory: Path, run_id: str, *, own: Journal, own_run: str
) -> Iterator[Journal]:
    if run_id == own_run:
        yield own
        return
    folder = run_folder(directory, run_id)
    if not (Journal.is_there(folder) and (folder / HELD_OUT).is_dir()):
        raise IncompleteError(
            f"journal or {HELD_OUT}/ are not there", code="file-missing"
        )
    journal = Journal(folder, readonly=True)
    try:
        yield journal
    finally:
        journal.close()
