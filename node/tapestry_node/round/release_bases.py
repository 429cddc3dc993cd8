"""The bases of releases, with which a later run may begin.

A run begins with a release that members approved, which need not be what the last run
gave: its release may be a candidate still. So a node keeps the snapshots of the newest
approved release and of later runs' candidates, beside those of its last rounds.
"""

import logging
from collections.abc import Iterator

from tapestry.errors import IncompleteError, ResourceError, VerificationError
from tapestry.model.replica import Replica
from tapestry_governance.events.round_events import RoundClosed
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.round_records import ReleaseRecord
from tapestry_node.node_state import NodeState
from tapestry_node.round.base_snapshots import BaseSnapshots

_logger = logging.getLogger(__name__)
_MOST_CANDIDATES = 4  # a coordinator needs no vote to begin runs, and fills no disk


def ends_of_releases(state: FederationState) -> list[int]:
    """List the log indexes at which rounds ended whose base a run may begin with.

    They are those of the newest approved release and, of the last four runs after it,
    of the last candidate. No run begins with a release that was withdrawn.
    """
    found: dict[str, int | None] = {}
    for release in state.released.newest_first():
        standing, end = state.standing_of(release.name), state.end_of(release)
        if standing == "approved":
            return [index for index in (*found.values(), end) if index is not None]
        if standing == "candidate" and len(found) < _MOST_CANDIDATES:
            found.setdefault(release.run_id, end)
    return [index for index in found.values() if index is not None]


def read_release(
    base: str, *, mirror: LogMirror, store: NodeState, snapshots: BaseSnapshots
) -> Replica | None:
    """Read the base of a release by its digest, if this node followed the run to it.

    Guarantees:
        It is what this node's own steps gave, by its state, and bit for bit what the
        log names as the end of the round.

    Edge cases:
        None where the node has no snapshot of it, or one that is damaged.
    """
    for release, end in _followed(base, state=mirror.state, store=store):
        try:
            return snapshots.read(end, mirror.body(end, RoundClosed))
        except (IncompleteError, ResourceError, VerificationError) as error:
            _logger.warning(
                "the base of %s is not here: %s [%s]",
                *(release.name, error, error.code),
            )
    return None


def has_release(
    base: str, *, state: FederationState, store: NodeState, snapshots: BaseSnapshots
) -> bool:
    """Return whether a snapshot of a release's base is there; it is not read."""
    held = snapshots.held()
    return any(end in held for _, end in _followed(base, state=state, store=store))


def _followed(
    base: str, *, state: FederationState, store: NodeState
) -> Iterator[tuple[ReleaseRecord, int]]:
    """Yield the releases of a base that this node followed, and where rounds ended."""
    for release in state.released.newest_first():
        made = store.base(release.run_id, release.round_number)
        end = state.end_of(release)
        if made == base and end is not None:
            yield release, end
