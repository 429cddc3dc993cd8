"""The metrics of a running node, for the monitoring of its own machine.

Guarantees:
    No metric is of a record, and none tells more than the log or the node's settings:
    counts, sizes, times, and the epsilon that the ledger composes.

Edge cases:
    Numbers are of the last request that was answered; times and disk of the moment.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tapestry.errors import TapestryError
from tapestry.metrics_page import CountedBy, Metric, serving
from tapestry.protocol.messages import Kind, Message, Refusal, decode_body
from tapestry.tlog.freshness import Times
from tapestry.tlog.trust_policy import CosignedCheckpoint, TrustPolicy
from tapestry_governance.log.mirror import MAX_AGE
from tapestry_governance.log.outbox_heads import overdue
from tapestry_governance.rules.federation_state import FederationState
from tapestry_node.budget.ledger_entries import ChargeRecord
from tapestry_node.node import Node
from tapestry_node.round.base_snapshots import FOLDER
from tapestry_node.status_file import read_told
from tapestry_node.superlink_credentials import validity

_logger = logging.getLogger(__name__)
_DAY = 86_400
Handler = Callable[[Message, str], Message]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """A node after a request; nothing of it changes any more."""

    time: float
    phase: str
    round_number: int
    rows: tuple[ChargeRecord, ...]
    accepted: CosignedCheckpoint | None
    trust: TrustPolicy
    state: FederationState | None
    disputes: int
    forks: int
    restored: bool
    overdue: int


@contextmanager
def monitored(node: Node, address: str) -> Iterator[Handler]:
    """Serve a node's metrics during a block, and yield what answers its requests.

    Raises:
        ResourceError: The address is in use.
    """
    if not address:
        yield node.handle
        return
    metrics = NodeMetrics(node)
    with serving(address, metrics.read):
        yield metrics.handle


class NodeMetrics:
    """A node's metrics: looked at in its own thread, read in another one."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._bytes, self._refusals = CountedBy(), CountedBy()
        self._look = self._look_at("idle")
        self._budget: tuple[tuple[ChargeRecord, ...], list[Metric]] = ((), [])

    def handle(self, message: Message, connection: str = "") -> Message:
        """Have the node answer, and count what leaves."""
        reply = self._node.handle(message, connection)
        self._bytes.add(reply.kind.value, reply.size)
        if reply.kind is Kind.REFUSAL and isinstance(
            refusal := decode_body(reply), Refusal
        ):
            self._refusals.add(refusal.reason.value)
        with suppress(TapestryError):  # of the state; the next request tells it
            self._look = self._look_at(message.kind.value)
        return reply

    def _look_at(self, phase: str) -> _Look:
        mirror, session = self._node.mirror, self._node.session
        state = self._node.store.reading()
        drawn = state.spots.values()
        disputed = sum("disputed" in chunks.values() for chunks in drawn)
        return _Look(
            time=time.time(),
            phase=phase,
            round_number=0 if session is None else session.manifest.round_number,
            rows=tuple(state.rows.values()),
            accepted=mirror.accepted,
            trust=mirror.trust,
            state=mirror.state if mirror.size else None,
            disputes=disputed + len(state.gates),
            forks=len(mirror.evidence()),
            restored=state.restored is not None,
            overdue=len(
                overdue(state.submitted, size=mirror.size, sizes=mirror.accepted_sizes)
            ),
        )

    def read(self) -> list[Metric]:
        """Return the metrics of the moment.

        Raises:
            ConfigError: The authority's certificate cannot be read.
        """
        seen = self._look
        told = read_told(self._node.directory)
        is_connected = told is not None and told.state == "connected"
        return [
            _gauge("connected", "1 while the SuperLink answers", float(is_connected)),
            _gauge("round", "Round that was joined, 0 for none", seen.round_number),
            Metric(
                name="tapestry_node_phase",
                help="1 for the kind of the last request",
                value={seen.phase: 1},
                label="phase",
            ),
            _gauge(
                "request_age_seconds",
                "Since the coordinator's last request",
                time.time() - seen.time,
            ),
            *self._budget_metrics(seen),
            *self._log_metrics(seen),
            _counter("bytes_sent_total", "Bytes that left", "kind", self._bytes),
            _counter("refusals_total", "Refusals", "reason", self._refusals),
            *self._machine_metrics(seen),
            _gauge("disputes", "Sums and gates that this node disputes", seen.disputes),
            _gauge("forks", "Updates of the log kept as evidence", seen.forks),
            _gauge("outbox_overdue", "Entries that the log withholds", seen.overdue),
            _gauge("restored", "1 while a restored state waits", float(seen.restored)),
        ]

    def _budget_metrics(self, seen: _Look) -> list[Metric]:
        """Compose the ledger; it takes time, so only when it has changed."""
        if self._budget[1] and self._budget[0] == seen.rows:
            return self._budget[1]
        ledger = self._node.ledger
        balance = ledger.balance(seen.rows)
        found = [
            _gauge("budget_spent", "Epsilon that is spent", balance.spent),
            _gauge("budget_limit", "Epsilon that may be spent", balance.limit),
        ]
        rounds = [row.charge for row in seen.rows if row.charge.purpose == "round"]
        if rounds:
            left = ledger.rounds_left(rounds[-1], seen.rows)
            said = "Rounds like the last one that still fit"
            found.append(_gauge("rounds_left", said, left))
        self._budget = seen.rows, found
        return found

    def _log_metrics(self, seen: _Look) -> list[Metric]:
        if seen.accepted is None or seen.state is None:
            return []
        age = time.time() - Times.of(seen.accepted, seen.trust).seen_at
        own = self._node.settings.policy.max_checkpoint_age
        limit = min(MAX_AGE, own, seen.state.policy.max_checkpoint_age)
        return [
            _gauge("log_entries", "Entries that are mirrored", seen.state.size),
            _gauge("checkpoint_age_seconds", "Age of the accepted checkpoint", age),
            _gauge("checkpoint_limit_seconds", "Age at which none counts", limit),
        ]

    def _machine_metrics(self, seen: _Look) -> Iterator[Metric]:
        folder, settings = self._node.directory, self._node.settings
        free = shutil.disk_usage(folder).free
        yield _gauge("disk_free_bytes", "Free bytes of the node's disk", free)
        newest = seen.state.newest if seen.state else None
        if newest is not None:
            needed = 8 * newest.length + _largest(folder / FOLDER)
            said = "Bytes of a round: upload, sum and snapshot"
            yield _gauge("round_disk_bytes", said, needed)
        if settings.transport is not None:
            path = folder / settings.transport.root_certificates
            left = validity(path)[1] - datetime.now(UTC)
            days = left.total_seconds() / _DAY
            yield _gauge("certificate_days", "Until the authority's ends", days)


def _largest(folder: Path) -> int:
    sizes = [0]
    with suppress(OSError):  # one is replaced meanwhile
        sizes += [path.stat().st_size for path in folder.iterdir()]
    return max(sizes)


def _gauge(name: str, said: str, value: float) -> Metric:
    return Metric(name=f"tapestry_node_{name}", help=said, value=value)


def _counter(name: str, said: str, label: str, counted: CountedBy) -> Metric:
    return Metric(
        name=f"tapestry_node_{name}",
        help=said,
        value=dict(counted.counts),
        label=label,
        kind="counter",
    )
