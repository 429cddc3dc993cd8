"""Who is here, and how far each node is: called before every round.

Nodes come and go. Each says how much of the log it has and which round it applied
last; those that missed a result get it again, with the same public transcript and
sum, and take the step themselves.
"""

import logging
import time
from dataclasses import dataclass, field

from tapestry.config import CoordinatorSettings
from tapestry.encoding import canonical_json
from tapestry.errors import (
    IncompleteError,
    InconsistentLog,
    QuorumError,
    TapestryError,
)
from tapestry.protocol import Kind, Message
from tapestry.secagg.chunks import cut
from tapestry.secagg.messages import Result
from tapestry_coordinator.bulletin import Bulletin
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.journal import Journal

_logger = logging.getLogger(__name__)
_PATIENCE = 0.5  # seconds between looks for nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class RollCall:
    """The nodes of a run."""

    settings: CoordinatorSettings
    grid: Grid
    bulletin: Bulletin
    journal: Journal
    applied: dict[str, int] = field(default_factory=dict)  # node -> last round

    def gather(self, *, least: int = 0) -> list[str]:
        """Wait for nodes, learn where they are, and bring them up to date.

        Raises:
            QuorumError: Fewer than the floor came within the offer's deadline.
        """
        end = time.monotonic() + self.settings.deadlines.offer
        names: list[str] = []
        while True:
            names = self.grid.nodes()
            if len(names) >= least or time.monotonic() > end:
                break
            time.sleep(_PATIENCE)
        if len(names) < self.settings.secagg.min_cohort:
            raise QuorumError(
                f"{len(names)} nodes are here, at least "
                f"{self.settings.secagg.min_cohort} are needed"
            )
        hello = Message(kind=Kind.HELLO)
        replies = self.grid.exchange(
            dict.fromkeys(names, hello), deadline=self.settings.deadlines.cosign
        )
        present = [name for name, reply in replies if self._meet(name, reply)]
        return sorted(present)

    def _meet(self, name: str, reply: Message) -> bool:
        if reply.kind is not Kind.IDENTITY:
            return False
        try:
            body = reply.json()
            note = body["checkpoint"]
            self.bulletin.meet(
                name, int(body["size"]), None if note is None else str(note).encode()
            )
            self.applied[name] = int(body["applied"])
        except InconsistentLog:  # proven by a quorum's signatures: do not go on
            raise
        except (TapestryError, KeyError, TypeError, ValueError):
            _logger.warning("%s did not say where it is", name)
            return False
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
            raise IncompleteError(f"the journal lacks the result of {round_number}")
        body = {
            "round_number": round_number,
            "checkpoint": self.bulletin.checkpoint.decode(),
            "result": Result.decode(row.result).model_dump(mode="json"),
        }
        request = Message(
            kind=Kind.RESULT,
            body=canonical_json(body),
            attachments=cut(self.journal.load_sum(round_number)),
        )
        waited = self.settings.deadlines.result
        requests = dict.fromkeys(names, request)
        for name, reply in self.grid.exchange(requests, deadline=waited):
            if reply.kind is Kind.RECEIPT:
                self.applied[name] = round_number
            else:
                _logger.warning("%s does not take round %d", name, round_number)
