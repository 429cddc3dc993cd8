"""Declarations of a node's data: those that the log lacks, and the one for a round."""

from collections.abc import Iterator

from tapestry.errors import VerificationError
from tapestry.protocol.messages import Reason
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import MemberLeft
from tapestry_governance.events.privacy_events import DataDeclared
from tapestry_governance.rules.federation_state import FederationState
from tapestry_node.data.data_version import DataVersion, commitment
from tapestry_node.node_state import NodeState
from tapestry_node.refusal import Refused


def undeclared(
    store: NodeState, log: FederationState, *, name: str
) -> Iterator[DataVersion]:
    """Yield the versions that neither the log nor the outbox has, oldest first.

    Edge cases:
        A member that leaves declares nothing more.
    """
    posted = (open_entry(entry).event for entry in store.outbox())
    own = [event.body for event in posted if event.actor == name]
    if name in log.left or any(isinstance(body, MemberLeft) for body in own):
        return
    known = log.data.get(name)
    last = max(
        (body.version for body in own if isinstance(body, DataDeclared)),
        default=0 if known is None else known.version,
    )
    yield from (each for each in store.reading().data if each.version > last)


def require_newest(log: FederationState, store: NodeState, *, name: str) -> None:
    """Require that the log has no version of a node's data that its state lacks.

    Raises:
        VerificationError: It has one: the state was restored from before it, and cannot
            tell who came with it from who is new.
    """
    known, held = log.data.get(name), store.reading().data
    if known is not None and known.version > len(held):
        raise VerificationError(
            f"the log has data version {known.version} of this node, its state ends at"
            f" {len(held)}: it was restored from before that, and cannot tell who came"
            " with it from who is new; restore a newer backup",
            code="data-version-restored",
        )


def require_declared(
    log: FederationState, name: str, *, version: DataVersion, salt: bytes
) -> None:
    """Require that the log had a version of a node's data when its round was opened.

    It is the very same, by its commitment. The account of a round is compared with the
    records that were declared then.

    Edge cases:
        A node that had declared nothing then may still do so, and take part.

    Raises:
        Refused: The log lacks the version, or got it after the round was opened.
    """
    known = log.data.get(name)
    at_opening = known
    if log.open_round is not None:
        then = log.rounds[log.open_round.key].data.get(name)
        at_opening = known if then is None else then
    same = (version.version, version.block, commitment(version.dataset, salt))
    is_held = known and (known.version, known.block, known.dataset) == same
    if not is_held or at_opening != known:
        said = f"the log lacks this very data version {version.version}, or got it"
        raise Refused(
            Reason.MAINTENANCE,
            f"{said} after the round was opened; the next round counts it",
            code="data-not-declared",
        )
