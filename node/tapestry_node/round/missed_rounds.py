"""The round whose result this node takes next, by its own copy of the log.

A node that was away misses results, and perhaps those of whole runs. It names the one
that it takes next, and takes no other. That is the first one on the way to what the
log has now, and the way goes back from there::

    the newest run  <- begins with a release of <-  an earlier run  <- ... <-  a base
    up to its last round    up to its round                              that is here

Runs beside this way are left out: a node follows what it needs to take part. A new
release that no quorum has cosigned yet, as far as this node knows, is needed as well,
since the node cosigns no log that has it before it has followed it.
"""

import logging
from collections.abc import Callable, Iterator

from tapestry.protocol.messages import RoundName
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.round_records import ReleaseRecord
from tapestry_node.round.admission import first_round

_logger = logging.getLogger(__name__)


def goals(
    state: FederationState,
    *,
    accepted: int,
    is_followed: Callable[[ReleaseRecord], object],
) -> Iterator[tuple[str, int]]:
    """Yield the rounds that a node has to reach: of releases, then of the newest run.

    Args:
        state: By all of the node's log.
        accepted: Entries of it that a quorum has cosigned.
        is_followed: Whether this node has taken the round of a release.
    """
    for release in state.releases_since(accepted):
        if not is_followed(release):
            yield release.run_id, release.round_number
    if state.last is not None:
        run_id, last = state.last[0], state.closed.last
        is_closed = last is not None and last.run_id == run_id
        yield run_id, last.round_number if last is not None and is_closed else 0


def next_round(
    run_id: str,
    until: int,
    *,
    mirror: LogMirror,
    at: tuple[str | None, int],
    is_here: Callable[[str], bool],
) -> RoundName | None:
    """Name the first round to take on the way to a round, or None.

    Args:
        run_id: The run of the round to reach.
        until: Its number; 0 for the base that the run begins with.
        mirror: The node's log.
        at: Run and number of the last round that was taken.
        is_here: Whether a run can begin with a base, by its digest.

    Edge cases:
        None where the round was reached, and where no way leads there: then the
        operator has to name the folder of a release as the base.
    """
    state = mirror.state
    while True:
        goes_on = run_id == at[0] and at[1] <= until
        base = first_round(mirror, run_id).model_digest
        if goes_on or is_here(base):
            since = at[1] if goes_on else 0
            found = next(_closed(state, run_id, since=since, until=until), None)
            if found is None:
                return None
            return RoundName(run_id=run_id, round_number=found)
        release = _released(state, base, before=state.runs[run_id])
        if release is None:
            return None
        run_id, until = release.run_id, release.round_number


def tell_missing(first: RoundName) -> None:
    """Tell the operator of an earlier run that has to be followed first."""
    _logger.warning(
        "the results of run %r are missing here from round %d on; the coordinator sends"
        " them as long as it has the folder of that run; if it does not, get the folder"
        " of the newest approved release and name it as base in node.toml, and its"
        " identity in policy.bases",
        *(first.run_id, first.round_number),
    )


def _closed(
    state: FederationState, run_id: str, *, since: int, until: int
) -> Iterator[int]:
    """Yield the closed rounds of a run beyond one number and up to another."""
    began = state.runs[run_id]
    for each in state.closed.while_newest(lambda each: each.index > began):
        if each.run_id == run_id and since < each.round_number <= until:
            yield each.round_number


def _released(
    state: FederationState, base: str, *, before: int
) -> ReleaseRecord | None:
    """Return the newest release of a base before an entry of the log."""
    for release in state.released.newest_first():
        digest = state.releases[release.name].model_digest
        if release.index < before and digest == base:
            return release
    return None
