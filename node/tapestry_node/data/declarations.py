"""Declarations of a node's data: those that the log lacks, and the one for a round."""

from collections.abc import Iterator

from tapestry.protocol.messages import Reason
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import MemberLeft
from tapestry_governance.events.privacy_events import DataDeclared
from tapestry_governance.rules.federation_state import FederationState
from tapestry_node.data.data_version import DataVersion
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


def require_declared(log: FederationState, name: str, *, version: int) -> None:
    """Require that the log had a version of a node's data when its round was opened.

    The account of a round is compared with the records that were declared then.

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
    if known is None or known.version != version or at_opening != known:
        said = f"the log lacks the declaration of data version {version}, or got it"
        raise Refused(
            Reason.MAINTENANCE,
            f"{said} after the round was opened; the next round counts it",
            code="data-not-declared",
        )
