"""Attendance: the nodes that are present, and the last round that each applied.

Nodes come and go. Before every round each tells how much of the log it has and which
round it applied last; one that missed a result gets it again, with the same public
transcript and sum, and takes the step itself. A node that has just taken the last
round's result has told all that by its receipt, and is not asked again at once.
"""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from tapestry.errors import (
    InconsistentLog,
    ProtocolError,
    QuorumError,
    ResourceError,
    TapestryError,
)
from tapestry.protocol.messages import (
    ApplyResultRequest,
    ChunkRequest,
    Identity,
    ReceiptReply,
    ShowHeldOutRequest,
    encode_message,
)
from tapestry.protocol.round_manifest import GateInputs
from tapestry.protocol.secagg_messages import PROTOCOL, Result
from tapestry.secagg.chunks import cut
from tapestry.software_digest import software_digest
from tapestry_coordinator.authenticated_grid import AuthenticatedGrid
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.log_publisher import LogPublisher
from tapestry_coordinator.refusals import is_at_fault, read_reply
from tapestry_coordinator.settings import RunSettings

_logger = logging.getLogger(__name__)
_PATIENCE = 0.5  # seconds between looks for nodes
_KNOWN_SECONDS = 10.0  # after a receipt, in which no hello is needed


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTracker:
    """The nodes of a run."""

    settings: RunSettings
    grid: AuthenticatedGrid
    publisher: LogPublisher
    journal: Journal
    held_out: Path  # the folder of the gate's public data
    gate: GateInputs  # of the rounds of this run
    has_held_out: set[str] = field(default_factory=set)  # nodes that have these data
    applied: dict[str, int] = field(default_factory=dict)  # last round, by node
    # Chunks to show, by node; a node is missing while its wishes are unknown.
    asks: dict[str, set[ChunkRequest]] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)  # did not come when last waited for
    software: dict[str, str] = field(default_factory=dict)  # its digest, by node
    rests: set[str] = field(default_factory=set)  # begin no round now, by their word
    taken: dict[str, float] = field(default_factory=dict)  # a result, and when, by node

    def wait_for_nodes(self, *, members: Collection[str] = ()) -> list[str]:
        """Wait for nodes and exchange hellos; returns those that answered.

        Args:
            members: The nodes to wait for. One that did not come or answer in an
                earlier pass may take part, but is not waited for again.

        Raises:
            QuorumError: Fewer than ``min_cohort`` came before the first stage's
                deadline.
        """
        floor = self.settings.secagg.min_cohort
        names = self._await(set(members) - self.away, floor if members else 0)
        if len(names) < floor:
            raise QuorumError(
                f"{len(names)} nodes are online, a round takes {floor}; start more",
                code="nodes-too-few",
            )
        known = self._known(names)
        present = sorted(known.union(self.exchange_hello(set(names) - known)))
        if members:
            self.away.clear()
            self.away.update(set(members) - set(present))
        return present

    def exchange_hello(self, names: Collection[str]) -> list[str]:
        """Ask nodes for their state; returns those that answered, in order."""
        if not names:
            return []
        for name in names:
            self.asks.pop(name, None)  # unknown until the node answers
        met = self.grid.greet(names, deadline=self.settings.deadlines.cosign)
        return sorted(name for name, said in met if self._record(name, said))

    def _known(self, names: Collection[str]) -> set[str]:
        """Return the nodes that took the last result moments ago; each counts once."""
        since = time.monotonic() - _KNOWN_SECONDS
        known = {name for name in names if self.taken.get(name, since) > since}
        self.taken.clear()
        return known

    def _await(self, names: set[str], least: int) -> list[str]:
        end = time.monotonic() + self.settings.deadlines.advertise_keys
        while True:
            here = self.grid.nodes()
            complete = names.issubset(here) and len(here) >= least
            if complete or time.monotonic() > end:
                return here
            time.sleep(_PATIENCE)

    def _record(self, name: str, said: Identity) -> bool:
        if is_at_fault(name, said):
            return False
        try:
            if said.protocol != PROTOCOL:
                raise ProtocolError(
                    f"it speaks {said.protocol!r}, this coordinator {PROTOCOL!r};"
                    " install the same release",
                    code="node-protocol-differs",
                )
            note = said.checkpoint
            self.publisher.record_mirror_size(
                name, said.size, None if note is None else note.encode()
            )
        except (InconsistentLog, ResourceError):
            raise  # a quorum's signatures prove the former: the run must not go on
        except TapestryError as error:
            _logger.warning("leaving node %s out, bad hello: %s", name, error)
            return False
        if said.software != software_digest():  # the round's own terms decide
            _logger.warning("node %s runs other software, %s", name, said.software)
        self.software[name] = said.software
        (self.rests.add if said.rests else self.rests.discard)(name)
        begins = self.publisher.state.runs.get(self.settings.run_id, 0)
        # The node counts in the newest run that it mirrors, and that may be another.
        self.applied[name] = said.applied if said.size > begins else 0
        self.asks[name] = set(said.asks)
        self.has_held_out.discard(name)
        if said.held_out == self.gate.held_out:
            self.has_held_out.add(name)
        return True

    def catch_up(self, names: list[str]) -> None:
        """Send each node the results that it missed, up to one that it does not take.

        A node that took a round without the one before would never see that one.
        """
        for row in self.journal.rounds():
            if row.status == "closed":
                late = [n for n in names if self.applied.get(n, 0) < row.number]
                self.send_result(row.number, late)
                names = [n for n in names if self.applied.get(n, 0) >= row.number]

    def send_result(self, round_number: int, names: list[str]) -> None:
        """Send a closed round's transcript and sum.

        Raises:
            IncompleteError: The journal lacks the round's result or sum.
        """
        if not names:
            return
        self.show_held_out(names)
        request = encode_message(
            ApplyResultRequest(
                round_number=round_number,
                checkpoint=self.publisher.checkpoint.decode(),
                result=Result.decode(self.journal.result(round_number)),
            ),
            cut(self.journal.load_sum(round_number)),
        )
        waited = self.settings.deadlines.apply_result
        requests = dict.fromkeys(names, request)
        for name, reply in self.grid.exchange(requests, deadline=waited):
            try:
                said = read_reply(reply, ReceiptReply)
            except ProtocolError as error:
                _logger.warning(
                    "node %s did not apply round %d, it gets the result again: %s",
                    *(name, round_number, error),
                )
                continue
            self.applied[name] = round_number
            self.asks[name] = set(said.asks)  # drawn when it took the result
            self.taken[name] = time.monotonic()

    def show_held_out(self, names: Collection[str]) -> None:
        """Send the public data of the gate to nodes that lack them."""
        names = [name for name in names if name not in self.has_held_out]
        if not names:
            return
        files = sorted(path for path in self.held_out.iterdir() if path.is_file())
        request = encode_message(
            ShowHeldOutRequest(files=tuple(path.name for path in files)),
            [path.read_bytes() for path in files],
        )
        requests = dict.fromkeys(names, request)
        deadline = self.settings.deadlines.apply_result
        for name, reply in self.grid.exchange(requests, deadline=deadline):
            try:
                read_reply(reply, ReceiptReply)
            except ProtocolError as error:
                _logger.warning("node %s lacks the held-out data: %s", name, error)
            else:
                self.has_held_out.add(name)
