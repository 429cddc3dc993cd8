"""The metrics of a coordinator, read from its files by the process that supervises it.

Log and runs belong to another process; nothing is locked and nothing changed. Of the
log only what came since the last reading is replayed.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from tapestry.errors import ConfigError, TapestryError
from tapestry.metrics_page import CountedBy, Metric
from tapestry.tlog.checkpoint import read_claim
from tapestry.tlog.freshness import Times
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_coordinator.led_log import MARKER
from tapestry_coordinator.log_publisher import event_of
from tapestry_coordinator.members_seen import read_members
from tapestry_coordinator.run_folders import waiting
from tapestry_coordinator.superlink.tls import certificate_end
from tapestry_governance.audit.bundle import read_small
from tapestry_governance.events.round_events import RoundAborted, RoundClosed
from tapestry_governance.log.database import LogDatabase
from tapestry_governance.log.mirror import MAX_AGE
from tapestry_governance.log.outbox_heads import HeadReport, read_heads
from tapestry_governance.log.turns import Turns
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply_all
from tapestry_governance.rules.settlement import settle

_DAY = 86_400


class CoordinatorMetrics:
    """The metrics of a coordinator's folder, from one reading to the next."""

    def __init__(self, folder: Path) -> None:
        """Take a folder; nothing is read yet."""
        self._folder = folder
        self._state: FederationState | None = None
        self._rounds, self._aborts = CountedBy(), CountedBy()
        self._sizes: list[int] = []  # of published checkpoints
        self._heads: dict[str, bytes] | None = None  # of outboxes, if readable

    def read(self) -> list[Metric]:
        """Return the metrics of the moment.

        Raises:
            ConfigError: The federation was not founded yet, or a file is missing.
            ResourceError: A file cannot be read.
        """
        note = self._follow()
        state = self._state
        if state is None:
            raise ConfigError(
                f"the log of {self._folder} is empty; found the federation first",
                code="log-missing",
            )
        last, current = state.newest, state.open_round
        disputes = sum(len(found) for found in state.disputes.values())
        return [
            _gauge("round", "Round that was opened last", _number(last)),
            _gauge("round_open", "1 while a round is open", float(current is not None)),
            _counter("rounds_total", "Rounds that ended", "outcome", self._rounds),
            _counter("abort_total", "Rounds without a sum", "reason", self._aborts),
            _gauge("log_entries", "Entries of the log", state.size),
            _gauge("members", "Members that have not left", len(state.active)),
            *self._member_metrics(state),
            _gauge("open_proposals", "Proposals and releases to vote on", self._open()),
            _gauge("disputes", "Disputes in the log", disputes),
            _gauge("runs_waiting", "Runs in the queue", len(waiting(self._folder))),
            _gauge("restored", "1 while members are asked", float(self._is_marked)),
            *self._checkpoint_metrics(note, state),
            _gauge(
                "outbox_overdue", "Members that wait or are away", self._late(state)
            ),
            *self._machine_metrics(state),
        ]

    def _follow(self) -> bytes | None:
        """Replay what is new in the log; return its newest public checkpoint."""
        place = self._folder / "log"
        self._heads = None
        with suppress(TapestryError):
            self._heads = read_heads(place / "public")  # first: none is beyond the log
        if not (place / "log.db").exists():
            return None
        store = LogDatabase(place, readonly=True)
        try:
            known = self._state.size if self._state else 0
            fresh = [data for _, _, data in store.rows(known, store.size())]
            sizes = store.published_sizes()
            note = store.publication(sizes[-1]) if sizes else None
            self._sizes = sizes
        finally:
            store.close()
        self._state = apply_all(self._state, fresh)
        for body in map(event_of, fresh):
            if isinstance(body, RoundClosed):
                self._rounds.add(body.outcome)
            elif isinstance(body, RoundAborted):
                self._rounds.add("aborted")
                self._aborts.add(body.reason)
        return note

    def _late(self, state: FederationState) -> int:
        """Count the members that a monitor sees treated late; all if it cannot see."""
        with suppress(TapestryError):
            if self._heads is not None:
                found = HeadReport.of(self._heads, state=state, sizes=self._sizes)
                return len({*found.withheld, *found.stale})
        return len(state.active)

    def _open(self) -> int:
        """Count what members vote on, as the public checkpoint shows it decided."""
        if self._state is None:
            return 0
        seen = max([*self._sizes[-1:], self._state.shown])
        ballots = settle(self._state, seen=seen).ballots.values()
        return sum(each.outcome == "open" for each in ballots)

    def _member_metrics(self, state: FederationState) -> Iterator[Metric]:
        """Count as ``coordinator status`` does; none is here while none works."""
        seen = read_members(self._folder) or {}
        known = [seen[name] for name in state.active if name in seen]
        behind = len(state.active) - sum(m.entries >= state.size for m in known)
        here = sum(each.here for each in known)
        yield _gauge("members_here", "Members that are connected", here)
        yield _gauge("members_behind", "Members that lacked entries at last", behind)

    @property
    def _is_marked(self) -> bool:
        return (self._folder / MARKER).exists()

    def _checkpoint_metrics(
        self, note: bytes | None, state: FederationState
    ) -> list[Metric]:
        if note is None:
            return []
        founding = TrustPolicy.parse(read_small(self._folder / "trust-policy.txt"))
        trust = Turns(founding).in_force(state, read_claim(note).size)
        opened = trust.open(note)
        age = time.time() - Times.of(opened, trust).seen_at
        limit = min(MAX_AGE, state.policy.max_checkpoint_age)
        lines = len(opened.cosignatures)
        return [
            _gauge("cosignatures", "Lines of the public checkpoint", lines),
            _gauge("checkpoint_age_seconds", "Age of the public checkpoint", age),
            _gauge("checkpoint_limit_seconds", "Age at which none counts", limit),
        ]

    def _machine_metrics(self, state: FederationState) -> Iterator[Metric]:
        free = shutil.disk_usage(self._folder).free
        yield _gauge("disk_free_bytes", "Free bytes of the coordinator's disk", free)
        if (last := state.newest) is not None:
            needed = 4 * last.length * (len(last.participants) + 1)
            said = "Bytes of a round: uploads and sum"
            yield _gauge("round_disk_bytes", said, needed)
        left = certificate_end(self._folder / "tls") - datetime.now(UTC)
        days = left.total_seconds() / _DAY
        yield _gauge("certificate_days", "Until the SuperLink's ends", days)


def _number(manifest: object) -> int:
    return int(getattr(manifest, "round_number", 0))


def _gauge(name: str, said: str, value: float) -> Metric:
    return Metric(name=f"tapestry_coordinator_{name}", help=said, value=value)


def _counter(name: str, said: str, label: str, counted: CountedBy) -> Metric:
    return Metric(
        name=f"tapestry_coordinator_{name}",
        help=said,
        value=dict(counted.counts),
        label=label,
        kind="counter",
    )
