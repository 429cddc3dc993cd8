"""The state of a federation's runs, read from files while a coordinator works."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapestry.keys import SigningKey
from tapestry.protocol.messages import Reason
from tapestry_coordinator.journal import Journal, JournaledRound
from tapestry_coordinator.log_publisher import event_of
from tapestry_coordinator.refusals import by_round
from tapestry_coordinator.run_folders import PLAN, begun, run_folder, waiting
from tapestry_coordinator.settings import CoordinatorSettings, RunSettings
from tapestry_coordinator.superlink.outcome import read_outcome
from tapestry_governance.events.round_events import RoundClosed
from tapestry_governance.log.writer import Log


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
    rounds: tuple[RoundStatus, ...]

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
            "rounds": [each.to_json() for each in self.rounds],
        }

    def lines(self) -> Iterator[str]:
        """Yield it as lines of text."""
        end = f"; {self.end}" if self.end else ""
        yield f"run {self.run_id}: {self.closed} of {self.planned} rounds closed{end}"
        for each in self.rounds:
            names = ", ".join(each.included)
            yield f"round {each.number:<4}{each.status:<10}{names}".rstrip()
            for why in sorted({*each.refused.values()}):
                nodes = sorted(n for n, said in each.refused.items() if said is why)
                said = f"{', '.join(nodes)} refused: {why.words} ({why.value})"
                yield f"          {said}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorStatus:
    """All runs of a coordinator, and the size of its log."""

    entries: int
    runs: tuple[RunStatus, ...]
    waiting: tuple[str, ...]


def read_status(directory: Path) -> CoordinatorStatus:
    """Read the state of all runs.

    Guarantees:
        No file is changed and no lock is waited for.

    Raises:
        ConfigError: A file is missing or invalid.
        ResourceError: A file cannot be read.
    """
    CoordinatorSettings.read(directory / "coordinator.toml")  # or it is another folder
    key = SigningKey.load(directory / "keys" / "log.key")
    entries = Log.read(directory / "log", key=key)
    return CoordinatorStatus(
        entries=len(entries),
        runs=tuple(_run(directory, name, entries) for name in begun(directory)),
        waiting=tuple(waiting(directory)),
    )


def _run(directory: Path, name: str, entries: Sequence[bytes]) -> RunStatus:
    folder = run_folder(directory, name)
    settings = RunSettings.read(folder / PLAN)
    own = [b for b in map(event_of, entries) if getattr(b, "run_id", None) == name]
    closed = {body.round_number: body for body in own if isinstance(body, RoundClosed)}
    refused = by_round(entries, run_id=name)
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
    return RunStatus(
        run_id=name, planned=settings.rounds, end=end_words, rounds=tuple(rounds)
    )
