"""The release that an adapter is to be trained on, and where its base lies here.

The log takes an adapter on any release that was not withdrawn, also on a candidate: it
stands with its base. At the end of a run a node trains on what the run has just given,
which nobody can have approved yet. At the operator's word, at any time, it trains on
what members approved and nothing else.
"""

from tapestry.errors import PolicyError
from tapestry.model.replica import Replica
from tapestry.protocol.messages import Reason
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.rules.federation_state import FederationState
from tapestry_node.node_state import NodeState
from tapestry_node.refusal import Refused
from tapestry_node.round.base_snapshots import BaseSnapshots
from tapestry_node.round.release_bases import read_release


def find_release(state: FederationState, wanted: str | None) -> ReleasePublished:
    """Find a release by its name, its run or the index of its entry.

    Of a run it is the newest that members approved; without a word, of all runs.

    Args:
        state: The federation, with what the accepted checkpoint shows to be decided.
        wanted: Such as ``base-2``, ``run-1`` or ``57``.

    Raises:
        PolicyError: There is none, or members have not approved it, or they withdrew
            it.
    """
    newest = list(state.released.newest_first())
    found = [
        each
        for each in newest
        if wanted in (None, each.name, each.run_id, str(each.index))
    ]
    approved = [each for each in found if state.standing_of(each.name) == "approved"]
    if approved:
        return state.releases[approved[0].name]
    if found and wanted is not None:
        name = found[0].name
        standing = state.standing_of(name)
        raise PolicyError(
            f"{name} is {standing}: an adapter is trained on what members approved;"
            " tapestry governance vote approves a candidate",
            code="release-not-approved",
        )
    there = ", ".join(each.name for each in reversed(newest)) or "none yet"
    what = "no approved release" if wanted is None else f"no release {wanted!r}"
    raise PolicyError(
        f"the log has {what}; it has {there}: name one by --release",
        code="release-unknown",
    )


def held_base(
    release: ReleasePublished,
    snapshots: BaseSnapshots,
    *,
    mirror: LogMirror,
    store: NodeState,
    current: Replica | None = None,
) -> Replica:
    """Return the base of a release, as this node keeps it.

    Guarantees:
        Its rounded parameters are bit for bit those of the release, by its identity.

    Args:
        release: In the log.
        snapshots: Of this node, with the base of ``node.toml``.
        mirror: The log.
        store: Says which rounds the node has followed.
        current: The base that the node holds now.

    Raises:
        Refused: It is none of them.
    """
    digest = release.model_digest
    for each in (current, snapshots.given):
        if each is not None and each.release_digest == digest:
            return each
    found = read_release(digest, mirror=mirror, store=store, snapshots=snapshots)
    if found is not None and found.release_digest == digest:
        return found
    raise Refused(
        Reason.BASE_MISMATCH,
        f"the base of {release.name}, {digest}, is not here: this node did not follow"
        " its run, or keeps newer ones. Let the node run until it has the results, or"
        f" get releases/{release.name}, verify it (tapestry release verify) and name"
        " the folder as base in node.toml",
        code="release-not-held",
    )
