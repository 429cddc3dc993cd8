"""Attendance: the nodes that are present, and the result that each takes next.

Nodes come and go. Before every round each tells how much of the log it has and which
result it lacks first, be it of an earlier run; it gets that, with the same public
transcript and sum, takes the step itself, and says what it lacks then. A node that has
just taken the last round's result has told all that by its receipt, and is not asked
again at once.
"""

import logging
import math
import time
from collections import Counter
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
    RoundName,
    ShowHeldOutRequest,
    encode_message,
)
from tapestry.protocol.round_manifest import GateInputs
from tapestry.protocol.secagg_messages import PROTOCOL
from tapestry.software_digest import software_digest
from tapestry_coordinator.authenticated_grid import AuthenticatedGrid
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.log_publisher import LogPublisher
from tapestry_coordinator.missed_results import find_result
from tapestry_coordinator.refusals import is_at_fault, read_reply
from tapestry_coordinator.run_folders import HELD_OUT, run_folder
from tapestry_coordinator.settings import RunSettings

_logger = logging.getLogger(__name__)
_PATIENCE = 0.5  # seconds between looks for nodes
_KNOWN_SECONDS = 10.0  # after a receipt, in which no hello is needed
_FIRST_PAUSE, _LONGEST_PAUSE = 20.0, 3600.0  # before a result is sent again
_REPEATED = 64  # results that a node may take again in a run, having lost what it had
_FORGIVEN = 3  # failures of a node that comes back, and may have been seen to


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failed:
    """The times in a row that a node took no result, and for how long it gets none."""

    count: int
    since: float
    pause: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTracker:
    """The nodes of a run."""

    settings: RunSettings
    grid: AuthenticatedGrid
    publisher: LogPublisher
    journal: Journal
    directory: Path  # the coordinator's, with the folders of all runs
    gate: GateInputs  # of the rounds of this run
    # The data of the gate that a node has, and the result that it takes next; a node
    # is missing while that is unknown, since its log ends before the last result.
    has_held_out: dict[str, str | None] = field(default_factory=dict)
    lacks: dict[str, RoundName | None] = field(default_factory=dict)
    failures: dict[str, "_Failed"] = field(default_factory=dict)  # to take results
    # The entry at which the last round ended that a node took, and how many results of
    # rounds up to there it took since.
    reached: dict[str, int] = field(default_factory=dict)
    repeated: Counter[str] = field(default_factory=Counter)
    behind: set[str] = field(default_factory=set)  # to be sent more at the next pass
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
        self.forgive(self.failures.keys() - set(names))
        known = self._known(names)
        present = sorted(known.union(self.exchange_hello(set(names) - known)))
        if members:
            self.away.clear()
            self.away.update(set(members) - set(present))
        return present

    def forgive(self, names: Collection[str]) -> None:
        """Send nodes that go and come what they failed to take, unless too often."""
        for name in names:
            if name in self.failures and self.failures[name].count < _FORGIVEN:
                del self.failures[name]

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
        self.lacks.pop(name, None)
        last = self.publisher.state.closed.last
        if last is None or said.size > last.index:
            self.lacks[name] = said.lacks
        self.asks[name] = set(said.asks)
        self.has_held_out[name] = said.held_out
        return True

    def announce(self, round_number: int) -> None:
        """Note that a round has closed: who lacked nothing lacks its result now."""
        closed = RoundName(run_id=self.settings.run_id, round_number=round_number)
        self.lacks.update(
            {name: closed for name, lacks in self.lacks.items() if lacks is None}
        )

    def catch_up(self, names: Collection[str]) -> None:
        """Send each node the results that it lacks, in its own order.

        Each node says by itself which one it takes next. A pass ends when the time for
        one result is over, and begins none in the second half of it, so that who was
        away for years holds up no run. A node that did not take a result, or took too
        many again, waits ever longer.
        """
        waiting = {name for name in names if not self._pauses(name)}
        self.exchange_hello(sorted(waiting - self.lacks.keys()))
        waited, now = self.settings.deadlines.apply_result, time.monotonic
        end, last = now() + waited, now() + waited / 2
        while (wishes := self._wishes(waiting)) and now() < last:
            for wanted, takers in wishes.items():
                if now() < last:
                    waiting -= set(takers) - self.send_result(wanted, takers, until=end)
        self.behind.clear()
        self.behind.update(name for each in wishes.values() for name in each)
        self.behind.intersection_update(waiting)

    def _wishes(self, names: Collection[str]) -> dict[RoundName, list[str]]:
        """Return who lacks which result; that of this run's last round comes first."""
        found: dict[RoundName, list[str]] = {}
        for name in sorted(names):
            wanted = self.lacks.get(name)
            if wanted is not None and self._end(wanted) is not None:
                found.setdefault(wanted, []).append(name)
        newest = sorted(found, key=lambda each: each.round_number, reverse=True)
        newest.sort(key=lambda each: each.run_id != self.settings.run_id)
        return {wanted: found[wanted] for wanted in newest}

    def _pauses(self, name: str) -> bool:
        failed = self.failures.get(name)
        now = time.monotonic()
        return failed is not None and now < failed.since + failed.pause

    def _fail(self, name: str, why: str) -> None:
        """Note that a node did not take a result: at once again, then ever later.

        What it lacks may have changed with the log, so it is asked again.
        """
        self.lacks.pop(name, None)
        failed = self.failures.get(name)
        count = 1 if failed is None else failed.count + 1
        pause = 0.0
        if failed is not None:
            pause = min(max(2 * failed.pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        self.failures[name] = _Failed(count=count, pause=pause, since=time.monotonic())
        _logger.warning("node %s, failure %d in a row: %s", name, count, why)

    def send_result(
        self, wanted: RoundName, names: Collection[str], *, until: float
    ) -> set[str]:
        """Send a closed round's transcript and sum; returns who gets more at once."""
        journal, own_run = self.journal, self.settings.run_id
        found = find_result(self.directory, wanted, own=journal, own_run=own_run)
        if found is None:
            return set()
        run_id, number = wanted.run_id, wanted.round_number
        self.show_held_out(names, run_id=run_id, digest=found.held_out, until=until)
        request = encode_message(
            ApplyResultRequest(
                run_id=run_id,
                round_number=number,
                checkpoint=self.publisher.checkpoint.decode(),
                result=found.result,
            ),
            found.chunks,
        )
        failed = dict.fromkeys(names, "no answer")
        requests = dict.fromkeys(names, request)
        left = max(until - time.monotonic(), 0)
        for name, reply in self.grid.exchange(requests, deadline=left):
            try:
                fault = self._take(name, read_reply(reply, ReceiptReply), wanted)
            except ProtocolError as error:
                fault = str(error)
            if fault is None:
                del failed[name]
                self.failures.pop(name, None)
            else:
                failed[name] = fault
        for name, why in failed.items():
            self._fail(name, f"the result of round {number} of {run_id!r}: {why}")
        return set(names) - failed.keys()

    def _take(self, name: str, said: ReceiptReply, wanted: RoundName) -> str | None:
        """Note the receipt of a result; says why the node gets no more at once."""
        self.asks[name] = set(said.asks)  # drawn when it took the result
        self.lacks[name] = said.lacks
        self.taken[name] = time.monotonic()
        if said.lacks == wanted:
            return "it says that it took the result, and lacks it"
        index = self._end(wanted) or 0
        if index > self.reached.get(name, 0):
            self.reached[name] = index
            return None
        self.repeated[name] += 1
        return "it takes too many again" if self.repeated[name] > _REPEATED else None

    def _end(self, wanted: RoundName) -> int | None:
        """Return where the log closes a round; None where it does not."""
        state, run_id = self.publisher.state, wanted.run_id
        found = state.closed_round(wanted.round_number, run_id, within=state.size)
        return None if found is None else found.index

    def show_held_out(
        self,
        names: Collection[str],
        *,
        run_id: str | None = None,
        digest: str | None = None,
        until: float = math.inf,
    ) -> None:
        """Send the public data of a run's gate, by default of this one's."""
        run_id, digest = run_id or self.settings.run_id, digest or self.gate.held_out
        names = [name for name in names if self.has_held_out.get(name) != digest]
        if not names:
            return
        folder = run_folder(self.directory, run_id) / HELD_OUT
        files = sorted(path for path in folder.iterdir() if path.is_file())
        request = encode_message(
            ShowHeldOutRequest(run_id=run_id, files=tuple(path.name for path in files)),
            [path.read_bytes() for path in files],
        )
        requests = dict.fromkeys(names, request)
        left = max(until - time.monotonic(), 0)
        deadline = min(self.settings.deadlines.apply_result, left)
        for name, reply in self.grid.exchange(requests, deadline=deadline):
            try:
                read_reply(reply, ReceiptReply)
            except ProtocolError as error:
                _logger.warning("node %s lacks the held-out data: %s", name, error)
            else:
                self.has_held_out[name] = digest
