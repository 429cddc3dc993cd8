"""The state of a federation's runs, read from files while a coordinator works."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tapestry.errors import TapestryError
from tapestry.keys import SigningKey
from tapestry.protocol.messages import Reason
from tapestry.software_digest import software_digest
from tapestry.tlog.checkpoint import read_claim
from tapestry.tlog.trust_policy import CosignedCheckpoint, TrustPolicy
from tapestry_coordinator.journal import Journal, JournaledRound
from tapestry_coordinator.log_reader import read_settled, require_open
from tapestry_coordinator.members_seen import SeenMember, read_members
from tapestry_coordinator.refusals import by_round, latest
from tapestry_coordinator.run_folders import (
    PLAN,
    PROGRESS,
    by_end,
    read_progress,
    run_folder,
    waiting,
)
from tapestry_coordinator.run_requests import request_in
from tapestry_coordinator.settings import CoordinatorSettings, RunSettings
from tapestry_coordinator.superlink.outcome import read_outcome
from tapestry_coordinator.superlink.tls import certificate_end
from tapestry_coordinator.upload_status import UploadStatus, uploads_of
from tapestry_governance.audit.bundle import read_small
from tapestry_governance.events.envelope import Event, open_entry
from tapestry_governance.events.round_events import RoundClosed, RoundOpened
from tapestry_governance.log.database import LogDatabase
from tapestry_governance.log.outbox_heads import HeadReport, read_heads
from tapestry_governance.log.tile_writer import CHECKPOINT
from tapestry_governance.log.turns import Turns
from tapestry_governance.log.writer import Log
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.thresholds import votes_for, votes_needed
from tapestry_governance.vote_count import newest_counts

_ASKED = {"end": "asked to end", "again": "asked to try again"}
_SOON = 30  # days before a certificate's end
_NEWEST = 10  # rounds of the current run that are shown as text


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundStatus:
    """A round by the journal, and what the log says of it."""

    number: int
    status: str
    outcome: str | None  # of a closed round
    included: tuple[str, ...]
    refused: dict[str, Reason]  # by node

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "round": self.number,
            "status": self.status,
            "outcome": self.outcome,
            "included": list(self.included),
            "refused": {name: why.value for name, why in self.refused.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """A run that began."""

    run_id: str
    planned: int  # rounds
    end: str  # empty while it goes on; ``done``, or why it ended early
    doing: str  # the step of a round at which it is; empty if it is at none
    rounds: tuple[RoundStatus, ...]
    uploads: tuple[UploadStatus, ...] = ()  # of the round that is under way

    @property
    def closed(self) -> int:
        """The number of closed rounds."""
        return sum(each.status == "closed" for each in self.rounds)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "run": self.run_id,
            "of": self.planned,
            "end": self.end,
            "doing": self.doing,
            "rounds": [each.to_json() for each in self.rounds],
            "uploads": [asdict(each) for each in self.uploads],
        }

    def __str__(self) -> str:
        """Return it as a line of text."""
        end = f"; {self.end or self.doing}" if self.end or self.doing else ""
        return f"run {self.run_id}: {self.closed} of {self.planned} rounds closed{end}"

    def lines(self) -> Iterator[str]:
        """Yield it as lines of text, of the newest rounds, the last one first."""
        yield str(self)
        yield from map(str, self.uploads)
        for each in reversed(self.rounds[-_NEWEST:]):
            names = ", ".join(each.included)
            yield f"round {each.number:<4}{each.status:<10}{names}".rstrip()
            for why in sorted({*each.refused.values()}):
                nodes = sorted(n for n, said in each.refused.items() if said is why)
                said = f"{', '.join(nodes)} refused: {why.words} ({why.value})"
                yield f"          {said}"
        if (older := len(self.rounds) - _NEWEST) > 0:
            yield f"          and {older} earlier: --json lists them"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """A member, as the coordinator sees it."""

    name: str
    here: bool
    since: str  # when that began, UTC; empty: never seen
    behind: int  # entries of the log that it lacked at its last greeting
    same_software: bool
    refuses: str | None  # the code of what keeps it from all rounds, or from the last
    words: str | None  # of that code

    def __str__(self) -> str:
        """Return it as a line of text."""
        since = f" since {self.since}" if self.since else ", not seen yet"
        words = [f"{'here' if self.here else 'away'}{since}"]
        if self.here and not self.same_software:
            words.append("other software: no round that names only this one's")
        if self.refuses is not None:
            words.append(f"refuses: {self.refuses}, {self.words}")
        return f"{self.name:<11} {'; '.join(words)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorStatus:
    """All runs of a coordinator, its members and its log."""

    serving: bool  # a coordinator works on the folder now
    members: tuple[MemberStatus, ...]
    entries: int
    cosigned: int  # entries under the newest published checkpoint
    cosigners: tuple[str, ...]  # of it, members
    outside: tuple[str, ...]  # of it, witnesses that are no members
    releases: tuple[str, ...]  # the newest, and how members stand to each
    votes: tuple[str, ...]  # that are open
    overdue: tuple[str, ...]  # by the published heads of members' outboxes
    cosigned_at: str  # by the latest of their clocks, UTC; empty: never
    certificate_days: int | None  # left; None without a certificate
    runs: tuple[RunStatus, ...]  # by when they ended, last the one that goes on
    waiting: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            **asdict(replace(self, runs=())),
            "runs": [each.to_json() for each in self.runs],
        }

    def news(self) -> Iterator[str]:
        """Yield each line by itself: it is worth telling when it is new."""
        return self.lines()

    def lines(self) -> Iterator[str]:
        """Yield it as lines of text, first what waits for a person or goes on."""
        yield "serving" if self.serving else "no coordinator is running here"
        yield from (f"vote on {each}" for each in self.votes)
        *earlier, current = self.runs or (None,)
        yield from current.lines() if current else ()
        yield from (f"run {name}: waits" for name in self.waiting)
        yield from (f"OVERDUE: {each}" for each in self.overdue)
        if self.certificate_days is not None and self.certificate_days <= _SOON:
            said = f"the certificate ends in {self.certificate_days} days"
            yield f"{said}: tapestry coordinator renew"
        yield from map(str, self.members if self.serving else ())
        yield f"the log has {self.entries} entries"
        if self.cosigned_at:
            names = {each.name for each in self.members}
            by_name = (each.removesuffix("/witness") for each in self.cosigners)
            left = [f"{name}, no member now" for name in by_name if name not in names]
            by = f"{len(self.cosigners) - len(left)} of {len(names)} members"
            if others := [*left, *self.outside]:
                by += f" and by {', '.join(others)}"
            yield f"{self.cosigned} are cosigned by {by} at {self.cosigned_at}"
        yield from (f"release {each}" for each in self.releases)
        yield from map(str, reversed(earlier))


def read_status(directory: Path) -> CoordinatorStatus:
    """Read the state of all runs.

    Guarantees:
        No file is changed and no lock is waited for.

    Raises:
        ConfigError: A file is missing or invalid.
        IncompleteError: The log is not open yet.
        ResourceError: A file cannot be read.
    """
    CoordinatorSettings.read(directory / "coordinator.toml")  # or it is another folder
    heads = _heads(directory)  # first: none is beyond the log
    state, entries = read_settled(directory)
    events = [open_entry(entry).event for entry in entries]
    seen = read_members(directory)
    cosigned, outsiders = _cosigned(directory, state)
    lines = cosigned.cosignatures if cosigned else ()
    names = [each.witness for each in lines]
    return CoordinatorStatus(
        serving=seen is not None,
        members=tuple(_members(state, events, seen or {})),
        releases=tuple(
            f"{each.release}: {each}" for each in newest_counts(state, size=state.size)
        ),
        votes=tuple(_votes(state)),
        overdue=_overdue(directory, heads, state),
        entries=len(events),
        cosigned=cosigned.checkpoint.size if cosigned else 0,
        cosigners=tuple(name for name in names if name not in outsiders),
        outside=tuple(name for name in names if name in outsiders),
        cosigned_at=_utc(max(each.time for each in lines)) if lines else "",
        certificate_days=_days_left(directory / "tls"),
        runs=tuple(_run(directory, name, events) for name in by_end(directory)),
        waiting=tuple(waiting(directory)),
    )


def runs_opened(directory: Path) -> list[str]:
    """List the runs of which the log opened a round, the newest last.

    Raises:
        ConfigError: A file is missing or invalid.
        ResourceError: A file cannot be read.
    """
    found: dict[str, None] = {}
    for event in _events(directory):
        if isinstance(event.body, RoundOpened):
            found[event.body.manifest.run_id] = None
    return list(found)


def _events(directory: Path) -> list[Event]:
    CoordinatorSettings.read(directory / "coordinator.toml")  # or it is another folder
    require_open(directory)
    key = SigningKey.load(directory / "keys" / "log.key")
    return [open_entry(each).event for each in Log.read(directory / "log", key=key)]


def _members(
    state: FederationState, events: Sequence[Event], seen: Mapping[str, SeenMember]
) -> Iterator[MemberStatus]:
    ours, refused = software_digest(), latest(events)
    for name in sorted(state.members):
        last, asked = seen.get(name), refused.get(name)
        why = (last and last.refuses) or (asked and asked.reason)
        yield MemberStatus(
            name=name,
            here=last is not None and last.here,
            since=last.changed if last else "",
            behind=max(len(events) - last.entries, 0) if last else len(events),
            same_software=last is None or last.software == ours,
            refuses=why.value if why else None,
            words=why.words if why else None,
        )


def _votes(state: FederationState) -> Iterator[str]:
    """Say what waits for votes."""
    for ballot in state.ballots.values():
        if ballot.outcome == "open":
            yes, needed = votes_for(state, ballot), votes_needed(state, ballot)
            what = ballot.release or f"{ballot.kind} by {ballot.by}"
            yield f"{what}, entry {ballot.index}: {yes} of {needed} yes"


def _heads(directory: Path) -> dict[str, bytes] | TapestryError:
    """Read the heads of outboxes, or why they cannot be read."""
    try:
        return read_heads(directory / "log" / "public")
    except TapestryError as error:
        return error


def _overdue(
    directory: Path, heads: dict[str, bytes] | TapestryError, state: FederationState
) -> tuple[str, ...]:
    """Say what a monitor sees overdue, or that it cannot see."""
    try:
        if isinstance(heads, TapestryError):
            raise heads
        store = LogDatabase(directory / "log", readonly=True)
        try:
            sizes = store.published_sizes()
        finally:
            store.close()
        return tuple(HeadReport.of(heads, state=state, sizes=sizes).warnings)
    except TapestryError as error:
        return (f"the heads of outboxes cannot be read: {error}",)


def _days_left(tls: Path) -> int | None:
    if not tls.exists():
        return None
    return (certificate_end(tls) - datetime.now(UTC)).days


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _cosigned(
    directory: Path, state: FederationState
) -> tuple[CosignedCheckpoint | None, set[str]]:
    """Open the published checkpoint, if there is one; name the outside witnesses."""
    path = directory / "log" / "public" / CHECKPOINT
    if not path.exists():
        return None, set()
    trust = TrustPolicy.parse(read_small(directory / "trust-policy.txt"))
    note = read_small(path)
    trust = Turns(trust).in_force(state, read_claim(note).size)
    outside = {each.name for each in trust.witnesses if each.url is not None}
    return trust.open(note), outside


def _run(directory: Path, name: str, events: Sequence[Event]) -> RunStatus:
    folder = run_folder(directory, name)
    settings = RunSettings.read(folder / PLAN)
    own = [e.body for e in events if getattr(e.body, "run_id", None) == name]
    closed = {body.round_number: body for body in own if isinstance(body, RoundClosed)}
    refused = by_round(events, run_id=name)
    rows: list[JournaledRound] = []
    if own or Journal.is_there(folder):  # a run that has just begun has none
        journal = Journal(folder, readonly=True)
        rows = journal.rounds()
        journal.close()
    rounds = []
    for row in rows:
        end, reasons = closed.get(row.number), refused.get(row.number, {})
        status = RoundStatus(
            number=row.number,
            status=row.status,
            outcome=end.outcome if end else None,
            included=tuple(end.included) if end else (),
            refused=reasons,
        )
        rounds.append(status)
    outcome = read_outcome(folder)
    end_words = "" if outcome is None else outcome.message or "done"
    told = [] if end_words else read_progress(folder / PROGRESS)
    return RunStatus(
        run_id=name,
        planned=settings.rounds,
        end=end_words,
        doing="" if end_words else _doing(folder, told),
        rounds=tuple(rounds),
        uploads=uploads_of(told, folder),
    )


def _doing(folder: Path, told: Sequence[Mapping[str, Any]]) -> str:
    """Return the last step that a run told of, and what its operator asked."""
    asked = request_in(folder)
    step = _last_step(told)
    return "; ".join(filter(None, (step, asked and _ASKED[asked])))


def _last_step(events: Sequence[Mapping[str, Any]]) -> str:
    with suppress(LookupError):
        told = events[-1]
        if "waits" in told:
            return f"waits: {told['waits']}"
        at = f"round {told['round']}: " if "round" in told else ""
        return f"{at}{told.get('round_stage') or told['stage']}".replace("_", " ")
    return ""
