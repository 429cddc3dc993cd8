"""The releases with which a later run may begin, since members keep their bases.

A run begins with a release that members approved, which need not be what the last run
gave. It may wait in a queue while newer ones are approved, and votes may come late. So
members keep the bases of several releases; how many is bounded, as is their disk.
"""

from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.round_records import ReleaseRecord

MOST_APPROVED = 4
_MOST_CANDIDATES = 4  # a coordinator needs no vote to begin runs, and fills no disk


def kept_releases(state: FederationState) -> list[ReleaseRecord]:
    """List the releases whose bases members keep, the newest first.

    They are the newest four that were approved and, of the newest four runs that have
    one, the last candidate. No run begins with a release that was withdrawn.
    """
    found, approved, runs = list[ReleaseRecord](), 0, set[str]()
    for release in state.released.newest_first():
        standing = state.standing_of(release.name)
        if standing == "approved" and approved < MOST_APPROVED:
            found.append(release)
            approved += 1
        elif standing == "candidate" and release.run_id not in runs:
            if len(runs) < _MOST_CANDIDATES:
                found.append(release)
            runs.add(release.run_id)
        if approved == MOST_APPROVED and len(runs) >= _MOST_CANDIDATES:
            break
    return found
