"""Who is here, and how far each node is: called before every round.

Nodes come and go. Each says how much of the log it has and which round it applied
last; those that missed a result get it again, with the same public transcript and
sum, and take the step themselves.
"""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from tapestry.errors import (
    IncompleteError,
    InconsistentLog,
    ProtocolError,
    QuorumError,
    ResourceError,
    TapestryError,
)
from tapestry.protocol.messages import (
    ApplyResultRequest,
    ChunkRequest,
    HelloRequest,
    Identity,
    Message,
    ReceiptReply,
    encode_message,
)
from tapestry.protocol.secagg_messages import Result
from tapestry.secagg.chunks import cut
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.log_publisher import LogPublisher
from tapestry_coordinator.refusals import read_reply
from tapestry_coordinator.settings import CoordinatorSettings

_logger = logging.getLogger(__name__)
_PATIENCE = 0.5  # seconds between looks for nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTracker:
    """The nodes of a run."""

    settings: CoordinatorSettings
    grid: Grid
    publisher: LogPublisher
    journal: Journal
    applied: dict[str, int] = field(default_factory=dict)  # node -> last round
    asks: dict[str, set[ChunkRequest]] = field(
        default_factory=dict
    )  # node -> chunks, if known
    away: set[str] = field(default_factory=set)  # did not come when last waited for

    def wait_for_nodes(self, *, members: Collection[str] = ()) -> list[str]:
        """Wait for nodes and learn where they are.

        Args:
            members: Whom to wait for. Who did not come or answer in an earlier pass
                is welcome, but not waited for again.

        Raises:
            QuorumError: Fewer than the floor came before the first stage's deadline.
        """
        floor = self.settings.secagg.min_cohort
        names = self._await(set(members) - self.away, floor if members else 0)
        if len(names) < floor:
            raise QuorumError(
                f"{len(names)} nodes are here, at least {floor} are needed",
                code="nodes-too-few",
            )
        present = self.exchange_hello(names)
        if members:
            self.away.clear()
            self.away.update(set(members) - set(present))
        return present

    def exchange_hello(self, names: Collection[str]) -> list[str]:
        """Ask nodes where they are; returns those who say so, in order."""
        for name in names:
            self.asks.pop(name, None)  # who does not answer may want to see anything
        replies = self.grid.exchange(
            dict.fromkeys(names, encode_message(HelloRequest())),
            deadline=self.settings.deadlines.cosign,
        )
        return sorted(name for name, reply in replies if self._meet(name, reply))

    def _await(self, names: set[str], least: int) -> list[str]:
        end = time.monotonic() + self.settings.deadlines.advertise_keys
        while True:
            here = self.grid.nodes()
            complete = names.issubset(here) and len(here) >= least
            if complete or time.monotonic() > end:
                return here
            time.sleep(_PATIENCE)

    def _meet(self, name: str, reply: Message) -> bool:
        try:
            said = _identity(name, reply)
            note = said.checkpoint
            self.publisher.record_mirror_size(
                name, said.size, None if note is None else note.encode()
            )
        except (InconsistentLog, ResourceError):
            raise  # the former is proven by a quorum's signatures: do not go on
        except TapestryError as error:
            _logger.warning("%s does not say where it is: %s", name, error)
            return False
        self.applied[name], self.asks[name] = said.applied, set(said.asks)
        return True

    def catch_up(self, names: list[str]) -> None:
        """Send each node the results that it missed."""
        for row in self.journal.rounds():
            if row.status == "closed":
                late = [n for n in names if self.applied.get(n, 0) < row.number]
                self.send_result(row.number, late)

    def send_result(self, round_number: int, names: list[str]) -> None:
        """Send a closed round's transcript and sum."""
        if not names:
            return
        row = self.journal.row(round_number)
        if row.result is None:
            raise IncompleteError(
                f"the journal lacks the result of {round_number}",
                code="journal-round-missing",
            )
        request = encode_message(
            ApplyResultRequest(
                round_number=round_number,
                checkpoint=self.publisher.checkpoint.decode(),
                result=Result.decode(row.result),
            ),
            cut(self.journal.load_sum(round_number)),
        )
        waited = self.settings.deadlines.apply_result
        requests = dict.fromkeys(names, request)
        for name, reply in self.grid.exchange(requests, deadline=waited):
            try:
                read_reply(reply, ReceiptReply)
            except ProtocolError as error:
                _logger.warning(
                    "%s does not take round %d: %s", name, round_number, error
                )
                continue
            self.applied[name] = round_number
            self.asks.pop(name, None)  # it has drawn since it was asked


def _identity(name: str, reply: Message) -> Identity:
    said = read_reply(reply, Identity)
    if said.name != name:
        raise ProtocolError(
            f"it goes by the name of {said.name}", code="node-name-differs"
        )
    return said
